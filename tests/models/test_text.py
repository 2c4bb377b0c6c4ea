"""Prompts as a readout: the logits are open_clip's own."""

import json

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from vitcircuits.models import load_vit, text_readout
from vitcircuits.models.errors import ModelError
from vitcircuits.models.made_readouts import class_directions, class_texts, template_texts
from vitcircuits.models.readouts import TextHead
from vitcircuits.models.text_tower import open_text_tower, tower_of

open_clip = pytest.importorskip("open_clip", reason="open_clip is not installed: pip install open_clip_torch")

NAMES = ["cat", "dog", "traffic light"]
SMALL = {
    "embed_dim": 24,
    "vision_cfg": {"layers": 1, "width": 32, "head_width": 16, "patch_size": 16, "image_size": 32},
    "text_cfg": {"layers": 2, "width": 32, "heads": 2},
}


def make_clip(seed=0, **options):
    torch.manual_seed(seed)
    model = open_clip.create_model("ViT-B-32", pretrained=None, **{**SMALL, **options}).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("logit_scale"):
            parameter.data.fill_(3.0)
        elif parameter.ndim > 1:
            parameter.data = torch.randn_like(parameter) * parameter.shape[-1] ** -0.5
    return model


@pytest.fixture(scope="module")
def clip():
    """A small CLIP of random weights."""
    return make_clip()


@pytest.mark.parametrize("options", [{}, {"init_logit_bias": -5.0}, {"custom_text": True}])
def test_logits_are_open_clips_logits_per_image(options):
    custom = {"force_custom_text": True} if options.pop("custom_text", False) else options
    model = make_clip(**custom)
    tower = open_text_tower(model)
    images = torch.randn(4, 3, 32, 32)
    texts = [f"a photo of a {name}." for name in NAMES]
    tokens = open_clip.SimpleTokenizer()(texts)
    with torch.no_grad():
        wanted, _ = model.get_logits(images, tokens)
        head = TextHead(nn.Identity(), tower.encode(texts), scale=tower.scale, bias=tower.bias)
        torch.testing.assert_close(head(model.encode_image(images)), wanted, atol=1e-4, rtol=0)
        torch.testing.assert_close(head.frozen(model.encode_image(images)), wanted, atol=1e-4, rtol=0)
    assert float(wanted.std()) > 0.1


@pytest.mark.parametrize("templates", ["openai", "simple", ("a {}", "many {} in the {}")])
def test_templates_are_averaged_as_open_clip_does(clip, templates):
    texts = class_texts(NAMES, templates)
    forms = template_texts(templates)
    assert len(forms) == {"openai": 80, "simple": 7}.get(str(templates), 2)
    same = [lambda name, form=form: form.replace("{}", name) for form in forms]
    found = class_directions(open_text_tower(clip), list(texts.values()))
    own = open_clip.build_zero_shot_classifier(clip, open_clip.SimpleTokenizer(), NAMES, same)
    torch.testing.assert_close(found, own.T, atol=1e-5, rtol=0)


def test_a_timm_tower_is_read_out_along_prompts(clip, tmp_path):
    name, sizes = "vit_base_patch32_clip_224.datacompxl", {"img_size": 32, "patch_size": 16, "embed_dim": 32}
    save_file(clip.state_dict(), tmp_path / "clip.safetensors")
    vit = load_vit(name, checkpoint=tmp_path / "clip.safetensors", num_classes=24, depth=1, num_heads=2, **sizes)
    read = text_readout(vit, NAMES, clip=clip)
    images = torch.randn(4, 3, 32, 32)
    tokens = open_clip.SimpleTokenizer()([f"a photo of a {name}." for name in NAMES])
    with torch.no_grad():
        wanted, _ = clip.get_logits(images, tokens)
        torch.testing.assert_close(read(images), wanted, atol=1e-4, rtol=0)
        torch.testing.assert_close(read.run_with_cache(images, [])[0], wanted, atol=1e-4, rtol=0)
    assert read.labels == tuple(NAMES) and read.readout.head.project is vit.module.head
    info = read.readout.info
    assert info["templates"] == ["a photo of a {}."] and info["scale"] == pytest.approx(20.0855, abs=1e-3)


def test_prompts_stand_as_they_are_and_are_recorded(clip):
    module = timm.create_model("test_vit", num_classes=24).eval()
    prompts = {"cat": ["a cat", "a kitten"], "dog": "a dog"}
    read = text_readout(load_vit(module), prompts, clip=clip)
    assert read.readout.info["prompts"] == {"cat": ["a cat", "a kitten"], "dog": ["a dog"]}
    wanted = class_directions(open_text_tower(clip), [["a cat", "a kitten"], ["a dog"]])
    torch.testing.assert_close(read.readout.head.embeddings, wanted, atol=1e-6, rtol=0)
    assert not torch.allclose(read.readout.head.embeddings[0], open_text_tower(clip).encode(["a cat"])[0], atol=1e-3)


def test_a_folder_of_open_clips_is_a_tower(clip, tmp_path):
    config = {"model_cfg": SMALL, "preprocess_cfg": {}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    save_file(clip.state_dict(), tmp_path / "open_clip_model.safetensors")
    found = open_text_tower(f"local-dir:{tmp_path}")
    wanted = open_text_tower(clip)
    assert torch.equal(found.encode(NAMES), wanted.encode(NAMES)) and found.scale == wanted.scale
    (tmp_path / "open_clip_model.safetensors").unlink()
    with pytest.raises(ModelError, match="could not make"):  # random weights are no text tower
        open_text_tower(f"local-dir:{tmp_path}")


def test_the_users_clip_is_left_as_it_was():
    model = make_clip().train()
    model.transformer.eval()
    before = [module.training for module in model.modules()]
    open_text_tower(model).encode(["a"])
    assert [module.training for module in model.modules()] == before


def test_the_tower_of_a_timm_name():
    assert tower_of("vit_base_patch16_clip_quickgelu_224.openai") == "ViT-B-16-quickgelu:openai"
    assert tower_of("vit_base_patch16_clip_224.openai") == "ViT-B-16-quickgelu:openai"
    assert tower_of("vit_tiny_patch16_224.augreg_in21k") is None
    assert tower_of("something") is None and tower_of("vit_base_patch16_clip_224.mine") is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"prompts": []}, "names no classes"),
        ({"prompts": "cat"}, "names no classes"),
        ({"prompts": ["cat", "cat"]}, "comes twice"),
        ({"prompts": {"cat": []}}, "'cat' has no text"),
        ({"templates": "a photo"}, "where the class name goes"),
        ({"templates": ()}, "where the class name goes"),
        ({"clip": None}, "pass clip="),
        ({"clip": "ViT-B-99:openai"}, "no model 'ViT-B-99'.*ViT-B-32"),
        ({"clip": "ViT-B-32"}, "ViT-B-32:openai"),
        ({"clip": "ViT-B-32:nobody"}, "ViT-B-32:openai"),
        ({"clip": "local-dir:/nowhere"}, "local-dir:/path"),
        ({"clip": nn.Linear(2, 2)}, "has no text tower"),
        ({"project": nn.Identity()}, "does not take the vector"),
    ],
)
def test_mistakes_are_named_with_their_repair(clip, options, said):
    vit = load_vit(timm.create_model("test_vit", num_classes=24))
    with pytest.raises(ModelError, match=said):
        text_readout(vit, **{"prompts": NAMES, "clip": clip, **options})


def test_towers_of_another_space_and_words_are_refused(clip):
    with pytest.raises(ModelError, match="24 dimensions, but the image tower projects into 5"):
        text_readout(load_vit(timm.create_model("test_vit", num_classes=5)), NAMES, clip=clip)
    with pytest.raises(ModelError, match="tokenizer="):
        open_text_tower(make_clip(text_cfg={**SMALL["text_cfg"], "vocab_size": 99}))
