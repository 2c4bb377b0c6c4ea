"""Tiny random models of other libraries, in every way that they are opened."""

import pytest
import torch
from vitcircuits.models.foreign import FOREIGN

_SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
_HF = {**_SIZES, "intermediate_size": 24, "image_size": 8, "patch_size": 4, "num_channels": 1, "num_labels": 5}
_DINO = {**_HF, "mlp_ratio": 2, "layerscale_value": 0.5}
_VIDEO = {**_SIZES, "intermediate_size": 24, "image_size": 16, "num_frames": 4, "tubelet_size": [2, 8, 8]}
_TEXT = {
    **_SIZES,
    "intermediate_size": 24,
    "vocab_size": 60,
    "eos_token_id": 59,
    "bos_token_id": 58,
    "pad_token_id": 59,
}
_CLIP = {"vision_config": {**_HF, "num_channels": 3}, "text_config": _TEXT, "projection_dim": 12}
HF = {  # class, its configuration, options
    "vit": ("ViTForImageClassification", "ViTConfig", {**_HF, "qkv_bias": False}),
    "vit-features": ("ViTModel", "ViTConfig", {**_HF, "hidden_act": "relu"}),
    "dinov2": ("Dinov2ForImageClassification", "Dinov2Config", _DINO),
    "dinov2-features": ("Dinov2Model", "Dinov2Config", {**_DINO, "use_swiglu_ffn": True}),
    "dinov2-registers": (
        "Dinov2WithRegistersForImageClassification",
        "Dinov2WithRegistersConfig",
        {**_DINO, "num_register_tokens": 2, "use_swiglu_ffn": True},
    ),
    "clip": ("CLIPModel", "CLIPConfig", _CLIP),
    "clip-tower": ("CLIPVisionModelWithProjection", "CLIPVisionConfig", {**_HF, "projection_dim": 12}),
    "clip-features": ("CLIPVisionModel", "CLIPVisionConfig", _HF),
    "clip-classes": ("CLIPForImageClassification", "CLIPConfig", {**_CLIP, "num_labels": 5}),
    "deit": ("DeiTForImageClassification", "DeiTConfig", _HF),
    "deit-teacher": ("DeiTForImageClassificationWithTeacher", "DeiTConfig", _HF),
    "deit-features": ("DeiTModel", "DeiTConfig", {**_HF, "qkv_bias": False}),
    "vivit": ("VivitForVideoClassification", "VivitConfig", {**_VIDEO, "num_labels": 5}),
    "vivit-features": ("VivitModel", "VivitConfig", {**_VIDEO, "num_channels": 1}),
}

_TOWER = {"layers": 2, "width": 16, "head_width": 8, "mlp_ratio": 2.0, "patch_size": 4, "image_size": 8}
OPEN_CLIP = {  # options of the image tower, of the model
    "open-clip": ({}, {"quick_gelu": True}),
    "open-clip-average": ({"pool_type": "avg", "final_ln_after_pool": True, "ls_init_value": 0.5}, {}),
    "open-clip-norms": ({"qk_norm": True, "scale_fc": True, "no_ln_pre": True, "patch_dropout": 0.5}, {}),
    "open-clip-timm": ({}, {"timm": "test_vit2"}),
    "open-clip-map": ({}, {"timm": "test_vit3"}),
}
WATCHED = tuple(kind for kind, one in FOREIGN.items() if one.library in ("torch", "torchvision", "vit_pytorch"))
KINDS = (*HF, *OPEN_CLIP, *WATCHED)


def _randomised(module, dtype, seed):
    module = module.to(dtype).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name == "logit_scale":
                parameter.fill_(2.0)
                continue
            around_one = ("norm" in name or "ln_" in name) and name.endswith("weight")
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator) + float(around_one))
    return module


def _make_hf(kind, options):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    model, config, own = HF[kind]
    return getattr(transformers, model)(getattr(transformers, config)(**{**own, **options}))


def _make_open_clip(kind, options):
    from vitcircuits.models.external import create_clip

    open_clip = pytest.importorskip("open_clip", reason="open_clip is not installed")
    own, model = OPEN_CLIP[kind]
    tower = {**_TOWER, **own, **options}
    if "timm" in model:
        pooled = {"timm_pool": "map" if kind == "open-clip-map" else "avg"}
        tower = {"timm_model_name": model["timm"], "timm_proj": "linear", **pooled, "image_size": 160}
    return create_clip(
        open_clip,
        "ViT-B-32",
        pretrained=False,
        embed_dim=12,
        vision_cfg=tower,
        text_cfg={"layers": 1, "width": 16, "heads": 2},
        quick_gelu=model.get("quick_gelu", False),
    )


def _make_watched(kind, options):
    pytest.importorskip(FOREIGN[kind].library, reason=f"{FOREIGN[kind].library} is not installed")
    return FOREIGN[kind].make(**options)


_MAKERS = ((HF, _make_hf), (OPEN_CLIP, _make_open_clip), (WATCHED, _make_watched))


@pytest.fixture(scope="session")
def foreign_module():
    """Makes a random module of another library by its kind: `foreign_module("vit", dtype=torch.float32)`."""

    def make(kind, *, dtype=torch.float64, seed=0, **options):
        make = next(make for kinds, make in _MAKERS if kind in kinds)
        return _randomised(make(kind, options), dtype, seed)

    return make


@pytest.fixture(scope="session")
def foreign_named(foreign_module):
    """An opened model of another library by its kind, made once and not to be changed."""
    from vitcircuits.models.load import load_vit

    made = {}

    def get(kind):
        if kind not in made:
            made[kind] = load_vit(foreign_module(kind), name=kind)
        return made[kind]

    return get


@pytest.fixture(scope="session", params=KINDS)
def foreign(request, foreign_named):
    """Each of the opened models of other libraries."""
    return foreign_named(request.param)
