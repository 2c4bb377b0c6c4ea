"""Which edges of a graph are still kept while it is pruned from the logits back, and which tokens are still needed.

Everything upstream of the destination that is being pruned is whole, everything downstream is final. So a place is
needed at a token if a kept edge downstream reads it there, and what is needed nowhere has no edge worth a run: its
edges are dropped at once. A destination that is needed only at the tokens that the readout looks at (CLS, say) is only
computed there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...circuits.edge_blocks import EdgeBlock
from ...circuits.graph import Graph

Bools = NDArray[np.bool_]
Sources = dict[int, tuple[int, ...] | None]
"""Kept sources of a destination row -> the token groups at which they are kept; None for all."""

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


@dataclass(frozen=True)
class Trials:
    """A batch of trials at one destination: trial i drops column i and the earlier ones that are expected to go.

    Args:
        columns: The edges, in the order in which they are decided.
        expected: Whether each is expected to go.
    """

    columns: list[int]
    expected: list[bool]

    def dropped(self) -> list[list[int]]:
        """For each trial the columns that it drops."""
        goes = [column for column, expected in zip(self.columns, self.expected, strict=True) if expected]
        return [[*goes[: sum(self.expected[:place])], column] for place, column in enumerate(self.columns)]


class Kept:
    """The kept edges, and for every source and destination row the tokens at which it is needed."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.mask: Bools = np.ones(len(graph), dtype=bool)
        n_tokens = len(graph.groups.of_token)
        self.needed: Bools = np.zeros((graph.n_sources, n_tokens), dtype=bool)
        self._of_token = np.array(graph.groups.of_token)
        self.read: Bools = np.zeros(n_tokens, dtype=bool)
        self.read[list(graph.cfg.read_tokens)] = True
        self._dense = {(b.kind, b.layer): b.exists for b in graph.blocks}
        self._sources: dict[tuple[str, int, int], tuple[Sources, Sources]] = {}

    def place(self, block: EdgeBlock) -> int:
        """Where a block's destinations stand: 2 x layer in attention, + 1 at the MLP, 2 x n_layers at the end."""
        if block.kind == "logits":
            return 2 * self.graph.cfg.n_layers
        return 2 * block.layer + (block.kind == "mlp")

    def dense(self, block: EdgeBlock) -> Bools:
        """Kept edges of a block, shape (row, group, column)."""
        return self._dense[block.kind, block.layer]

    def drop(self, destination: Destination, columns: list[int]) -> None:
        """Drops the edges from these columns into a destination."""
        self.dense(destination.block)[destination.row, destination.group, columns] = False
        self.mask[[destination.edge(column) for column in columns]] = False
        self._sources.pop((destination.block.kind, destination.block.layer, destination.row), None)

    def sources(self, block: EdgeBlock, row: int) -> tuple[Sources, Sources]:
        """Kept and dropped sources of a destination row, with the groups where they are."""
        key = (block.kind, block.layer, row)
        if key not in self._sources:
            kept, present = self.dense(block)[row], block.exists[row]
            self._sources[key] = _by_source(kept, present), _by_source(present & ~kept, present)
        return self._sources[key]

    def level(self, tokens: Bools) -> int:
        """Nowhere, at tokens that the readout looks at, or everywhere."""
        return EVERYWHERE if (tokens & ~self.read).any() else READ if tokens.any() else NOWHERE

    def source_level(self, source: int) -> int:
        """Where a source's write is needed."""
        return self.level(self.needed[source])

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
        groups = np.unique(self._of_token[target])
        seen: Bools = np.any(self.dense(inside)[self.graph.inside_rows[head, kind]][groups], axis=0)
        return seen[self._of_token]

    def candidates(self, destination: Destination) -> list[int]:
        """Columns of the edges into a destination that something needed reads."""
        needed = self.row_needed(destination.block, destination.row)
        if not needed[self._of_token == destination.group].any():
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
            self.needed[left] |= self.row_needed(block, row) & (self._of_token == group)


def _by_source(chosen: Bools, present: Bools) -> Sources:
    """Sources with the groups at which they are chosen, of (group, source); None for all that are present."""
    everywhere: Bools = np.all(chosen | ~present, axis=0)
    return {
        int(source): None if everywhere[source] else tuple(np.flatnonzero(chosen[:, source]).tolist())
        for source in np.flatnonzero(chosen.any(0))
    }
