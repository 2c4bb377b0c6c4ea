"""Readouts: one token, an average, two heads; another head in place of the model's own, over one shared module."""

import dataclasses

import pytest
import timm
import torch
from torch import nn
from vitcircuits.models import load_vit, probe_readout
from vitcircuits.models.errors import ModelError
from vitcircuits.models.hooked import HookedViT
from vitcircuits.models.norms import open_norm
from vitcircuits.models.readouts import Readout, TextHead


def text_head(vit, n=3, **options):
    """Random directions in the space that a linear map projects into."""
    generator = torch.Generator().manual_seed(2)
    project = nn.Linear(vit.cfg.d_model, 7, dtype=vit.dtype).requires_grad_(False)
    project.weight.copy_(torch.randn(project.weight.shape, generator=generator))
    embeddings = torch.randn(n, 7, generator=generator, dtype=vit.dtype)
    return TextHead(project, embeddings, **{"scale": 20.0, **options})


def test_a_distilled_readout_is_timms(close):
    module = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=4, depth=1, img_size=32).eval()
    identity = open_norm(nn.Identity(), "fc_norm")
    readout = Readout((0, 1), open_norm(module.norm, "norm"), identity, module.head, second_head=module.head_dist)
    images = torch.randn(2, 3, 32, 32)
    residuals = []
    module.blocks[-1].register_forward_hook(lambda block, args, out: residuals.append(out))
    with torch.no_grad():
        wanted = module(images)
        close(readout.logits(residuals[0]), wanted)
        close(readout(readout.select(residuals[0]), freeze_norm=True), wanted)
        features = dataclasses.replace(readout, head=nn.Identity(), second_head=None)
        close(features.logits(residuals[0]), module.forward_head(module.norm(residuals[0]), pre_logits=True))


def test_cosines_are_scaled_and_shifted(tiny_vit, images_for, close):
    vit = tiny_vit()
    head = text_head(vit, bias=-3.0)
    images = images_for(vit)
    read = vit.with_readout(head, ("a", "b", "c"))
    features = head.project(vit.with_readout(nn.Identity())(images))
    cosine = torch.cosine_similarity(features[:, None], head.embeddings[None], dim=-1)
    close(read(images), (20 * cosine - 3).detach())


def test_a_frozen_text_readout_is_linear_and_has_the_same_values(tiny_vit, images_for, close):
    vit = tiny_vit(global_pool="avg")
    read = vit.with_readout(text_head(vit)).readout
    seen = read.select(vit.run_blocks(vit.embed(images_for(vit)))).detach().requires_grad_()
    logits = read(seen, freeze_norm=True)
    close(logits.detach(), read(seen).detach())
    for wanted in logits.unbind(-1):  # of a linear map, the gradient times the input is the output less the constant
        (gradient,) = torch.autograd.grad(wanted.sum(), seen, retain_graph=True)
        with torch.no_grad():
            norm = vit.module.fc_norm
            mean = seen.mean(1)
            scaled = (mean - mean.mean(-1, keepdim=True)) / (
                mean.var(-1, unbiased=False, keepdim=True) + norm.eps
            ).sqrt()
            image = read.head.project(scaled * norm.weight + norm.bias)
            constant = read.head.project(norm.bias) / image.norm(dim=-1, keepdim=True) @ read.head.embeddings.T * 20
        column = [torch.equal(wanted, each) for each in logits.unbind(-1)].index(True)
        close((gradient * seen).sum((1, 2)).detach() + constant[:, column], wanted.detach())
        (full,) = torch.autograd.grad(read(seen)[:, column].sum(), seen)
        assert float((full - gradient).abs().max()) > 1e-3  # what is frozen does matter


def test_another_head_shares_the_module_and_leaves_the_first_as_it_was(tiny_vit, images_for):
    vit = tiny_vit()
    images = images_for(vit)
    before, digest = vit(images), vit.digest()
    head = nn.Linear(16, 3, dtype=vit.dtype)
    read = vit.with_readout(head, ("a", "b", "c"))
    assert read.module is vit.module and read.blocks is vit.blocks and read.readout.head is head
    assert read.cfg.n_classes == 3 and read.class_names == ("a", "b", "c") and read(images).shape == (3, 3)
    assert read.cfg == dataclasses.replace(vit.cfg, n_classes=3)
    assert torch.equal(vit(images), before) and vit.digest() == digest != read.digest()
    assert head.weight.requires_grad and read(images).requires_grad is False
    again = read.with_readout(nn.Identity())
    assert again.own_readout is vit.readout and again.cfg.n_classes == 16 and again.readout.kind == "features"


def test_a_head_given_at_once_comes_after_the_comparison_with_the_original(tiny_module, images_for, close):
    module = tiny_module()
    head = nn.Linear(16, 2, dtype=torch.float64)
    vit = HookedViT(module, head=head, labels=("a", "b"))
    assert vit.parity.max_difference <= vit.parity.tolerance
    features = module.forward_head(module.forward_features(images_for(vit)), pre_logits=True)
    close(vit(images_for(vit)), head(features).detach())


@pytest.mark.parametrize("pool", ["own", "cls", "patches"])
def test_pooled_tokens_are_those_that_are_named(variant, images_for, close, pool):
    layout = variant.cfg.tokens
    if pool == "cls" and not layout.has_cls:
        with pytest.raises(ModelError, match='pool="patches"'):
            variant.with_readout(nn.Identity(), pool=pool)
        return
    read = variant.with_readout(nn.Identity(), pool=pool)
    module, images = variant.module, images_for(variant)
    with torch.no_grad():
        normed = module.forward_features(images)
        wanted = {
            "own": lambda: module.forward_head(normed, pre_logits=True),
            "cls": lambda: module.fc_norm(normed[:, 0]),
            "patches": lambda: module.fc_norm(normed[:, layout.n_prefix :].mean(1)),
        }[pool]()
    close(read(images), wanted)
    close(read.finish(read.embed(images)).detach(), wanted)
    close(read.run_with_cache(images, [])[0].detach(), wanted)
    assert read.cfg.read_tokens == read.readout.tokens


@pytest.mark.parametrize("name", ["vit_small_patch16_224.dino", "vit_small_patch14_reg4_dinov2.lvd142m"])
def test_a_model_without_a_head_has_features_and_takes_a_probe(name, close):
    vit = load_vit(name, pretrained=False, depth=1, img_size=28 if "14" in name else 32)
    images = torch.randn(6, 3, *vit.cfg.image_size)
    assert vit.readout.kind == "features" and vit.cfg.n_classes == vit.cfg.d_model
    close(vit(images), vit.module(images).detach())
    read = probe_readout(vit, images, torch.arange(6) % 2, classes=("a", "b"))
    assert read.cfg.n_classes == 2 and read(images).shape == (6, 2)


def test_a_new_head_on_a_distilled_model_reads_the_mean_of_both_tokens(close):
    vit = load_vit("deit_tiny_distilled_patch16_224", pretrained=False, depth=1, img_size=32)
    images = torch.randn(2, 3, 32, 32)
    read = vit.with_readout(nn.Identity())
    close(read(images), vit.module.forward_head(vit.module.forward_features(images), pre_logits=True).detach())
    assert (read.cfg.pooling, read.cfg.read_tokens, vit.cfg.pooling) == ("average", (0, 1), "distilled")
    close(vit.with_readout(nn.Identity(), pool="cls")(images), vit.module.forward_features(images)[:, 0].detach())


def test_a_new_head_on_map_pooling_reads_what_was_pooled(close):
    vit = load_vit("test_vit3", pretrained=False)
    images = torch.randn(2, 3, *vit.cfg.image_size)
    read = vit.with_readout(nn.Identity())
    close(read(images), vit.module.forward_head(vit.module.forward_features(images), pre_logits=True).detach())
    assert read.cfg.pooling == "map"
    with pytest.raises(ModelError, match="part of its graph"):
        vit.with_readout(nn.Identity(), pool="patches")


def test_a_head_of_another_type_is_copied_and_the_models_own_is_shared(tiny_vit):
    vit = tiny_vit()
    head = TextHead(vit.readout.head, torch.randn(3, 5))
    read = vit.with_readout(head)
    assert read.readout.head is not head and read.readout.head.embeddings.dtype == torch.float64
    assert read.readout.head.project is vit.readout.head and head.embeddings.dtype == torch.float32


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda vit: vit.with_readout(nn.Linear(9, 3)), "does not take the vector of 16"),
        (lambda vit: vit.with_readout(nn.Linear(16, 3), ("a",)), "one name per logit"),
        (lambda vit: vit.with_readout(nn.Linear(16, 3), pool="mean"), "'own', 'cls' or 'patches'"),
        (lambda vit: vit.with_readout(nn.Flatten(0)), "one logit per class"),
        (lambda vit: vit.with_readout(_broken(nn.Linear(16, 3))), "NaN or infinity in 'weight'"),
        (lambda vit: TextHead(nn.Identity(), torch.zeros(2, 3)), "length 0"),
        (lambda vit: TextHead(nn.Linear(16, 4), torch.ones(2, 3)), "3 dimensions"),
    ],
)
def test_heads_that_do_not_fit_are_refused(tiny_vit, make, said):
    with pytest.raises(ModelError, match=said):
        make(tiny_vit())


def _broken(linear):
    linear.weight.data[0, 0] = torch.nan
    return linear


def test_what_a_readout_is(tiny_vit):
    vit = tiny_vit()
    assert vit.readout.kind == "classes" and not vit.readout.info
    assert vit.with_readout(nn.Linear(16, 3, bias=False)).readout.kind == "embedding"
    assert vit.with_readout(nn.Linear(16, 2, bias=False), ("a", "b")).readout.kind == "classes"
    info = vit.with_readout(text_head(vit), ("a", "b", "c")).readout.info
    assert (info["kind"], info["classes"], info["pool"]) == ("text", ["a", "b", "c"], "own")
    assert len(info["sha256"]) == 64
