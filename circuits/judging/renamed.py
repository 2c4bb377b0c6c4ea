"""A circuit under other names: heads exchanged inside their layers, everything else as it was.

A renamed circuit is isomorphic to the first one: the same wiring, size and edges of each class, carried by other heads
of the same layers. It asks whether *these* heads matter, where everything that can be said without naming a head is
kept. At `block` ports the heads of a layer share what they read, so only what each writes is renamed.

All edges that touch a layer's heads, head by head in one order: what it takes to put one head in another's place.

Row h lists the edges into head h's ports, those between token groups inside it, and those that carry what it writes.
The edge at a place of row h and the one at the same place of row h' are *twins*: alike but for the head. Places that
are no edge hold the index `len(graph)`: masks carry one entry more, False, so that no place needs to be left out.

At `block` ports the heads of a layer share what they read, so only what they write belongs to one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
from numpy.typing import NDArray

from ...models.errors import GraphError
from ..edge_blocks import EdgeBlock
from ..graph import Graph
from ..reach import prune

Bools = NDArray[np.bool_]


def can_rename(graph: Graph) -> bool:
    """Whether any layer has two heads to exchange. If not, a class holds one edge, and nothing can be dealt either."""
    return any(graph.cfg.heads_of(layer) > 1 for layer in range(graph.cfg.n_layers))


def require_two_heads(graph: Graph) -> None:
    """Does nothing if some layer has heads to exchange.

    Raises:
        GraphError: No layer has.
    """
    if not can_rename(graph):
        raise GraphError(
            f"{graph} has one head in each layer, so there is nothing to exchange: a renamed or dealt circuit would be "
            f'the circuit itself. Ask can_rename(graph) first, and compare with control_masks(circuit, "paths", ...).'
        )


def renamed_masks(graph: Graph, mask: Bools, n: int, *, seed: int) -> list[Bools]:
    """Masks of `n` circuits with their heads renamed at random, shape (edge,), as large as the pruned mask.

    Each layer's heads are permuted evenly; a draw may leave them where they were. The empty and the full mask are
    their own.

    Args:
        graph: The graph.
        mask: The circuit to be renamed; its edges on no path are dropped first.
        n: How many.
        seed: The same seed gives the same masks.

    Raises:
        GraphError: No layer has two heads, or n is negative.
    """
    require_two_heads(graph)
    if n < 0:
        raise GraphError(f"{n} renamed circuits were asked for: pass 0 or more.")
    layers, wanted = all_head_edges(graph), prune(graph, mask)
    return [
        rename_along(layers, wanted, random_names(layers, np.random.default_rng([seed, draw, 3]))) for draw in range(n)
    ]


def random_names(layers: Sequence[HeadEdges], rng: np.random.Generator) -> list[NDArray[np.intp]]:
    """A random permutation of the heads of each layer."""
    return [rng.permutation(len(layer.edges)) for layer in layers]


def rename(graph: Graph, mask: Bools, names: Sequence[NDArray[np.intp]]) -> Bools:
    """The mask in which head h of layer l does what head `names[l][h]` did, shape (edge,).

    Args:
        graph: The graph.
        mask: Which edges are kept, shape (edge,).
        names: For each layer a permutation of its heads.
    """
    return rename_along(all_head_edges(graph), mask, names)


def rename_along(layers: Sequence[HeadEdges], mask: Bools, names: Sequence[NDArray[np.intp]]) -> Bools:
    padded = np.append(mask, False)
    for layer, order in zip(layers, names, strict=True):
        padded[layer.edges] = padded[layer.edges[order]]  # an edge between two layers moves in both turns
    return padded[:-1]


Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class HeadEdges:
    """The edges of one layer's heads.

    Args:
        edges: Index of each edge, shape (head, place).
        into: Sizes of the first run of places: ports, groups, sources.
        inside: Sizes of the second: ports, target groups, source groups.
        joint: Whether a norm across all heads couples them.
    """

    edges: Indices
    into: tuple[int, int, int]
    inside: tuple[int, int, int]
    joint: bool

    @cached_property
    def threads(self) -> Indices:
        """What each place belongs to, shape (3, place): a port, a source group and a target group; -1 for any.

        The places of one (port, source group, target group) are all that a value passes which arrives at this port and
        group and leaves at that group.
        """
        (n_ports, n_groups, n_sources), (n_inside, *_) = self.into, self.inside
        port, group, any_of = np.arange(n_ports), np.arange(n_groups), np.array([-1])
        n_out = (self.edges.shape[1] - prod(self.into) - prod(self.inside)) // n_groups
        runs = [(port, group, np.full(n_sources, -1)), (port[n_ports - n_inside :], group, group)]
        into, inside = (np.stack([axis.ravel() for axis in np.meshgrid(*run, indexing="ij")]) for run in runs)
        out = np.stack([axis.ravel() for axis in np.meshgrid(np.full(n_out, -1), any_of, group, indexing="ij")])
        return np.concatenate([into, inside[[0, 2, 1]], out], axis=1)

    @classmethod
    def of(cls, graph: Graph, layer: int) -> HeadEdges:
        """The edges of a layer's heads."""
        blocks, n_heads = graph.layers[layer], graph.cfg.heads_of(layer)
        into = _of_rows(graph, blocks.attention, graph.port_rows[:n_heads])
        inside = np.zeros((n_heads, 0, into.shape[2], into.shape[2]), np.intp)
        if blocks.inside is not None:
            inside = _of_rows(graph, blocks.inside, graph.inside_rows[:n_heads])
        heads = graph.first_head(layer) + np.arange(n_heads)
        found = [into, inside, *(_out_of(graph, block, heads) for block in graph.blocks)]
        edges = np.concatenate([part.reshape(n_heads, -1) for part in found], axis=1)
        return cls(edges, into.shape[1:], inside.shape[1:], graph.cfg.is_joint(layer))

    def sound(self, kept: Bools) -> Bools:
        """Whether all edges of each head are on paths if the layers around it stay connected, shape (head,).

        What arrives must go on and what goes on must have arrived, as in `reach`.

        Args:
            kept: Which edges are kept, shape (head, place).
        """
        n_into, n_inside = prod(self.into), prod(self.inside)
        fed: Bools = np.any(kept[:, :n_into].reshape(len(kept), *self.into), axis=-1)  # head, port, group
        inside = kept[:, n_into : n_into + n_inside].reshape(len(kept), *self.inside)
        goes: Bools = np.any(kept[:, n_into + n_inside :].reshape(len(kept), -1, self.into[1]), axis=1)
        needed = self._shared(goes)  # head, group
        if not self.into[0]:
            return np.ones(len(kept), dtype=bool)
        if not self.inside[0]:
            alive: Bools = np.any(fed, axis=1)
            leads, loose = needed[:, None], np.zeros(len(kept), dtype=bool)
        else:
            n_ports = self.inside[0]
            arrives = inside & fed[:, -n_ports:, None, :]  # head, port, target group, source group
            goes_on = inside & needed[:, None, :, None]
            alive = fed[:, 0] | np.any(arrives, axis=(1, 3))
            leads = np.zeros_like(fed)
            leads[:, 0] = needed
            leads[:, -n_ports:] |= goes_on.any(2)
            loose = (inside & ~(arrives & goes_on)).any((1, 2, 3))
        unread: Bools = np.any(fed & ~leads, axis=(1, 2))
        unfed: Bools = np.any(needed & ~self._shared(alive), axis=1)
        return ~(unread | unfed | loose)

    def _shared(self, state: Bools) -> Bools:
        """(head, group), or what any head has where a norm couples them."""
        return np.broadcast_to(state.any(0), state.shape) if self.joint else state


def _places(graph: Graph, block: EdgeBlock) -> Indices:
    """Index of the edge at each (row, group, column); `len(graph)` where there is none."""
    dense = block.unpack(np.arange(1, len(graph) + 1)) - 1
    return np.where(dense < 0, len(graph), dense)


def _of_rows(graph: Graph, block: EdgeBlock, rows: Indices) -> Indices:
    """Edges of each head's own rows, shape (head, port, group, column); no port at `block` ports."""
    own = {"qkv": rows.shape[1], "head": 1, "block": 0}[graph.ports]
    return _places(graph, block)[rows[:, :own]]


def _out_of(graph: Graph, block: EdgeBlock, heads: Indices) -> Indices:
    """Edges of a block that carry what each head writes, shape (head, row, group)."""
    if block.kind == "inside" or block.width <= heads[-1]:
        return np.zeros((len(heads), 0, block.dense_shape[1]), np.intp)
    return np.moveaxis(_places(graph, block)[:, :, heads], -1, 0)


def all_head_edges(graph: Graph) -> tuple[HeadEdges, ...]:
    """The edges of each layer's heads."""
    return tuple(HeadEdges.of(graph, layer) for layer in range(graph.cfg.n_layers))
