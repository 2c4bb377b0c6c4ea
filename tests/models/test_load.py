"""Loading: names, files, modules, and sentences for what cannot be loaded."""

import json
import logging

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from vitcircuits.models import load_vit
from vitcircuits.models.errors import ModelError

TINY = {"img_size": 8, "patch_size": 4, "in_chans": 1, "num_classes": 3, "embed_dim": 8, "depth": 2, "num_heads": 2}


def test_names_labels_and_preprocessing_come_along():
    vit = load_vit("toy/digits-2l")
    assert vit.cfg.n_layers == 2
    assert vit.labels == tuple("0123456789")
    assert vit.preprocess.size == (8, 8)
    deit = load_vit("deit_tiny_patch16_224", pretrained=False)
    assert deit.labels[281].startswith("tabby")
    assert deit.preprocess.size == (224, 224)
    assert deit.cfg.n_heads == 3


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("toy/digits", "toy/digits-2l"),
        ("deit_tny_patch16_224", "deit_tiny_patch16_224"),
        ("deit_tiny_patch16_224.mine", r"deit_tiny_patch16_224\.fb_in1k"),
    ],
)
def test_a_wrong_name_gets_the_nearest_ones(name, near):
    with pytest.raises(ModelError, match=near):
        load_vit(name)


def test_a_checkpoint_says_its_architecture_or_is_told_it(tmp_path):
    module = timm.create_model("vit_tiny_patch16_224", num_classes=4)
    file = tmp_path / "vit_tiny_patch16_224" / "model.safetensors"
    file.parent.mkdir()
    save_file(module.state_dict(), file)
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        wanted = module.eval()(images)
    for vit in (load_vit(file), load_vit("vit_tiny_patch16_224", checkpoint=file)):
        torch.testing.assert_close(vit(images), wanted, atol=1e-4, rtol=0)
    other = tmp_path / "other.safetensors"
    other.write_bytes(file.read_bytes())
    with pytest.raises(ModelError, match="which architecture"):
        load_vit(other)
    with pytest.raises(ModelError, match="does not fit"):
        load_vit("vit_small_patch16_224", checkpoint=file)


def test_weights_that_are_not_numbers_are_refused():
    module = VisionTransformer(**TINY)
    module.head.weight.data[0, 0] = torch.nan
    with pytest.raises(ModelError, match=r"head\.weight"):
        load_vit(module)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: VisionTransformer(**TINY, global_pool="max"), "average and map pooling"),
        (lambda: timm.create_model("vit_base_patch16_rpn_224", depth=1), "pass a norm before they are added"),
        (lambda: timm.create_model("vit_dpwee_patch16_reg1_gap_256", depth=1), "differential attention"),
        (lambda: torch.nn.Linear(2, 2), "without a stack of transformer blocks"),
        (lambda: timm.create_model("vit_tiny_r_s16_p8_224", img_size=64, depth=1), "convolutional network in front"),
        (lambda: VisionTransformer(**{**TINY, "depth": 0}), "no blocks"),
    ],
)
def test_what_cannot_be_opened_is_refused_with_a_sentence(make, said):
    with pytest.raises(ModelError, match=said):
        load_vit(make())


def test_parity_names_the_first_block_that_differs():
    module = VisionTransformer(**{**TINY, "depth": 3})
    block = module.blocks[1]
    inner = type(block).forward
    block.forward = lambda x, **options: 2 * inner(block, x, **options)
    with pytest.raises(ModelError, match="first block that differs is block 1"):
        load_vit(module)


def test_16_bit_modules_are_copied_in_32_bits():
    module = VisionTransformer(**TINY).half()
    vit = load_vit(module)
    assert vit.dtype == torch.float32
    assert next(module.parameters()).dtype == torch.float16


def test_a_fine_tuned_checkpoint_brings_its_number_of_classes(tmp_path):
    module = timm.create_model("test_vit", num_classes=5).eval()
    save_file(module.state_dict(), tmp_path / "mine.safetensors")
    images = torch.randn(2, 3, *module.patch_embed.img_size)
    names = ("a", "b", "c", "d", "e")
    for options in ({}, {"num_classes": 5}, {"labels": names}):
        vit = load_vit("test_vit", checkpoint=tmp_path / "mine.safetensors", **options)
        assert vit.cfg.n_classes == 5 and vit.labels == options.get("labels")
        torch.testing.assert_close(vit(images), module(images).detach(), atol=1e-4, rtol=0)
    with pytest.raises(ModelError, match="num_classes= as it was trained"):
        load_vit("test_vit", checkpoint=tmp_path / "mine.safetensors", num_classes=7)
    with pytest.raises(ModelError, match="one name per logit"):
        load_vit("test_vit", checkpoint=tmp_path / "mine.safetensors", labels=("a",))


@pytest.mark.parametrize("given", ["local-dir:", ""])
def test_a_folder_of_timms_is_opened_offline(tmp_path, given):
    module = timm.create_model("test_vit", num_classes=3).eval()
    save_file(module.state_dict(), tmp_path / "model.safetensors")
    names = ["newt", "owl", "yak"]
    config = {"architecture": "test_vit", "num_classes": 3, "pretrained_cfg": {"label_names": names, "num_classes": 3}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    vit = load_vit(f"{given}{tmp_path}")
    images = torch.randn(2, 3, *vit.cfg.image_size)
    assert vit.labels == tuple(names)
    torch.testing.assert_close(vit(images), module(images).detach(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["local-dir:/nowhere", "hf-hub:"])
def test_a_source_of_timms_that_is_not_there_is_refused(name):
    with pytest.raises(ModelError, match="timm could not make"):
        load_vit(name)


@pytest.mark.parametrize("tag", ["openai", "metaclip_400m"])
def test_weights_trained_with_quick_gelu_get_it(tag, caplog):
    with caplog.at_level(logging.WARNING, logger="vitcircuits"):
        vit = load_vit(f"vit_base_patch32_clip_224.{tag}", pretrained=False, depth=1)
    assert vit.cfg.name == f"vit_base_patch32_clip_quickgelu_224.{tag}" and "QuickGELU" in caplog.text
    assert type(vit.module.blocks[0].mlp.act).__name__.lower() == "quickgelu"
    assert vit.readout.kind == "embedding"


def test_a_mask_comes_with_a_name_as_with_a_module():
    vit = load_vit("toy/digits-2l", attention_mask="causal")
    pattern = vit.run_with_cache(torch.randn(1, 1, 8, 8))[1]["pattern", 0]
    assert float(pattern.triu(1).abs().max()) == 0 and vit.labels == tuple("0123456789")
    same = load_vit(vit.module, attention_mask="causal")
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(same(images), vit(images)) and not torch.allclose(load_vit("toy/digits-2l")(images), vit(images))


def test_other_names_are_taken_as_they_are(caplog):
    name = "vit_base_patch32_clip_224.datacompxl"
    assert load_vit(name, pretrained=False, depth=1).cfg.name == name
    vit = load_vit("vit_base_patch32_clip_224.openai", pretrained=False, depth=1, act_layer="gelu")
    assert vit.cfg.name == "vit_base_patch32_clip_224.openai" and not caplog.text
    assert load_vit("vit_base_patch32_clip_224", pretrained=False, depth=1, num_classes=9).readout.kind == "classes"
