"""Exact effects of single edges around a mask: one kept edge dropped, or one absent edge added.

`exact_effects` measures around the full model; this is the same for any mask of kept edges, with the meaning that
`circuits/run.py` gives it: a source without a kept path from the input carries its ablated value, so an edge that is
added can bring its destination to life, and one that is dropped can cut sources off.

The masked run in front of the destination is shared, candidates of one destination go through in batches, and behind it
only nodes are computed that the change reaches and that are needed. Edges whose source is not alive, or whose
destination leads nowhere, change nothing and cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ...circuits.baseline import DEFAULT_MEMORY, Baseline
from ...circuits.edge_blocks import EdgeBlock
from ...circuits.graph import Graph
from ...circuits.metrics import Metric
from ...circuits.pairs import Pairs
from ...circuits.reach import reach
from ...models.hooked import HookedViT
from .masked_state import Bools, MaskedState
from .ripple import Ripple

HIDDEN_BYTES = 12_000_000  # of one MLP's hidden neurons: more at once is slower, since memory is asked for anew


@dataclass(frozen=True, eq=False)
class Flips:
    """The metric around a mask.

    Args:
        now: Under the mask, (pair,).
        flipped: With one edge flipped, (edge, pair), for the edges that were asked for, in their order.
        runs: Edges x pairs that were run; the others change nothing.
    """

    now: NDArray[np.float64]
    flipped: NDArray[np.float64]
    runs: int


def measure_flips(
    vit: HookedViT,
    graph: Graph,
    mask: Bools,
    edges: Sequence[int] | NDArray[np.intp],
    metric: Metric,
    pairs: Pairs,
    baseline: Baseline,
    *,
    memory: int = DEFAULT_MEMORY,
    done: Callable[[int], object] = lambda count: None,
) -> Flips:
    """The metric under a mask, and with each of some edges flipped: dropped if it is kept, added if it is not.

    Args:
        vit: The opened model.
        graph: The graph.
        mask: Kept edges, (edge,).
        edges: Which edges to flip, one at a time.
        metric: Logits -> one number per pair.
        pairs: Pairs of images.
        baseline: What removed edges carry.
        memory: Bytes to hold at once.
        done: Called with edges x pairs as they are finished.
    """
    chosen = np.asarray(edges, dtype=np.intp)
    matters = changeable(graph, mask)[chosen]
    at_once, size = _sizes(vit, graph, len(pairs), memory)
    now, flipped = [], []
    with torch.no_grad(), vit.borrowed():
        for batch in pairs.batches(size):
            reference = batch.wanted(vit(batch.clean))
            state = MaskedState(vit, graph, mask, batch, baseline)
            now.append(_numbers(metric(state.logits, reference)))
            found = np.repeat(now[-1][None], len(chosen), 0)
            for places, logits in _ripples(state, chosen, np.flatnonzero(matters), max(1, at_once // len(batch))):
                found[places] = _numbers(metric(logits, reference.expand_as(logits)))
                done(len(places) * len(batch))
            done(int((~matters).sum()) * len(batch))
            flipped.append(found)
    return Flips(np.concatenate(now), np.concatenate(flipped, 1), int(matters.sum()) * len(pairs))


def _ripples(
    state: MaskedState, edges: NDArray[np.intp], places: NDArray[np.intp], at_once: int
) -> Iterator[tuple[list[int], Float[Tensor, "flip pair class"]]]:
    """Batches of edges into one destination each, by their places in `edges`, with their logits."""
    starts = np.array([block.start for block in state.graph.blocks])

    def destination(place: int) -> tuple[int, int]:
        block = int(np.searchsorted(starts, edges[place], side="right")) - 1
        return block, state.graph.blocks[block].locate(int(edges[place]))[0]

    for (block, row), group in groupby(sorted(places.tolist(), key=destination), key=destination):
        alike = list(group)
        for start in range(0, len(alike), at_once):
            some = alike[start : start + at_once]
            yield some, Ripple(state, state.graph.blocks[block], row, [int(edges[place]) for place in some]).logits()


def changeable(graph: Graph, mask: Bools) -> Bools:
    """Edges whose flip can change something: the source is alive, the destination leads to the logits. (edge,)"""
    found, out = reach(graph, mask), np.zeros(len(graph), dtype=bool)
    _pack(graph.logits, found.alive.T[None], out)
    for layer, blocks in enumerate(graph.layers):
        first, mlp = graph.first_head(layer), graph.mlp_source(layer)
        _pack(blocks.mlp, found.alive[: blocks.mlp.width].T[None] & found.needed[mlp][None, :, None], out)
        alive, needed = found.alive[:first].T[None], found.needed[graph.head_sources(layer)]
        _pack(blocks.attention, _rows_needed(graph, layer, mask, needed)[:, :, None] & alive, out)
        if blocks.inside is not None:
            fed = np.logical_or.reduce(blocks.attention.unpack(mask) & alive, axis=-1)  # (row, group)
            leads = np.zeros(blocks.inside.dense_shape, dtype=bool)
            for part in range(2):
                sources = fed[graph.port_rows[:, part + 1]]
                np.logical_or.at(leads, graph.inside_rows[:, part], needed[:, :, None] & sources[:, None, :])
            _pack(blocks.inside, leads, out)
    return out


def _pack(block: EdgeBlock, dense: Bools, out: Bools) -> None:
    block.pack(np.broadcast_to(dense, block.dense_shape), out)


def _rows_needed(graph: Graph, layer: int, mask: Bools, needed: Bools) -> Bools:
    """(row, group) of the attention block: does it lead to a needed head, given (head, target group)?"""
    blocks = graph.layers[layer]
    found = np.zeros(blocks.attention.present.shape, dtype=bool)
    np.logical_or.at(found, graph.port_rows[:, 0], needed)
    for part in range(2):
        seen = needed
        if blocks.inside is not None:
            kept = blocks.inside.unpack(mask)[graph.inside_rows[:, part]]  # head, target group, source group
            seen = (kept & needed[:, :, None]).any(1)
        np.logical_or.at(found, graph.port_rows[:, part + 1], seen)
    return found


def _sizes(vit: HookedViT, graph: Graph, n_pairs: int, memory: int) -> tuple[int, int]:
    """Flips x pairs that are computed at once, and pairs whose runs are held."""
    cfg, n_tokens = vit.cfg, vit.cfg.tokens.n_tokens
    element = torch.finfo(vit.dtype).bits // 8
    token = element * n_tokens
    rows = sum(block.present.shape[0] for block in graph.blocks if block.kind != "inside")
    # a pair: ablated values (twice while they are made), differences, inputs, ports and z
    pair = token * cfg.d_model * (3 * graph.n_sources + rows + 9 * cfg.n_layers)
    run = token * ((graph.n_sources + 8) * cfg.d_model + 3 * cfg.d_mlp) + 2 * element * cfg.n_heads * n_tokens**2
    at_once = int(max(1, min(HIDDEN_BYTES // (token * max(1, cfg.d_mlp)), memory // 2 // run)))
    return at_once, int(max(1, min(n_pairs, memory // 2 // pair, at_once)))


def _numbers(values: Tensor) -> NDArray[np.float64]:
    return values.double().cpu().numpy()
