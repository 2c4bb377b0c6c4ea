"""Direct logit attribution adds up to the logit, with a constant that is computed another way here."""

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from vitcircuits.algorithms import direct_logit_attribution, exact_effects, logit_attribution
from vitcircuits.circuits import Ablation, Pairs, Task, compile_graph
from vitcircuits.circuits.tasks.metrics import Metric
from vitcircuits.models import load_vit, probe_readout
from vitcircuits.models.errors import TaskError
from vitcircuits.models.readouts import TextHead

VARIANTS = [{}, {"global_pool": "avg", "reg_tokens": 1}, {"global_pool": "avg", "fc_norm": False, "class_token": False}]


def make_vit(options):
    torch.manual_seed(5)
    module = VisionTransformer(
        img_size=8, patch_size=4, in_chans=1, num_classes=4, embed_dim=8, depth=2, num_heads=2, **options
    ).double()
    for parameter in module.parameters():
        parameter.data = torch.randn_like(parameter) * 0.4
    return load_vit(module)


def constant_by_hand(vit, images, target):
    """The head's bias, the final norm's bias, and attention's biases through the frozen norm."""
    module = vit.module
    norm = module.fc_norm if isinstance(module.norm, torch.nn.Identity) else module.norm
    with torch.no_grad():
        tokens = module.blocks(module._pos_embed(module.patch_embed(images)))
        read = tokens[:, list(vit.cfg.read_tokens)]
        pooled_first = norm is module.fc_norm
        seen = read.mean(1, keepdim=True) if pooled_first else read
        std = (seen.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt()
        bias = sum(block.attn.proj.bias for block in module.blocks)
        through = ((bias - bias.mean()) / std * norm.weight).mean(1)
        return (through + norm.bias) @ module.head.weight[target] + module.head.bias[target]


@pytest.mark.parametrize("options", VARIANTS)
def test_contributions_and_biases_add_up_to_the_logit(options):
    vit = make_vit(options)
    images = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    found = logit_attribution(vit, images, Metric("logit", (2,)))
    with torch.no_grad():
        logits = vit.module(images)[:, 2].numpy()
    constant = constant_by_hand(vit, images, 2).numpy()
    np.testing.assert_allclose(found.values.sum((1, 2)) + constant, logits, atol=1e-9)
    frame, rows = found.frame(), dict(found.table().rows)
    np.testing.assert_allclose(frame.contribution.sum() + rows["constant"].value, logits.mean(), atol=1e-9)
    for source, own in frame.groupby("source"):
        assert rows[source].value == pytest.approx(own.contribution.sum(), abs=1e-12)
    np.testing.assert_allclose(found.constant, constant, atol=1e-9)
    assert found.values.shape == (3, len(found.source_names), len(found.token_names))


def read_along_texts(vit, images):
    """Under text directions, and the affine map from the pooled vector to the logits at these images' lengths."""
    project = torch.nn.Linear(8, 6, dtype=torch.float64).requires_grad_(False)
    project.weight.copy_(torch.randn(6, 8))
    head = TextHead(project, torch.randn(4, 6, dtype=torch.float64), scale=30.0, bias=-2.0)
    with torch.no_grad():
        length = project(vit.with_readout(torch.nn.Identity())(images)).norm(dim=-1)
    unit = torch.nn.functional.normalize(head.embeddings, dim=-1) * 30 / length[:, None, None]  # image, class, dim
    return vit.with_readout(head), unit @ project.weight, unit @ project.bias - 2


def read_by_a_probe(kind):
    """The same under a probe."""

    def read(vit, images):
        found = probe_readout(vit, torch.randn(12, 1, 8, 8, dtype=torch.float64), torch.arange(12) % 4, kind=kind)
        head = found.readout.head
        return found, head.weight.expand(len(images), 4, 8), head.bias.expand(len(images), 4)

    return read


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("read_out", [read_along_texts, read_by_a_probe("means"), read_by_a_probe("ridge")])
def test_contributions_and_biases_add_up_under_a_readout_in_place_of_the_head(options, read_out):
    vit = make_vit(options)
    images = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    read, weight, bias = read_out(vit, images)
    found = logit_attribution(read, images, Metric("logit_difference", (2,), (0,)))
    difference, rest = weight[:, 2] - weight[:, 0], bias[:, 2] - bias[:, 0]
    own = vit.module.head
    with torch.no_grad():  # the pooled vector's part that belongs to no source, by the own head one direction at a time
        own.weight.copy_(torch.zeros_like(own.weight))
        own.bias.zero_()
        pooled = []
        for direction in torch.eye(8, dtype=torch.float64):
            own.weight[0] = direction
            pooled.append(constant_by_hand(vit, images, 0))
        logits = read(images)
    constant = (torch.stack(pooled, -1) * difference).sum(-1) + rest
    np.testing.assert_allclose(found.constant, constant.numpy(), atol=1e-9)
    np.testing.assert_allclose(
        found.values.sum((1, 2)) + constant.numpy(), (logits[:, 2] - logits[:, 0]).numpy(), atol=1e-9
    )


@pytest.mark.parametrize("options", VARIANTS)
def test_scores_under_zero_ablation_are_the_plain_contributions(options):
    vit = make_vit(options)
    images = torch.randn(8, 1, 8, 8, dtype=torch.float64)
    task = Task(
        vit,
        Metric("logit_difference", (0,), (1,)),
        Pairs(images[:2], images[2:4]),
        Pairs(images[4:6], images[6:]),
        Ablation("zero"),
    )
    graph = compile_graph(vit, tokens="each")
    scores = direct_logit_attribution(graph, task)
    table = logit_attribution(vit, images[:2], task.metric).values.mean(0)  # source, token
    dense = graph.logits.unpack(scores.values)[0]  # group, source
    np.testing.assert_allclose(dense, table.T, atol=1e-9)
    assert (scores.values[: graph.logits.start] == 0).all()


def test_it_is_exact_where_the_final_norm_is_an_identity():
    torch.manual_seed(6)
    module = VisionTransformer(
        img_size=8, patch_size=4, in_chans=1, num_classes=4, embed_dim=8, depth=2, num_heads=2, final_norm=False
    ).double()
    vit = load_vit(module)
    images = torch.randn(8, 1, 8, 8, dtype=torch.float64)
    task = Task(
        vit, Metric("logit_difference", (0,), (1,)), Pairs(images[:2], images[2:4]), Pairs(images[4:6], images[6:])
    )
    graph = compile_graph(vit)
    direct = direct_logit_attribution(graph, task).values[graph.logits.start :]
    exact = exact_effects(graph, task).values[graph.logits.start :]
    np.testing.assert_allclose(direct, exact, atol=1e-9)


def residual_biases(module):
    """What the blocks' attention writes whatever it reads."""
    scales = [getattr(block, "ls1", torch.nn.Identity()) for block in module.blocks]
    return sum(scale(block.attn.proj.bias) for scale, block in zip(scales, module.blocks, strict=True))


def through_the_pool(module, images, target):
    """By timm's own weights: a part of each token's residual -> what it adds to a logit, and what nothing adds."""
    pool, seen = module.attn_pool, []
    handle = module.norm.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    module(images)
    handle.remove()
    first = 0 if getattr(module, "pool_include_prefix", True) else module.num_prefix_tokens
    x, norm, (heads, width) = seen[0][:, first:], module.norm, (pool.num_heads, pool.head_dim)
    inverse = (x.var(-1, unbiased=False, keepdim=True) + norm.eps).rsqrt()
    weights, biases = pool.kv.weight.chunk(2), None if pool.kv.bias is None else pool.kv.bias.chunk(2)
    keys = (norm(x) @ weights[0].T + (0 if biases is None else biases[0])).unflatten(-1, (heads, width))
    query = pool.q(pool.latent[0, 0]).view(heads, width)
    pattern = (torch.einsum("hd,bthd->bht", query, keys) * pool.scale).softmax(-1)
    reads = module.head.weight[target] @ pool.proj.weight  # head x width

    def adds(part, shift=0.0):  # (pair, token, model) -> (pair, token)
        normed = (part - part.mean(-1, keepdim=True)) * inverse * norm.weight + shift * norm.bias
        values = normed @ weights[1].T + (0 if biases is None else shift * biases[1])
        return torch.einsum("hd,bht,bthd->bt", reads.view(heads, width), pattern, values.unflatten(-1, (heads, width)))

    constant = module.head.bias[target] + module.head.weight[target] @ pool.proj.bias
    constant = constant + adds(residual_biases(module).expand_as(x), shift=1.0).sum(1)
    return first, adds, constant


@pytest.mark.parametrize("name", ["map", "map-prefix", "map-other-heads"])
@torch.no_grad()
def test_with_the_pools_pattern_frozen_every_source_reaches_the_logit(architecture_named, images_for, name):
    vit, images = architecture_named(name), images_for(architecture_named(name), 3)
    found = logit_attribution(vit, images, Metric("logit", (2,)))
    first, adds, constant = through_the_pool(vit.module, images, 2)
    np.testing.assert_allclose(found.constant, constant.numpy(), rtol=0, atol=1e-9)
    _, cache = vit.run_with_cache(images)
    for source, hook in (("input", "blocks.0.hook_resid_pre"), ("m1", "blocks.1.hook_mlp_out")):
        wanted = adds(cache[hook][:, first:-1]).numpy()
        got = found.values[:, found.source_names.index(source)]
        np.testing.assert_allclose(got[:, first:-1], wanted, rtol=0, atol=1e-9)
        assert (got[:, :first] == 0).all() and (got[:, -1] == 0).all() and np.abs(wanted).max() > 1e-3
    heads = [place for place, node in enumerate(found.source_names) if node.startswith("a2.")]
    assert len(heads) == vit.cfg.heads_of(2) and (found.values[:, heads] == 0).all()


def test_left_with_the_pools_heads_sources_before_them_add_nothing(architecture_named, images_for):
    vit, images = architecture_named("map"), images_for(architecture_named("map"), 3)
    shared = logit_attribution(vit, images, Metric("logit", (2,)))
    left = logit_attribution(vit, images, Metric("logit", (2,)), through_pool=False)
    before = left.source_names.index("a2.h0")
    assert (left.values[:, :before] == 0).all() and np.abs(left.values[:, before:]).max() > 1e-3
    np.testing.assert_allclose(left.values[:, -1], shared.values[:, -1], atol=1e-12)
    np.testing.assert_allclose(left.values.sum((1, 2)) + left.constant, left.metric, atol=1e-9)


@torch.no_grad()
def test_of_a_distilled_model_both_heads_are_attributed(architecture_named, images_for):
    vit, images = architecture_named("distilled"), images_for(architecture_named("distilled"), 3)
    found, module, seen = logit_attribution(vit, images, Metric("logit", (2,))), vit.module, []
    handle = module.norm.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    logits = vit.module(images)[:, 2].numpy()
    handle.remove()
    inverse = (seen[0][:, :2].var(-1, unbiased=False, keepdim=True) + module.norm.eps).rsqrt()
    bias = residual_biases(module)
    normed = (bias - bias.mean()) * inverse * module.norm.weight + module.norm.bias
    constant = (module.head(normed[:, 0])[:, 2] + module.head_dist(normed[:, 1])[:, 2]) / 2
    np.testing.assert_allclose(found.constant, constant.numpy(), rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.values.sum((1, 2)) + constant.numpy(), logits, rtol=0, atol=1e-9)
    assert np.abs(found.values[:, :, 2:]).max() == 0 and (np.abs(found.values[:, 0, :2]).max(0) > 1e-3).all()


def test_what_is_not_a_logit_is_refused():
    with pytest.raises(TaskError, match="not linear"):
        logit_attribution(make_vit({}), torch.zeros(1, 1, 8, 8), Metric("probability", (0,)))
