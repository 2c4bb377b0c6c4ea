"""transformers' ViT and DINOv2: the logits are its own, whatever way it computes them."""

import copy

import pytest
import torch
from torch import nn
from vitcircuits.models.adapters.hf import open_layers
from vitcircuits.models.errors import ModelError
from vitcircuits.models.hooked import HookedViT

transformers = pytest.importorskip("transformers", reason="transformers is not installed")


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["vit", "dinov2", "dinov2-registers"])
def test_logits_are_transformers_own(foreign_module, images_for, kind, attention):
    module = foreign_module(kind, dtype=torch.float32, attn_implementation=attention)
    vit = HookedViT(module)
    images = images_for(vit, 4)
    with torch.no_grad():
        torch.testing.assert_close(vit(images), module(images).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["vit-features", "dinov2-features"])
def test_models_without_a_classifier_give_the_class_token_behind_the_norm(foreign_module, images_for, close, kind):
    module = foreign_module(kind)
    vit = HookedViT(module)
    images = images_for(vit)
    close(vit(images), module(images).last_hidden_state[:, 0].detach())
    assert vit.readout.kind == "features" and vit.cfg.n_classes == 16


def test_dinov2_reads_the_class_token_beside_the_mean_of_the_patches(foreign_module, images_for, close):
    module = foreign_module("dinov2-registers")
    vit = HookedViT(module)
    assert vit.cfg.pooling == "cls+average" and vit.cfg.tokens.n_registers == 2
    assert vit.cfg.read_tokens == (0, 3, 4, 5, 6)
    images = images_for(vit)
    hidden = module.dinov2_with_registers(images).last_hidden_state.detach()
    both = torch.cat([hidden[:, 0], hidden[:, 3:].mean(1)], -1)
    features = vit.with_readout(nn.Identity())
    close(features(images), both)
    assert features.cfg.n_classes == 32 and features.cfg.read_tokens == vit.cfg.read_tokens
    close(vit.with_readout(nn.Identity(), pool="cls")(images), hidden[:, 0])
    close(vit.with_readout(nn.Identity(), pool="patches")(images), hidden[:, 3:].mean(1))
    with pytest.raises(ModelError, match="vector of 32 numbers"):
        vit.with_readout(nn.Linear(16, 2))


def test_registers_are_not_read_by_the_logits(foreign_named):
    from vitcircuits.circuits import compile_graph

    graph = compile_graph(foreign_named("dinov2-registers"), tokens="role")
    into = {edge.destination.group for edge in map(graph.edge, range(len(graph))) if edge.destination.kind == "logits"}
    assert into == {"cls", "patch"}


@pytest.mark.parametrize("kind", ["dinov2", "dinov2-registers"])
def test_dinov2_positions_are_fitted_to_the_images(foreign_module, images_for, close, kind):
    module = foreign_module(kind)
    module.config.image_size = (12, 8)
    vit = HookedViT(module)
    assert vit.cfg.tokens.grid == (3, 2)
    images = images_for(vit)
    close(vit(images), module(images).logits.detach())


def test_a_layer_of_version_4_is_the_same_block(foreign_module):
    layer = foreign_module("vit").vit.layers[0]
    old, attention = nn.Module(), nn.Module()
    attention.attention, attention.output = nn.Module(), nn.Module()
    for name in ("query", "key", "value"):
        setattr(attention.attention, name, getattr(layer.attention, f"{name[0]}_proj"))
    attention.attention.num_attention_heads, attention.attention.scaling = 2, layer.attention.scaling
    attention.output.dense = layer.attention.o_proj
    old.attention, old.layernorm_before, old.layernorm_after = attention, layer.layernorm_before, layer.layernorm_after
    old.intermediate, old.output = nn.Module(), nn.Module()
    old.intermediate.dense, old.intermediate.intermediate_act_fn = layer.mlp.fc1, layer.mlp.activation_fn
    old.output.dense = layer.mlp.fc2
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    with torch.no_grad():
        wanted, got = (_run(open_layers([some], "vit")[0], x) for some in (layer, old))
        assert torch.equal(got, wanted) and torch.allclose(wanted, layer(x), rtol=0, atol=1e-9)


def _run(block, x):
    x = x + block.attn_write(block.attend(*block.read(block.norm1(x))))
    return x + block.mlp_write(x)


def test_a_layer_whose_parts_are_not_found_is_refused_by_naming_them(foreign_module):
    layer = copy.deepcopy(foreign_module("vit").vit.layers[0])
    layer.mlp.fc1 = None
    with pytest.raises(ModelError, match="has an MLP of kind ViTMLP whose layers are not found"):
        open_layers([layer], "vit")
    layer.attention = nn.Identity()
    with pytest.raises(ModelError, match=r"none of q_proj, attention\.query"):
        open_layers([layer], "vit")
    with pytest.raises(ModelError, match="has no blocks"):
        open_layers([], "vit")
