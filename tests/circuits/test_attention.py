"""Attention in one call is what timm's own unfused attention computes, and what each kind's formula says, by loops."""

import pytest
import timm
import torch
from timm.layers import AttentionPoolLatent
from torch.overrides import TorchFunctionMode
from vitcircuits.circuits import attention_maps, figure_data, head_tour
from vitcircuits.circuits.attention import KINDS
from vitcircuits.circuits.partners.attention_masks import patch_attention
from vitcircuits.models import load_vit
from vitcircuits.models.errors import TaskError
from vitcircuits.models.foreign import FOREIGN

SMALL = {"depth": 2, "num_classes": 5}
REAL = {
    "DeiT": ("deit_tiny_patch16_224", {"img_size": 64}),
    "CLIP": ("vit_base_patch32_clip_224", {"img_size": 96, "embed_dim": 64, "num_heads": 4}),
    "DINOv2 with registers": ("vit_small_patch14_reg4_dinov2", {"img_size": (56, 84), "embed_dim": 96}),
    "SigLIP with map pooling": ("vit_base_patch16_siglip_224", {"img_size": 64, "embed_dim": 64, "num_heads": 4}),
    "EVA with rope": ("eva02_tiny_patch14_224", {"img_size": 56}),
}


class _Softmaxes(TorchFunctionMode):
    """Writes down what enters and leaves every softmax, in the order in which they are computed."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        if getattr(function, "__name__", "") == "softmax":
            self.seen.append((args[0].clone(), found.clone()))
        return found


def _random(module, spread=0.1):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            around_one = "norm" in name and name.endswith("weight")
            parameter.copy_(spread * torch.randn(parameter.shape, generator=generator) + float(around_one))
    return module.eval()


@pytest.mark.parametrize("name", REAL)
def test_attention_of_five_architectures_is_that_of_timms_unfused_forward(name):
    model, sizes = REAL[name]
    module = _random(timm.create_model(model, **SMALL, **sizes))
    images = torch.randn(3, 3, *module.patch_embed.img_size, generator=torch.Generator().manual_seed(1))
    fused = [part for part in module.modules() if getattr(part, "fused_attn", False)]
    for part in fused:
        part.fused_attn = False
    with torch.no_grad(), _Softmaxes() as timms:
        module(images)
    for part in fused:
        part.fused_attn = True
    vit = load_vit(module, name=name)
    pools = [part for part in module.modules() if isinstance(part, AttentionPoolLatent)]
    assert len(timms.seen) == vit.cfg.n_layers == SMALL["depth"] + len(pools) and fused
    found = attention_maps(vit, images)
    patterns, scores = _arrays(found), _arrays(attention_maps(vit, images, kind="score"))
    for layer, (score, pattern) in enumerate(timms.seen):
        assert pattern.shape[1] == vit.cfg.heads_of(layer)
        for head in range(pattern.shape[1]):
            at = f"a{layer}.h{head}"
            torch.testing.assert_close(patterns[at], pattern[:, head].double(), atol=1e-5, rtol=0)
            torch.testing.assert_close(scores[at], score[:, head].double(), atol=1e-5, rtol=1e-5)
    last = f"a{vit.cfg.n_layers - 1}.h0"
    assert found.queries[last] == (("pool",) if pools else found.tokens)
    assert all(part.fused_attn for part in fused)


CASES = [
    "registers-layerscale",
    "no-class-registers",
    "map-prefix",
    "map-other-heads",
    "distilled",
    "eva",
    "shared-keys",
]
CASES += ["rope-mixed", "gated", "joint-norm", "parallel"]


@pytest.fixture(params=CASES)
def vit(request, variant_named, architecture_named):
    return (variant_named if request.param in CASES[:2] else architecture_named)(request.param)


def _arrays(maps):
    return {name: torch.from_numpy(array.copy()).double() for name, array in maps.items()}


def test_softmax_of_scores_is_the_pattern_with_forbidden_tokens_at_minus_infinity(vit, images_for, close):
    images = images_for(vit)
    patterns, scores = (_arrays(attention_maps(vit, images, kind=kind)) for kind in ("pattern", "score"))
    for name, score in scores.items():
        torch.testing.assert_close(score.softmax(-1), patterns[name], atol=1e-6, rtol=1e-5)
        assert bool((torch.isneginf(score) == (patterns[name] == 0)).all())


KINDS_OF_OTHERS = (  # of each library, and each way to project and to pool
    "torchvision",
    "encoder-token-first",
    "vit-pytorch-mean",
    "simple-vit",
    "own-fused",
    "own-separate",
    "own-timm-blocks",
    "DeiTForImageClassificationWithTeacher",
    "bridge-vit",
)


@pytest.mark.parametrize("kind", KINDS_OF_OTHERS)
def test_models_of_other_libraries_and_ones_own_have_all_kinds_and_a_tour(kind, images_for, close):
    pytest.importorskip(FOREIGN[kind].library, reason=f"{FOREIGN[kind].library} is not installed")
    vit = load_vit(FOREIGN[kind].small().eval(), name=kind)
    images = images_for(vit, 2)
    found = {one: _arrays(attention_maps(vit, images, kind=one)) for one in KINDS}
    for name, pattern in found["pattern"].items():
        torch.testing.assert_close(found["score"][name].softmax(-1), pattern, atol=1e-6, rtol=1e-5)
        close(pattern.sum(-1).float(), torch.ones(pattern.shape[:-1]))
        assert bool((found["value_weighted"][name] >= 0).all())
    tour = head_tour(vit, images)
    assert bool(tour.full) == (vit.cfg.tokens.frames == 1) and tour.to_html().count("<td>") == len(tour.heads)


def test_a_causal_mask_forbids_what_comes_later(tiny_module, images_for):
    vit = load_vit(tiny_module(), attention_mask="causal")
    score = torch.from_numpy(attention_maps(vit, images_for(vit), kind="score")["a0.h1"].copy())
    later = torch.ones(score.shape[1:]).triu(1).bool()
    assert bool(torch.isneginf(score[:, later]).all()) and bool(torch.isfinite(score[:, ~later]).all())


def _written(vit, images):
    """||what head h of layer l writes at i because of j||, by running each block on one value at a time."""
    cfg, end, found = vit.cfg, vit.cfg.tokens.patches.stop, {}
    with torch.no_grad(), vit.borrowed():
        residual = vit.embed(images)
        for layer, block in enumerate(vit.blocks):
            q, k, v = block.read(block.norm1(residual))
            pattern = block.pattern(q, k)
            rows = [cfg.tokens.n_tokens - 1] if cfg.is_pool(layer) else range(end)
            inverse, heads = None, block.n_heads
            if block.joint is not None:
                inverse = block.joint.norm.statistics((pattern @ v).transpose(1, 2).flatten(2))[1]
            for head in range(cfg.heads_of(layer)):
                lengths = torch.zeros(len(images), len(rows), end)
                for at, i in enumerate(rows):
                    for j in range(end):
                        alone = torch.zeros(len(images), heads, v.shape[-1], dtype=v.dtype)
                        alone[:, head] = pattern[:, head, i, j, None] * v[:, head, j]
                        flat = alone.flatten(1)
                        if inverse is not None:
                            flat = (flat - flat.mean(-1, keepdim=True)) * inverse[:, i] * block.joint.norm.weight
                        if block.gated:
                            gate = torch.zeros_like(alone)
                            gate[:, head] = q[:, head, i, block.d_head :].sigmoid()
                            flat = flat * gate.flatten(1)
                        lengths[:, at, j] = (flat @ block.writes.weight()).norm(dim=-1)
                found[f"a{layer}.h{head}"] = lengths
            residual = block.run(residual)
    return found


def test_value_weighted_is_the_length_of_what_is_written_by_a_plain_loop(vit, images_for):
    images = images_for(vit, 2)
    maps = _arrays(attention_maps(vit, images, kind="value_weighted"))
    for name, wanted in _written(vit, images).items():
        torch.testing.assert_close(maps[name], wanted.double(), atol=1e-6, rtol=1e-5)


def test_rollout_multiplies_layers_with_the_residual_beside_them_by_a_plain_loop(vit, images_for):
    images, cfg = images_for(vit), vit.cfg
    patterns, rollouts = _arrays(attention_maps(vit, images)), _arrays(attention_maps(vit, images, kind="rollout"))
    end = cfg.tokens.patches.stop
    for image in range(len(images)):
        product = torch.eye(end, dtype=torch.float64)
        for layer in range(cfg.n_layers):
            mean = sum(patterns[f"a{layer}.h{head}"][image] for head in range(cfg.heads_of(layer))) / cfg.heads_of(
                layer
            )
            step = mean if cfg.is_pool(layer) else (mean + torch.eye(end)) / 2
            rolled = torch.zeros(len(step), end, dtype=torch.float64)
            for i in range(len(step)):
                for j in range(end):
                    rolled[i] += step[i, j] * product[j]
            product = rolled
            torch.testing.assert_close(rollouts[f"rollout@{layer}"][image], product, atol=1e-6, rtol=0)
    for rows in rollouts.values():
        torch.testing.assert_close(rows.sum(-1), torch.ones(rows.shape[:-1], dtype=torch.float64))


@pytest.mark.parametrize("kind", KINDS)
def test_choices_and_batches_change_no_value(vit, images_for, kind, close):
    images = images_for(vit, 4)
    whole = attention_maps(vit, images, kind=kind)
    last = vit.cfg.n_layers - 1
    some = attention_maps(vit, images, kind=kind, layers=-1)
    single = attention_maps(vit, images, kind=kind, memory=60_000)  # an image at a time
    assert [name for name in whole if name.startswith((f"a{last}.", f"rollout@{last}"))] == list(some)
    rows = attention_maps(vit, images, kind=kind, queries="readout")
    assert all((some[name] == whole[name]).all() for name in some)
    for name in whole:
        close(torch.from_numpy(single[name].copy()), torch.from_numpy(whole[name].copy()))
        assert rows[name].shape == (4, 1, len(whole.tokens)) == (4, len(rows.queries[name]), len(rows.tokens))
        close(torch.from_numpy(rows[name][:, 0].copy()), torch.from_numpy(whole.readout(name)))
        close(torch.from_numpy(rows.readout(name)), torch.from_numpy(whole.readout(name)))
    if kind != "rollout":
        name = list(whole)[-1]
        one = attention_maps(vit, images, kind=kind, heads=name)
        assert list(one) == [name] and (one[name] == whole[name]).all()


def test_a_map_lies_over_the_image_by_rows_and_columns(variant_named, images_for):
    vit = variant_named("registers-layerscale")
    maps = attention_maps(vit, images_for(vit))
    rows, columns = vit.cfg.tokens.grid
    row = maps["a1.h0"][1, maps.tokens.index("r1c0")]
    over = maps.on_image("a1.h0", 1, "r1c0")
    assert over.shape == (rows, columns)
    assert all(over[r, c] == row[maps.tokens.index(f"r{r}c{c}")] for r in range(rows) for c in range(columns))
    assert (maps.on_image("a1.h0", 2) == maps.on_image("a1.h0", 2, "cls")).all()
    with pytest.raises(TaskError, match="no query 'r9c9'"):
        maps.on_image("a1.h0", 0, "r9c9")


def test_it_is_a_read_only_mapping_that_shows_itself(variant_named, images_for):
    vit = variant_named("plain")
    maps = attention_maps(vit, images_for(vit))
    assert list(maps) == ["a0.h0", "a0.h1", "a1.h0", "a1.h1"] and len(maps) == 4 and "a1.h1" in maps
    assert maps == maps and maps != attention_maps(vit, images_for(vit)) and hash(maps)
    assert "4 heads, 3 images, 5 tokens" in repr(maps) and "a1.h1" in maps._repr_html_()
    with pytest.raises(ValueError, match="read-only"):
        maps["a0.h0"][:] = 0
    with pytest.raises(KeyError, match="not among the 4 maps"):
        maps["a1.h7"]
    frame = maps.frame().set_index("head")
    mean = maps["a1.h0"][:, 0].mean(0)
    assert frame.loc["a1.h0", "strongest"] == maps.tokens[int(mean.argmax())]
    assert frame.loc["a1.h0", "largest"] == pytest.approx(mean.max(), rel=1e-6)
    assert frame.loc["a1.h0", "on_patches"] == pytest.approx(mean[1:].sum(), rel=1e-6)
    assert frame["spread"].min() >= 1 and frame["spread"].max() <= 5


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"kind": "patern"}, "Did you mean 'pattern'"),
        ({"queries": "cls"}, "'each' or 'readout'"),
        ({"heads": "a1.h7"}, "no head 'a1.h7'.*a0.h0 to a1.h1.*Did you mean 'a1.h1'"),
        ({"heads": []}, "no head was asked for"),
        ({"layers": [0, 2]}, "no layer 2: pass 0 to 1"),
        ({"layers": 0, "heads": "a0.h0"}, "pass one of them"),
        ({"kind": "rollout", "heads": "a0.h0"}, "averages over heads"),
        ({"memory": 100}, 'queries="readout"'),
    ],
)
def test_what_cannot_be_is_refused_by_the_nearest_that_can(variant_named, images_for, choice, said):
    vit = variant_named("plain")
    with pytest.raises(TaskError, match=said):
        attention_maps(vit, images_for(vit), **choice)


@pytest.mark.parametrize("method", ["rollout", "last"])
def test_masks_from_attention_are_its_rows(vit, images_for, close, method):
    images, last = images_for(vit), vit.cfg.n_layers - 1
    kind = "rollout" if method == "rollout" else "pattern"
    maps = attention_maps(vit, images, kind=kind, layers=last)
    rows = sum(torch.from_numpy(maps.readout(name)).double() for name in maps) / len(maps)
    share = 0.5 if method == "rollout" and vit.cfg.is_pool(last) else 1.0  # the pool keeps half of its empty self there
    patches = share * rows[:, maps.n_prefix :].view(-1, *maps.grid)
    torch.testing.assert_close(patch_attention(vit, images, method), patches, atol=1e-6, rtol=1e-5)


def test_exhibits_hold_the_same_rows(variant_named, images_for):
    from vitcircuits.circuits import Pairs, Task
    from vitcircuits.circuits.tasks.metrics import Metric

    vit = variant_named("registers-layerscale")
    images = 3 * images_for(vit, 8)
    task = Task(vit, Metric("logit", (0,)), Pairs(images[:2], images[2:4]), Pairs(images[4:6], images[6:]))
    found, maps = figure_data.gather(task), attention_maps(vit, images[4:6])
    for name, array in maps.items():
        layer, head = (int(part[1:]) for part in name.split("."))
        assert (found.attention[:, layer, head] == array[:, 0]).all()
        assert (found.patterns[0, layer, head] == array[0].astype("float16")).all()
