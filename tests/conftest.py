"""Shape annotations checked at run time, and tiny random ViTs that differ in every option a ViT can have."""

from jaxtyping import install_import_hook

install_import_hook("vitcircuits", "beartype.beartype")  # before anything imports vitcircuits

import os  # noqa: E402
from functools import partial  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402
from timm.layers import Attention, RmsNorm  # noqa: E402
from timm.models.vision_transformer import (  # noqa: E402
    ParallelScalingBlock,
    ParallelThingsBlock,
    VisionTransformer,
)

# One thread: the tensors are tiny, and threads that wait for one another on a busy machine took far longer. .ci/run
# asks for two as well: sums over two threads end in other bits. numpy's threads follow OMP_NUM_THREADS.
torch.set_num_threads(int(os.environ.get("VITCIRCUITS_TEST_THREADS", "1")))

TOKENS = ("all", "role", "each")
PORTS = ("qkv", "head", "block")

_FLOAT32 = {"dtype": torch.float32}
VARIANTS = {  # chosen so that every option stands beside others
    "plain": {},
    "registers-layerscale": {"reg_tokens": 2, "init_values": 1.0, "in_chans": 3},
    "qknorm-rms": {"qk_norm": True, "norm": "rms", "qkv_bias": False},
    "average": {"global_pool": "avg", "fc_norm": True},
    "average-tokennorm": {"global_pool": "avg", "fc_norm": False, "reg_tokens": 1, "pre_norm": True},
    "no-class": {"class_token": False, "global_pool": "avg", "init_values": 1.0, "qk_norm": True},
    "no-class-registers": {
        "class_token": False,
        "global_pool": "avg",
        "reg_tokens": 1,
        "norm": "rms",
        "fc_norm": False,
        "qkv_bias": False,
    },
    "prenorm-rms-layerscale": {"pre_norm": True, "norm": "rms", "init_values": 1.0, "depth": 3},
    "token-fcnorm": {"fc_norm": True, "final_norm": False, "qkv_bias": False, "pre_norm": True},
    "prefix-pooled": {"global_pool": "avg", "pool_include_prefix": True, "reg_tokens": 1, "qk_norm": True},
    "no-projection-bias": {"proj_bias": False, "no_embed_class": True, "reg_tokens": 1, "in_chans": 3},
    "float32": {"init_values": 1.0, "reg_tokens": 1, "qk_norm": True, **_FLOAT32},
    "float32-average": {"global_pool": "avg", "class_token": False, "norm": "rms", "pre_norm": True, **_FLOAT32},
}


def make_module(*, norm="layer", dtype=torch.float64, seed=0, **options):
    """A timm ViT of 8 x 8 images in 2 x 2 patches, with weights large enough for every part to matter."""
    sizes = {"img_size": 8, "patch_size": 4, "in_chans": 1, "num_classes": 5}
    widths = {"embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0}
    norms = {"norm_layer": RmsNorm} if norm == "rms" else {}
    module = VisionTransformer(**{**sizes, **widths, **norms, **options}).to(dtype).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            around_one = name.endswith("gamma") or (parameter.ndim == 1 and name.endswith("weight"))
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator) + float(around_one))
    return module


def _eva(**options):
    from timm.models.eva import Eva

    sizes = {"img_size": 8, "patch_size": 4, "in_chans": 1, "num_classes": 5, "embed_dim": 16, "depth": 2}
    return Eva(**{**sizes, "num_heads": 2, "mlp_ratio": 2.0, "use_abs_pos_emb": True, **options})


def _vit(kind=None, **options):
    sizes = {"img_size": 8, "patch_size": 4, "in_chans": 1, "num_classes": 5, "embed_dim": 16, "depth": 2}
    return (kind or VisionTransformer)(**{**sizes, "num_heads": 2, "mlp_ratio": 2.0, **options})


def _attention_only():
    from vitcircuits.models.mlps import drop_mlps

    return drop_mlps(_vit())


def _distilled():
    from timm.models.deit import VisionTransformerDistilled

    return _vit(VisionTransformerDistilled)


class _Gated(Attention):
    def __init__(self, *sizes, **options):
        super().__init__(*sizes, **options, gated=True)


_ROPE = {"use_rot_pos_emb": True, "num_reg_tokens": 1}
ARCHITECTURES = {  # blocks and readouts that are built in another way than timm's standard ones
    "map": lambda: _vit(global_pool="map", class_token=False, qkv_bias=False),
    "map-prefix": lambda: _vit(global_pool="map", pool_include_prefix=True, reg_tokens=1, init_values=0.5),
    "map-other-heads": lambda: _eva(global_pool="map", attn_pool_num_heads=4, **_ROPE),
    "distilled": _distilled,
    "parallel": lambda: _vit(block_fn=ParallelScalingBlock, init_values=0.5),
    "parallel-fused": lambda: _vit(
        block_fn=partial(ParallelScalingBlock, fuse_out_proj=True), qkv_bias=False, qk_norm=True, global_pool="avg"
    ),
    "things": lambda: _vit(block_fn=partial(ParallelThingsBlock, num_parallel=2), init_values=0.5),
    "eva": lambda: _eva(init_values=0.5, swiglu_mlp=True, scale_mlp=True, **_ROPE),
    "eva-separate": lambda: _eva(qkv_fused=False, swiglu_mlp=True, rope_rotate_half=True, global_pool="token", **_ROPE),
    "rope-mixed": lambda: _eva(rope_type="mixed", attn_type="rope", qk_norm=True, no_embed_class=True, **_ROPE),
    "shared-keys": lambda: _eva(attn_type="rope", qkv_fused=False, num_kv_heads=1, rope_type="dinov3", **_ROPE),
    "gated": lambda: _vit(attn_layer=_Gated),
    "joint-norm": lambda: _vit(scale_attn_norm=True),
    "attention-only": _attention_only,
}
JOINT = ("joint-norm",)


def make_architecture(name, seed=0):
    """A random module of one architecture, in float64."""
    module = ARCHITECTURES[name]().double().eval()
    generator = torch.Generator().manual_seed(seed + len(name))
    with torch.no_grad():
        for key, parameter in module.named_parameters():
            around_one = "norm" in key and key.endswith("weight")
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator) + float(around_one))
    return module


def make_images(vit, n=3, *, seed=0):
    """Random images that fit a model."""
    cfg = vit.cfg
    generator = torch.Generator().manual_seed(1000 + seed)
    return torch.randn(n, cfg.n_channels, *cfg.image_size, generator=generator, dtype=torch.float64).to(vit.dtype)


@pytest.fixture(scope="session")
def tiny_module():
    """Makes a fresh timm module: `tiny_module(qk_norm=True)`."""
    return make_module


@pytest.fixture(scope="session")
def tiny_vit():
    """Makes a fresh opened ViT: `tiny_vit(qk_norm=True)`."""
    from vitcircuits.models.load import load_vit

    return lambda **options: load_vit(make_module(**options), name="tiny")


@pytest.fixture(scope="session")
def images_for():
    """Makes random images for a model: `images_for(vit, 3, seed=1)`."""
    return make_images


@pytest.fixture(scope="session")
def variant_named():
    """An opened variant by name, made once and not to be changed."""
    from vitcircuits.models.load import load_vit

    made = {}

    def get(name):
        if name not in made:
            made[name] = load_vit(make_module(**VARIANTS[name], seed=len(name)), name=name)
        return made[name]

    return get


@pytest.fixture(scope="session", params=VARIANTS)
def variant(request, variant_named):
    """Each of the opened variants."""
    return variant_named(request.param)


@pytest.fixture(scope="session")
def architecture_named():
    """An opened model of an unusual architecture by name, made once and not to be changed; `causal` is a masked one."""
    from vitcircuits.models.hooked import HookedViT

    made = {}

    def get(name):
        if name not in made:
            if name == "causal":
                module = make_module(global_pool="avg", class_token=False, fc_norm=True)
                made[name] = HookedViT(module, name=name, attention_mask="causal")
            else:
                made[name] = HookedViT(make_architecture(name), name=name)
        return made[name]

    return get


@pytest.fixture(scope="session", params=[*ARCHITECTURES, "causal"])
def architecture(request, architecture_named):
    """Each of the opened unusual architectures."""
    return architecture_named(request.param)


@pytest.fixture(scope="session", params=[*(name for name in ARCHITECTURES if name not in JOINT), "causal"])
def separable(request, architecture_named):
    """Each of them whose heads can be computed one at a time."""
    return architecture_named(request.param)


@pytest.fixture(scope="session", params=TOKENS)
def tokens(request):
    """Each choice of token groups."""
    return request.param


@pytest.fixture(scope="session", params=PORTS)
def ports(request):
    """Each choice of ports."""
    return request.param


def _close(got, wanted):
    """Equal at the tolerance of the design's laws: 1e-9 in float64, 1e-4 in float32, times the largest value."""
    factor = 1e-9 if wanted.dtype == torch.float64 else 1e-4
    tolerance = factor * max(1.0, float(wanted.abs().max()))
    difference = float((got - wanted).detach().abs().max())
    assert got.shape == wanted.shape and got.dtype == wanted.dtype
    assert difference <= tolerance, f"differs by {difference:.2e}, more than {tolerance:.2e}"


@pytest.fixture(scope="session")
def close():
    """Asserts that two tensors are equal at the laws' tolerance."""
    return _close


@pytest.fixture
def unchecked():
    """Run-time type checks switched off, to see the library's own sentence for what they would stop before it."""
    from jaxtyping import config

    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)
