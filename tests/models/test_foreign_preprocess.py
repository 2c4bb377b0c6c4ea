"""Pictures are prepared as the libraries themselves prepare them."""

import numpy as np
import pytest
import torch
from PIL import Image
from vitcircuits.models.config import TokenLayout, VitConfig
from vitcircuits.models.foreign_preprocess import preprocess_of_folder, preprocess_of_open_clip, shown_size


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
