"""A module of one's own: stem, blocks and readout, read off one watched pass.

Blocks are timm's, the longest list of them, or whatever `reading` can tell. The stem is whatever hands the first of
them its input; which pixels each token reads says where the patches are. Behind the last block stand a norm, a pooling
and a head: which they are is told by their values too. The comparison of logits at load says at the original's own
weights whether all this is right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import is_dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..attention import prefixed_rope
from ..blocks import OpenBlock
from ..config import TokenLayout
from ..errors import ModelError
from ..norms import Norm, open_norm, recognise_norm
from ..readouts import ProjectionHead, Readout, evaluating
from .opened import CapturedStem, Opened, Seen, arranged, sizes_of
from .parts import find_chain
from .reading import Flow, read_blocks
from .timm_blocks import Around, is_timm_block, open_block
from .watching import ADAPTER, Call, Watched, same, watch


def open_own(module: nn.Module, name: str, image_size: Any = None) -> Opened:
    """The parts of a module of any class.

    Args:
        module: From images to logits.
        name: What to call it in a message.
        image_size: Height and width of its images, or their side; None to find them.

    Raises:
        ModelError: A part of it cannot be read; the message says which, and how an adapter opens it.
    """
    watched = watch(module, name, image_size)
    with torch.no_grad(), evaluating(watched.shadow):
        stack = find_blocks(watched.shadow)
        flow = read_blocks(watched, name) if stack is None else follow_blocks(watched, stack, name)
        return _assemble(watched, flow, name, *_find_layout(watched, flow, name))


def open_around(
    module: nn.Module,
    name: str,
    blocks: Sequence[OpenBlock],
    *,
    first: nn.Module,
    last: nn.Module,
    layout: TokenLayout | None = None,
    patch_size: tuple[int, int] | None = None,
) -> Opened:
    """The parts of a module whose blocks an adapter knows: stem and readout are found by watching one run.

    Args:
        module: From images to logits.
        name: What to call it in a message.
        blocks: Its canonical blocks.
        first: The part of it that is handed the residual in front of the first block.
        last: The part of it that gives the residual behind the last block.
        layout: Its tokens, where they are not to be found out, as behind a stem whose tokens read more than a patch.
        patch_size: Height and width of a patch, in pixels, with `layout`.

    Raises:
        ModelError: The parts don't run, readout or tokens cannot be read, or the blocks don't give the last residual.
    """
    sides = None
    if layout is not None and patch_size is not None:
        sides = (layout.grid[0] * patch_size[0], layout.grid[1] * patch_size[1])
    watched = watch(module, name, sides)
    calls = {id(watched.original(call.module)): call for call in reversed(watched.calls)}
    if id(first) not in calls or id(last) not in calls:
        raise ModelError(f"{name} doesn't run first= or last= in its forward pass: pass parts of the module itself.")
    end = calls[id(last)]
    flow = Flow(calls[id(first)], end.y, end.end, tuple(blocks), ())
    with torch.no_grad(), evaluating(watched.shadow, module):
        given = None if layout is None or patch_size is None else (layout, patch_size, None)
        opened = _assemble(watched, flow, name, *(given or _find_layout(watched, flow, name)))
        order = opened.stem.order if isinstance(opened.stem, CapturedStem) else None
        _require_residual(opened, Seen(last, False, end.turned[1], order), watched.images, name)
    return opened


def _require_residual(opened: Opened, seen: Seen, images: Tensor, name: str) -> None:
    """Does nothing if the blocks give the residual that the original has behind its last."""
    found: list[Tensor] = []
    handle = seen.register_forward_hook(lambda _module, _args, out: found.append(out))
    try:
        opened.forward(images)
    finally:
        handle.remove()
    residual = opened.stem.patches(images)
    for block in opened.blocks:
        residual = block.run(residual)
    if not same(residual, found[0]):
        raise ModelError(
            f"the blocks that the adapter made for {name} give a last residual that differs from the original's by "
            f"{float((residual - found[0]).abs().max()):.1e}: compare block.run(x) of each with the original's block."
        )


def _assemble(
    watched: Watched,
    flow: Flow,
    name: str,
    layout: TokenLayout,
    patch: tuple[int, int],
    order: tuple[int, ...] | None,
) -> Opened:
    if order is not None and any(block.mask is not None or block.rope is not None for block in flow.blocks):
        raise ModelError(f"{name} has tokens behind its patches and attention that minds their order. {ADAPTER}")
    residual = arranged(flow.residual, False, order)
    layout, readout, answer = _find_readout(watched, flow, residual, layout, order, name)
    _require_one_width(flow.blocks, name)
    size = {"image": watched.images.shape[2:], "patch": patch, "n_channels": watched.images.shape[1]}
    cfg = sizes_of(name, flow.blocks, layout, readout, **size)
    module, first = watched.module, flow.first
    stem = CapturedStem(module, watched.original(first.module), first.turned[0], order)
    originals = flow.originals
    if order is not None:
        behind = (one if isinstance(one, Seen) else Seen(cast(nn.Module, one), False) for one in originals)
        originals = tuple(replace(one, order=order) for one in behind)
    return Opened(cfg, stem, flow.blocks, readout, originals, lambda images: answer(module(images)))


def _find_layout(
    watched: Watched, flow: Flow, name: str
) -> tuple[TokenLayout, tuple[int, int], tuple[int, ...] | None]:
    """Tokens, the size of a patch, and the order that puts patches last, from which tokens a pixel moves.

    Raises:
        ModelError: Patches don't stand row by row, or a token reads more than a patch.
    """
    image, n_tokens = watched.images[:1], flow.residual.shape[1]
    height, width = (int(side) for side in image.shape[2:])
    stem = CapturedStem(watched.shadow, flow.first.module, flow.first.turned[0])
    before = stem.patches(image)

    def moved(row: int, column: int) -> list[int]:
        other = image.clone()
        other[..., row, column] += 1
        return (stem.patches(other) - before).abs().sum((0, 2)).gt(0).nonzero().flatten().tolist()

    corner, end = moved(0, 0), moved(height - 1, width - 1)
    one_each = len(corner) == len(end) == 1
    start, count = (corner[0], end[0] + 1 - corner[0]) if one_each else (0, 0)
    for rows in sorted(range(1, count + 1), key=lambda rows: abs(rows * rows - count)):
        columns = count // rows
        if rows * columns != count or height % rows or width % columns:
            continue
        high, wide = height // rows, width // columns
        wanted = {(high - 1, wide - 1): start, (0, min(wide, width - 1)): start + (columns > 1)}
        wanted |= {(min(high, height - 1), 0): start + (rows > 1) * columns}
        if all(moved(*pixel) == [token] for pixel, token in wanted.items()):
            others = [token for token in range(n_tokens) if not start <= token < start + count]
            order = None if start + count == n_tokens else (*others, *range(start, start + count))
            return TokenLayout(len(others) > 0, max(0, len(others) - 1), (rows, columns)), (high, wide), order
    raise ModelError(
        f"{name} hands its blocks {n_tokens} tokens, of which the first pixel moves {corner[:4]} and the last "
        f"{end[-4:]}: patches that follow row by row and each read their own pixels alone are wanted. {ADAPTER}"
    )


def _find_readout(
    watched: Watched,
    flow: Flow,
    residual: Tensor,
    layout: TokenLayout,
    order: tuple[int, ...] | None,
    name: str,
) -> tuple[TokenLayout, Readout, Callable[[Any], Tensor]]:
    """Norm, pooling and head, and which of the module's answers are the logits.

    Raises:
        ModelError: None that are known here lead to an answer.
    """
    calls = [call for call in watched.calls if call.start >= flow.end]
    norms: list[tuple[Norm, Tensor]] = [(open_norm(nn.Identity(), ""), residual)]
    for call in calls:
        if same(call.x, flow.residual) and (make := recognise_norm(call.module, call.x, call.y)) is not None:
            norms.insert(0, (make(watched.original(call.module)), arranged(call.y, False, order)))
    for path, logits in _answers(watched.output):
        for norm, tokens in norms:
            for read, beside in _poolings(layout):
                found = _head(watched, calls, tokens, read, beside, logits, name)
                if found is not None:
                    named = [key.lower() for key, _ in watched.shadow.named_parameters()]
                    if read != (0,) and not any("cls" in key or "class_t" in key for key in named):
                        # nothing says that one of them is a class token
                        layout = TokenLayout(False, layout.n_prefix, layout.grid)
                    return layout, Readout(read, norm, *found, beside=beside), partial(_at, path)
    raise ModelError(
        flow.why
        or f"{name} pools its tokens, or goes on from them, in a way that is not known here: behind a norm or none, "
        f"a head of layers in a row reads the first token, the average of the patches or of all tokens, or the first "
        f"token beside the average of the patches. {ADAPTER}"
    )


def _poolings(layout: TokenLayout) -> Iterator[tuple[tuple[int, ...], int | None]]:
    """Tokens that may be read, and where patches begin that stand beside the first token."""
    every = range(layout.n_tokens)
    yield (0,), None
    yield tuple(every[layout.patches]), None
    yield tuple(every), None
    if layout.n_prefix:
        yield tuple(every), layout.n_prefix


def _head(
    watched: Watched,
    calls: list[Call],
    tokens: Tensor,
    read: tuple[int, ...],
    beside: int | None,
    logits: Tensor,
    name: str,
) -> tuple[Norm, nn.Module] | None:
    """Norm of the pooled vector and head, of the original, if they lead from these tokens to the logits."""

    def pool(values: Tensor) -> Tensor:
        if beside is not None:
            return torch.cat([values[:, 0], values[:, beside:].mean(1)], -1)
        return values[:, read[0] : read[-1] + 1].mean(1)

    pooled, norm = pool(tokens), open_norm(nn.Identity(), "")
    chain = find_chain(calls, pooled, logits)
    if chain is None:
        chain = _projected(watched, calls, pooled, logits)
    if chain is None:  # the head of all tokens, pooled afterwards
        ends = [call.y for call in calls if call.y.ndim == 3 and same(pool(call.y), logits)]
        chain = next((found for end in ends if (found := find_chain(calls, tokens, end)) is not None), None)
        if chain is None or not same(nn.Sequential(*chain)(pooled), logits):
            return None
    if chain and (make := recognise_norm(chain[0], pooled, chain[0](pooled))) is not None:
        norm, chain = make(watched.original(chain[0])), chain[1:]
    layers = [watched.original(part) for part in chain]
    return norm, layers[0] if len(layers) == 1 else nn.Sequential(*layers) if layers else nn.Identity()


def _projected(watched: Watched, calls: list[Call], pooled: Tensor, logits: Tensor) -> list[nn.Module] | None:
    """What leads to the logits where they are a product with a parameter (CLIP's `proj`), which is the original's."""
    values = [pooled, *(call.y for call in calls if call.y.ndim == 2)]
    for name, matrix in watched.shadow.named_parameters():
        if matrix.ndim != 2 or matrix.shape[1] != logits.shape[1]:
            continue
        for value in values:
            if value.shape[1] == len(matrix) and same(value @ matrix, logits):
                chain = find_chain(calls, pooled, value)
                return None if chain is None else [*chain, ProjectionHead(watched.module.get_parameter(name))]
    return None


Path = tuple[Any, ...]


def _answers(output: Any, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    """Tensors of one row per image in what a module gave, and where; those called logits first."""
    if isinstance(output, Tensor):
        if output.ndim == 2 and output.is_floating_point():
            yield path, output
        return
    if isinstance(output, tuple | list):
        output = dict(enumerate(output))
    elif not isinstance(output, Mapping):
        output = vars(output) if is_dataclass(output) else {}
    for key in sorted(output, key=lambda key: "logit" not in str(key)):
        yield from _answers(output[key], (*path, key))


def _at(path: Path, output: Any) -> Tensor:
    for key in path:
        output = output[key] if isinstance(output, tuple | list | Mapping) else getattr(output, key)
    return output


def _require_one_width(blocks: tuple[OpenBlock, ...], name: str) -> None:
    """A sentence for blocks that differ in their number of heads."""
    heads = sorted({block.n_heads for block in blocks})
    if len(heads) > 1:
        raise ModelError(f"{name} has blocks with different numbers of heads {heads}: not opened.")


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
