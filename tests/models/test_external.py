"""Models of other libraries by name and by folder: what is loaded is what was saved, with its labels and its texts.

Pictures are prepared as the libraries themselves prepare them.
"""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from vitcircuits.models import load_vit, text_readout
from vitcircuits.models.config import TokenLayout, VitConfig
from vitcircuits.models.errors import ModelError
from vitcircuits.models.external import preprocess_of_folder, preprocess_of_open_clip, shown_size
from vitcircuits.models.preprocess import Preprocess

NAMES = ["cat", "dog"]
_HF = ["vit", "vit-features", "deit", "deit-teacher", "deit-features", "dinov2", "dinov2-registers"]
SAVED = [*_HF, "clip", "clip-tower", "vivit", "vivit-features"]
SMALL = {
    "embed_dim": 12,
    "vision_cfg": {"layers": 1, "width": 16, "head_width": 8, "patch_size": 16, "image_size": 32},
    "text_cfg": {"layers": 1, "width": 16, "heads": 2},
}


@pytest.mark.parametrize("kind", SAVED)
def test_a_folder_gives_the_model_that_was_saved_to_it(foreign_module, images_for, tmp_path, kind):
    module = foreign_module(kind, dtype=torch.float32)
    module.save_pretrained(tmp_path / "mine")
    vit = load_vit(tmp_path / "mine")
    images = images_for(vit)
    with torch.no_grad(), vit.borrowed():
        from vitcircuits.models.hooked import HookedViT

        torch.testing.assert_close(vit(images), HookedViT(module)(images), atol=0, rtol=0)
    assert vit.cfg.name == "mine" and vit.labels is None and vit.preprocess is None
    assert not any(parameter.requires_grad for parameter in vit.module.parameters())


def test_labels_and_preprocessing_are_the_folders(foreign_module, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    labels = {0: "tench", 1: "cat", 2: "dog", 3: "car", 4: "tree"}
    foreign_module("vit", num_channels=3, id2label=labels).save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(tmp_path)
    vit = load_vit(tmp_path, name="mine")
    assert vit.labels == tuple(labels.values()) and vit.cfg.name == "mine"
    assert vit.preprocess == Preprocess((8, 8), 3, (0.5,) * 3, (0.5,) * 3, interpolation="bilinear", squash=True)


def test_a_folder_in_16_bits_is_upcast_and_one_without_weights_can_be_random(foreign_module, tmp_path):
    foreign_module("vit", dtype=torch.bfloat16).save_pretrained(tmp_path)
    assert load_vit(tmp_path).dtype == torch.float32
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="transformers could not load"):
        load_vit(tmp_path)
    assert load_vit(tmp_path, pretrained=False).cfg.n_classes == 5


def test_dinov2_is_opened_at_the_size_that_its_pictures_are_cropped_to(foreign_module, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    foreign_module("dinov2", num_channels=3).save_pretrained(tmp_path)
    transformers.BitImageProcessor(size={"shortest_edge": 14}, crop_size=12).save_pretrained(tmp_path)
    assert load_vit(tmp_path).cfg.tokens.grid == (3, 3) and load_vit(tmp_path, image_size=8).cfg.tokens.grid == (2, 2)
    assert load_vit(tmp_path).preprocess.size == (12, 12)
    with pytest.raises(ModelError, match="takes no option num_classes"):
        load_vit(tmp_path, num_classes=3)


def _edit(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_folders_that_cannot_be_loaded_are_refused_with_the_reason(foreign_module, tmp_path):
    foreign_module("vit-features", dtype=torch.float32).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="is a folder with weights of its own"):
        load_vit(tmp_path, checkpoint="other.safetensors")
    _edit(tmp_path, architectures=["ViTForImageClassification"])
    with pytest.raises(ModelError, match=r"lacks 2 weights of a ViTForImageClassification such as classifier\.bias"):
        load_vit(tmp_path)
    _edit(tmp_path, architectures=["SwinModel"], model_type="swin")
    with pytest.raises(ModelError, match="model of type 'swin', which is not opened: vit, deit, dinov2"):
        load_vit(tmp_path)


def test_an_architecture_that_is_not_opened_is_loaded_as_the_model_in_it(foreign_module, tmp_path, images_for, close):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = foreign_module("vit").config
    module = transformers.ViTForMaskedImageModeling(config).eval()
    module.save_pretrained(tmp_path)
    vit = load_vit(tmp_path)
    images = images_for(vit)
    close(vit(images), module.vit(images).last_hidden_state[:, 0].detach())


@pytest.fixture
def clip_folder(foreign_module, tmp_path):
    """A folder of a small CLIPModel with a tokenizer of whole words and letters."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    letters = sorted({*"a photo of a cat dog."} - {" "})
    pieces = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    text = {**text, "vocab_size": len(pieces), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    module = foreign_module("clip", dtype=torch.float32, text_config=text)
    module.save_pretrained(tmp_path)
    transformers.CLIPTokenizer({piece: i for i, piece in enumerate(pieces)}, []).save_pretrained(tmp_path)
    transformers.CLIPImageProcessor(size={"shortest_edge": 8}, crop_size=8).save_pretrained(tmp_path)
    return tmp_path, module


def test_prompts_are_encoded_by_the_folders_own_text_tower(clip_folder, images_for):
    folder, module = clip_folder
    vit = load_vit(folder)
    read, images = text_readout(vit, NAMES), images_for(vit, 4)
    from transformers import AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(folder)([f"a photo of a {name}." for name in NAMES], return_tensors="pt")
    with torch.no_grad():
        wanted = module(pixel_values=images, **tokens).logits_per_image
        torch.testing.assert_close(read(images), wanted, atol=1e-4, rtol=0)
        again = text_readout(load_vit(module), NAMES, clip=str(folder))
        torch.testing.assert_close(again(images), wanted, atol=1e-4, rtol=0)
    assert float(wanted.std()) > 0.05 and read.readout.info["text_tower"] == folder.name
    assert vit.preprocess.size == (8, 8) and not vit.preprocess.squash


def test_a_clip_folder_without_a_tokenizer_says_so_when_prompts_come(foreign_module, tmp_path):
    foreign_module("clip", dtype=torch.float32).save_pretrained(tmp_path)
    vit = load_vit(tmp_path)
    with pytest.raises(ModelError, match="has no tokenizer that can be read"):
        text_readout(vit, NAMES)


def test_open_clip_by_name_is_its_image_tower_with_its_own_texts(images_for):
    open_clip = pytest.importorskip("open_clip", reason="open_clip is not installed: pip install open_clip_torch")
    vit = load_vit("open_clip:ViT-B-32", pretrained=False, **SMALL)
    read, images = text_readout(vit, NAMES), images_for(vit, 4)
    tokens = open_clip.get_tokenizer("ViT-B-32")([f"a photo of a {name}." for name in NAMES])
    with torch.no_grad():
        wanted, _ = vit.module.get_logits(images, tokens)
        torch.testing.assert_close(read(images), wanted, atol=1e-4, rtol=0)
    assert vit.cfg.name == "open_clip:ViT-B-32" and read.readout.info["text_tower"] == "ViT-B-32"
    assert vit.preprocess.size == (32, 32) and vit.preprocess.mean[0] == pytest.approx(0.48145466)


def test_open_clip_takes_weights_from_a_file(tmp_path, images_for):
    pytest.importorskip("open_clip", reason="open_clip is not installed: pip install open_clip_torch")
    from safetensors.torch import save_file

    first = load_vit("open_clip:ViT-B-32", pretrained=False, **SMALL)
    save_file(first.module.state_dict(), tmp_path / "clip.safetensors")
    second = load_vit("open_clip:ViT-B-32", checkpoint=tmp_path / "clip.safetensors", **SMALL)
    images = images_for(first)
    assert torch.equal(second(images), first(images)) and second.digest() == first.digest()


@pytest.mark.parametrize("name", ["ViT-B-16-quickgelu", "ViT-M-32-alt", "ViT-L-14-CLIPA"])
def test_open_clips_names_keep_their_own_activation_and_pooling(name):
    open_clip = pytest.importorskip("open_clip", reason="open_clip is not installed: pip install open_clip_torch")
    config = open_clip.get_model_config(name)
    own = config["vision_cfg"]
    cut = {**own, "image_size": 28, "layers": 1, "width": 128, "patch_size": 14, "head_width": 64}
    vit = load_vit(
        f"open_clip:{name}", pretrained=False, vision_cfg=cut, text_cfg={"layers": 1, "width": 64, "heads": 2}
    )
    assert vit.cfg.pooling == ("average" if own.get("pool_type") == "avg" else "token")
    assert ("QuickGELU" in type(vit.blocks[0].mlp.act).__name__) == config.get("quick_gelu", False)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("open_clip:ViT-B-32", "needs the tag of its weights, but got ''.*ViT-B-32:laion2b_s34b_b79k"),
        ("open_clip:ViT-B-32:nonsense", "needs the tag of its weights, but got 'nonsense'"),
        ("open_clip:ViT-B-3", "open_clip has no model 'ViT-B-3'. The nearest names are ViT-B-32"),
    ],
)
def test_names_that_open_clip_does_not_know_are_refused_with_the_nearest(name, said):
    pytest.importorskip("open_clip", reason="open_clip is not installed: pip install open_clip_torch")
    with pytest.raises(ModelError, match=said):
        load_vit(name)


def test_nothing_of_other_libraries_is_imported_for_a_model_that_is_not_theirs():
    code = """
import sys
from vitcircuits.models import load_vit
load_vit("toy/digits-2l")
assert not {"transformers", "open_clip"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def picture(width=61, height=47):
    """A smooth picture, so that the rounding of a resize stays small."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 9 + y / 7), np.cos(x / 11), np.sin(y / 8 - x / 13)]
    return Image.fromarray(np.uint8(127 + 100 * np.stack(waves, -1)))


def config(size, frames=1):
    layout = TokenLayout(True, 0, (2, 2))
    return VitConfig(
        "vit", 1, 1, 8, 8, 8, 2, (size, size), (8, 8), 3 * frames, layout, (0,), "token", clip_frames=frames
    )


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("ViTImageProcessor", {"size": {"height": 32, "width": 32}}),
        ("ViTImageProcessor", {"size": {"height": 32, "width": 32}, "do_normalize": False, "resample": 3}),
        ("CLIPImageProcessor", {"size": {"shortest_edge": 32}, "crop_size": 32}),
        ("BitImageProcessor", {"size": {"shortest_edge": 37}, "crop_size": 32}),
        ("BitImageProcessor", {"size": {"shortest_edge": 37}, "crop_size": 32, "do_rescale": False}),
    ],
)
def test_a_folders_pictures_are_transformers_own(tmp_path, kind, options):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    processor = getattr(transformers, kind)(**options)
    processor.save_pretrained(tmp_path)
    found = preprocess_of_folder(tmp_path, config(32))
    wanted = processor(picture(), return_tensors="pt")["pixel_values"][0].float()
    scale = float(wanted.std())
    assert float((found(picture()) - wanted).abs().max()) < 0.05 * scale  # transformers resizes without rounding
    assert shown_size(tmp_path) == (32, 32)


@pytest.mark.parametrize("kind", ["VivitImageProcessor", "VivitVideoProcessor"])
def test_frames_of_a_clip_are_transformers_own(tmp_path, kind):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    processor = getattr(transformers, kind)(size={"shortest_edge": 37}, crop_size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path)
    found = preprocess_of_folder(tmp_path, config(32, frames=4))
    frames = [picture(), picture(61, 47)] * 2
    handed = frames if kind == "VivitImageProcessor" else [np.stack([np.asarray(frame) for frame in frames])]
    wanted = processor(handed, return_tensors="pt")["pixel_values"][0].float()
    got = torch.stack([found(frame) for frame in frames])
    assert float((got - wanted).abs().max()) < 0.05 * float(wanted.std())
    assert found.mean == pytest.approx((0.75,) * 3) and found.channels == 3


@pytest.mark.parametrize("mode", ["shortest", "squash"])
def test_open_clips_pictures_are_its_own(mode):
    open_clip = pytest.importorskip("open_clip", reason="open_clip is not installed: pip install open_clip_torch")
    small = {"layers": 1, "width": 16, "head_width": 8, "patch_size": 16, "image_size": 32}
    options = {"vision_cfg": small, "embed_dim": 12, "text_cfg": {"layers": 1, "width": 16, "heads": 2}}
    model, _, transform = open_clip.create_model_and_transforms("ViT-B-32", image_resize_mode=mode, **options)
    found = preprocess_of_open_clip(model)
    torch.testing.assert_close(found(picture()), transform(picture()), atol=1e-5, rtol=0)
    model.visual.preprocess_cfg["resize_mode"] = "longest"
    assert preprocess_of_open_clip(model) is None


def test_a_squashed_picture_is_found_again_at_its_places():
    from vitcircuits.models.preprocess import Preprocess

    rows, columns = Preprocess((4, 4), 1, (0.0,), (1.0,), squash=True).places(8, 12)
    assert rows.tolist() == [1, 3, 5, 7] and columns.tolist() == [1.5, 4.5, 7.5, 10.5]


def test_a_folder_that_says_nothing_has_none(tmp_path):
    assert preprocess_of_folder(tmp_path, config(32)) is None and shown_size(tmp_path) is None
