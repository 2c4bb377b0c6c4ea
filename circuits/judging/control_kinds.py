"""Circuits to compare a circuit with, by kind, each with its words for reports.

What a circuit must beat: whole paths drawn by chance keep only its size and how its edges spread over layers and kinds
of reader (half of their edges enter queries and keys); dealt edges keep every class of edges as well; renamed heads
keep all but which heads they are. From one kind to the next, more of what a circuit does has to be explained by its
own heads and edges.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from ...models.errors import GraphError
from ..nodes import MATCHED_BY, granularity, matched_masks
from ..reach import prune
from .dealt import can_rename, dealt_masks, renamed_masks

if TYPE_CHECKING:
    from ..circuit import Circuit

_TIMES = 3  # as many renamings are drawn as are wanted of others: with two heads half of them change nothing

ControlKind = Literal["paths", "dealt", "renamed"]
"""How much of a circuit its controls keep, from least to most."""


@dataclass(frozen=True)
class Control:
    """One kind of control.

    Args:
        draw: (circuit, n, seed=...) -> n masks.
        words: Granularity -> what its circuits are, for reports; without an entry there are none.
    """

    draw: Callable[..., list[NDArray[np.bool_]]]
    words: Mapping[str, str]


_DEALT = (
    "circuits of the same size whose edges were dealt anew, each among those with the same kinds and layers of source "
    "and reader, the same port and token groups; all on paths"
)
_RENAMED = "the same circuit with the heads of each layer exchanged at random"

CONTROLS: dict[ControlKind, Control] = {
    "paths": Control(matched_masks, MATCHED_BY),
    "dealt": Control(lambda one, n, seed: dealt_masks(one.graph, one.mask, n, seed=seed), {"edge": _DEALT}),
    "renamed": Control(
        lambda one, n, seed: renamed_masks(one.graph, one.mask, n, seed=seed), dict.fromkeys(("edge", "node"), _RENAMED)
    ),
}
"""Kind -> how its circuits are drawn."""


def control_masks(circuit: Circuit, kind: ControlKind | str, n: int, *, seed: int) -> list[NDArray[np.bool_]]:
    """Masks of `n` circuits of a kind to compare a circuit with, shape (edge,), each with as many edges on paths.

    Controls of a node circuit keep nodes whole; drawn by `paths` they have as many heads and MLPs, but not as many
    edges.

    Args:
        circuit: The circuit; its edges on no path are dropped first.
        kind: `paths`, `dealt` or `renamed`.
        n: How many.
        seed: The same seed gives the same masks.

    Raises:
        GraphError: The kind is not known, is `dealt` for a node circuit, needs two heads in a layer where the graph has
            one in each; or n is negative.
    """
    if kind not in CONTROLS:
        raise GraphError(f"there are no controls of kind {kind!r}: pass one of {', '.join(map(repr, CONTROLS))}.")
    if n < 0:
        raise GraphError(f"{n} controls were asked for: pass 0 or more.")
    if granularity(circuit) not in CONTROLS[kind].words:
        raise GraphError(
            f"{kind!r} controls deal single edges, but a node circuit keeps heads and MLPs whole: "
            f'pass kind="renamed" or kind="paths".'
        )
    return CONTROLS[kind].draw(circuit, n, seed=seed)


def kinds_of(circuit: Circuit) -> list[ControlKind]:
    """The kinds of controls that a circuit has; of a graph with one head in each layer only `paths`."""
    fits: list[ControlKind] = [kind for kind, control in CONTROLS.items() if granularity(circuit) in control.words]
    return [kind for kind in fits if kind == "paths" or can_rename(circuit.graph)]


def other_masks(circuit: Circuit, kind: ControlKind | str, n: int, *, seed: int) -> list[NDArray[np.bool_]]:
    """At most `n` masks of `control_masks`, none of them the circuit itself; none where the kind holds no other."""
    own = prune(circuit.graph, circuit.mask)
    drawn = control_masks(circuit, kind, _TIMES * n if kind == "renamed" else n, seed=seed)
    return [mask for mask in drawn if not np.array_equal(mask, own)][:n]
