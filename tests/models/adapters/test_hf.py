"""transformers' ViTs: `ViT...` and `Dinov2...`, CLIP's image tower, and ViViT's clips as images."""

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from vitcircuits.algorithms import eap_ig
from vitcircuits.circuits import Circuit, Pairs, Task, compile_graph, run_circuit
from vitcircuits.circuits.figure_data import gather
from vitcircuits.circuits.tasks.metrics import Metric
from vitcircuits.models import clips_to_images, given_tokens, images_to_clips, load_vit, text_readout
from vitcircuits.models.adapters.hf import open_layers
from vitcircuits.models.errors import DataError, ModelError
from vitcircuits.models.hooked import HookedViT

pytest.importorskip("transformers", reason="transformers is not installed")


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


TEXTS = ["a cat", "a dog", "a traffic light"]
IDS = torch.tensor([[58, 1, 4, 59, 59], [58, 1, 5, 59, 59], [58, 1, 6, 7, 59]])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("hidden_act", ["quick_gelu", "gelu"])
def test_logits_are_logits_per_image(foreign_module, images_for, attention, hidden_act):
    vision = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    vision = {**vision, "image_size": 8, "patch_size": 4, "hidden_act": hidden_act}
    module = foreign_module("clip", dtype=torch.float32, vision_config=vision, attn_implementation=attention)
    vit = text_readout(HookedViT(module), dict(zip(TEXTS, TEXTS, strict=True)), tokenizer=given_tokens(TEXTS, IDS))
    images = images_for(vit, 4)
    with torch.no_grad():
        wanted = module(pixel_values=images, input_ids=IDS).logits_per_image
        torch.testing.assert_close(vit(images), wanted, atol=1e-4, rtol=0)
    assert vit.labels == tuple(TEXTS) and vit.readout.kind == "text" and float(wanted.std()) > 0.1


def test_towers_by_themselves_give_what_transformers_gives(foreign_module, images_for, close):
    for kind, field, said in (
        ("clip-tower", "image_embeds", "embedding"),
        ("clip-features", "pooler_output", "features"),
        ("clip-classes", "logits", "classes"),
    ):
        module = foreign_module(kind)
        vit = HookedViT(module)
        images = images_for(vit)
        close(vit(images), getattr(module(pixel_values=images), field).detach())
        assert vit.readout.kind == said


def test_the_classifier_reads_the_patches_without_a_norm(foreign_named):
    vit = foreign_named("clip-classes")
    assert vit.cfg.pooling == "average" and vit.cfg.read_tokens == (1, 2, 3, 4) and not vit.readout.norm.scales


def test_a_module_needs_a_tokenizer_and_ids_need_their_texts(foreign_module):
    vit = HookedViT(foreign_module("clip", dtype=torch.float32))
    with pytest.raises(ModelError, match="which tokenizer belongs to it: pass tokenizer="):
        text_readout(vit, TEXTS)
    with pytest.raises(ModelError, match="no ids were given for the text 'a photo of a a cat"):
        text_readout(vit, TEXTS, tokenizer=given_tokens(TEXTS, IDS))
    with pytest.raises(ModelError, match="3 rows of ids for 2 texts"):
        given_tokens(TEXTS[:2], IDS)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_logits_of_clips_are_transformers_own(foreign_module, attention):
    module = foreign_module("vivit", dtype=torch.float32, attn_implementation=attention)
    vit = HookedViT(module)
    clips = torch.randn(3, 4, 3, 16, 16)
    with torch.no_grad():
        wanted = module(clips).logits
        torch.testing.assert_close(vit(clips_to_images(clips)), wanted, atol=1e-4, rtol=0)
    assert float(wanted.std()) > 0.1
    assert vit.cfg.n_channels == 12 and vit.cfg.clip_frames == 4 and vit.cfg.image_size == (16, 16)


def test_without_a_classifier_it_gives_the_class_token(foreign_module, close):
    module = foreign_module("vivit-features")
    vit, clips = HookedViT(module), torch.randn(2, 4, 1, 16, 16, dtype=torch.float64)
    close(vit(clips_to_images(clips)), module(clips).last_hidden_state[:, 0].detach())


def test_tokens_are_tubelets_named_by_frame_row_and_column(foreign_named, images_for):
    vit = foreign_named("vivit")
    names = vit.cfg.tokens.token_names()
    assert names == ("cls", *(f"f{f}r{r}c{c}" for f in range(2) for r in range(2) for c in range(2)))
    images = images_for(vit, 1)
    with torch.no_grad(), vit.borrowed():
        before = vit.embed(images)
        clip = images_to_clips(images, 4).clone()
        clip[0, 3, 1, 2, 9] += 1  # the second tubelet's last frame, first row, second column
        moved = (vit.embed(clips_to_images(clip)) != before).any(-1)[0]
    assert [name for name, changed in zip(names, moved.tolist(), strict=True) if changed] == ["f1r0c1"]


def test_groups_by_frame_carry_a_task_to_a_picture(foreign_named, images_for, close, tmp_path):
    vit = foreign_named("vivit")
    graph = compile_graph(vit, tokens="frame")
    assert graph.groups.names == ("cls", "frame0", "frame1")
    pairs = [images_for(vit, 2, seed=seed) for seed in range(4)]
    task = Task(vit, Metric("logit_difference", (0,), (2,)), Pairs(*pairs[:2]), Pairs(*pairs[2:]))
    full = np.ones(len(graph), dtype=bool)
    close(run_circuit(vit, Circuit(graph, full), *pairs[:2]), vit(pairs[0]))
    close(run_circuit(vit, Circuit(graph, ~full), *pairs[:2]), vit(pairs[1]))
    circuit = eap_ig(graph, task, steps=3).top(len(graph) // 2, by="abs_mean")
    assert any("frame1" in name for name in circuit.edge_names())
    exhibit = gather(task, n=1)
    assert exhibit.clean.shape == (1, 16, 16, 3)
    for name in ("circuit.html", "circuit.svg"):
        circuit.draw(tmp_path / name, exhibit=exhibit)
    assert Circuit.load(circuit.save(tmp_path / "circuit.json")).graph.cfg == vit.cfg


def test_clips_and_images_are_one_another(unchecked):
    clips = torch.randn(2, 4, 3, 8, 8)
    images = clips_to_images(clips)
    assert images.shape == (2, 12, 8, 8) and torch.equal(images_to_clips(images, 4), clips)
    assert torch.equal(images[:, :3], clips[:, 0])
    with pytest.raises(DataError, match=r"pass clip\[None\]"):
        clips_to_images(clips[0])
    with pytest.raises(DataError, match="5 frames x channels"):
        images_to_clips(images, 5)


def test_a_clip_that_is_no_image_is_refused_with_the_repaired_call(foreign_named, unchecked):
    with pytest.raises(DataError, match=r"clips_to_images\(clips\)"):
        foreign_named("vivit")(torch.randn(2, 4, 3, 16, 16))


def test_a_distilled_model_is_read_out_at_both_of_its_tokens(foreign_named):
    vit = foreign_named("deit-teacher")
    assert vit.cfg.tokens.has_dist and vit.cfg.pooling == "distilled" and vit.cfg.read_tokens == (0, 1)
    assert vit.cfg.tokens.token_names()[:3] == ("cls", "dist", "r0c0")


@pytest.mark.parametrize("kind", ["vit", "deit"])
def test_bridges_of_transformer_lens_give_the_models_own_logits(foreign_module, images_for, kind):
    """In float32: the bridge's own softmax is in float32, whatever its weights are in. `test_census` has the laws."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what its own imports say is no matter here
        bridges = pytest.importorskip("transformer_lens.model_bridge", reason="transformer_lens is not installed")
        module = foreign_module(kind, dtype=torch.float32)
        module.config.architectures = [type(module).__name__]
        bridge = bridges.TransformerBridge.boot_transformers("a ViT", hf_model=copy.deepcopy(module))
    vit = load_vit(bridge)
    images = images_for(vit)
    wanted = module(images).logits.detach()
    assert float((vit(images) - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max())


def test_layers_that_stand_on_the_model_itself_are_found(foreign_module, images_for, close):
    """The flat layout of transformers 5.9 and later; the laws of `test_find` run on it as `vit`."""
    module = foreign_module("vit")
    if hasattr(module.vit, "encoder"):
        pytest.skip("this version of transformers, before 5.9, holds a ViT's layers in an encoder")
    vit = HookedViT(module)
    images = images_for(vit)
    assert vit.opened.originals == tuple(module.vit.layers)
    close(vit(images), module(images).logits.detach())
