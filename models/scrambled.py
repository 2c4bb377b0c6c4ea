"""Copies of a model that cannot compute what it does: heads' weights exchanged inside layers, or all weights shuffled.

A mask learned on such a copy finds only what masks themselves can hold. Both keep the architecture, so that a graph of
the model is one of the copy, and the scale of every weight. The model's own module is never touched.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from .errors import ModelError
from .hooked import HookedViT
from .precision import SHORT


def exchange_heads(vit: HookedViT, *, seed: int = 0) -> HookedViT:
    """A copy in which each head's z is read by the output weights of another head of its layer.

    The columns of the output projection that belong to heads are put in another order, a single cycle drawn by chance,
    against the rows of q, k and v. Both put in one order would change nothing: heads have no order.

    Args:
        vit: The opened model.
        seed: Draws the orders.

    Raises:
        ModelError: No layer has two heads with an output projection.
    """
    if not any(_n_heads(matrix, block.d_head) > 1 for block in vit.blocks for matrix in block.writes.matrices):
        raise ModelError(f"no layer of {vit.cfg.name} has two heads with a projection, so there are none to exchange.")
    found, generator = copy_model(vit, "heads exchanged"), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for block in found.blocks:
            for matrix in block.writes.matrices:
                order = cycle(_n_heads(matrix, block.d_head), generator).to(matrix.device)
                matrix.copy_(matrix.unflatten(1, (-1, block.d_head))[:, order].flatten(1))
    return found


def shuffle_weights(vit: HookedViT, *, seed: int = 0) -> HookedViT:
    """A copy in which the numbers of every parameter, the head's included, are shuffled among themselves.

    Args:
        vit: The opened model.
        seed: Draws the order.
    """
    found, generator = copy_model(vit, "weights shuffled"), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in nn.ModuleList([found.module, found.readout.head]).parameters():
            order = torch.randperm(parameter.numel(), generator=generator, device="cpu").to(parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return found


def copy_model(vit: HookedViT, what: str = "copy") -> HookedViT:
    """The same model on a copy of its module, frozen and in evaluation mode, under the same readout.

    Args:
        vit: The opened model.
        what: What its name says about it.
    """
    module, head = copy.deepcopy((vit.module, vit.readout.head))  # together: a head may share the module's own
    module.eval().requires_grad_(False)
    head.eval().requires_grad_(False)
    short = vit.dtype if vit.dtype in SHORT else None
    if short is not None:  # it is opened in float32, as its original was
        nn.ModuleList([module, head]).float()
    name = f"{vit.cfg.name} ({what})"
    facts: dict[str, Any] = {"preprocess": vit.preprocess, "labels": vit.labels, **vit.opened_by}
    found = HookedViT(module, name=name, attention_mask=vit.attention_mask, **facts)
    if short is not None:
        found.shorten(short)
    info = vit.readout.info
    if "pool" in info:
        return found.with_readout(head, vit.labels, pool=info["pool"], info=info)
    found.readout = dataclasses.replace(found.readout, info=info)
    return found


def _n_heads(matrix: Tensor, d_head: int) -> int:
    return matrix.shape[1] // d_head


def cycle(n: int, generator: torch.Generator) -> Int[Tensor, " n"]:
    """An order in which nothing stays in its place (if n > 1): one cycle through all."""
    drawn, order = torch.randperm(n, generator=generator, device="cpu"), torch.empty(n, dtype=torch.long, device="cpu")
    order[drawn] = drawn.roll(1)
    return order
