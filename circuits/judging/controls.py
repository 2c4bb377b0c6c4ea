"""Random circuits for comparison: made of whole paths, matched by layer and kind, of exactly the same size.

Random edges alone mostly vanish when what is off every path is dropped, so a fair control grows path by path:

1. Take the (destination layer, kind) that lacks most edges beside the circuit to be matched, and draw one of its edges.
2. Complete it by random walks: back until something that the input already reaches, on until something that already
   reaches the logits. If the whole addition fits into the size, keep it; otherwise draw again.
3. If nothing fits any more, fill up with single edges from what is reached to what is needed: each adds exactly one.
   If there is none, drop a random kept edge with all that then hangs in the air, and go on.

The match by layer and kind is as close as whole paths allow; the number of edges is exact.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...models.errors import GraphError
from ..reach import Walks, prune, reach

if TYPE_CHECKING:
    from ..circuit import Circuit
    from ..graph import Graph

_TRIES = 20  # draws that don't fit before the circuit is filled up edge by edge
_DROPS = 1_000  # edges dropped again before giving up


def random_circuits(circuit: Circuit, n: int, *, seed: int) -> list[Circuit]:
    """`n` random circuits of the same graph with as many edges as the circuit has on paths from input to logits.

    They carry no scores. The procedure is described at the top of this module.

    Args:
        circuit: The circuit to be matched.
        n: How many.
        seed: The same seed gives the same circuits.

    Raises:
        GraphError: n is negative.
    """
    from ..circuit import Circuit

    if n < 0:
        raise GraphError(f"{n} random circuits were asked for: pass 0 or more.")
    graph, wanted = circuit.graph, prune(circuit.graph, circuit.mask)
    masks = random_masks(graph, wanted, n, seed=seed)
    note = {"selection": "random", "matches": dict(circuit.provenance), "seed": seed}
    return [
        Circuit(graph, mask, None, circuit.ablation, dict(circuit.task), {**note, "draw": draw})
        for draw, mask in enumerate(masks)
    ]


def random_masks(graph: Graph, wanted: NDArray[np.bool_], n: int, *, seed: int) -> list[NDArray[np.bool_]]:
    """The masks of `n` random circuits that match a pruned mask, shape (edge,)."""
    if not wanted.any() or wanted.all():
        return [wanted.copy() for _ in range(n)]
    walks = Walks.of(graph)
    return [_Growing(graph, walks, wanted, np.random.default_rng([seed, draw])).grow() for draw in range(n)]


class _Growing:
    """One random circuit while it grows.

    A node is `alive` if a kept path leads to it from the input, and `needed` if one leads from it to the logits.
    """

    def __init__(self, graph: Graph, walks: Walks, wanted: NDArray[np.bool_], rng: np.random.Generator) -> None:
        self.graph, self.walks, self.rng = graph, walks, rng
        self.into, self.out_of = walks.into, walks.out_of
        self.starts = np.array([block.start for block in graph.blocks])
        self.stops = np.array([block.stop for block in graph.blocks])
        self.size, self.wanted = int(wanted.sum()), self._per_block(wanted)
        self._restart(np.zeros(len(graph), dtype=bool))

    def _per_block(self, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        before = np.concatenate([[0], np.cumsum(mask, dtype=np.int64)])
        return before[self.stops] - before[self.starts]

    def _restart(self, mask: NDArray[np.bool_]) -> None:
        """Goes on from a mask whose edges are all on paths."""
        self.mask, self.have = mask, self._per_block(mask)
        self.alive = np.zeros(self.walks.logits + 1, dtype=bool)
        self.needed = self.alive.copy()
        self.alive[self.walks.inputs] = True
        self.needed[self.walks.logits] = True
        free = slice(self.walks.n_edges, None)
        kept = np.flatnonzero(mask)
        self.alive[self.walks.start[kept]] = self.alive[self.walks.end[kept]] = True
        self.needed[self.walks.start[kept]] = self.needed[self.walks.end[kept]] = True
        starts, ends = self.walks.start[free], self.walks.end[free]
        self.alive[ends[self.alive[starts]]] = True
        self.needed[starts[self.needed[ends]]] = True

    def grow(self) -> NDArray[np.bool_]:
        """The finished mask."""
        drops = 0
        while (missing := self.size - int(self.have.sum())) > 0:
            added = self._path(missing)
            if added is None:
                added = self._single()
            if added is not None:
                self._add(added)
            elif drops < _DROPS:
                self._drop()
                drops += 1
            else:
                raise GraphError(
                    f"no random circuit of exactly {self.size} edges was found in {self.graph}: try another seed."
                )
        return self.mask

    def _path(self, missing: int) -> list[int] | None:
        """New edges of a random whole path that fits, through an edge of the block that lacks most."""
        lacking = np.where(self.have < self.stops - self.starts, self.wanted - self.have, -len(self.mask))
        for _ in range(_TRIES):
            block = int(self.rng.choice(np.flatnonzero(lacking == lacking.max())))
            edge = int(self.rng.integers(self.starts[block], self.stops[block]))
            if self.mask[edge]:
                continue
            found = [edge, *self.walks.wander(edge, self.alive, self.rng, back=True)]
            found += self.walks.wander(edge, self.needed, self.rng, back=False)
            new = [link for link in found if link < self.walks.n_edges and not self.mask[link]]
            if len(new) <= missing:
                return new
        return None

    def _single(self) -> list[int] | None:
        """One edge from what is alive to what is needed, of the block that lacks most among those that have one."""
        edges = slice(0, self.walks.n_edges)
        fits = self.alive[self.walks.start[edges]] & self.needed[self.walks.end[edges]] & ~self.mask
        lacking = np.where(self._per_block(fits) > 0, self.wanted - self.have, -len(self.mask))
        if not fits.any():
            return None
        block = int(self.rng.choice(np.flatnonzero(lacking == lacking.max())))
        places = np.flatnonzero(fits[self.starts[block] : self.stops[block]])
        return [int(self.starts[block] + self.rng.choice(places))]

    def _add(self, edges: list[int]) -> None:
        """Keeps edges that, with what is kept, are on whole paths."""
        for edge in edges:
            self.mask[edge] = True
            self.have[int(np.searchsorted(self.stops, edge, side="right"))] += 1
            for node in (int(self.walks.start[edge]), int(self.walks.end[edge])):
                self._mark(node)

    def _mark(self, node: int) -> None:
        """A node on a path, and its neighbours along free links."""
        self.alive[node] = self.needed[node] = True
        for (order, begins), ends, state in (
            (self.out_of, self.walks.end, self.alive),
            (self.into, self.walks.start, self.needed),
        ):
            links = order[begins[node] : begins[node + 1]]
            state[ends[links[links >= self.walks.n_edges]]] = True

    def _drop(self) -> None:
        mask, kept = self.mask.copy(), np.flatnonzero(self.mask)
        if not len(kept):
            return  # nothing fits yet: another path is tried
        mask[self.rng.choice(kept)] = False
        self._restart(reach(self.graph, mask).mask)
