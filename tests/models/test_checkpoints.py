"""Checkpoints: every form in which people save weights gives the same weights, and what needs code is refused."""

import argparse

import pytest
import timm
import torch
from safetensors.torch import save_file
from vitcircuits.models import load_vit
from vitcircuits.models.checkpoints import n_classes_of, read_weights
from vitcircuits.models.errors import ModelError


@pytest.fixture(scope="module")
def module():
    """A fine-tuned model."""
    torch.manual_seed(0)
    return timm.create_model("test_vit", num_classes=4).eval()


WRAPPED = {
    "plain.pth": lambda state: state,
    "model.pt": lambda state: {"model": state, "epoch": 3},
    "state_dict.bin": lambda state: {"state_dict": state, "args": argparse.Namespace(lr=0.1), "optimizer": {}},
    "both.pth.tar": lambda state: {"model": {"state_dict": state}},
    "ddp.pth": lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
    "compiled.pth": lambda state: {f"_orig_mod.module.{key}": value for key, value in state.items()},
    "lightning.ckpt": lambda state: {"state_dict": {f"model.{key}": value for key, value in state.items()}},
    "renamed.pth": lambda state: {key.replace("head.", "fc."): value for key, value in state.items()},
}


@pytest.mark.parametrize("name", [*WRAPPED, "ddp.safetensors"])
def test_every_way_of_saving_gives_the_same_model(module, tmp_path, name):
    path = tmp_path / name
    if name.endswith(".safetensors"):
        save_file({f"module.{key}": value for key, value in module.state_dict().items()}, path)
    else:
        torch.save(WRAPPED[name](module.state_dict()), path)
    vit = load_vit("test_vit", checkpoint=path)
    assert vit.cfg.n_classes == 4
    for key, value in module.state_dict().items():
        assert torch.equal(vit.module.state_dict()[key], value), key


def test_a_distilled_checkpoint_says_how_many_classes_it_has():
    module = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=7, depth=1)
    state = module.state_dict()
    assert n_classes_of(state) == 7
    assert n_classes_of({key: value for key, value in state.items() if not key.startswith("head.")}) == 7
    assert n_classes_of({key: value for key, value in state.items() if not key.startswith("head")}) == 0
    assert n_classes_of({"visual.proj": torch.zeros(2, 2)}) is None


def test_open_clips_own_layout_is_converted(tmp_path):
    open_clip = pytest.importorskip("open_clip", reason="open_clip is not installed: pip install open_clip_torch")
    clip = open_clip.create_model(
        "ViT-B-32", embed_dim=512, vision_cfg={"layers": 1, "width": 768, "patch_size": 32, "image_size": 224},
        text_cfg={"layers": 1, "width": 32, "heads": 2, "vocab_size": 50},
    ).eval()  # fmt: skip
    save_file(clip.state_dict(), tmp_path / "open_clip_model.safetensors")
    vit = load_vit("vit_base_patch32_clip_224.datacompxl", checkpoint=tmp_path / "open_clip_model.safetensors", depth=1)
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(vit(images), clip.encode_image(images), atol=1e-4, rtol=0)
    assert vit.readout.kind == "embedding"


class Anything:
    """What a pickle may hold."""


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (Anything(), "needs code to be opened.*Anything"),
        ({"model": Anything()}, r"save the weights alone, safetensors\.torch\.save_file"),
        ({"epoch": 3}, "holds no tensors by name"),
        ([torch.zeros(2)], "holds no tensors by name"),
        (b"nothing", "cannot be read as a checkpoint"),
    ],
)
def test_pickles_that_cannot_be_used_say_what_to_do(tmp_path, content, said):
    path = tmp_path / "model.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(ModelError, match=said):
        load_vit("test_vit", checkpoint=path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ModelError, match="there is no file"):
        read_weights(tmp_path / "none.safetensors")


def test_what_does_not_fit_is_named_with_the_option_that_it_wants(module, tmp_path):
    path = tmp_path / "grey.safetensors"
    state = module.state_dict()
    save_file({**state, "patch_embed.proj.weight": state["patch_embed.proj.weight"][:, :1].contiguous()}, path)
    with pytest.raises(ModelError, match="in_chans= as it was trained"):
        load_vit("test_vit", checkpoint=path)
    assert load_vit("test_vit", checkpoint=path, in_chans=1).cfg.n_channels == 1
    with pytest.raises(ModelError, match=r"missing .*cls_token"):
        state.pop("cls_token")
        save_file(state, path)
        load_vit("test_vit", checkpoint=path)
