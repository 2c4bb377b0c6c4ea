"""A run taken block by block, with the places where it can be changed, and how it goes on from there.

A `Stop` holds one activation of one layer and the residual that the change is added to. What attention reads or
computes changes the residual in front of the MLP, so that a run never goes on from further back than it has to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from ...models.blocks import OpenBlock
from ...models.errors import TaskError
from ...models.hooked import HookedViT

What = Literal["z", "q", "k", "v", "pattern", "resid", "mlp_out", "head_out"]
"""Activations that can be patched, under the names of their hooks (`head_out` is `hook_result`)."""

PER_HEAD = ("z", "q", "k", "v", "pattern", "head_out")


def require_what(what: str) -> None:
    """Does nothing if the activation is known.

    Raises:
        TaskError: It is not.
    """
    if what not in get_args(What):
        raise TaskError(
            f"what={what!r} is not known: pass one of {', '.join(map(repr, get_args(What)))}, such as what='head_out'."
        )


@dataclass(frozen=True, eq=False)
class Step:
    """One block of a run.

    Args:
        before: Residual in front of attention, (pair, token, model).
        q: Queries, (pair, head, token, d_head); likewise `k`, `v` and `z`.
        k: Keys.
        v: Values.
        z: Weighted values.
        middle: Residual in front of the MLP.
        mlp_out: What the MLP writes.
    """

    before: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    z: Tensor
    middle: Tensor
    mlp_out: Tensor

    @property
    def after(self) -> Tensor:
        """Residual behind the block."""
        return self.middle + self.mlp_out


def walk(vit: HookedViT, embedded: Float[Tensor, "pair token model"]) -> Iterator[Step]:
    """The blocks of a run from the residual in front of block 0, one at a time; call it under `vit.borrowed()`."""
    residual = embedded
    for block in vit.blocks:
        step = one_step(block, residual)
        yield step
        residual = step.after


def one_step(block: OpenBlock, residual: Float[Tensor, "pair token model"]) -> Step:
    """A block's run from the residual in front of it; call it under `vit.borrowed()`."""
    q, k, v = block.read(block.norm1(residual))
    z = block.attend(q, k, v)
    middle = residual + block.attn_write(z)
    return Step(residual, q, k, v, z, middle, block.mlp_write(block.mlp_input(residual, middle)))


@dataclass(frozen=True, eq=False)
class Stop:
    """A place where a run can be changed.

    Args:
        activation: What is there, (pair, head, token, ...); one head where heads are not told apart.
        residual: What a change is added to, (pair, token, model).
        layer: The block that the run goes on with.
        skip_attention: Whether it goes on with that block's MLP.
        block: The block where the activation is; None behind the last one.
        step: That block's run, likewise.
    """

    activation: Tensor
    residual: Tensor
    layer: int
    skip_attention: bool = False
    block: OpenBlock | None = None
    step: Step | None = None


def stops(vit: HookedViT, embedded: Float[Tensor, "pair token model"], what: str) -> Iterator[Stop]:
    """The places of one kind of activation: one for each block, and for `resid` one more behind the last."""
    residual = embedded
    for layer, (block, step) in enumerate(zip(vit.blocks, walk(vit, embedded), strict=True)):
        if what == "resid":
            yield Stop(step.before[:, None], step.before, layer)
        elif what == "mlp_out":
            yield Stop(step.mlp_out[:, None], step.after, layer + 1)
        else:
            # what heads write does not pass the MLP of a parallel block
            place = (step.after, layer + 1, False) if block.parallel else (step.middle, layer, True)
            yield Stop(_of_head(what, block, step), *place, block, step)
        residual = step.after
    if what == "resid":
        yield Stop(residual[:, None], residual, vit.cfg.n_layers)


def _of_head(what: str, block: OpenBlock, step: Step) -> Tensor:
    if what == "pattern":
        return block.pattern(step.q, step.k)
    return block.head_write(step.z) if what == "head_out" else getattr(step, what)


def write_change(stop: Stop, what: str, donated: Tensor, heads: Tensor, at: Tensor) -> Tensor:
    """How the residual changes if heads carry other values at some tokens, (pair, candidate, token, model).

    Args:
        stop: The place.
        what: The activation's kind.
        donated: The other values, of the activation's shape; a single pair's serve all.
        heads: The head of each candidate, shape (candidate,).
        at: The tokens where each candidate carries them, shape (candidate, token).
    """
    base, other, where = stop.activation[:, heads], donated[:, heads], at[..., None]
    if what in ("resid", "mlp_out", "head_out"):
        return torch.where(where, other - base, 0.0)
    block, step = stop.block, stop.step
    assert block is not None and step is not None
    if what == "z":
        change = torch.where(where, other - base, 0.0)
    elif what == "pattern":
        q, v = step.q[:, heads], step.v[:, heads]
        change = block.close(q, torch.where(where, other, base) @ v) - step.z[:, heads]
    else:
        parts = {port: getattr(step, port)[:, heads] for port in "qkv"} | {what: torch.where(where, other, base)}
        change = block.attend(parts["q"], parts["k"], parts["v"]) - step.z[:, heads]
    return block.head_write(change, heads)
