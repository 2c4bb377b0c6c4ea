"""From a feature program to a stock timm `VisionTransformer` with hand-set weights, and those in another basis.

A patch's pixels carry its bits as Walsh-Hadamard patterns (the first, constant one is left out), which the patch
embedding reads exactly.

In another basis the weights are dense and look trained, with the same function and the same circuit: the residual
stream is turned by a random rotation that keeps the all-ones vector, which commutes with LayerNorm (its weights are
uniform). Each head's queries with its keys, and its values with its outputs, are turned too, and the neurons are
shuffled.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .program import Head, Mlp, Program, Terms

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

PATCH = 4  # pixels a side: 15 patterns beside the constant one
_EPS = 1e-6


def compile_program(program: Program, *, norm: bool) -> VisionTransformer:
    """The model of a program, in eval mode without gradients.

    Args:
        program: What to build.
        norm: LayerNorms, whose weights undo their divisors; else identities in their places.
    """
    from timm.models.vision_transformer import VisionTransformer

    with torch.random.fork_rng(devices=[]):  # timm draws weights that are overwritten here
        module = VisionTransformer(
            img_size=(program.grid[0] * PATCH, program.grid[1] * PATCH),
            patch_size=PATCH,
            in_chans=1,
            num_classes=len(program.logits),
            embed_dim=program.d_model,
            depth=program.n_layers,
            num_heads=program.n_heads,
            mlp_ratio=1.0,
            norm_layer=partial(nn.LayerNorm, eps=_EPS) if norm else nn.Identity,  # type: ignore[arg-type]
        )
    module.eval().requires_grad_(False)
    for parameter in module.parameters():
        parameter.zero_()
    compiler = _Compiler(program, module)
    compiler.embed()
    for head in program.heads:
        compiler.head(head)
    for mlp in program.mlps:
        compiler.mlp(mlp)
    compiler.rest(norm=norm)
    return module


def patterns() -> Float[Tensor, "pattern pixel"]:
    """The +-1 patterns of a patch that encode bits, orthogonal to one another and to the constant."""
    from scipy.linalg import hadamard

    return torch.tensor(hadamard(PATCH * PATCH), dtype=torch.float32, device="cpu")[1:]


def encode(bits: Float[Tensor, "image patch bit"], grid: tuple[int, int]) -> Float[Tensor, "image 1 height width"]:
    """Images whose patches carry these bits, each +1 or -1."""
    pixels = bits @ patterns()[: bits.shape[-1]]  # image patch pixel
    tiles = pixels.view(len(bits), *grid, PATCH, PATCH)  # image row column y x
    return tiles.transpose(2, 3).reshape(len(bits), 1, grid[0] * PATCH, grid[1] * PATCH)


class _Compiler:
    """Writes a program's weights into a module of zeros."""

    def __init__(self, program: Program, module: Any) -> None:
        self.program, self.module = program, module
        self.d_head = program.d_model // program.n_heads
        assert 2 * len(program.place) <= program.d_model, "d_model is too small for the features"

    def written(self, terms: Terms) -> Float[Tensor, " model"]:
        """The residual vector that holds these features."""
        vector = torch.zeros(self.program.d_model, device="cpu")
        for name, factor in terms.items():
            place = 2 * self.program.place[name]
            vector[place] += factor
            vector[place + 1] -= factor
        return vector

    def reading(self, terms: Terms) -> Float[Tensor, " model"]:
        """The covector that reads this linear form."""
        return self.written(terms) / 2

    def embed(self) -> None:
        """Patches' bits, positions, and CLS."""
        program, module = self.program, self.module
        weight = sum(torch.outer(self.written({bit: 1.0}), patterns()[i]) for i, bit in enumerate(program.bits))
        assert isinstance(weight, Tensor)
        module.patch_embed.proj.weight.copy_((weight / PATCH**2).view_as(module.patch_embed.proj.weight))
        for token, name in enumerate(program.positions):
            module.pos_embed[0, token] = self.written({name: 1.0})
        module.cls_token[0, 0] = self.written(dict.fromkeys(program.bits, -1.0))

    def head(self, head: Head) -> None:
        """One head's queries, keys, values and writes."""
        attn, d_model = self.module.blocks[head.layer].attn, self.program.d_model
        start, sharp = head.index * self.d_head, math.sqrt(self.d_head)  # undoes the division of q.k
        assert max(len(head.scores), len(head.values)) <= self.d_head, "the head is too narrow"
        for row, score in enumerate(head.scores, start):
            attn.qkv.weight[row] = self.reading(score.query) * score.gain * sharp
            attn.qkv.bias[row] = score.bias * score.gain * sharp
            attn.qkv.weight[d_model + row] = self.reading(score.key)
        for row, (value, name) in enumerate(zip(head.values, head.writes, strict=True), start):
            attn.qkv.weight[2 * d_model + row] = self.reading(value)
            attn.proj.weight[:, row] = self.written({name: 1.0})

    def mlp(self, mlp: Mlp) -> None:
        """One MLP's neurons and constants."""
        part, sharpness = self.module.blocks[mlp.layer].mlp, self.program.sharpness
        for place, neuron in enumerate(mlp.neurons):
            part.fc1.weight[place] = self.reading(neuron.reads) * sharpness
            part.fc1.bias[place] = neuron.bias * sharpness
            part.fc2.weight[:, place] = self.written(neuron.writes) / sharpness
        part.fc2.bias.copy_(self.written(mlp.constants))

    def rest(self, *, norm: bool) -> None:
        """Logits, norms, and the dead heads' random queries and keys."""
        program, module = self.program, self.module
        module.head.weight.copy_(torch.stack([self.reading(terms) for terms in program.logits]))
        generator = torch.Generator().manual_seed(0)
        for layer, head in program.dead:
            weight = module.blocks[layer].attn.qkv.weight.view(3, program.n_heads, self.d_head, -1)
            weight[:2, head] = 0.3 * torch.randn(2, self.d_head, program.d_model, generator=generator, device="cpu")
        for layer, block in enumerate(module.blocks if norm else ()):
            block.norm1.weight.fill_(self._undo(2 * layer))
            block.norm2.weight.fill_(self._undo(2 * layer + 1))
        if norm:
            module.norm.weight.fill_(self._undo(2 * program.n_layers))

    def _undo(self, stage: int) -> float:
        """What the LayerNorm of a stage divides by."""
        return math.sqrt(2 * self.program.n_groups(stage) / self.program.d_model + _EPS)


def change_of_basis(module: Any, seed: int) -> None:
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
        _turn_attention(block.attn, turn, generator)
        _turn_mlp(block.mlp, turn, generator)
    _put(module.head.weight, module.head.weight.double() @ turn.T)


def _turn_attention(attn: Any, turn: Tensor, generator: torch.Generator) -> None:
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


def _turn_mlp(mlp: Any, turn: Tensor, generator: torch.Generator) -> None:
    order = torch.randperm(len(mlp.fc1.bias), generator=generator, device="cpu")
    _put(mlp.fc1.weight, (mlp.fc1.weight.double() @ turn.T)[order])
    _put(mlp.fc1.bias, mlp.fc1.bias[order].clone())
    _put(mlp.fc2.weight, (turn @ mlp.fc2.weight.double())[:, order])
    _put(mlp.fc2.bias, turn @ mlp.fc2.bias.double())


def _put(parameter: Tensor, values: Tensor) -> None:
    parameter.copy_(values.reshape(parameter.shape))


def _rotation(n: int, generator: torch.Generator) -> Float[Tensor, "n n"]:
    return torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64, device="cpu"))[0]


def _residual_rotation(n: int, generator: torch.Generator) -> Float[Tensor, "n n"]:
    """A random rotation that maps the all-ones vector to itself."""
    ones = torch.full((n, 1), 1 / math.sqrt(n), dtype=torch.float64, device="cpu")
    basis = torch.linalg.qr(
        torch.cat([ones, torch.randn(n, n - 1, generator=generator, dtype=torch.float64, device="cpu")], 1)
    )[0]
    rest = basis[:, 1:]
    return ones @ ones.T + rest @ _rotation(n - 1, generator) @ rest.T
