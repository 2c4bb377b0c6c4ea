"""The canonical transformer block.

Norm -> q, k, v of each head -> attend -> what each head writes -> norm -> MLP -> what it writes.

It uses the original's own submodules and weights by reference. LayerScale stands inside the writes, the projection's
bias belongs to no head, and the MLP's biases belong to the MLP's write.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .norms import Norm


@dataclass(frozen=True, eq=False)
class OpenBlock:
    """One block of an opened ViT.

    Args:
        norm1: In front of attention.
        norm2: In front of the MLP.
        qkv: The fused projection, a linear layer from model to 3 x head x d_head.
        q_norm: Norm of each head's queries.
        k_norm: Norm of each head's keys.
        proj: The output projection, a linear layer from head x d_head to model.
        scale1: LayerScale of the attention's write, or Identity.
        mlp: The MLP, hidden neurons entering its `fc2`.
        scale2: LayerScale of the MLP's write, or Identity.
        n_heads: Number of heads.
        d_head: Width of one head.
        scale: Factor on q.k.
    """

    norm1: Norm
    norm2: Norm
    qkv: nn.Linear
    q_norm: nn.Module
    k_norm: nn.Module
    proj: nn.Linear
    scale1: nn.Module
    mlp: nn.Module
    scale2: nn.Module
    n_heads: int
    d_head: int
    scale: float

    @property
    def qkv_weight(self) -> Float[Tensor, "3 head d_head model"]:
        """Rows of the fused projection that belong to each head's q, k and v."""
        return self.qkv.weight.view(3, self.n_heads, self.d_head, -1)

    @property
    def qkv_bias(self) -> Float[Tensor, "3 head d_head"] | None:
        """The fused projection's bias, if it has one."""
        return None if self.qkv.bias is None else self.qkv.bias.view(3, self.n_heads, self.d_head)

    @property
    def out_weight(self) -> Float[Tensor, "head d_head model"]:
        """What each head's z is multiplied with, LayerScale included."""
        columns = self.proj.weight.view(-1, self.n_heads, self.d_head).permute(1, 2, 0)
        return self.scale1(columns)

    @property
    def attn_bias(self) -> Float[Tensor, " model"]:
        """What attention writes whatever its heads do: the projection's bias, through LayerScale."""
        if self.proj.bias is None:
            return self.proj.weight.new_zeros(self.proj.out_features)
        return self.scale1(self.proj.bias)

    def split(self, fused: Float[Tensor, "*batch token heads3"]) -> tuple[Tensor, Tensor, Tensor]:
        """The fused projection's output -> q, k, v, each (*batch, head, token, d_head), after q and k norm."""
        q, k, v = fused.unflatten(-1, (3, self.n_heads, self.d_head)).movedim(-3, 0).transpose(-2, -3).unbind(0)
        return self.q_norm(q), self.k_norm(k), v

    def read(self, normed: Float[Tensor, "*batch token model"]) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v of all heads from one normed residual, each (*batch, head, token, d_head)."""
        return self.split(self.qkv(normed))

    def read_port(self, normed: Tensor, port: int, heads: Tensor) -> Float[Tensor, "row *batch token d_head"]:
        """q, k or v (port 0, 1, 2) of some heads, each from its own normed residual.

        Args:
            normed: (row, *batch, token, model), one row per head; or one row for all.
            port: 0 for q, 1 for k, 2 for v.
            heads: Indices of the heads, shape (row,).
        """
        weight = self.qkv_weight[port, heads].transpose(-1, -2)  # row, model, d_head
        rows = normed.shape[0]
        flat = torch.matmul(normed.reshape(rows, -1, normed.shape[-1]), weight)
        out = flat.view(len(heads), *normed.shape[1:-1], self.d_head)
        if self.qkv_bias is not None:
            bias = self.qkv_bias[port, heads]
            out = out + bias.view(len(heads), *[1] * (out.ndim - 2), self.d_head)
        return (self.q_norm, self.k_norm, nn.Identity())[port](out)

    def read_head(self, normed: Float[Tensor, "*batch token model"], port: int, head: int) -> Tensor:
        """q, k or v (port 0, 1, 2) of one head, (*batch, token, d_head)."""
        bias = None if self.qkv_bias is None else self.qkv_bias[port, head]
        found = F.linear(normed, self.qkv_weight[port, head], bias)
        return found if port == 2 else (self.q_norm, self.k_norm)[port](found)

    def read_at(self, normed: Float[Tensor, "batch token model"], tokens: slice) -> tuple[Tensor, Tensor, Tensor]:
        """q at some tokens, k and v at all, of all heads, each (batch, head, token, d_head)."""
        weight, width = self.qkv.weight, self.n_heads * self.d_head
        bias = (None, None) if self.qkv.bias is None else (self.qkv.bias[:width], self.qkv.bias[width:])
        q = F.linear(normed[:, tokens], weight[:width], bias[0])
        kv = F.linear(normed, weight[width:], bias[1]).unflatten(-1, (2, self.n_heads, self.d_head))
        k, v = kv.movedim(-3, 0).transpose(-2, -3).unbind(0)
        return self.q_norm(q.unflatten(-1, (self.n_heads, self.d_head)).transpose(-2, -3)), self.k_norm(k), v

    def attend_head(self, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "*variant batch token d_head"]:
        """z of one head; q, k and v are (batch, token, d_head), each with variants in front or without."""
        if k.ndim == v.ndim == 3:
            if q.ndim == 3:
                return self.attend(q[:, None], k[:, None], v[:, None])[:, 0]
            n = len(q)  # variants of queries see the same keys: one longer sequence
            z = self.attend(q.movedim(0, 1).flatten(1, 2)[:, None], k[:, None], v[:, None])[:, 0]
            return z.unflatten(1, (n, -1)).movedim(1, 0)
        n = max(len(part) for part in (q, k, v) if part.ndim == 4)
        q, k, v = (part.expand(n, *part.shape[-3:]) for part in (q, k, v))
        return self.attend(q, k, v)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "*batch head token d_head"]:
        """z: each head's weighted values (fused attention)."""
        return F.scaled_dot_product_attention(q, k, v, scale=self.scale)

    def pattern(self, q: Tensor, k: Tensor) -> Float[Tensor, "*batch head target source"]:
        """Attention pattern, rows adding up to 1."""
        return (q * self.scale @ k.transpose(-1, -2)).softmax(-1)

    def attn_write(self, z: Float[Tensor, "batch head token d_head"]) -> Float[Tensor, "batch token model"]:
        """What attention adds to the residual: all heads and the bias."""
        return self.scale1(self.proj(z.transpose(-2, -3).flatten(-2)))

    def head_write(self, z: Tensor, heads: Tensor | slice = slice(None)) -> Float[Tensor, "*batch row token model"]:
        """What each of some heads adds to the residual, without the bias; z is (*batch, row, token, d_head)."""
        return z @ self.out_weight[heads]

    def mlp_write(self, x: Float[Tensor, "*batch token model"], *, freeze_norm: bool = False) -> Tensor:
        """What the MLP adds to the residual, from the residual in front of it."""
        normed = self.norm2.frozen(x) if freeze_norm else self.norm2(x)
        return self.scale2(self.mlp(normed))
