"""Which kept edges lie on a path from the input to the logits.

A node is *alive* at a token group if a path of kept edges leads to it from `input`; a source that is not alive carries
the ablation's value by definition. A place is *needed* if a path of kept edges leads from it to the logits. An edge is
on a path if its start is alive and its end is needed. A head is fed at its target group through q, and through the
edges inside it through k and v; with one token group those edges vanish into the head. Heads that share a norm reach
one another through it: if one is alive or needed, so are all of its layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .edge_blocks import LayerBlocks
from .graph import Graph

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Reach:
    """What of a masked graph is connected.

    Args:
        alive: Whether a kept path leads from the input to a source, shape (source, group).
        needed: Whether a kept path leads from a source to the logits, shape (source, group).
        mask: The kept edges that are on a path, shape (edge,).
    """

    alive: Bools
    needed: Bools
    mask: Bools


def reach(graph: Graph, mask: Bools) -> Reach:
    """The connected part of a graph under a mask of kept edges, shape (edge,)."""
    alive, row_alive = _forward(graph, mask)
    needed, on_path = _backward(graph, mask, alive, row_alive)
    return Reach(alive, needed, on_path)


def prune(graph: Graph, mask: Bools) -> Bools:
    """The mask without the edges that are on no path from input to logits."""
    return reach(graph, mask).mask


def _forward(graph: Graph, mask: Bools) -> tuple[Bools, list[Bools]]:
    alive = np.zeros((graph.n_sources, len(graph.groups)), dtype=bool)
    alive[0] = True
    row_alive = []
    for layer, blocks in enumerate(graph.layers):
        first = graph.first_head(layer)
        rows = _any_source(blocks.attention.unpack(mask), alive[:first])
        row_alive.append(rows)
        heads = graph.head_sources(layer)
        alive[heads] = _heads_alive(graph, blocks, mask, rows) & graph.live_targets(layer)
        if graph.cfg.is_joint(layer):
            alive[heads] = np.logical_or.reduce(alive[heads], axis=0)
        alive[heads] &= graph.source_exists[heads, None]
        fed = _any_source(blocks.mlp.unpack(mask), alive[: blocks.mlp.width])
        alive[graph.mlp_source(layer)] = fed[0]
    return alive, row_alive


def _any_source(kept: Bools, alive: Bools) -> Bools:
    """(row, group, source) & (source, group) -> (row, group): does any alive source feed it?"""
    return np.logical_or.reduce(kept & alive.T[None], axis=-1)


def _heads_alive(graph: Graph, blocks: LayerBlocks, mask: Bools, row_alive: Bools) -> Bools:
    """(head, target group): fed through q, or through a kept k or v edge inside the head."""
    q, k, v = (row_alive[graph.port_rows[:, port]] for port in range(3))
    if blocks.inside is None:
        return q | k | v
    kept = blocks.inside.unpack(mask)[graph.inside_rows]  # head, (k, v), target group, source group
    through_k, through_v = kept[:, 0] & k[:, None, :], kept[:, 1] & v[:, None, :]
    return np.logical_or.reduce([q, through_k.any(-1), through_v.any(-1)])


def _backward(graph: Graph, mask: Bools, alive: Bools, row_alive: list[Bools]) -> tuple[Bools, Bools]:
    needed = np.zeros_like(alive)
    on_path = np.zeros(len(graph), dtype=bool)
    kept = graph.logits.unpack(mask)
    graph.logits.pack(kept & alive.T[None], on_path)
    needed |= kept[0].T
    for layer in reversed(range(graph.cfg.n_layers)):
        blocks, first = graph.layers[layer], graph.first_head(layer)
        width = blocks.mlp.width
        kept = blocks.mlp.unpack(mask) & needed[graph.mlp_source(layer)][None, :, None]
        needed[:width] |= kept[0].T
        blocks.mlp.pack(kept & alive[:width].T[None], on_path)
        heads = graph.head_sources(layer)
        if graph.cfg.is_joint(layer):
            needed[heads] = np.logical_or.reduce(needed[heads], axis=0)
        rows_needed = _rows_needed(graph, blocks, mask, needed[heads], row_alive[layer], on_path)
        kept = blocks.attention.unpack(mask) & rows_needed[:, :, None]
        needed[:first] |= kept.any(0).T
        blocks.attention.pack(kept & alive[:first].T[None], on_path)
    return needed, on_path


def _rows_needed(
    graph: Graph, blocks: LayerBlocks, mask: Bools, needed: Bools, row_alive: Bools, on_path: Bools
) -> Bools:
    """(row, group) of the attention block: does it lead to a needed head? Also marks the edges inside heads."""
    rows_needed = np.zeros(blocks.attention.present.shape, dtype=bool)
    if blocks.inside is None:
        for port in range(3):
            np.logical_or.at(rows_needed, graph.port_rows[:, port], needed)
        return rows_needed
    np.logical_or.at(rows_needed, graph.port_rows[:, 0], needed)
    kept = blocks.inside.unpack(mask)
    marked = np.zeros_like(kept)
    for kind in range(2):  # keys, values
        rows, ports = graph.inside_rows[:, kind], graph.port_rows[:, kind + 1]
        leads = kept[rows] & needed[:, :, None]  # head, target group, source group
        np.logical_or.at(rows_needed, ports, leads.any(1))
        np.logical_or.at(marked, rows, leads & row_alive[ports][:, None, :])
    blocks.inside.pack(marked, on_path)
    return rows_needed
