"""Random circuits that keep a circuit's structure: its edges dealt anew within their classes, all still on paths.

Wanted is a circuit with exactly as many edges of each class (`edge_classes`) as the first one has, every edge on a path
from input to logits. Dealing each class by itself leaves many edges on no path, and filling up afterwards breaks the
classes. So the draw walks among the circuits that are wanted and never leaves them (Metropolis' rule):

1. Start from the circuit with its heads renamed, which is one of them.
2. In each layer join the heads in random pairs. For each pair draw a share p of 1, 1/2, ..., 1/32, and let each of its
   twin edges (`head_edges`) change places with probability p. Every class keeps its count, and no other head, MLP or
   input gains or loses an edge at any token group. With several groups, half of the pairs exchange only the edges of
   one thread: those through one port, one source and one target group.
3. If all edges of both heads are still on paths, the pair stays so, else it returns to what it was. Repeat.

Each step is as likely as its reverse, so in the long run every circuit that steps can reach is equally likely. In every
draw the size and the class counts are exact; only how well it has mixed is approximate. With several token groups, a
circuit of few edges per head mixes slowly: its draws may concentrate on as few heads as it does, on other ones.

Classes that are kept whole cannot move: every draw shares them with the circuit (`fixed_share`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..models.errors import GraphError
from .graph import Graph
from .head_edges import HeadEdges, all_head_edges
from .reach import prune
from .renamed import random_names, rename_along, require_two_heads

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
