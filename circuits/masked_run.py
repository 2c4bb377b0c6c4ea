"""One run under a mask of kept edges; what an edge carries stands in `run.py`.

The state of a run is each source's difference to its ablated value. Where no gradients flow, differences stand in one
buffer, so that what a destination reads is one product with neighbouring rows of it; masks on the same pairs use the
same buffer one after the other. What it holds of the first layers is right for the next mask, too, as long as both keep
the same edges there, and is not computed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from ..models.blocks import ALL, OpenBlock
from ..models.hooked import HookedViT
from .edge_blocks import EdgeBlock
from .graph import Graph
from .reach import reach


@dataclass(frozen=True, eq=False)
class MaskWeights:
    """A mask spread out over destinations, as tensors: 1 keeps an edge, 0 drops it, and in between blends.

    Args:
        graph: The graph.
        edges: Per edge block in the graph's order, shape (row, group, column).
        alive: Whether a source has a kept path from the input, shape (source, group).
        needed: Whether a source has a kept path to the logits, shape (source, group).
        mask: The kept edges, shape (edge,); None of weights that gradients flow through.
    """

    graph: Graph
    edges: dict[tuple[str, int], Tensor]
    alive: NDArray[np.bool_]
    needed: NDArray[np.bool_]
    mask: NDArray[np.bool_] | None = None

    @classmethod
    def from_mask(cls, graph: Graph, mask: NDArray[np.bool_], vit: HookedViT) -> MaskWeights:
        """Of a mask of kept edges, shape (edge,)."""
        found = reach(graph, mask)
        place = {"dtype": vit.sum_dtype, "device": vit.device}
        edges = {(b.kind, b.layer): torch.tensor(b.unpack(mask), **place) for b in graph.blocks}
        return cls(graph, edges, found.alive, found.needed, mask)

    @classmethod
    def from_tensor(cls, graph: Graph, soft: Float[Tensor, " edge"]) -> MaskWeights:
        """Of weights in [0, 1] that gradients flow through; every source counts as connected."""
        edges = {}
        for block in graph.blocks:
            index = torch.from_numpy(np.argwhere(block.exists).T)
            values = soft[block.start : block.stop]
            edges[block.kind, block.layer] = soft.new_zeros(block.dense_shape).index_put(tuple(index), values)
        everywhere = np.ones((graph.n_sources, len(graph.groups)), dtype=bool)
        return cls(graph, edges, everywhere, everywhere)

    def __getitem__(self, block: EdgeBlock) -> Tensor:
        return self.edges[block.kind, block.layer]

    @cached_property
    def live(self) -> NDArray[np.bool_]:
        """Sources on a kept path from the input to the logits, shape (source,); others carry their ablated values."""
        return np.logical_or.reduce(self.alive, axis=1) & np.logical_or.reduce(self.needed, axis=1)

    def n_alike(self, other: MaskWeights | None) -> int:
        """How many parts of the model, a layer's heads and its MLP in turns, run as they do under another mask."""
        if other is None or self.mask is None or other.mask is None or other.graph is not self.graph:
            return 0
        edge = _first(self.mask != other.mask)
        source = _first((self.live != other.live) | (self.alive != other.alive).any(1))
        ends = self.graph.part_ends
        return int(np.count_nonzero((ends <= (edge, source)).all(1)))


def masked_logits(
    vit: HookedViT,
    weights: MaskWeights,
    clean: Float[Tensor, "batch channel height width"],
    ablated: Float[Tensor, "source batch token model"],
    of_token: Int[Tensor, "#batch token"] | None = None,
) -> Float[Tensor, "batch class"]:
    """Logits of one batch under a mask; call it under `vit.borrowed()`.

    Args:
        vit: The opened model.
        weights: The mask.
        clean: Images on the model's device.
        ablated: What each source carries on a removed edge.
        of_token: The group of each token (`groups_of`), where they are not the graph's own.
    """
    return masked_logits_from(vit, weights, vit.embed(clean), ablated, of_token)


def masked_logits_from(
    vit: HookedViT,
    weights: MaskWeights,
    embedded: Float[Tensor, "batch token model"],
    ablated: Float[Tensor, "source batch token model"],
    of_token: Int[Tensor, "#batch token"] | None = None,
) -> Float[Tensor, "batch class"]:
    """The same from the residual in front of block 0, which need not come from images."""
    return run_mask(vit, weights, SharedValues.of(vit, weights.graph, embedded, ablated, of_token))


def run_mask(
    vit: HookedViT, weights: MaskWeights, shared: SharedValues, before: MaskWeights | None = None
) -> Float[Tensor, "batch class"]:
    """Logits under a mask; its state is gone afterwards, but for the shared buffer.

    Args:
        vit: The opened model.
        weights: The mask.
        shared: What masks on these pairs have in common.
        before: The mask that ran on them just before: what both run alike, from the front, is read from the buffer.
    """
    run, n_alike = _MaskedRun(vit, weights, shared), weights.n_alike(before)
    for layer, block in enumerate(vit.blocks):
        run.attention(layer, block, again=n_alike > 2 * layer)
        read = vit.readout.read if layer == len(vit.blocks) - 1 else ALL
        run.mlp(layer, block, read, again=n_alike > 2 * layer + 1)
    return vit.readout.logits(run.read(-1, weights[weights.graph.logits], weights.graph.n_sources)[0])


@dataclass(frozen=True, eq=False)
class SharedValues:
    """What masks on the same pairs have in common.

    Args:
        embedded: The residual in front of block 0.
        ablated: What each source carries on a removed edge.
        shadows: The ablated residual x' in front of each layer's heads and MLP, and of the logits.
        of_token: Group of each token, (1 or batch, token).
        buffer: Where differences a - a' are written; None where gradients flow through them.
    """

    embedded: Tensor
    ablated: Sequence[Tensor] | Tensor
    shadows: list[Tensor]
    of_token: Tensor
    buffer: Float[Tensor, "source batch token model"] | None

    @classmethod
    def of(
        cls, vit: HookedViT, graph: Graph, embedded: Tensor, ablated: Tensor, of_token: Tensor | None
    ) -> SharedValues:
        """Of the ablated values of some pairs, groups of tokens being the graph's own unless they are given."""
        of_token = torch.tensor(graph.groups.of_token, device="cpu")[None] if of_token is None else of_token
        # learned values: unbound once, or every use of one source would send back an array of all
        values = ablated.unbind() if ablated.requires_grad else ablated
        shadows = [values[0]]
        for layer, block in enumerate(vit.blocks):
            heads = graph.head_sources(layer)
            written = values[heads.start : heads.stop]
            written = written if isinstance(written, Tensor) else torch.stack(written)
            shadows.append(shadows[-1] + written.sum(0) + block.attn_bias)
            shadows.append(shadows[-1] + values[graph.mlp_source(layer)])
        buffer = None if torch.is_grad_enabled() else embedded.new_empty(len(values), *embedded.shape)
        return cls(embedded, values, shadows, of_token.to(vit.device), buffer)


class _MaskedRun:
    """A masked run's state: each source's difference to its ablated value, and the sum of them."""

    def __init__(self, vit: HookedViT, weights: MaskWeights, shared: SharedValues) -> None:
        self.weights, self.graph, self.shared = weights, weights.graph, shared
        self.of_token, self.ablated, self.buffer = shared.of_token, shared.ablated, shared.buffer
        self.differences: list[Tensor | None] = []  # None: carries its ablated value
        self.total = torch.zeros_like(shared.embedded)
        self._skip([True])
        self._record(0, shared.embedded)
        self._advance(0, 1)

    def read(self, place: int, kept: Tensor, n_sources: int) -> Float[Tensor, "row batch token model"]:
        """x_r for the rows of a mask (row, group, source) that stand at a place and read the first `n_sources`."""
        live = [source for source in range(n_sources) if self.differences[source] is not None]
        shadow, everywhere = self.shared.shadows[place], kept.flatten(0, 1)
        if kept.requires_grad:
            return self._plus(shadow, kept, live)
        reads, lacks = (everywhere != 0).any(0).tolist(), (everywhere != 1).any(0).tolist()
        used, dropped = ([source for source in live if some[source]] for some in (reads, lacks))
        if len(dropped) < len(used):
            return self._plus(shadow + self.total, kept - 1, dropped)
        return self._plus(shadow, kept, used)

    def _plus(self, x: Tensor, factors: Tensor, sources: list[int]) -> Tensor:
        """x plus the sum over sources of factor x difference, (row, group, source) -> (row, batch, token, model)."""
        x = x.expand_as(self.total)
        if not sources:
            return x.expand(len(factors), *x.shape)
        if self.buffer is not None and factors.shape[:2] == (1, 1):
            x = x.clone()
            for source, factor in zip(sources, factors[0, 0, sources].tolist(), strict=True):
                x.add_(self.buffer[source], alpha=factor)
            return x[None]
        at, differences = self._stacked(sources)
        factors = factors[:, :, at]
        if factors.shape[1] == 1:
            return torch.addmm(x.reshape(1, -1), factors[:, 0], differences.flatten(1)).view(-1, *x.shape)
        factors = factors[:, self.of_token]  # row, 1 or batch, token, source
        if factors.shape[1] == 1:
            return x + torch.einsum("rtu,ubtd->rbtd", factors[:, 0], differences)
        return x + torch.einsum("rbtu,ubtd->rbtd", factors, differences)

    def _stacked(self, sources: list[int]) -> tuple[slice | list[int], Float[Tensor, "source batch token model"]]:
        """The differences of some sources; where they stand close together, without a copy of the buffer's part."""
        if self.buffer is None:
            return sources, torch.stack([self.differences[source] for source in sources])  # type: ignore[misc]
        span = slice(sources[0], sources[-1] + 1)
        at = span if 2 * len(sources) > span.stop - span.start else sources
        return at, self.buffer[at]

    def attention(self, layer: int, block: OpenBlock, *, again: bool) -> None:
        """Runs a layer's heads; those that are cut off from the input or the logits carry their ablated values.

        Args:
            layer: The block's index.
            block: The block.
            again: The buffer holds already what they write.
        """
        graph, sources = self.graph, self.graph.head_sources(layer)
        first, live = sources.start, self.weights.live[sources]
        if again:
            self._take(live.tolist())
            return
        heads = torch.from_numpy(np.flatnonzero(live)).to(self.of_token)
        self._skip(live.tolist())
        if len(heads):
            computed = heads if block.joint is None else torch.arange(graph.cfg.n_heads, device="cpu").to(heads)
            z = self._head_outputs(layer, block, computed)  # row, batch, token, d_head
            writes = torch.matmul(z, block.out_weight[computed][:, None])
            for row, head in enumerate(computed.tolist()):
                if live[head]:
                    self._record(first + head, writes[row])

    def _advance(self, first: int, stop: int) -> None:
        """Adds what the sources' differences come to."""
        live = [source for source in range(first, stop) if self.differences[source] is not None]
        if live:
            self.total = self.total + self._stacked(live)[1].sum(0)

    def _skip(self, recorded: list[bool]) -> None:
        """The next sources carry their ablated values, save those that are to be recorded."""
        for later in recorded:
            if self.buffer is not None and not later:
                self.buffer[len(self.differences)].zero_()
            self.differences.append(None)

    def _take(self, recorded: list[bool]) -> None:
        """The next sources carry what the buffer holds, or their ablated values."""
        assert self.buffer is not None
        for later in recorded:
            self.differences.append(self.buffer[len(self.differences)] if later else None)

    def _record(self, source: int, value: Tensor, tokens: slice = ALL) -> None:
        """Notes what a source writes at some tokens; at others nothing will read it."""
        alive, ablated = self.weights.alive[source], self.ablated[source][:, tokens]
        buffer = None if self.buffer is None else self.buffer[source]
        if buffer is not None and tokens != ALL:
            buffer.zero_()
        difference = torch.sub(value, ablated, out=None if buffer is None else buffer[:, tokens])
        if not alive.all():
            at = torch.from_numpy(alive).to(self.of_token.device)[self.of_token][:, tokens, None]
            difference = difference * at if buffer is None else difference.mul_(at)
        if buffer is None and tokens != ALL:
            difference = torch.zeros_like(self.total).slice_scatter(difference, 1, tokens.start, tokens.stop)
        self.differences[source] = difference if buffer is None else buffer

    def _head_outputs(self, layer: int, block: OpenBlock, heads: Tensor) -> Tensor:
        blocks, rows = self.graph.layers[layer], self.graph.port_rows[heads.cpu().numpy()]
        needed_rows, places = np.unique(rows, return_inverse=True)
        kept = self.weights[blocks.attention][torch.from_numpy(needed_rows).to(heads)]
        normed = block.norm1(self.read(2 * layer, kept, blocks.attention.width))
        places = places.reshape(rows.shape)
        q, k, v = (block.read_port(own, p, heads) for p, own in enumerate(ports_of(normed, places)))
        if blocks.inside is None:
            z = block.weigh(q, k, v)
        else:
            inside = self.weights[blocks.inside][torch.from_numpy(self.graph.inside_rows).to(heads)][heads].to(q)
            z = self._blend(layer, block, (q, k, v), inside, heads)
        return block.close(q.expand(*z.shape[:-1], -1).transpose(0, 1), z.transpose(0, 1)).transpose(0, 1)

    def _blend(
        self, layer: int, block: OpenBlock, ports: tuple[Tensor, Tensor, Tensor], inside: Tensor, heads: Tensor
    ) -> Tensor:
        """Weighted values where a mask (head, keys or values, target group, source group) says what is this run's."""
        q, k, v = ports
        normed = block.norm1(self.shared.shadows[2 * layer])[None]
        k_ablated, v_ablated = (block.read_port(normed, port, heads) for port in (1, 2))
        targets, sources = self.of_token[:, :, None], self.of_token[:, None, :]
        keys, values = inside[:, :, targets, sources].unbind(1)  # each (head, 1 or batch, target token, source token)
        scores = block.scores(q, k) * keys + block.scores(q, k_ablated) * (1 - keys)
        pattern = block.masked(scores).softmax(-1)
        return (pattern * values) @ v + (pattern * (1 - values)) @ v_ablated

    def mlp(self, layer: int, block: OpenBlock, tokens: slice, *, again: bool) -> None:
        """Runs a layer's MLP at some tokens, unless it is cut off; then heads and MLP are there for what follows.

        Args:
            layer: The block's index.
            block: The block.
            tokens: Those that will be read.
            again: The buffer holds already what it writes.
        """
        heads, source = self.graph.head_sources(layer), self.graph.mlp_source(layer)
        if not block.parallel:
            self._advance(heads.start, heads.stop)
        live = bool(self.weights.live[source])
        if again:
            self._take([live])
        else:
            self._skip([live])
        if live and not again:
            edges = self.graph.layers[layer].mlp
            x = self.read(2 * layer + (not block.parallel), self.weights[edges], edges.width)[0]
            self._record(source, block.mlp_write(x[:, tokens]), tokens)
        if block.parallel:
            self._advance(heads.start, heads.stop)
        self._advance(source, source + 1)


def _first(differ: NDArray[np.bool_]) -> int:
    """The first place where something differs; all places where nothing does."""
    return int(differ.argmax()) if differ.any() else len(differ)


def ports_of(normed: Tensor, places: NDArray[np.intp]) -> tuple[Tensor, ...]:
    """What the heads' q, k and v read, each (head, ...), or a single row that all heads share.

    Where every port of every head has a row of its own, that is one view of all, and its derivative one copy.

    Args:
        normed: The rows, (row, *batch, token, model).
        places: The row that each port of each head reads, shape (head, 3).
    """
    if places.ravel().tolist() == list(range(len(normed))):
        return normed.unflatten(0, places.shape).unbind(1)
    return tuple(normed[_rows_of_heads(own)] for own in places.T)


def _rows_of_heads(places: NDArray[np.intp]) -> list[int] | slice:
    """The row that each head reads, or a single row if all heads share it; a slice where they follow one another."""
    rows = places.tolist()
    if len(set(rows)) == 1:
        return rows[:1]
    return slice(rows[0], rows[-1] + 1) if rows == list(range(rows[0], rows[-1] + 1)) else rows
