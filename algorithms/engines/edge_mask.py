"""Which edges are kept, which rows read alike, and at which tokens what a source writes is needed.

What is needed nowhere has no edge worth a run, and what is needed only at the tokens that the readout looks at (CLS,
say) is only computed there. A mask that is given is whole from the start. While a graph is pruned from the logits back,
everything upstream of the destination that is being pruned is whole and everything downstream is final: `finish` tells
the sources of one destination after the other where they are needed.

A head with several token groups sees its own keys and values of some, and of others the ablated residual's.
"""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakValueDictionary

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ...circuits.edge_blocks import EdgeBlock
from ...circuits.graph import Graph
from ...circuits.reach import reach
from ...models.blocks import OpenBlock

Bools = NDArray[np.bool_]
Sources = dict[int, tuple[int, ...] | None]
"""Sources of a destination row -> the token groups at which their edges are meant; None for all."""

NOWHERE, READ, EVERYWHERE = 0, 1, 2


@dataclass(frozen=True)
class Destination:
    """One place where candidates stand: a row of an edge block at a token group.

    Args:
        block: The edge block.
        row: Which destination of the block.
        group: At which token group.
    """

    block: EdgeBlock
    row: int
    group: int

    def edge(self, column: int) -> int:
        """Index of the edge from a column."""
        index = self.block.index(self.row, self.group, column)
        assert index is not None
        return index


@dataclass(frozen=True, eq=False)
class RowKind:
    """What rows of one place read that keep the same edges.

    Args:
        kept: Sources with a kept edge.
        dropped: Sources with a dropped one.
    """

    kept: Sources
    dropped: Sources


class EdgeMask:
    """The kept edges, and for every source and destination row the tokens at which it is needed.

    Args:
        graph: The graph.
        mask: Kept edges, (edge,), that stay as they are; None for all, to be pruned from the logits back.
    """

    def __init__(self, graph: Graph, mask: Bools | None = None) -> None:
        self.graph = graph
        self.mask: Bools = np.ones(len(graph), dtype=bool) if mask is None else mask
        self.whole = bool(self.mask.all())  # at first
        self._member = graph.groups.one_hot()  # (group, token); where groups differ from pair to pair all that may be
        n_tokens = self._member.shape[1]
        self.read: Bools = np.zeros(n_tokens, dtype=bool)
        self.read[list(graph.cfg.read_tokens)] = True
        self._dense = {block.key: block.unpack(self.mask) for block in graph.blocks}
        self._kinds: dict[tuple[str, int, int], RowKind] = {}
        self._alike: WeakValueDictionary[tuple[tuple[str, int], bytes], RowKind] = WeakValueDictionary()
        self.needed: Bools = np.zeros((graph.n_sources, n_tokens), dtype=bool)
        self.alive: Bools = np.ones((graph.n_sources, len(graph.groups)), dtype=bool)
        if mask is not None:
            found, last = reach(graph, mask), graph.first_head(graph.cfg.n_layers - 1)
            self.alive = found.alive
            self.needed[found.needed.any(1)] = True
            self.needed[last:] &= self.read

    def dense(self, block: EdgeBlock) -> Bools:
        """Kept edges of a block, shape (row, group, column)."""
        return self._dense[block.key]

    def drop(self, destination: Destination, columns: list[int]) -> None:
        """Drops the edges from these columns into a destination."""
        self.dense(destination.block)[destination.row, destination.group, columns] = False
        self.mask[[destination.edge(column) for column in columns]] = False
        self._kinds.pop((*destination.block.key, destination.row), None)

    def kind(self, block: EdgeBlock, row: int) -> RowKind:
        """What a destination row reads; rows that read alike share one object."""
        key = (*block.key, row)
        found = self._kinds.get(key)
        if found is None:
            kept, present = self.dense(block)[row], block.exists[row]
            form = (block.key, kept.tobytes() + present.tobytes())
            found = self._alike.get(form)
            if found is None:
                found = RowKind(_by_source(kept, present), _by_source(present & ~kept, present))
                self._alike[form] = found
            self._kinds[key] = found
        return found

    def level(self, tokens: Bools) -> int:
        """Nowhere, at tokens that the readout looks at, or everywhere."""
        return EVERYWHERE if (tokens & ~self.read).any() else READ if tokens.any() else NOWHERE

    def source_level(self, source: int) -> int:
        """Where a source's write is needed."""
        return self.level(self.needed[source])

    # While a graph is pruned from the logits back.

    def row_needed(self, block: EdgeBlock, row: int) -> Bools:
        """Tokens at which a destination row is needed, shape (token,)."""
        graph = self.graph
        if block.kind == "logits":
            return self.read
        if block.kind == "mlp":
            return self.needed[graph.mlp_source(block.layer)]
        found = np.zeros_like(self.read)
        rows = graph.port_rows if block.kind == "attention" else graph.inside_rows
        for head, port in np.argwhere(rows == row).tolist():
            target = self.needed[graph.first_head(block.layer) + head]
            if block.kind == "inside" or port == 0:
                found |= target
            elif target.any():
                found |= self._seen(block.layer, head, port - 1, target)
        return found

    def _seen(self, layer: int, head: int, kind: int, target: Bools) -> Bools:
        """Tokens whose keys (kind 0) or values (1) a head's needed targets see."""
        inside = self.graph.layers[layer].inside
        if inside is None:
            return np.ones_like(target)
        groups = self._member[:, target].any(1)
        seen: Bools = np.any(self.dense(inside)[self.graph.inside_rows[head, kind]][groups], axis=0)
        return np.any(self._member[seen], axis=0)

    def candidates(self, destination: Destination) -> list[int]:
        """Columns of the edges into a destination that something needed reads."""
        needed = self.row_needed(destination.block, destination.row)
        if not needed[self._member[destination.group]].any():
            return []
        return np.flatnonzero(self.dense(destination.block)[destination.row, destination.group]).tolist()

    def feed_the_same(self, one: Destination, other: Destination) -> bool:
        """Whether two places in attention are read by the same heads."""
        if one.block.kind != "attention" or other.block.kind != "attention":
            return False
        fed = [(self.graph.port_rows == place.row).any(1) for place in (one, other)]
        return bool((fed[0] == fed[1]).all())

    def finish(self, destination: Destination) -> None:
        """Marks what the kept edges into a finished destination read as needed, and drops the others."""
        block, row, group = destination.block, destination.row, destination.group
        left = self.candidates(destination)
        gone = sorted(set(np.flatnonzero(self.dense(block)[row, group]).tolist()) - set(left))
        if gone:
            self.drop(destination, gone)
        if block.kind != "inside" and left:
            self.needed[left] |= self.row_needed(block, row) & self._member[group]
            self._share()

    def _share(self) -> None:
        """Heads that share a norm are needed where any of them is."""
        for layer in range(self.graph.cfg.n_layers):
            if self.graph.cfg.is_joint(layer):
                heads = self.graph.head_sources(layer)
                self.needed[heads] = self.needed[heads].any(0)


def _by_source(chosen: Bools, present: Bools) -> Sources:
    """Sources with the groups at which they are chosen, of (group, source); None for all that are present."""
    everywhere: Bools = np.all(chosen | ~present, axis=0)
    return {
        int(source): None if everywhere[source] else tuple(np.flatnonzero(chosen[:, source]).tolist())
        for source in np.flatnonzero(chosen.any(0))
    }


def blend(
    block: OpenBlock,
    ports: tuple[Tensor, Tensor, Tensor],
    ablated: tuple[Tensor, Tensor],
    kept: tuple[Tensor, Tensor],
    tokens: slice,
) -> Float[Tensor, "*any target d_head"]:
    """Weighted values under two masks (target token, source token), each between the ablated run's (0) and this one's.

    Args:
        block: The block.
        ports: This run's q (at some tokens), k and v.
        ablated: The keys and values that are read from the ablated residual.
        kept: The masks of keys and values.
        tokens: Where the queries stand.
    """
    (q, k, v), (k_ablated, v_ablated), (keys, values) = ports, ablated, kept
    scores = block.scores(q, k) * keys + block.scores(q, k_ablated) * (1 - keys)
    pattern = block.masked(scores, tokens).softmax(-1)
    return (pattern * values) @ v + (pattern * (1 - values)) @ v_ablated
