"""Shape annotations checked at run time, and tiny random ViTs that differ in every option a ViT can have.

A law is said once, over `case`: models x graphs x ablations (`square`), judged by the masked run, the oracle.
"""

from . import checked

checked.install("vitcircuits")  # before anything imports vitcircuits

import os  # noqa: E402
from dataclasses import dataclass, replace  # noqa: E402
from functools import cached_property, partial  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from timm.layers import Attention, RmsNorm  # noqa: E402
from timm.models.vision_transformer import (  # noqa: E402
    ParallelScalingBlock,
    ParallelThingsBlock,
    VisionTransformer,
)

from . import joined  # noqa: E402

# One thread: the tensors are tiny, and threads that wait for one another on a busy machine took far longer. .ci/run
# asks for two as well: sums over two threads end in other bits. numpy's threads follow OMP_NUM_THREADS.
torch.set_num_threads(int(os.environ.get("VITCIRCUITS_TEST_THREADS", "1")))

LONG = (  # files that take longest; with -n 2 --dist loadfile one that came last would run alone at the end
    "test_strangers_path.py",
    "cli/test_main.py",
    "test_devices.py",
    "algorithms/pruning/test_masks.py",
    "algorithms/test_laws.py",
    "cli/test_sweep.py",
    "cli/test_processes.py",
    "cli/test_bad_inputs.py",
    "algorithms/test_discovery.py",
)


def pytest_configure(config):
    if hasattr(config.option, "loadscopereorder"):  # of pytest-xdist: files with many tests first
        config.option.loadscopereorder = False


def pytest_runtest_setup(item):
    checked.begin((item.path, getattr(item, "originalname", item.name)))


def pytest_collection_modifyitems(items):
    root = Path(__file__).parent
    turns = {root / name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: turns.get(item.path, len(LONG)))


TOKENS = ("all", "role", "each")
PORTS = ("qkv", "head", "block")
ABLATIONS = (  # fields of an Ablation
    {"kind": "partner"},
    {"kind": "another", "seed": 3},
    {"kind": "mean"},
    {"kind": "mean", "over": "tokens"},
    {"kind": "zero"},
    {"kind": "noise", "seed": 3},
)

_FLOAT32 = {"dtype": torch.float32}
VARIANTS = {  # chosen so that every option stands beside others; float32 first, where `square` spares it zero ablation
    "float32": {"init_values": 1.0, "reg_tokens": 1, "qk_norm": True, **_FLOAT32},
    "float32-average": {"global_pool": "avg", "class_token": False, "norm": "rms", "pre_norm": True, **_FLOAT32},
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


def object_masks(vit, n):
    """Where the object is in n pairs: at the first patch, at all, nowhere, at all but the first, ..."""
    patches, rows = vit.cfg.tokens.patches, torch.zeros(4, 2, vit.cfg.tokens.n_tokens, dtype=torch.bool)
    rows[0, 0, patches.start] = rows[1, 1, patches] = True
    rows[3, 0, patches.start + 1 : patches.stop] = rows[3, 1, patches.start + 2] = True
    return rows.repeat(-(-n // 4), 1, 1)[:n]


@pytest.fixture
def one_thread():
    """As processes that a test starts have: bits are equal only where the same is computed."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def planted_objects():
    """Where the object is in n pairs of a planted model: in the upper patches, in every other patch, nowhere, ..."""

    def make(vit, n):
        patches, rows = vit.cfg.tokens.patches, torch.zeros(3, 2, vit.cfg.tokens.n_tokens, dtype=torch.bool)
        rows[0, 0, patches.start : (patches.start + patches.stop) // 2] = rows[
            1, 1, patches.start : patches.stop : 2
        ] = True
        return rows.repeat(-(-n // 3), 1, 1)[:n]

    return make


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


def square(models):
    """(model, tokens, ports, ablation), three cells a model.

    Each model meets every choice of tokens and of ports; 18 models or more meet every graph under every ablation.
    """
    return [
        (name, tokens, PORTS[(place + row) % 3], ABLATIONS[(place // 3 + 3 * (row == 1)) % 6])
        for place, name in enumerate(models)
        for row, tokens in enumerate(TOKENS)
    ]


MODELS = (*VARIANTS, *ARCHITECTURES, "causal")
SQUARE = square(MODELS)
SOLE = [SQUARE[3 * place + place // 3 % 3] for place in range(len(MODELS))]
_GRIDDED = ("registers-layerscale", "no-class", "average", "plain", "map-prefix", "distilled")
GRIDS = [(name, "grid:2x1", PORTS[row % 3], ABLATIONS[row]) for row, name in enumerate(_GRIDDED)]
STANDARD = [*SQUARE[: 3 * len(VARIANTS)], *GRIDS[:4]]


@dataclass(frozen=True)
class Case:
    """A task on one model with one graph, and what the oracle, the masked run, says of it."""

    graph: Any
    task: Any

    @property
    def vit(self):
        return self.task.vit

    @property
    def pairs(self):
        return self.task.discovery

    @cached_property
    def baseline(self):
        from vitcircuits.circuits.baseline import make_baseline

        return make_baseline(self.vit, self.task.ablation, self.task.reference)

    @cached_property
    def ends(self):
        """The residual in front of block 0, and what every source carries on removed edges."""
        with torch.no_grad(), self.vit.borrowed():
            return self.vit.embed(self.pairs.clean), self.baseline(self.pairs)

    def mask(self, share, seed=0):
        """Edges kept by chance."""
        return np.random.default_rng(seed).random(len(self.graph)) < share

    @cached_property
    def of_pairs(self):
        """Over masks, each pair by itself: a case whose groups are fixed, and which of this graph's edges it has."""
        from vitcircuits.circuits.graph import Graph
        from vitcircuits.circuits.tokens import TokenGroups, group_tokens

        roles = group_tokens(self.vit.cfg.tokens, "role")
        found = []
        for pair, objects in enumerate(self.pairs.objects.any(1).tolist()):
            at = [roles.names[group] or "patch" for group in roles.of_token]
            shown = zip(at, objects, strict=True)
            at = [("object" if inside else "background") if name == "patch" else name for name, inside in shown]
            names = tuple(name for name in self.graph.groups.names if name in at)
            names = names if len(names) > 1 else (*names, "nothing")  # one group would have no edges inside heads
            own = TokenGroups("by hand", names, tuple(map(names.index, at)))
            alone = replace(self.task, discovery=self.pairs.select([pair]), reference_images=self.task.reference)
            case = Case(Graph(self.vit.cfg, own, self.graph.ports), alone)
            found.append((case, np.array([self.graph.index(name) for name in case.graph.edge_names()])))
        return found

    def some(self, n, seed=0):
        """At most n edges, drawn by chance."""
        return np.random.default_rng(seed).permutation(len(self.graph))[:n]

    def logits(self, mask):
        """Of the masked run, (pair, class)."""
        from vitcircuits.circuits.run import run_pairs

        return run_pairs(self.vit, self.graph, mask, self.pairs, self.baseline)

    @cached_property
    def clean(self):
        """Logits of the whole model, (pair, class)."""
        return self.vit(self.pairs.clean).detach()

    def metric(self, mask):
        """Of the masked run, (pair,)."""
        return self.task.metric(self.logits(mask), self.clean).double().numpy()

    def flipped(self, mask, edge):
        """The metric where an edge (or several) is kept instead of removed, or removed instead of kept."""
        mask = mask.copy()
        mask[edge] = ~mask[edge]
        return self.metric(mask)

    def derivative(self, gates, loss):
        """Logits of the masked run under gates in [0, 1], (edge,), and the derivative of a loss at every gate.

        What no open gate connects with the input carries its ablated value.
        """
        from vitcircuits.circuits.masked_run import MaskWeights, masked_logits_from
        from vitcircuits.circuits.reach import reach

        soft = torch.as_tensor(gates).to(self.vit.dtype).clone().requires_grad_()
        found = reach(self.graph, np.asarray(gates) > 0)
        with self.vit.borrowed():
            weights = replace(MaskWeights.from_tensor(self.graph, soft), alive=found.alive)
            logits = masked_logits_from(self.vit, weights, *self.ends)
            (gradient,) = torch.autograd.grad(loss(logits), soft)
        return logits.detach(), gradient.double().numpy()


@pytest.fixture(scope="session")
def case_of(variant_named, architecture_named):
    """Makes a case, once: `case_of(name, tokens, ports, {"kind": "mean"}, n=2, metric="kl")`."""
    from vitcircuits.circuits import Ablation, Pairs, Task, compile_graph
    from vitcircuits.circuits.tasks.metrics import Metric

    made = {}

    def get(name, tokens="all", ports="qkv", ablation=ABLATIONS[0], *, n=2, metric="logit_difference"):
        key = (name, tokens, ports, tuple(ablation.items()), n, metric)
        if key not in made:
            vit = (variant_named if name in VARIANTS else architecture_named)(name)
            pairs = [make_images(vit, n, seed=seed) for seed in range(4)]
            task = Task(vit, Metric(metric, (0, 1), (2,)), Pairs(*pairs[:2]), Pairs(*pairs[2:]), Ablation(**ablation))
            if tokens == "mask":
                objects = object_masks(vit, n)
                if ablation["kind"] != "partner":  # then objects are the clean image's own
                    objects = objects.any(1, keepdim=True).expand(-1, 2, -1)
                task = replace(task, discovery=replace(task.discovery, objects=objects))
            made[key] = Case(compile_graph(vit, tokens=tokens, ports=ports), task)
        return made[key]

    return get


def _id(cell):
    return "-".join((*cell[:3], *map(str, cell[3].values())))


@pytest.fixture(scope="session", params=[*SQUARE, *GRIDS], ids=_id)
def case(request, case_of):
    """Every model, with three graphs and ablations of its own."""
    return case_of(*request.param)


@pytest.fixture(scope="session", params=[*SOLE, *GRIDS[:2]], ids=_id)
def sole_case(request, case_of):
    """Every model, with one graph and ablation of its own, each of them several times: for what takes longer."""
    return case_of(*request.param)


@pytest.fixture(scope="session", params=STANDARD, ids=_id)
def standard_case(request, case_of):
    """Those cases whose blocks are timm's standard ones."""
    return case_of(*request.param)


@pytest.fixture
def own_case(request, variant, case_of):
    """Every model whose blocks are timm's standard ones, with one graph and ablation.

    Together they meet every choice of tokens with every choice of ports, every ablation, and a grid.
    """
    turn = request.node.callspec.indices["variant"]
    tokens, ports = TOKENS[turn % 3], PORTS[turn // 3 % 3]
    tokens = "grid:2x1" if variant.cfg.name == "registers-layerscale" else tokens  # whose turn another has, too
    kind = ABLATIONS[turn % len(ABLATIONS)] if variant.dtype == torch.float64 else ABLATIONS[0]
    return case_of(variant.cfg.name, tokens, ports, kind)


@pytest.fixture(scope="session", params=MODELS)
def model(request, variant_named, architecture_named):
    """Each of the opened variants and unusual architectures."""
    return (variant_named if request.param in VARIANTS else architecture_named)(request.param)


@pytest.fixture(scope="session", params=[name for name in MODELS if name not in JOINT])
def separable(request, variant_named, architecture_named):
    """Each of them whose heads can be computed one at a time."""
    return (variant_named if request.param in VARIANTS else architecture_named)(request.param)


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


@pytest.fixture(scope="session")
def on_processes(tmp_path_factory):
    """Calls a function of a test file on several joined processes: what it gives on each, by place."""
    with joined.started() as call:
        yield lambda count, function, *args: call(tmp_path_factory.mktemp("joined"), count, function, *args)
