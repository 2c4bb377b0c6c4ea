"""The sum over all edges: (a_u - a'_u) . dm/dx_r for every destination r and every source u that it reads.

The gradient at a head's port is carried back through that head's rows W of the fused projection and through the norm's
Jacobian. With gradient e at the projection's output, and gamma and the centring folded into W,

    dm/dx = r (W' e) - r xhat (W' e . gamma xhat) / d        W' e . gamma xhat = e . (fused output - its constant part)

so the first term needs no pass over the residual's width beyond the product itself, and the second (the norm's radial
part, left out when the norm is frozen) is of rank one per token. Several points of a path add their e r, so that one
contraction serves all of them; only the rank-one parts are kept apart.

Both factors are far larger than what they are made from (on ViT-B/16 the writes of all sources take 95 MB for each
pair), so they are made a few tokens at a time, in two buffers that all chunks share: fresh memory for all of them costs
more than the products themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from ...circuits.edge_blocks import EdgeBlock
from ...circuits.graph import Graph
from ...models.blocks import OpenBlock
from ...models.devices import CPU, pace
from ...models.hooked import HookedViT
from .tape import Deltas, LayerTape, Tape

CHUNK_BYTES = CPU.chunk_bytes
"""What both factors of one chunk may take on a CPU: about its cache."""


def chunk_bytes(vit: HookedViT, memory: int) -> int:
    """What both factors of one chunk may take, of a budget of bytes."""
    return max(1, min(pace(vit.device).chunk_bytes, memory // 8))


@dataclass
class LayerGradients:
    """Gradients at the destinations of one block, summed over points, each times its weight.

    Args:
        scaled: r e, (pair, token, 3 x head x d_head).
        mlp: At the residual that the MLP reads, (pair, token, model); in the last block (pair, read token, model).
        radial: Of each point, r (W' e . gamma xhat) / d for each port, (pair, token, port), and xhat, (pair, token,
            model).
    """

    scaled: Tensor
    mlp: Tensor
    radial: list[tuple[Tensor, Tensor]] = field(default_factory=list)


class Gradients:
    """Gradients at every destination.

    Args:
        vit: The opened model.
        freeze_norm: Leave out the radial part of norm1 (the tape leaves out the other norms').
    """

    def __init__(self, vit: HookedViT, *, freeze_norm: bool) -> None:
        self._vit, self._freeze_norm = vit, freeze_norm
        self.layers: list[LayerGradients] = []
        self._read: Tensor | None = None

    @property
    def read(self) -> Float[Tensor, "pair token model"]:
        """At the residual that the readout reads."""
        assert self._read is not None
        return self._read

    def add(self, tape: Tape, weight: float = 1.0) -> None:
        """Adds the gradients of one point with a weight; the tape's own are used up."""
        first = not self.layers
        for layer, (block, taped) in enumerate(zip(self._vit.blocks, tape.layers, strict=True)):
            scaled, mlp = taped.scaled.mul_(weight), taped.grad_mlp.mul_(weight)
            radial = [] if self._freeze_norm or not block.norm1.scales else [_radial(block, taped, scaled)]
            if first:
                self.layers.append(LayerGradients(scaled, mlp, radial))
            else:
                sums = self.layers[layer]
                sums.scaled += scaled
                sums.mlp += mlp
                sums.radial += radial
        self._read = tape.grad_read * weight if self._read is None else self._read + tape.grad_read * weight

    def clear_ports(self, n: int) -> None:
        """Sets the gradients at the first n of q, k and v to zero, for edges that are scored in another way."""
        for layer, block in zip(self.layers, self._vit.blocks, strict=True):
            layer.scaled[..., : n * block.n_heads * block.d_read] = 0
            for coefficient, _ in layer.radial:
                coefficient[..., : n * block.n_heads] = 0


def _radial(block: OpenBlock, taped: LayerTape, scaled: Tensor) -> tuple[Tensor, Tensor]:
    assert taped.residual is not None and taped.fused is not None
    bias, weight = block.reads.bias, block.reads.weight
    constant = 0.0 if bias is None else bias
    if block.norm1.bias is not None:
        constant = constant + weight @ block.norm1.bias
    moved = (taped.fused - constant) * scaled
    coefficient = moved.unflatten(-1, (3 * block.n_heads, block.d_read)).sum(-1) / weight.shape[1]
    return coefficient, block.norm1.statistics(taped.residual)[0]


class Contraction:
    """The sum over edges, for any number of batches.

    Args:
        vit: The opened model.
        graph: The graph.
        chunk_bytes: What both factors of one chunk may take.
    """

    def __init__(self, vit: HookedViT, graph: Graph, *, chunk_bytes: int = CHUNK_BYTES) -> None:
        self._vit, self._graph, self._chunk_bytes = vit, graph, chunk_bytes
        self._read_weights = [_folded_weight(block).to(vit.sum_dtype) for block in vit.blocks]
        self._write_weights = [block.out_weight.to(vit.sum_dtype) for block in vit.blocks]

    def over(self, graph: Graph) -> Contraction:
        """The same over another graph of the model."""
        found = copy(self)
        found._graph = graph
        return found

    def __call__(
        self, gradients: Gradients, deltas: Deltas
    ) -> Iterator[tuple[EdgeBlock, Float[Tensor, "pair row group source"]]]:
        """Scores of every edge of the residual stream, a few pairs and then block by block."""
        n_pairs, n_tokens, width = deltas.embedded.shape
        rows = self._graph.n_sources + 3 * self._graph.cfg.n_heads
        room = max(1, self._chunk_bytes // (rows * width * deltas.embedded.element_size()))  # in tokens
        buffer = deltas.embedded.new_empty(rows * min(room, n_pairs * n_tokens) * width)
        for pairs in slices(n_pairs, max(1, room // n_tokens)):
            sums = _Sums(self._graph, deltas.embedded[pairs])
            for tokens in slices(n_tokens, min(room, n_tokens)):
                _Chunk(self, gradients, deltas, sums, pairs, tokens).run(buffer)
            yield from sums.finished()


def slices(length: int, step: int) -> Iterator[slice]:
    """0 to a length in steps."""
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


def _folded_weight(block: OpenBlock) -> Float[Tensor, "port d_read model"]:
    """The fused projection's rows with the norm's gamma and centring folded in."""
    weight = block.qkv_weight.flatten(0, 1)
    if block.norm1.weight is not None:
        weight = weight * block.norm1.weight
    return weight - weight.mean(-1, keepdim=True) if block.norm1.centres else weight


class _Sums:
    """Scores of some pairs, summed over tokens within each group, (pair, group, row, source) for each edge block."""

    def __init__(self, graph: Graph, like: Float[Tensor, "pair token model"]) -> None:
        self._graph = graph
        self._member = torch.tensor(graph.groups.one_hot(), dtype=like.dtype, device=like.device)
        self._found: dict[tuple[str, int], Tensor] = {}
        for block in graph.blocks:
            if block.kind != "inside":
                rows = 3 * graph.cfg.n_heads if block.kind == "attention" else 1
                self._found[block.key] = like.new_zeros(len(like), len(graph.groups), rows, block.width)

    def add(self, block: EdgeBlock, grads: Tensor, writes: Tensor, tokens: slice) -> None:
        """Adds (row, pair, token, model) . (source, pair, token, model) over the given tokens."""
        found = self._found[block.key]
        rows, pairs, n_tokens, width = grads.shape
        if len(self._graph.groups) == 1:
            left = grads.reshape(rows, pairs, n_tokens * width).transpose(0, 1)
            right = writes.reshape(len(writes), pairs, n_tokens * width).permute(1, 2, 0)
            found[:, 0].baddbmm_(left, right)
            return
        left = grads.reshape(rows, pairs * n_tokens, width).transpose(0, 1)
        right = writes.reshape(len(writes), pairs * n_tokens, width).permute(1, 2, 0)
        self.add_tokens(block, torch.bmm(left, right).view(pairs, n_tokens, rows, len(writes)), tokens)

    def add_tokens(self, block: EdgeBlock, values: Float[Tensor, "pair token row source"], tokens: slice) -> None:
        """Adds each token's values to its group's."""
        found = self._found[block.key]
        if self._graph.groups.apart:
            found[:, tokens] += values
        else:
            found += torch.einsum("gt,btru->bgru", self._member[:, tokens], values)

    def finished(self) -> Iterator[tuple[EdgeBlock, Float[Tensor, "pair row group source"]]]:
        """The scores block by block, in the graph's rows."""
        for block in self._graph.blocks:
            if block.kind == "attention":
                yield block, fold_rows(self._found[block.key], self._graph)
            elif block.kind != "inside":
                yield block, self._found[block.key].transpose(1, 2)


def fold_rows(ports: Float[Tensor, "pair group port source"], graph: Graph) -> Float[Tensor, "pair row group source"]:
    """Sums q, k and v of each head (3 x head: q of all heads, then k, then v) into the graph's attention rows."""
    rows = torch.from_numpy(graph.port_rows.T.reshape(-1).copy()).to(ports.device)
    out = ports.new_zeros(*ports.shape[:2], int(rows.max()) + 1, ports.shape[-1])
    return out.index_add(2, rows, ports).transpose(1, 2)


@dataclass(frozen=True)
class _Place:
    """Some tokens: in the sequence, in the chunk, and in arrays that hold nothing but the read tokens (or all)."""

    tokens: slice
    local: slice
    stored: slice


@dataclass(frozen=True)
class _Chunk:
    """All tokens of some pairs, or some tokens of one."""

    whole: Contraction
    gradients: Gradients
    deltas: Deltas
    sums: _Sums
    pairs: slice
    tokens: slice

    def run(self, buffer: Tensor) -> None:
        """Adds the chunk's scores to the sums."""
        graph, vit = self.whole._graph, self.whole._vit
        embedded = self.deltas.embedded[self.pairs, self.tokens]
        shape, n_ports = embedded.shape, 3 * graph.cfg.n_heads
        both = buffer[: (graph.n_sources + n_ports) * embedded.numel()].view(-1, *shape)
        grads, writes = both[:n_ports], both[n_ports:]
        writes[0] = embedded
        place = _Place(self.tokens, slice(0, shape[1]), self.tokens)
        for layer, blocks in enumerate(graph.layers):
            self._attention(layer, grads, writes[: blocks.attention.width])
            if layer == len(graph.layers) - 1:
                place = self._read_place(vit.cfg.read_tokens)
                if place.tokens.start == place.tokens.stop:
                    return
            self._write_heads(layer, place, writes)
            mlp = self.gradients.layers[layer].mlp[self.pairs, place.stored]
            self.sums.add(blocks.mlp, mlp[None], writes[: blocks.mlp.width, :, place.local], place.tokens)
            writes[graph.mlp_source(layer), :, place.local] = self.deltas.mlps[layer][self.pairs, place.stored]
        read = self.gradients.read[self.pairs, place.stored]
        self.sums.add(graph.logits, read[None], writes[:, :, place.local], place.tokens)

    def _read_place(self, read_tokens: tuple[int, ...]) -> _Place:
        """The chunk's tokens among those that the readout reads, which stand next to one another."""
        first, offset = read_tokens[0], self.tokens.start
        start = max(first, offset)
        stop = max(start, min(read_tokens[-1] + 1, self.tokens.stop))
        return _Place(slice(start, stop), slice(start - offset, stop - offset), slice(start - first, stop - first))

    def _attention(self, layer: int, grads: Tensor, writes: Tensor) -> None:
        sums, block = self.gradients.layers[layer], self.whole._graph.layers[layer].attention
        scaled = sums.scaled[self.pairs, self.tokens].flatten(0, 1).unflatten(-1, (len(grads), -1))
        torch.bmm(scaled.transpose(0, 1), self.whole._read_weights[layer], out=grads.flatten(1, 2))
        self.sums.add(block, grads, writes, self.tokens)
        for coefficient, xhat in sums.radial:
            along = torch.einsum("ubtd,btd->btu", writes, xhat[self.pairs, self.tokens])
            scores = -coefficient[self.pairs, self.tokens, :, None] * along[:, :, None, :]
            self.sums.add_tokens(block, scores, self.tokens)

    def _write_heads(self, layer: int, place: _Place, writes: Tensor) -> None:
        sources = self.whole._graph.head_sources(layer)
        z = self.deltas.z[layer][self.pairs, :, place.stored].transpose(0, 1).to(writes)  # head, pair, token, d_head
        out = writes[sources, :, place.local]
        if out.is_contiguous():
            torch.bmm(z.flatten(1, 2), self.whole._write_weights[layer], out=out.flatten(1, 2))
        else:
            out.copy_(torch.bmm(z.flatten(1, 2), self.whole._write_weights[layer]).view(out.shape))
        if self.deltas.ablated is not None:
            out -= self.deltas.ablated[sources, self.pairs, place.tokens]
