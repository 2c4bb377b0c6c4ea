"""The three models with hand-set weights: their programs, and images with labels that they get right.

bright-column: the class is the column of the one bright patch. Head a0.h0's keys read brightness; its values read only
    position, so the circuit runs through K alone. Beside it: a live head that nobody reads, a dead head, an unread MLP.
neighbour-xor: class 1 if the patch left of a marked patch differs from it in a bit (m0) and another bit is set (m1). A
    mode bit says which of two markers counts, so head a1.h0 reads through Q, K and V. Beside it: an unread copy, a twin
    of the reader, a dead head, junk neurons.
majority: three heads copy one bit, and m0 takes the majority: no single edge matters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .compiler import encode
from .program import Head, Mlp, Neuron, Program, Score, Terms

Samples = tuple[Float[Tensor, "image 1 height width"], Int[Tensor, " image"]]


@dataclass(frozen=True)
class Planted:
    """A planted model by name.

    Args:
        summary: One line for lists.
        program: From the gain of its attention, and switches, to its program.
        sample: From a number of images and a generator to images and labels.
        switches: Names of the switches that it knows.
        classes: What each logit means.
    """

    summary: str
    program: Callable[..., Program]
    sample: Callable[[int, torch.Generator], Samples]
    classes: tuple[str, ...]
    switches: tuple[str, ...] = ()


def bright_column(gain: float) -> Program:
    """1 layer of 3 heads, 18 edges."""
    columns = tuple({f"pos{1 + 3 * row + column}": 1.0 for row in range(3)} for column in range(3))
    found = ("column0", "column1", "column2")
    return Program(
        "planted/bright-column",
        grid=(3, 3),
        n_layers=1,
        n_heads=3,
        d_model=60,
        bits=("bright", "noise1", "noise2", "noise3"),
        heads=(
            Head(0, 0, (Score(gain, {}, 1.0, {"bright": 1.0}),), columns, found),
            Head(
                0, 1, (Score(gain, {"noise2": 1.0}, 0.0, {"noise1": 1.0}), _ramp(gain)), ({"noise1": 1.0},), ("unread",)
            ),
        ),
        mlps=(Mlp(0, _xor("noise1", "noise2", "junk"), {"junk": -1.0}),),
        logits=tuple({name: 4.0} for name in found),
        dead=((0, 2),),
    )


def neighbour_xor(gain: float, *, trap: bool = False, step: bool = False) -> Program:
    """2 layers of 4 heads, 110 edges.

    Args:
        gain: Of attention.
        trap: m1 also adds |twin| and |mode|, which are 1 whatever happens but have a slope of +-1.
        step: m1 computes AND by a step, whose slope at the data is zero.
    """
    return Program(
        "planted/neighbour-xor",
        grid=(3, 3),
        n_layers=2,
        n_heads=4,
        d_model=64,
        bits=("a", "b", "left_mark", "mark", "c", "noise1", "noise2"),
        heads=(*_first_heads(gain), *_second_heads(gain)),
        mlps=(
            Mlp(
                0,
                _xor("neighbour_a", "b", "differs") + _xor("noise1", "noise2", "junk"),
                {"differs": -1.0, "junk": -1.0},
            ),
            Mlp(1, _last_neurons(trap=trap, step=step), {"out": -2.0 if trap else -1.0, "junk2": -1.0}),
        ),
        logits=({"out": -2.0}, {"out": 2.0}),
        dead=((1, 3),),
    )


def majority(gain: float) -> Program:
    """1 layer of 4 heads, 23 edges."""
    votes: tuple[str, ...] = ("vote0", "vote1", "vote2")
    every: Terms = dict.fromkeys(votes, 1.0)
    voters = tuple(Head(0, h, _look_at(4, gain), ({"c": 1.0},), (vote,)) for h, vote in enumerate(votes))
    return Program(
        "planted/majority",
        grid=(2, 2),
        n_layers=1,
        n_heads=4,
        d_model=64,
        bits=("c", "noise"),
        heads=(*voters, Head(0, 3, _look_at(2, gain), ({"noise": 1.0},), ("unread",))),
        mlps=(
            Mlp(
                0,
                (
                    Neuron(every, 1.0, {"out": 1.0}),
                    Neuron(every, -1.0, {"out": -1.0}),
                    Neuron({"unread": 1.0, "noise": 1.0}, 0.0, {"junk": 1.0}),
                ),
                {"out": -1.0, "junk": -1.0},
            ),
        ),
        logits=({"out": -2.0}, {"out": 2.0}),
    )


def _first_heads(gain: float) -> tuple[Head, ...]:
    """Two that look left, one that looks at the mode, and one that looks left and is not read."""
    shift = tuple(Score(2 * gain, {f"pos{1 + p}": 1.0}, 0.0, {f"pos{1 + _left(p)}": 1.0}) for p in range(9))
    shift = (*shift, Score(2 * gain, {"pos0": 1.0}, 0.0, {"pos0": 1.0}))
    noisy = (*shift[::-1], Score(gain / 4, {"noise2": 1.0}, 0.0, {"noise1": 1.0}))
    return (
        Head(0, 0, shift, ({"a": 1.0},), ("neighbour_a",)),
        Head(0, 1, shift, ({"left_mark": 1.0},), ("neighbour_mark",)),
        Head(0, 2, _look_at(1, gain), ({"c": 1.0},), ("mode",)),
        Head(0, 3, noisy, ({"a": 1.0},), ("unread",)),
    )


def _second_heads(gain: float) -> tuple[Head, ...]:
    """The reader of the marked patch, the reader of the gate, and the first one's twin, which is not read."""
    select = (
        Score(gain / 2, {}, 1.0, {"neighbour_mark": 1.0, "mark": 1.0}),
        Score(gain / 2, {"mode": 1.0}, 0.0, {"neighbour_mark": 1.0, "mark": -1.0}),
        _ramp(gain),
    )
    return (
        Head(1, 0, select, ({"differs": 1.0},), ("chosen",)),
        Head(1, 1, _look_at(9, gain), ({"c": 1.0},), ("gate",)),
        Head(1, 2, select, ({"differs": 1.0},), ("twin",)),
    )


def _last_neurons(*, trap: bool, step: bool) -> tuple[Neuron, ...]:
    both: Terms = {"chosen": 1.0, "gate": 1.0}
    last = (Neuron(both, -0.5, {"out": 2.0}), Neuron(both, -1.5, {"out": -2.0}))
    found = last if step else (Neuron(both, 0.0, {"out": 1.0}),)
    for name in ("twin", "mode") if trap else ():
        found += tuple(Neuron({name: sign}, 0.0, {"out": 0.5}) for sign in (1.0, -1.0))
    return found + _xor("chosen", "mode", "junk2")


def _xor(first: str, second: str, out: str) -> tuple[Neuron, ...]:
    """Neurons that, with a constant of -1, give +1 where two features differ and -1 where they agree."""
    return tuple(Neuron({first: sign, second: -sign}, 0.0, {out: 1.0}) for sign in (1.0, -1.0))


def _look_at(token: int, gain: float) -> tuple[Score, ...]:
    return (Score(2 * gain, {}, 1.0, {f"pos{token}": 1.0}),)


def _ramp(gain: float) -> Score:
    """Prefers later tokens a little, so that one token wins on mixed inputs too."""
    return Score(0.1 * gain, {}, 1.0, {f"pos{token}": float(token) for token in range(10)})


def _left(patch: int) -> int:
    """The patch to the left in a grid of three columns, around the edge."""
    return patch // 3 * 3 + (patch - 1) % 3


def _signs(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, shape, generator=generator, device="cpu").float() * 2 - 1


def _one_on(n: int, patches: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A bit that is +1 at one patch only, (image, patch), and at which."""
    where = torch.randint(0, patches, (n,), generator=generator, device="cpu")
    return torch.nn.functional.one_hot(where, patches).float() * 2 - 1, where


def _sample_bright_column(n: int, generator: torch.Generator) -> Samples:
    bright, where = _one_on(n, 9, generator)
    bits = torch.cat([bright[..., None], _signs(n, 9, 3, generator=generator)], -1)
    return encode(bits, (3, 3)), where % 3


def _sample_neighbour_xor(n: int, generator: torch.Generator) -> Samples:
    left_mark, left_at = _one_on(n, 9, generator)
    mark, mark_at = _one_on(n, 9, generator)
    a, b, c, *noise = _signs(5, n, 9, generator=generator)
    right_of_mark = left_at // 3 * 3 + (left_at + 1) % 3
    chosen = torch.where(c[:, 0] > 0, right_of_mark, mark_at)
    rows = torch.arange(n, device="cpu")
    left = chosen // 3 * 3 + (chosen - 1) % 3
    differs = a[rows, left] != b[rows, chosen]
    images = encode(torch.stack([a, b, left_mark, mark, c, *noise], -1), (3, 3))
    return images, (differs & (c[:, 8] > 0)).long()


def _sample_majority(n: int, generator: torch.Generator) -> Samples:
    bits = _signs(n, 4, 2, generator=generator)
    return encode(bits, (2, 2)), (bits[:, 3, 0] > 0).long()


PLANTED = {
    "planted/bright-column": Planted(
        "a circuit through K alone, 2 of 18 edges", bright_column, _sample_bright_column, ("left", "middle", "right")
    ),
    "planted/neighbour-xor": Planted(
        "Q-, K- and V-composition, XOR and AND, 13 of 110 edges",
        neighbour_xor,
        _sample_neighbour_xor,
        ("no", "yes"),
        ("trap", "step"),
    ),
    "planted/majority": Planted(
        "three redundant heads, 7 of 23 edges, none of which matters alone", majority, _sample_majority, ("off", "on")
    ),
}
