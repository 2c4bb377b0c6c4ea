"""From any module to its canonical parts: one of a known kind, or one's own that runs a stack of timm's blocks.

Modules of other libraries are known by the names of their classes, so that nothing is imported that a module does not
come from. A module of one's own, built of timm's blocks under any class name, is traced: watched while it runs once.
The stem is whatever hands the first block its input. Behind the last block a norm, a pooling and a linear head are
expected; which modules they are is seen from what runs, and how tokens are pooled from what the head is handed. The
comparison of logits at load says whether this reading is right.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters import hf, open_clip_vit
from ..attention import prefixed_rope
from ..blocks import OpenBlock
from ..config import TokenLayout
from ..errors import ModelError
from ..norms import open_norm
from ..readouts import Readout, evaluating
from .opened import CapturedStem, Opened, sizes_of
from .timm_blocks import Around, is_timm_block, open_block
from .timm_vit import is_timm_vit, open_timm

Opener = Callable[[Any, str], Opened]

OPENERS: tuple[tuple[str, tuple[str, ...], Opener], ...] = (
    ("transformers", hf.VIT_KINDS, hf.open_hf_vit),
    ("transformers", hf.CLIP_KINDS, hf.open_hf_clip),
    ("transformers", hf.VIVIT_KINDS, hf.open_vivit),
    ("open_clip", open_clip_vit.KINDS, open_clip_vit.open_open_clip),
)
"""Library, names of its classes, and who opens them."""


def open_module(module: nn.Module, name: str, *, mask: str | Tensor | None = None) -> Opened:
    """The parts of a module.

    Args:
        module: One of timm's ViTs, of transformers' or open_clip's that are named in `OPENERS`, or any module that runs
            a stack of timm's blocks.
        name: What to call it in a message.
        mask: Attention mask: `causal`, or which targets may see which sources, (target, source).

    Raises:
        ModelError: The module is no ViT, or one of its parts is of a kind that is not opened; the message says which.
    """
    if is_timm_vit(module):
        return open_timm(module, name, mask)
    opener = _opener_of(module)
    if opener is None and find_blocks(module) is None:
        raise ModelError(_unknown(module, name))
    if mask is not None:
        raise ModelError(
            f"attention_mask= needs a module that takes one; {name} is a {type(module).__name__}. Pass one of timm's "
            f"ViTs, or build the mask into your module's blocks."
        )
    return open_traced(module, name) if opener is None else opener(module, name)


def _opener_of(module: nn.Module) -> Opener | None:
    bases = {(base.__module__.partition(".")[0], base.__name__) for base in type(module).__mro__}
    return next((opener for library, kinds, opener in OPENERS if any((library, kind) in bases for kind in kinds)), None)


def _unknown(module: nn.Module, name: str) -> str:
    library = type(module).__module__.partition(".")[0]
    known = [kind for home, kinds, _ in OPENERS if home == library for kind in kinds]
    if known:
        return (
            f"{name} is {library}'s {type(module).__name__}, which is not opened: {', '.join(known)} are. timm has "
            f"most ViTs by name, such as load_vit('deit_tiny_patch16_224')."
        )
    return (
        f"{name} is a {type(module).__module__}.{type(module).__name__} without a stack of transformer blocks "
        f"(an nn.ModuleList or nn.Sequential of timm's Block or EvaBlock): it cannot be opened as a ViT. Build "
        f"yours of timm.models.vision_transformer.Block, or pass a name such as 'deit_tiny_patch16_224'."
    )


def find_blocks(module: nn.Module) -> list[nn.Module] | None:
    """The longest list of timm's blocks in a module; None if there is none."""
    found = [
        list(part.children())
        for part in module.modules()
        if isinstance(part, nn.ModuleList | nn.Sequential) and len(part) and all(map(is_timm_block, part.children()))
    ]
    return max(found, key=len, default=None)


@dataclass
class _Seen:
    """What ran behind the last block: modules with what they were handed."""

    residual: Tensor | None = None
    ropes: list[Tensor | None] = field(default_factory=list)
    masked: bool = False
    calls: list[tuple[nn.Module, Tensor]] = field(default_factory=list)


def open_traced(module: nn.Module, name: str) -> Opened:
    """The parts of a module that runs a stack of timm's blocks.

    Raises:
        ModelError: Patches, norm, head or pooling cannot be found; the message names what is missing.
    """
    blocks = find_blocks(module)
    assert blocks is not None
    patch = _patch_embedding(module, name)
    _require_one_stack(module, blocks, name)
    seen = _watch(module, blocks, _image(patch, module))
    if not isinstance(seen.residual, Tensor):
        raise ModelError(f"{name} does not run its last block in its forward pass: nothing can be read off it.")
    norm, fc_norm, head, handed = _tail(seen, name)
    n_tokens = seen.residual.shape[1]
    layout = _layout(patch, n_tokens, name)
    read = _pooling(norm(seen.residual) if norm else seen.residual, handed, layout, name)
    if read != (0,) and not any(hasattr(module, token) for token in ("cls_token", "class_token")):
        # nothing says that one of them is a class token
        layout = replace(layout, has_cls=False, n_registers=layout.n_prefix)
    _require_patches_behind(CapturedStem(module, blocks[0]), module, patch, layout, name)
    around = _surroundings(blocks, seen, name)
    opened = tuple(open_block(block, one) for block, one in zip(blocks, around, strict=True))
    readout = Readout(
        read, open_norm(norm or nn.Identity(), f"{name} norm"), open_norm(fc_norm or nn.Identity(), name), head
    )
    _require_one_width(opened, name)
    size = {"image": patch.img_size, "patch": patch.patch_size, "n_channels": patch.proj.in_channels}
    cfg = sizes_of(name, opened, layout, readout, **size)
    return Opened(cfg, CapturedStem(module, blocks[0]), opened, readout, tuple(blocks), module)


def _require_one_stack(module: nn.Module, blocks: list[nn.Module], name: str) -> None:
    """Sentences for blocks that stand outside the longest stack."""
    inside = {id(part) for block in blocks for part in block.modules()}
    outside = [part for part in module.modules() if is_timm_block(part) and id(part) not in inside]
    if outside:
        raise ModelError(
            f"{name} has {len(outside)} transformer blocks outside its longest stack of {len(blocks)}: put all of them "
            f"into one nn.ModuleList, in the order in which they run."
        )


def _require_patches_behind(stem: CapturedStem, module: nn.Module, patch: Any, layout: TokenLayout, name: str) -> None:
    """A sentence for tokens that stand in another order than prefix, then patches row by row."""
    image = _image(patch, module)
    other, size = image.clone(), tuple(int(side) for side in patch.patch_size)
    other[..., : size[0], : size[1]] += 1
    with torch.no_grad(), evaluating(module):
        moved = (stem.patches(image) - stem.patches(other)).abs().sum((0, 2)).nonzero().flatten().tolist()
    if moved != [layout.n_prefix]:
        raise ModelError(
            f"{name} hands its blocks the first patch at {moved}, but {layout.n_prefix} was wanted: class token and "
            f"registers stand in front of the patches, which follow row by row. Put its tokens into this order."
        )


def _patch_embedding(module: nn.Module, name: str) -> Any:
    """timm's `PatchEmbed`, or a convolution whose stride is its kernel."""
    for part in module.modules():
        if all(hasattr(part, wanted) for wanted in ("grid_size", "patch_size", "proj", "img_size")):
            return part
    raise ModelError(
        f"{name} has a stack of blocks but no patch embedding with a known grid (timm.layers.PatchEmbed, made with "
        f"img_size=): give it one, so that tokens have rows and columns."
    )


def _image(patch: Any, module: nn.Module) -> Tensor:
    like = next(module.parameters())
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, patch.proj.in_channels, *patch.img_size, generator=generator)
    return image.to(device=like.device, dtype=like.dtype)


def _watch(module: nn.Module, blocks: list[nn.Module], images: Tensor) -> _Seen:
    """One pass in evaluation mode, with norms and linear layers outside the blocks watched."""
    seen = _Seen()
    inside = {id(part) for block in blocks for part in block.modules()}
    outside = [part for part in module.modules() if id(part) not in inside]

    def handed(_module: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        given = dict(zip(("x", "rope", "attn_mask", "is_causal"), args, strict=False)) | options
        seen.ropes.append(given.get("rope"))
        seen.masked |= given.get("attn_mask") is not None or bool(given.get("is_causal"))

    def last(_module: nn.Module, _args: Any, out: Tensor) -> None:
        seen.residual = out

    def call(part: nn.Module, args: tuple[Tensor, ...], _out: Tensor) -> None:
        if seen.residual is not None:
            seen.calls.append((part, args[0]))

    with ExitStack() as stack, torch.no_grad(), evaluating(module):
        for block in blocks:
            stack.callback(block.register_forward_pre_hook(handed, with_kwargs=True).remove)
        stack.callback(blocks[-1].register_forward_hook(last).remove)
        for part in outside:
            if isinstance(part, nn.Linear) or "norm" in type(part).__name__.lower():
                stack.callback(part.register_forward_hook(call).remove)
        module(images)
    return seen


def _surroundings(blocks: list[nn.Module], seen: _Seen, name: str) -> list[Around]:
    """What each block was handed beside the residual: rotary positions are taken over, a mask is refused."""
    if seen.masked:
        raise ModelError(
            f"{name} hands its blocks an attention mask, which is not opened. Open one of timm's ViTs with "
            f"load_vit(module, attention_mask=...) instead."
        )
    found = []
    for place, (block, table) in enumerate(zip(blocks, seen.ropes, strict=True)):
        attn: Any = getattr(block, "attn", None)
        half = getattr(attn, "rotate_half", False)
        rope = None if table is None else prefixed_rope(table, attn.num_prefix_tokens, half)
        found.append(Around(f"{name} block {place}", rope))
    return found


def _tail(seen: _Seen, name: str) -> tuple[nn.Module | None, nn.Module | None, nn.Module, Tensor]:
    """The norm of all tokens, the norm of the pooled vector, the head, and what the tail's vector was handed."""
    norms = [(part, x) for part, x in seen.calls if not isinstance(part, nn.Linear)]
    linear = [(part, x) for part, x in seen.calls if isinstance(part, nn.Linear)]
    if len(linear) != 1:
        raise ModelError(
            f"{name} runs {len(linear)} linear layers behind its last block, but one head is wanted: "
            f"pass a module whose tail is norm, pooling, nn.Linear."
        )
    head, handed = linear[0]
    if handed.ndim != 2 or len(norms) > 2:
        raise ModelError(f"{name} does not end in norm, pooling and a head of one vector: its tail cannot be opened.")
    norm = next((part for part, x in norms if x.ndim == 3), None)
    fc_norm, pooled = next(((part, x) for part, x in norms if x.ndim == 2), (None, handed))
    return norm, fc_norm, head, pooled


def _layout(patch: Any, n_tokens: int, name: str) -> TokenLayout:
    rows, columns = (int(n) for n in patch.grid_size)
    n_prefix = n_tokens - rows * columns
    if n_prefix < 0:
        raise ModelError(f"{name} hands its blocks {n_tokens} tokens, fewer than its {rows} x {columns} patches.")
    return TokenLayout(n_prefix > 0, max(0, n_prefix - 1), (rows, columns))


def _pooling(normed: Tensor, handed: Tensor, layout: TokenLayout, name: str) -> tuple[int, ...]:
    """Which tokens were pooled into what the tail was handed."""
    n = layout.n_tokens
    for read in (range(1), range(layout.n_prefix, n), range(n)):
        pooled = normed[:, read.start : read.stop].mean(1)
        if torch.allclose(pooled, handed, atol=1e-5 * max(1.0, float(handed.abs().max()))):
            return tuple(read)
    raise ModelError(
        f"{name} pools its tokens in a way that is not known here: the first token, the average of the patches and the "
        f"average of all tokens are. Make the head read one of these."
    )


def _require_one_width(blocks: tuple[OpenBlock, ...], name: str) -> None:
    """A sentence for blocks that differ in their number of heads."""
    heads = sorted({block.n_heads for block in blocks})
    if len(heads) > 1:
        raise ModelError(f"{name} has blocks with different numbers of heads {heads}: not opened.")
