"""Families of timm's ViT architectures, for tables."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass


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


FAMILIES = (
    Family("tests of timm", ("test_vit*",), "test_vit3.r160_in1k", "tiny ones, for trying things out"),
    Family(
        "distilled DeiT",
        ("deit_*distilled*",),
        "deit_tiny_distilled_patch16_224.fb_in1k",
        "two readouts, averaged; the token group `dist`",
    ),
    Family("DeiT III", ("deit3_*",), "deit3_small_patch16_224.fb_in22k_ft_in1k", "LayerScale in the writes"),
    Family("DeiT", ("deit_*",), "deit_tiny_patch16_224.fb_in1k"),
    Family("SigLIP, average pooling", ("*siglip_gap*",), "vit_base_patch16_siglip_gap_224.webli"),
    Family(
        "SigLIP and SO-150M, map pooling",
        ("*siglip*", "*_map_256"),
        "vit_base_patch16_siglip_224.webli",
        "the pooling's heads and its MLP are nodes after the last block",
    ),
    Family(
        "EVA CLIP and EVA-02 CLIP",
        ("eva02_*clip*", "eva_*clip*"),
        "eva02_base_patch16_clip_224.merged2b",
        "EVA-02's have a norm across all heads before the projection: gradient methods only",
    ),
    Family(
        "TinyCLIP",
        ("vit_xsmall_*clip*", "vit_medium_*clip*", "vit_betwixt_*clip*"),
        "vit_medium_patch16_clip_224.tinyclip_yfcc15m",
        "a norm in front of the blocks",
    ),
    Family("CLIP", ("*clip*",), "vit_base_patch32_clip_quickgelu_224.openai", "a norm in front of the blocks"),
    Family(
        "DINOv3 and LingBot",
        ("*dinov3*", "*lingbot*"),
        "vit_small_patch16_dinov3.lvd1689m",
        "rotary positions, registers",
    ),
    Family("DINOv2 and TIPSv2", ("*dinov2*", "*tipsv2*"), "vit_small_patch14_reg4_dinov2.lvd142m", "registers"),
    Family("Sapiens 2", ("*sapiens2*",), "vit_base_patch16_sapiens2", "heads that share keys and values"),
    Family(
        "Perception Encoder, core",
        ("vit_pe_core*",),
        "vit_pe_core_tiny_patch16_384.fb",
        "rotary positions; map pooling with another number of heads",
    ),
    Family("Perception Encoder", ("vit_pe_*",), "vit_pe_spatial_tiny_patch16_512.fb", "rotary positions"),
    Family("EVA-02", ("eva02_*",), "eva02_tiny_patch14_224.mim_in22k", "rotary positions, SwiGLU"),
    Family("EVA", ("eva_*",), "eva_large_patch14_196.in22k_ft_in1k"),
    Family("rotary ViT", ("*_rope_*",), "vit_small_patch16_rope_mixed_224.naver_in1k", "rotary positions"),
    Family(
        "BEiT-3",
        ("beit3_*",),
        "beit3_base_patch16_224.in22k_ft_in1k",
        "a norm across all heads before the projection: gradient methods only",
    ),
    Family("AIMv2", ("aimv2_*",), "aimv2_large_patch14_224.apple_pt", "RMSNorm, SwiGLU"),
    Family("RADIO and InternViT", ("*radio*", "*intern*"), "vit_intern300m_patch14_448.ogvl_dist"),
    Family(
        "parallel ViT",
        ("*_xp_*", "*_pwee*", "*18x2*", "*36x1*"),
        "vit_small_patch16_18x2_224",
        "no edge between attention and MLP of one block where both read the same",
    ),
    Family("differential and post-norm ViT", ("*_dpwee*", "*_dwee*", "*_dlittle*", "*_rpn_*"), ""),
    Family("FlexiViT", ("flexivit_*",), "flexivit_small.300ep_in1k"),
    Family(
        "small ViTs of timm, with registers or average pooling",
        ("*so150m*", "*_gap_*"),
        "vit_little_patch16_reg4_gap_256.sbb_in1k",
    ),
    Family(
        "ViT",
        ("vit_*",),
        "vit_base_patch32_224.augreg_in21k_ft_in1k",
        "DINO and MAE are weights of it, such as `vit_small_patch16_224.dino`",
    ),
)


def family_of(name: str) -> Family:
    """The family of an architecture, by timm's name without the tag of the weights."""
    for family in FAMILIES:
        if any(fnmatch.fnmatch(name, pattern) for pattern in family.patterns):
            return family
    return FAMILIES[-1]
