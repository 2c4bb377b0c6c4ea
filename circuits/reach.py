"""Which kept edges lie on a path from the input to the logits.

A node is *alive* at a token group if a path of kept edges leads to it from `input`; a source that is not alive carries
the ablation's value by definition. A place is *needed* if a path of kept edges leads from it to the logits. An edge is
on a path if its start is alive and its end is needed. A head is fed at its target group through q, and through the
edges inside it through k and v; with one token group those edges vanish into the head. Heads that share a norm reach
one another through it: if one is alive or needed, so are all of its layer.

All of this is "and" along a path and "or" over paths, so it is written as minimum and maximum. Of booleans these are
the same; of numbers they give the strength of the strongest path, where a path is as strong as its weakest edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .edge_blocks import LayerBlocks
from .graph import Graph

Bools = NDArray[np.bool_]
Strengths = NDArray[Any]  # booleans or whole numbers; what comes out is of the kind that went in


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


def path_strengths(graph: Graph, strengths: NDArray[np.intp]) -> NDArray[np.intp]:
    """How strong the strongest path from input to logits through each edge is, shape (edge,); 0 where there is none.

    Args:
        graph: The graph.
        strengths: How strong each edge is, above 0, shape (edge,). A path is as strong as its weakest edge.
    """
    alive, row_alive = _forward(graph, strengths)
    return _backward(graph, strengths, alive, row_alive)[1]


def _forward(graph: Graph, mask: Strengths) -> tuple[Strengths, list[Strengths]]:
    alive = np.zeros((graph.n_sources, len(graph.groups)), dtype=mask.dtype)
    alive[0] = True if mask.dtype == np.bool_ else np.iinfo(mask.dtype).max
    row_alive = []
    for layer, blocks in enumerate(graph.layers):
        first = graph.first_head(layer)
        rows = _any_source(blocks.attention.unpack(mask), alive[:first])
        row_alive.append(rows)
        heads = graph.head_sources(layer)
        alive[heads] = _heads_alive(graph, blocks, mask, rows) * graph.live_targets(layer)
        if graph.cfg.is_joint(layer):
            alive[heads] = np.maximum.reduce(alive[heads], axis=0)
        alive[heads] *= graph.source_exists[heads, None]
        fed = _any_source(blocks.mlp.unpack(mask), alive[: blocks.mlp.width])
        alive[graph.mlp_source(layer)] = fed[0]
    return alive, row_alive


def _any_source(kept: Strengths, alive: Strengths) -> Strengths:
    """(row, group, source) & (source, group) -> (row, group): does any alive source feed it?"""
    return np.maximum.reduce(np.minimum(kept, alive.T[None]), axis=-1)


def _heads_alive(graph: Graph, blocks: LayerBlocks, mask: Strengths, row_alive: Strengths) -> Strengths:
    """(head, target group): fed through q, or through a kept k or v edge inside the head."""
    q, k, v = (row_alive[graph.port_rows[:, port]] for port in range(3))
    if blocks.inside is None:
        return _either(q, k, v)
    kept = blocks.inside.unpack(mask)[graph.inside_rows]  # head, (k, v), target group, source group
    through_k, through_v = np.minimum(kept[:, 0], k[:, None, :]), np.minimum(kept[:, 1], v[:, None, :])
    return _either(q, through_k.max(-1), through_v.max(-1))


def _either(*several: Strengths) -> Strengths:
    return np.maximum.reduce(several)


def _backward(
    graph: Graph, mask: Strengths, alive: Strengths, row_alive: Sequence[Strengths]
) -> tuple[Strengths, Strengths]:
    needed = np.zeros_like(alive)
    on_path = np.zeros(len(graph), dtype=mask.dtype)
    kept = graph.logits.unpack(mask)
    graph.logits.pack(np.minimum(kept, alive.T[None]), on_path)
    needed[:] = np.maximum(needed, kept[0].T)
    for layer in reversed(range(graph.cfg.n_layers)):
        blocks, first = graph.layers[layer], graph.first_head(layer)
        width = blocks.mlp.width
        kept = np.minimum(blocks.mlp.unpack(mask), needed[graph.mlp_source(layer)][None, :, None])
        needed[:width] = np.maximum(needed[:width], kept[0].T)
        blocks.mlp.pack(np.minimum(kept, alive[:width].T[None]), on_path)
        heads = graph.head_sources(layer)
        if graph.cfg.is_joint(layer):
            needed[heads] = np.maximum.reduce(needed[heads], axis=0)
        rows_needed = _rows_needed(graph, blocks, mask, needed[heads], row_alive[layer], on_path)
        kept = np.minimum(blocks.attention.unpack(mask), rows_needed[:, :, None])
        needed[:first] = np.maximum(needed[:first], kept.max(0).T)
        blocks.attention.pack(np.minimum(kept, alive[:first].T[None]), on_path)
    return needed, on_path


def _rows_needed(
    graph: Graph, blocks: LayerBlocks, mask: Strengths, needed: Strengths, row_alive: Strengths, on_path: Strengths
) -> Strengths:
    """(row, group) of the attention block: does it lead to a needed head? Also marks the edges inside heads."""
    rows_needed = np.zeros(blocks.attention.present.shape, dtype=mask.dtype)
    if blocks.inside is None:
        for port in range(3):
            np.maximum.at(rows_needed, graph.port_rows[:, port], needed)
        return rows_needed
    np.maximum.at(rows_needed, graph.port_rows[:, 0], needed)
    kept = blocks.inside.unpack(mask)
    marked = np.zeros_like(kept)
    for kind in range(2):  # keys, values
        rows, ports = graph.inside_rows[:, kind], graph.port_rows[:, kind + 1]
        leads = np.minimum(kept[rows], needed[:, :, None])  # head, target group, source group
        np.maximum.at(rows_needed, ports, leads.max(1))
        np.maximum.at(marked, rows, np.minimum(leads, row_alive[ports][:, None, :]))
    blocks.inside.pack(marked, on_path)
    return rows_needed
