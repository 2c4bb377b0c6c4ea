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

A circuit under other names: heads exchanged inside their layers, everything else as it was.

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
