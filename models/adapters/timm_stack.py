"""A stack of timm's blocks in a module of one's own: the longest list of them, and what each is handed."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ..attention import prefixed_rope
from ..errors import ModelError
from ..readouts import evaluating
from .reading import Flow
from .timm_blocks import Around, is_timm_block, open_block
from .watching import Watched


def find_blocks(module: nn.Module) -> list[nn.Module] | None:
    """The longest list of timm's blocks in a module; None if there is none."""
    found = [
        list(part.children())
        for part in module.modules()
        if isinstance(part, nn.ModuleList | nn.Sequential) and len(part) and all(map(is_timm_block, part.children()))
    ]
    return max(found, key=len, default=None)


def follow_blocks(watched: Watched, stack: list[nn.Module], name: str) -> Flow:
    """The residual through a stack of timm's blocks.

    Args:
        watched: A pass.
        stack: The copy's blocks.
        name: What to call the module in a message.

    Raises:
        ModelError: The stack does not run, holds not all blocks, is handed a mask, or has a block that is not opened.
    """
    inside = {id(part) for block in stack for part in block.modules()}
    outside = [part for part in watched.shadow.modules() if is_timm_block(part) and id(part) not in inside]
    if outside:
        raise ModelError(
            f"{name} has {len(outside)} transformer blocks outside its longest stack of {len(stack)}: put all of them "
            f"into one nn.ModuleList, in the order in which they run."
        )
    calls = {id(call.module): call for call in watched.calls}
    if any(id(block) not in calls for block in stack):
        raise ModelError(f"{name} does not run all of its blocks in its forward pass: nothing can be read off it.")
    first, last = calls[id(stack[0])], calls[id(stack[-1])]
    originals = tuple(watched.original(block) for block in stack)
    around = _surroundings(watched, originals, name)
    blocks = tuple(open_block(block, one) for block, one in zip(originals, around, strict=True))
    return Flow(first, last.y, last.end, blocks, originals)


def _surroundings(watched: Watched, blocks: tuple[nn.Module, ...], name: str) -> list[Around]:
    """What each block is handed beside the residual: rotary positions are taken over, a mask is refused."""
    ropes: list[Tensor | None] = []
    masked = []

    def handed(_module: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        given = dict(zip(("x", "rope", "attn_mask", "is_causal"), args, strict=False)) | options
        ropes.append(given.get("rope"))
        masked.append(given.get("attn_mask") is not None or bool(given.get("is_causal")))

    with ExitStack() as stack, torch.no_grad(), evaluating(watched.module):
        for block in blocks:
            stack.callback(block.register_forward_pre_hook(handed, with_kwargs=True).remove)
        watched.module(watched.images)
    if any(masked):
        raise ModelError(
            f"{name} hands its blocks an attention mask, which is not opened. Open one of timm's ViTs with "
            f"load_vit(module, attention_mask=...) instead."
        )
    found = []
    for place, (block, table) in enumerate(zip(blocks, ropes, strict=True)):
        attn: Any = getattr(block, "attn", None)
        half = getattr(attn, "rotate_half", False)
        rope = None if table is None else prefixed_rope(table, attn.num_prefix_tokens, half)
        found.append(Around(f"{name} block {place}", rope))
    return found
