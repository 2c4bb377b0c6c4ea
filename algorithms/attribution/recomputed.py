"""Edges into a layer's heads, scored by the heads recomputed exactly and one gradient at what they put out.

    score = sum over target tokens of  gradient at z . (z - z of the head that reads the residual less a_u - a'_u)

through the layer's own norm, q and k norm, and softmax. At `qkv` ports the difference is taken off what q or what k
reads (v is linear and needs no recomputation); at `head` and `block` ports q, k and v of the edge's tokens read it
together, and at `block` the heads' scores add up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ...circuits.graph import Graph
from ...models.hooked import HookedViT
from .deltas import Deltas
from .exchange import Grouped, exchanged, grouped, without_each
from .tape import LayerTape

CHUNK_BYTES = 64_000_000
"""What the heads recomputed at once may take: more is slower, since memory is asked for anew each time."""


def recomputed_scores(
    graph: Graph,
    vit: HookedViT,
    layer: int,
    taped: LayerTape,
    gradients: Float[Tensor, "pass pair head token d_head"],
    deltas: Deltas,
    *,
    chunk_bytes: int = CHUNK_BYTES,
) -> Iterator[tuple[slice, slice, Float[Tensor, "pass some_pair row group some_source"]]]:
    """Some pairs, some sources, and the scores of their edges into a layer's q and k (qkv) or heads.

    Args:
        graph: The graph.
        vit: The opened model.
        layer: Whose heads are recomputed.
        taped: The clean run there, with its residual.
        gradients: At z, from one or several backward passes.
        deltas: a_u - a'_u.
        chunk_bytes: What the heads recomputed at once may take.
    """
    n_pairs, n_sources = deltas.embedded.shape[0], graph.first_head(layer)
    at_once = max(1, chunk_bytes // _bytes(vit, len(gradients)))  # sources x pairs
    for pairs in _slices(n_pairs, at_once):
        heads = _Heads.of(graph, vit, layer, taped, gradients, pairs)
        for sources in _slices(n_sources, max(1, at_once // (pairs.stop - pairs.start))):
            gone = torch.stack([source_difference(graph, vit, deltas, u, pairs) for u in range(n_sources)[sources]])
            yield pairs, sources, heads.scores(gone)


def _slices(length: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


def _bytes(vit: HookedViT, n_passes: int) -> int:
    cfg, n_tokens = vit.cfg, vit.cfg.tokens.n_tokens
    floats = 8 * n_tokens * cfg.d_model + (8 + 3 * n_passes) * cfg.n_heads * n_tokens**2
    return floats * torch.finfo(vit.dtype).bits // 8


def source_difference(
    graph: Graph, vit: HookedViT, deltas: Deltas, source: int, pairs: slice
) -> Float[Tensor, "pair token model"]:
    """a_u - a'_u of a source in front of the last block, for some pairs."""
    if source == 0:
        return deltas.embedded[pairs]
    layer, head = divmod(source - 1, graph.cfg.n_heads + 1)
    if head == graph.cfg.n_heads:
        return deltas.mlps[layer][pairs]
    written = deltas.z[layer][pairs, head] @ vit.blocks[layer].out_weight[head]
    return written if deltas.ablated is None else written - deltas.ablated[source, pairs]


@dataclass(frozen=True, eq=False)
class _Heads:
    """A layer's heads in the clean run of some pairs, and what of it recomputed heads share."""

    graph: Graph
    vit: HookedViT
    layer: int
    residual: Tensor  # pair, token, model
    q: Tensor  # pair, head, target, d_head
    k: Tensor  # pair, head, token, d_head
    gradients: Tensor  # pass, 1, pair, head, target, d_head
    g_v: Tensor  # pass, 1, pair, head, target, source
    g_z: Tensor  # pass, 1, pair, head, target
    member: Tensor  # group, token
    others: Grouped | None

    @classmethod
    def of(cls, graph: Graph, vit: HookedViT, layer: int, taped: LayerTape, gradients: Tensor, pairs: slice) -> _Heads:
        assert taped.fused is not None and taped.z is not None and taped.residual is not None
        block, targets = vit.blocks[layer], _targets(vit, layer)
        q, k, v = block.split(taped.fused[pairs])
        q, g = q[..., targets, :], gradients[:, None, pairs, :, targets]
        g_v, g_z = g @ v.transpose(-1, -2), (g * taped.z[pairs, :, targets]).sum(-1)
        member = torch.tensor(graph.groups.one_hot(), device=q.device)
        old = grouped(block.masked(block.scores(q, k), targets), g_v, member)
        others = without_each(old) if len(member) > 1 else None
        return cls(graph, vit, layer, taped.residual[pairs], q, k, g, g_v, g_z, member, others)

    def scores(self, gone: Float[Tensor, "source pair token model"]) -> Float[Tensor, "pass pair row group source"]:
        """Scores of the edges from sources whose differences are given."""
        block, targets = self.vit.blocks[self.layer], _targets(self.vit, self.layer)
        normed = block.norm1(self.residual - gone)
        read = block.read_at(normed.flatten(0, 1), targets)
        q, k, v = (part.unflatten(0, gone.shape[:2]) for part in read)  # source, pair, head, ...
        return self._fold(self._apart(q, k) if self.graph.ports == "qkv" else self._together(q, k, v))

    def _scores(self, q: Tensor, k: Tensor) -> Tensor:
        block = self.vit.blocks[self.layer]
        return block.masked(block.scores(q, k), _targets(self.vit, self.layer))

    def _apart(self, q: Tensor, k: Tensor) -> Float[Tensor, "pass source pair head part group"]:
        """Queries replaced, and keys."""
        seen = (self._scores(q, self.k).softmax(-1) * self.g_v).sum(-1)
        queries = (self.g_z - seen) @ self.member[:, _targets(self.vit, self.layer)].T.to(seen)
        new = grouped(self._scores(self.q, k), self.g_v, self.member)
        keys = self.g_z.sum(-1, keepdim=True) - exchanged(self.others, new).sum(-2)
        return torch.stack([queries, keys], -2)

    def _together(self, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "pass source pair head part group"]:
        """Queries, keys and values of a group replaced: targets in it ask anew, all others see its new keys."""
        g_v = self.gradients @ v.transpose(-1, -2)
        at = self.member[:, _targets(self.vit, self.layer)].T  # target, group
        same = at.to(q) @ self.member.to(q) > 0  # target, source
        scores = torch.where(same, self._scores(q, k), self._scores(q, self.k))
        own = (scores.softmax(-1) * torch.where(same, g_v, self.g_v)).sum(-1, keepdim=True)
        if self.others is None:
            seen = own
        else:
            new = grouped(self._scores(self.q, k), g_v, self.member)
            seen = torch.where(at, own, exchanged(self.others, new))
        return (self.g_z.sum(-1, keepdim=True) - seen.sum(-2))[..., None, :]

    def _fold(self, parts: Tensor) -> Float[Tensor, "pass pair row group source"]:
        """Heads and parts into the graph's rows; at `qkv` ports v's rows stay 0."""
        rows = torch.from_numpy(self.graph.port_rows[:, : parts.shape[-2]].reshape(-1).copy()).to(parts.device)
        flat = parts.flatten(-3, -2).permute(0, 2, 3, 4, 1)  # pass, pair, head x part, group, source
        n_rows = int(self.graph.port_rows.max()) + 1
        return flat.new_zeros(*flat.shape[:2], n_rows, *flat.shape[3:]).index_add(2, rows, flat)


def _targets(vit: HookedViT, layer: int) -> slice:
    """Target tokens that anything behind the layer reads."""
    return vit.readout.read if layer == len(vit.blocks) - 1 else slice(None)
