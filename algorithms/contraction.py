"""The sum over all edges: (a_u - a'_u) . dm/dx_r for every destination r and every source u that it reads.

The gradient at a head's port is carried back through that head's rows W of the fused projection and through the norm's
Jacobian. With gradient e at the projection's output, and gamma and the centring folded into W,

    dm/dx = r (W' e) - r xhat (W' e . gamma xhat) / d        W' e . gamma xhat = e . (fused output - its constant part)

so the first term needs no pass over the residual's width beyond the product itself, and the second (the norm's radial
part, left out when the norm is frozen) is of rank one per token. Several points of a path add their e r, so that one
contraction serves all of them; only the rank-one parts are kept apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from ..circuits.graph import EdgeBlock, Graph
from ..models.blocks import OpenBlock
from ..models.hooked import HookedViT
from .moments import sum_groups
from .tape import Tape


@dataclass
class _LayerGradients:
    scaled: Tensor  # sum over points of weight x r x gradient at the fused output, (pair, token, 3 head d_head)
    mlp: Tensor  # sum over points, (pair, token, model)
    radial: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # (coefficient (pair, token, 3 head), xhat)


class Gradients:
    """Gradients at every destination, summed over the points of a path.

    Args:
        vit: The opened model.
        graph: The graph.
        freeze_norm: Leave out the radial part of norm1 (the tape leaves out the other norms').
    """

    def __init__(self, vit: HookedViT, graph: Graph, *, freeze_norm: bool) -> None:
        self._vit, self._graph, self._freeze_norm = vit, graph, freeze_norm
        self._layers: list[_LayerGradients] = []
        self._read: Tensor | None = None

    def add(self, tape: Tape, weight: float = 1.0) -> None:
        """Adds the gradients of one point with a weight."""
        first = not self._layers
        for layer, (block, taped) in enumerate(zip(self._vit.blocks, tape.layers, strict=True)):
            xhat, inverse = block.norm1.statistics(taped.residual)
            scaled = taped.grad_fused * (weight * inverse)
            radial = (
                [] if self._freeze_norm or not block.norm1.scales else [(_radial(block, taped.fused, scaled), xhat)]
            )
            if first:
                self._layers.append(_LayerGradients(scaled, taped.grad_mlp * weight, radial))
            else:
                sums = self._layers[layer]
                sums.scaled += scaled
                sums.mlp += taped.grad_mlp * weight
                sums.radial += radial
        self._read = tape.grad_read * weight if self._read is None else self._read + tape.grad_read * weight

    def contract(
        self, deltas: Float[Tensor, "source pair token model"]
    ) -> Iterator[tuple[EdgeBlock, Float[Tensor, "pair row group source"]]]:
        """Scores of every edge of the residual stream, block by block."""
        for layer, blocks in enumerate(self._graph.layers):
            sums, width = self._layers[layer], blocks.attention.width
            ports = self._ports(layer, deltas[:width])  # pair, group, 3 head, source
            yield blocks.attention, fold_rows(ports, self._graph)
            mlp = self._dot(sums.mlp[None], deltas[: blocks.mlp.width])
            yield blocks.mlp, mlp.transpose(1, 2)
        assert self._read is not None
        read = self._vit.readout.select(deltas)
        grad = self._read
        if len(self._graph.groups) > 1:
            grad, read = _spread(grad, self._vit), deltas
        yield self._graph.logits, self._dot(grad[None], read).transpose(1, 2)

    def _ports(self, layer: int, deltas: Tensor) -> Float[Tensor, "pair group port source"]:
        block, sums = self._vit.blocks[layer], self._layers[layer]
        pairs, tokens = sums.scaled.shape[:2]
        heads3 = 3 * block.n_heads
        scaled = sums.scaled.view(pairs * tokens, heads3, block.d_head).transpose(0, 1)
        grads = torch.bmm(scaled, _folded_weight(block)).view(heads3, pairs, tokens, -1)
        ports = self._dot(grads, deltas)
        for coefficient, xhat in sums.radial:
            along = torch.einsum("ubtd,btd->btu", deltas, xhat)
            if len(self._graph.groups) == 1:
                ports -= torch.einsum("btp,btu->bpu", coefficient, along)[:, None]
            else:
                ports -= sum_groups(coefficient[..., None] * along[:, :, None, :], self._graph)
        return ports

    def _dot(self, grads: Tensor, deltas: Tensor) -> Float[Tensor, "pair group row source"]:
        """(row, pair, token, model) . (source, pair, token, model), summed over each group's tokens."""
        rows, pairs, tokens, width = grads.shape
        if len(self._graph.groups) == 1:
            left = grads.reshape(rows, pairs, tokens * width).transpose(0, 1)
            right = deltas.reshape(len(deltas), pairs, tokens * width).permute(1, 2, 0)
            return torch.bmm(left, right)[:, None]
        left = grads.reshape(rows, pairs * tokens, width).transpose(0, 1)
        right = deltas.reshape(len(deltas), pairs * tokens, width).permute(1, 2, 0)
        return sum_groups(torch.bmm(left, right).view(pairs, tokens, rows, len(deltas)), self._graph)


def fold_rows(ports: Float[Tensor, "pair group port source"], graph: Graph) -> Float[Tensor, "pair row group source"]:
    """Sums q, k and v of each head (3 x head: q of all heads, then k, then v) into the graph's attention rows."""
    rows = torch.from_numpy(graph.port_rows.T.reshape(-1).copy()).to(ports.device)
    out = ports.new_zeros(*ports.shape[:2], int(rows.max()) + 1, ports.shape[-1])
    return out.index_add(2, rows, ports).transpose(1, 2)


def _folded_weight(block: OpenBlock) -> Float[Tensor, "port d_head model"]:
    """The fused projection's rows with the norm's gamma and centring folded in."""
    weight = block.qkv_weight.flatten(0, 1)
    if block.norm1.weight is not None:
        weight = weight * block.norm1.weight
    return weight - weight.mean(-1, keepdim=True) if block.norm1.centres else weight


def _radial(block: OpenBlock, fused: Tensor, scaled: Tensor) -> Float[Tensor, "pair token port"]:
    """r (W' e . gamma xhat) / d for each port."""
    constant = 0.0 if block.qkv.bias is None else block.qkv.bias
    if block.norm1.bias is not None:
        constant = constant + block.qkv.weight @ block.norm1.bias
    moved = (fused - constant) * scaled
    return moved.unflatten(-1, (3 * block.n_heads, block.d_head)).sum(-1) / block.qkv.in_features


def _spread(grad_read: Tensor, vit: HookedViT) -> Float[Tensor, "pair token model"]:
    """The gradient at the read tokens, zero at the others."""
    full = grad_read.new_zeros(len(grad_read), vit.cfg.tokens.n_tokens, grad_read.shape[-1])
    vit.readout.select(full).copy_(grad_read)
    return full
