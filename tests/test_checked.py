"""The checks of types and shapes see what is wrong, and leave alone what is right."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from jaxtyping import Float, TypeCheckError
from torch import Tensor

from .checked import EVERY, FIRST, begin, checked


@checked(typechecker=None)
def product(one: Float[Tensor, "row inner"], other: Float[Tensor, "inner column"]) -> Float[Tensor, "row column"]:
    return one @ other if len(one) > 1 else one


@checked(typechecker=None)
@dataclass(frozen=True)
class Named:
    name: str
    values: "Float[Tensor, 'row'] | None" = None


@checked(typechecker=None)
def rows(values: Float[Tensor, "row column"], other: Float[Tensor, "row"]) -> Iterator[Tensor]:
    yield from values


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: product(torch.ones(2, 3), torch.ones(4, 5)),  # inner
        lambda: product(torch.ones(1, 3), torch.ones(3, 2)),  # column
        lambda: product(torch.ones(2, 3), torch.ones(3)),
        lambda: product(torch.ones(2, 3), torch.ones(3, 2, dtype=torch.int)),
        lambda: rows(torch.ones(2, 3), torch.ones(3)),  # before a row is asked for
        lambda: Named(3),
        lambda: Named("a", torch.ones(2, 2)),
    ],
)
def test_what_is_not_as_it_is_annotated_is_refused(wrong):
    with pytest.raises(TypeCheckError):
        wrong()


def test_axes_have_their_sizes_for_one_call_and_nothing_is_refused_where_checks_are_off(request):
    assert product(torch.ones(2, 3), torch.ones(3, 2)).shape == (2, 2)
    assert product(torch.ones(4, 5), torch.ones(5, 6)).shape == (4, 6)
    assert Named("a", torch.ones(3)).name == "a"
    request.getfixturevalue("unchecked")
    assert Named(3).name == 3


def wrong_calls_refused(n):
    refused = 0
    for _ in range(n):
        try:
            product(torch.ones(1, 3), torch.ones(3, 2))
        except TypeCheckError:
            refused += 1
    return refused


def test_the_first_calls_in_a_test_are_checked_and_one_in_a_few_of_the_rest():
    assert wrong_calls_refused(FIRST) == FIRST
    assert wrong_calls_refused(10 * EVERY) == 10
    begin("another test")
    assert wrong_calls_refused(FIRST) == FIRST


def test_the_library_is_checked():
    from vitcircuits.circuits import Graph

    with pytest.raises(TypeCheckError):
        Graph("a name", None)
