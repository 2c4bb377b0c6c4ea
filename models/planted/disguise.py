"""A planted model in another basis: dense weights that look trained, the same function, the same circuit.

The residual stream is turned by a random rotation that keeps the all-ones vector, which commutes with LayerNorm (its
weights are uniform). Each head's queries with its keys, and its values with its outputs, are turned too, and the
neurons are shuffled.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def disguise(module: Any, seed: int) -> None:
    """Turns the weights of a compiled module, in place.

    Args:
        module: What `compile_program` made.
        seed: Of the rotations.
    """
    generator = torch.Generator().manual_seed(seed)
    turn = _residual_rotation(module.embed_dim, generator)
    patch = module.patch_embed.proj
    _put(patch.weight, turn @ patch.weight.double().flatten(1))
    for vectors in (module.pos_embed, module.cls_token):
        _put(vectors, vectors.double() @ turn.T)
    for block in module.blocks:
        _attention(block.attn, turn, generator)
        _mlp(block.mlp, turn, generator)
    _put(module.head.weight, module.head.weight.double() @ turn.T)


def _attention(attn: Any, turn: Tensor, generator: torch.Generator) -> None:
    heads, d_head = attn.num_heads, attn.head_dim
    rows = (attn.qkv.weight.double() @ turn.T).view(3, heads, d_head, -1)
    bias = attn.qkv.bias.double().view(3, heads, d_head)
    out = (turn @ attn.proj.weight.double()).view(-1, heads, d_head)
    for head in range(heads):
        qk, vo = _rotation(d_head, generator), _rotation(d_head, generator)
        for port, inner in enumerate((qk, qk, vo)):
            rows[port, head], bias[port, head] = inner @ rows[port, head], inner @ bias[port, head]
        out[:, head] = out[:, head] @ vo.T
    _put(attn.qkv.weight, rows)
    _put(attn.qkv.bias, bias)
    _put(attn.proj.weight, out)


def _mlp(mlp: Any, turn: Tensor, generator: torch.Generator) -> None:
    order = torch.randperm(len(mlp.fc1.bias), generator=generator)
    _put(mlp.fc1.weight, (mlp.fc1.weight.double() @ turn.T)[order])
    _put(mlp.fc1.bias, mlp.fc1.bias[order].clone())
    _put(mlp.fc2.weight, (turn @ mlp.fc2.weight.double())[:, order])
    _put(mlp.fc2.bias, turn @ mlp.fc2.bias.double())


def _put(parameter: Tensor, values: Tensor) -> None:
    parameter.copy_(values.reshape(parameter.shape))


def _rotation(n: int, generator: torch.Generator) -> Float[Tensor, "n n"]:
    return torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))[0]


def _residual_rotation(n: int, generator: torch.Generator) -> Float[Tensor, "n n"]:
    """A random rotation that maps the all-ones vector to itself."""
    ones = torch.full((n, 1), 1 / math.sqrt(n), dtype=torch.float64)
    basis = torch.linalg.qr(torch.cat([ones, torch.randn(n, n - 1, generator=generator, dtype=torch.float64)], 1))[0]
    rest = basis[:, 1:]
    return ones @ ones.T + rest @ _rotation(n - 1, generator) @ rest.T
