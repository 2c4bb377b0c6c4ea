"""timm's ViT architectures: which there are, what each looks like, and a small one of each to check.

An architecture is timm's name without the tag of the weights. What it looks like is read off a module without storage
(PyTorch's meta device). A small one has two blocks, random weights in which every part matters, and the smallest image
that two patches a side make.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from .adapters.watching import draw_weights
from .config import VitConfig
from .errors import ModelError

MODULES = ("vision_transformer", "deit", "eva")
"""timm's modules whose architectures are looked at."""

DEPTH = 2


def architectures(pattern: str = "*") -> tuple[str, ...]:
    """Names of timm's ViT architectures that a pattern with * matches."""
    import timm

    names = [name for module in MODULES for name in timm.list_models(module=module)]
    return tuple(name for name in names if fnmatch.fnmatch(name, pattern))


def describe(name: str) -> VitConfig:
    """Sizes of an architecture as timm has it, without making its weights.

    Raises:
        ModelError: It cannot be opened; the message says why.
    """
    from .adapters.find import open_module

    return open_module(_without_storage(name), name).cfg


def small_module(name: str) -> nn.Module:
    """An architecture with two blocks, random weights and the smallest image it accepts, ready to run.

    Its weights are drawn from a fixed seed, and are large enough for every part to matter: LayerScale, biases and norms
    too. The global random state is left as it was.
    """
    from timm.models.eva import Eva

    whole: Any = _without_storage(name)
    patch = whole.patch_embed.patch_size
    options: dict[str, Any] = {"depth": DEPTH, "img_size": tuple(2 * int(side) for side in patch)}
    shared = [getattr(getattr(block, "attn", None), "num_kv_heads", None) for block in whole.blocks]
    if isinstance(whole, Eva) and None not in shared:
        options["num_kv_heads"] = (shared[0], shared[-1])
    module = _without_storage(name, **options).to_empty(device="cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for part in module.modules():
            if hasattr(part, "init_non_persistent_buffers"):
                part.init_non_persistent_buffers()  # type: ignore[operator]
    draw_weights(module)
    return module.eval().requires_grad_(False)


def _without_storage(name: str, **options: Any) -> nn.Module:
    import timm

    with torch.device("meta"), _Unfilled():
        return timm.create_model(name, **options)


class _Unfilled(TorchFunctionMode):
    """Skips what fills tensors with first values, which takes most of the time and does nothing without storage."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        filling = getattr(func, "__name__", "") in _FILLING and args and args[0].is_meta
        return args[0] if filling else func(*args, **(kwargs or {}))


_FILLING = ("normal_", "uniform_", "clamp_", "erfinv_", "mul_", "add_", "fill_", "zero_")


def refusal(name: str) -> str:
    """Why an architecture is not opened; empty if it is."""
    try:
        describe(name)
    except ModelError as error:
        return str(error)
    return ""


@dataclass(frozen=True)
class Family:
    """Architectures that belong together.

    Args:
        name: What they are called.
        patterns: Of their names; an architecture belongs to the first family that has it.
        example: The name of one with weights; without a tag where timm has none; empty where none is opened.
        special: What is special about how they are opened; empty for nothing.
    """

    name: str
    patterns: tuple[str, ...]
    example: str
    special: str = ""


_FAMILIES = """
tests of timm | test_vit* | test_vit3.r160_in1k | tiny ones, for trying things out
distilled DeiT | deit_*distilled* | deit_tiny_distilled_patch16_224.fb_in1k | two readouts, averaged; the token group `dist`
DeiT III | deit3_* | deit3_small_patch16_224.fb_in22k_ft_in1k | LayerScale in the writes
DeiT | deit_* | deit_tiny_patch16_224.fb_in1k |
SigLIP, average pooling | *siglip_gap* | vit_base_patch16_siglip_gap_224.webli |
SigLIP and SO-150M, map pooling | *siglip* *_map_256 | vit_base_patch16_siglip_224.webli | the pooling's heads and its MLP are nodes after the last block
EVA CLIP and EVA-02 CLIP | eva02_*clip* eva_*clip* | eva02_base_patch16_clip_224.merged2b | EVA-02's have a norm across all heads before the projection: gradient methods only
TinyCLIP | vit_xsmall_*clip* vit_medium_*clip* vit_betwixt_*clip* | vit_medium_patch16_clip_224.tinyclip_yfcc15m | a norm in front of the blocks
CLIP | *clip* | vit_base_patch32_clip_quickgelu_224.openai | a norm in front of the blocks
DINOv3 and LingBot | *dinov3* *lingbot* | vit_small_patch16_dinov3.lvd1689m | rotary positions, registers
DINOv2 and TIPSv2 | *dinov2* *tipsv2* | vit_small_patch14_reg4_dinov2.lvd142m | registers
Sapiens 2 | *sapiens2* | vit_base_patch16_sapiens2 | heads that share keys and values
Perception Encoder, core | vit_pe_core* | vit_pe_core_tiny_patch16_384.fb | rotary positions; map pooling with another number of heads
Perception Encoder | vit_pe_* | vit_pe_spatial_tiny_patch16_512.fb | rotary positions
EVA-02 | eva02_* | eva02_tiny_patch14_224.mim_in22k | rotary positions, SwiGLU
EVA | eva_* | eva_large_patch14_196.in22k_ft_in1k |
rotary ViT | *_rope_* | vit_small_patch16_rope_mixed_224.naver_in1k | rotary positions
BEiT-3 | beit3_* | beit3_base_patch16_224.in22k_ft_in1k | a norm across all heads before the projection: gradient methods only
AIMv2 | aimv2_* | aimv2_large_patch14_224.apple_pt | RMSNorm, SwiGLU
RADIO and InternViT | *radio* *intern* | vit_intern300m_patch14_448.ogvl_dist |
parallel ViT | *_xp_* *_pwee* *18x2* *36x1* | vit_small_patch16_18x2_224 | no edge between attention and MLP of one block where both read the same
differential and post-norm ViT | *_dpwee* *_dwee* *_dlittle* *_rpn_* |  |
FlexiViT | flexivit_* | flexivit_small.300ep_in1k |
small ViTs of timm, with registers or average pooling | *so150m* *_gap_* | vit_little_patch16_reg4_gap_256.sbb_in1k |
ViT | vit_* | vit_base_patch32_224.augreg_in21k_ft_in1k | DINO and MAE are weights of it, such as `vit_small_patch16_224.dino`
"""  # noqa: E501 (a table: name, patterns, example, what is special)

FAMILIES = tuple(
    Family(name.strip(), tuple(patterns.split()), example.strip(), special.strip())
    for name, patterns, example, special in (line.split("|") for line in _FAMILIES.strip().splitlines())
)


def family_of(name: str) -> Family:
    """The family of an architecture, by timm's name without the tag of the weights."""
    for family in FAMILIES:
        if any(fnmatch.fnmatch(name, pattern) for pattern in family.patterns):
            return family
    return FAMILIES[-1]
