"""Columns of tokens: groupings are partitions, names are single tokens or roles."""

import numpy as np
import pytest
from vitcircuits.circuits.tokens import token_columns
from vitcircuits.models.config import TokenLayout
from vitcircuits.models.errors import GraphError

LAYOUT = TokenLayout(True, 2, (2, 3))


@pytest.mark.parametrize(
    ("tokens", "names"),
    [("all", ("all",)), ("role", ("cls", "reg", "patch")), ("each", LAYOUT.token_names())],
)
def test_a_grouping_is_a_partition(tokens, names):
    columns = token_columns(LAYOUT, tokens)
    assert columns.names == names and len(columns) == len(names)
    assert (columns.member.sum(0) == 1).all()


def test_names_are_tokens_and_roles_in_the_order_given():
    columns = token_columns(LAYOUT, ["patch", "r1c0", "reg1", "all"])
    wanted = [range(3, 9), [6], [2], range(9)]
    assert [np.flatnonzero(row).tolist() for row in columns.member] == [list(row) for row in wanted]
    assert token_columns(LAYOUT, "r1c0").names == ("r1c0",)


def test_a_layout_of_patches_alone_has_one_role():
    assert token_columns(TokenLayout(False, 0, (1, 2)), "role").names == ("all",)


@pytest.mark.parametrize("tokens", ["r2c0", ["cls", "CLS"], []])
def test_an_unknown_name_is_answered_by_a_near_one(tokens):
    with pytest.raises(GraphError, match="tokens="):
        token_columns(LAYOUT, tokens)
