"""Preprocessing is timm's, to the bit, and can be undone for drawing."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform
from timm.models.vision_transformer import VisionTransformer
from vitcircuits.models.errors import DataError
from vitcircuits.models.preprocess import Preprocess

GREY = Preprocess((8, 8), 1, (0.3,), (0.4,))


def picture(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_patch16_224", "vit_small_patch14_dinov2"])
@pytest.mark.parametrize("size", [(300, 451), (457, 333), (224, 224), (97, 60)])
def test_same_input_as_timm(name, size):
    module = timm.create_model(name)
    timms = create_transform(**resolve_model_data_config(module), is_training=False)
    ours = Preprocess.from_timm(module)(picture(*size))
    assert torch.equal(ours, timms(picture(*size)))


def test_from_timm_takes_the_size_and_channels_of_a_module_built_by_hand():
    module = VisionTransformer(img_size=12, patch_size=4, in_chans=1, embed_dim=8, depth=1, num_heads=2)
    preprocess = Preprocess.from_timm(module)
    assert (preprocess.size, preprocess.channels, len(preprocess.mean)) == ((12, 12), 1, 1)
    assert preprocess(picture(30, 20)).shape == (1, 12, 12)


def test_denormalise_undoes_normalise():
    pixels = torch.rand(2, 3, 1, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(GREY.denormalise(GREY.normalise(pixels)), pixels, rtol=0, atol=1e-12)


def test_denormalise_is_clamped():
    drawn = GREY.denormalise(torch.full((1, 8, 8), 100.0))
    assert drawn.max() == 1


def test_fit_only_normalises_what_already_fits():
    pixels = torch.rand(4, 1, 8, 8)
    assert torch.equal(GREY.fit(pixels), GREY.normalise(pixels))


def test_fit_brings_grey_digits_to_a_colour_model():
    colour = Preprocess((16, 16), 3, (0.5,) * 3, (0.5,) * 3)
    fitted = colour.fit(torch.rand(4, 1, 8, 8))
    assert fitted.shape == (4, 3, 16, 16)
    assert torch.equal(fitted[:, 0], fitted[:, 2])
    assert fitted.abs().max() <= 1  # pixels stay in [0, 1] though bicubic overshoots


def test_fit_weighs_colours_as_pil_does():
    image = picture(8, 8)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    torch.testing.assert_close(GREY.fit(pixels)[0], GREY(image), rtol=0, atol=1.01 / 255 / 0.4)


@pytest.mark.parametrize(
    "wrong",
    [
        {"channels": 2},
        {"mean": (0.1, 0.2)},
        {"std": (0.0,)},
        {"crop_pct": 1.5},
        {"interpolation": "magic"},
    ],
)
def test_contradictory_numbers_are_refused(wrong):
    with pytest.raises(DataError, match="Preprocess"):
        Preprocess(**({"size": (8, 8), "channels": 1, "mean": (0.3,), "std": (0.4,)} | wrong))


def test_wrong_channels_are_refused():
    with pytest.raises(DataError, match="1 channels are wanted"):
        GREY.normalise(torch.rand(2, 3, 8, 8))
