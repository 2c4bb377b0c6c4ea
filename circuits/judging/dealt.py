"""Random circuits that keep a circuit's structure: its edges dealt anew within their classes, all still on paths.

Wanted is a circuit with exactly as many edges of each class (see below) as the first one has, every edge on a path
from input to logits. Dealing each class by itself leaves many edges on no path, and filling up afterwards breaks the
classes. So the draw walks among the circuits that are wanted and never leaves them (Metropolis' rule):

1. Start from the circuit with its heads renamed, which is one of them.
2. In each layer join the heads in random pairs. For each pair draw a share p of 1, 1/2, ..., 1/32, and let each of its
   twin edges change places with probability p. Every class keeps its count, and no other head, MLP or
   input gains or loses an edge at any token group. With several groups, half of the pairs exchange only the edges of
   one thread: those through one port, one source and one target group.
3. If all edges of both heads are still on paths, the pair stays so, else it returns to what it was. Repeat.

Each step is as likely as its reverse, so in the long run every circuit that steps can reach is equally likely. In every
draw the size and the class counts are exact; only how well it has mixed is approximate. With several token groups, a
circuit of few edges per head mixes slowly: its draws may concentrate on as few heads as it does, on other ones.

Classes that are kept whole cannot move: every draw shares them with the circuit (`fixed_share`).

Edges that are alike but for which head of a layer they leave or enter.

Two edges are of one class if they agree in the kind of their source (input, head, MLP) and its layer, in the kind of
their reader (a head's port, a head, an attention block, an MLP, the logits) and its layer, in the port, and in the
token groups at both ends. Edges inside heads: one layer, one port, the same groups. So a class holds one edge where
neither end is a head, n where one is, and n x n between two layers of n heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ...models.errors import GraphError
from ..edge_blocks import EdgeBlock
from ..graph import Graph
from ..reach import prune
from .renamed import HeadEdges, all_head_edges, random_names, rename_along, require_two_heads

Bools = NDArray[np.bool_]

_SWEEPS = {False: 40, True: 160}  # rounds over all layers, by whether there are several token groups. From circuits
# on a third of the heads of DeiT-Tiny and ViT-B, walks 4 to 6 times as long spread over at most 5% more heads
_HALVINGS = 6  # shares of twins that change places: 1, 1/2, ..., 1/32; sparse heads rarely survive larger ones


def dealt_masks(graph: Graph, mask: Bools, n: int, *, seed: int) -> list[Bools]:
    """Masks of `n` random circuits with as many edges of each class as the pruned mask, all on paths, shape (edge,).

    The procedure is described at the top of this module. The empty and the full mask are their own.

    Args:
        graph: The graph.
        mask: The circuit to be matched; its edges on no path are dropped first.
        n: How many.
        seed: The same seed gives the same masks.

    Raises:
        GraphError: No layer has two heads, so that each class holds one edge; or n is negative.
    """
    require_two_heads(graph)
    if n < 0:
        raise GraphError(f"{n} dealt circuits were asked for: pass 0 or more.")
    layers, wanted = all_head_edges(graph), prune(graph, mask)
    return [_deal(layers, wanted, np.random.default_rng([seed, draw, 4])) for draw in range(n)]


def _deal(layers: Sequence[HeadEdges], wanted: Bools, rng: np.random.Generator) -> Bools:
    """One dealt mask."""
    kept = np.append(rename_along(layers, wanted, random_names(layers, rng)), False)
    for _ in range(_SWEEPS[layers[0].into[1] > 1]):
        for layer in layers:
            _exchange(layer, kept, rng)
    return kept[:-1]


def _exchange(layer: HeadEdges, kept: Bools, rng: np.random.Generator) -> None:
    """Lets twins of paired heads change places in `kept`, shape (edge + 1,), where all their edges stay on paths."""
    n_pairs = len(layer.edges) // 2
    if not n_pairs:
        return
    pairs = rng.permutation(len(layer.edges))[: 2 * n_pairs].reshape(2, n_pairs)
    before = kept[layer.edges]  # head, place
    differ = before[pairs[0]] != before[pairs[1]]  # pair, place
    moves = differ & (rng.random(differ.shape) < _chances(layer, differ, rng))
    after = before.copy()
    after[pairs] ^= moves
    sound = layer.sound(after)
    stays = sound[pairs].all(0) if not layer.joint else np.broadcast_to(sound.all(), n_pairs)
    lost = pairs[:, ~stays]
    after[lost] = before[lost]
    kept[layer.edges] = after


def _chances(layer: HeadEdges, differ: Bools, rng: np.random.Generator) -> NDArray[np.float64]:
    """Chance of each place to change, shape (pair, place): equal, or 0 beside one thread for half of the pairs.

    With one token group no thread is needed. Places that differ still do after a move, so its reverse is as likely.
    """
    halvings = rng.integers(_HALVINGS, size=(len(differ), 1))
    n_ports, n_groups, _ = layer.into
    if n_groups == 1:
        return np.float_power(0.5, halvings)
    through = np.where(differ, rng.random(differ.shape), -1.0).argmax(1)
    port, source, target = layer.threads[:, through, None]  # pair, 1
    port = np.where(port < 0, rng.integers(max(1, n_ports), size=port.shape), port)
    other = np.where(rng.random(port.shape) < 0.5, rng.integers(n_groups, size=port.shape), np.maximum(source, target))
    chosen = np.stack([port, np.where(source < 0, other, source), np.where(target < 0, other, target)])
    on_thread = ((layer.threads[:, None] == chosen) | (layer.threads[:, None] < 0)).all(0)
    alone = rng.random(port.shape) < 0.5
    return np.where(alone, on_thread * 0.5 ** (halvings // 2), 0.5**halvings)


Bools = NDArray[np.bool_]
Labels = NDArray[np.intp]


def edge_classes(graph: Graph) -> Labels:
    """The class of each edge, shape (edge,), numbered from 0 without gaps."""
    labels = np.zeros(len(graph), dtype=np.intp)
    for place, block in enumerate(graph.blocks):
        rows, groups, columns = (np.arange(size) for size in block.dense_shape)
        ports = _ports(graph, block)[rows]
        starts = columns if block.kind == "inside" else _source_kinds(graph)[columns]
        first = (3 * place + ports)[:, None] * len(groups) + groups  # row, group
        block.pack(first[:, :, None] * (graph.n_sources + len(groups)) + starts, labels)
    return np.unique(labels, return_inverse=True)[1].reshape(-1)


def _ports(graph: Graph, block: EdgeBlock) -> Labels:
    """Which port each row of a block is, shape (row,); 0 throughout where rows are not ports."""
    rows = np.arange(block.dense_shape[0])
    if graph.ports != "qkv":
        return 0 * rows
    return rows % {"attention": 3, "inside": 2}.get(block.kind, 1)


def _source_kinds(graph: Graph) -> Labels:
    """One number for the input, one for the heads of each layer, one for each MLP, shape (source,)."""
    layer, place = np.divmod(np.arange(graph.n_sources) - 1, graph.cfg.n_heads + 1)
    kinds = 1 + 2 * layer + (place == graph.cfg.n_heads)
    kinds[0] = 0
    return kinds


def class_counts(classes: Labels, mask: Bools) -> NDArray[np.int64]:
    """Kept edges of each class, shape (class,)."""
    return np.bincount(classes[mask], minlength=int(classes.max()) + 1).astype(np.int64)


def share_in_class(graph: Graph, wanted: Bools, mask: Bools) -> float:
    """How much of `wanted` another mask matches class by class: sum over classes of min(kept, wanted) / all wanted.

    1 for two masks that keep as many edges of each class, and for an empty `wanted`.
    """
    classes = edge_classes(graph)
    counts = class_counts(classes, wanted)
    return float(np.minimum(counts, class_counts(classes, mask)).sum() / counts.sum()) if counts.any() else 1.0


def fixed_share(graph: Graph, mask: Bools) -> float:
    """Share of the kept edges whose class is kept whole, so that dealing within classes cannot move them.

    Every dealt circuit has these edges in common with the mask. 1 for an empty mask.
    """
    classes = edge_classes(graph)
    counts, sizes = class_counts(classes, mask), np.bincount(classes)
    return float(counts[counts == sizes].sum() / counts.sum()) if counts.any() else 1.0
