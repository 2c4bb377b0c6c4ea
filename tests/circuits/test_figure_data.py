"""What is gathered is what the model saw and said, as plain arrays."""

import numpy as np
import pytest
import torch
from vitcircuits.circuits import Pairs, Task, class_contrast
from vitcircuits.circuits.attention import attention_maps
from vitcircuits.circuits.figure_data import gather, image_keys
from vitcircuits.circuits.tasks.metrics import Metric
from vitcircuits.models import load_vit
from vitcircuits.models.errors import TaskError


def test_digits_come_back_as_pixels_with_attention():
    sizes = {"n_discovery": 4, "n_evaluation": 6, "sides": "one"}
    task = class_contrast(load_vit("toy/digits-2l"), "digits", target=3, foil=8, **sizes)
    found = gather(task, n=2)
    assert found.clean.shape == found.corrupt.shape == (2, 8, 8, 1)
    assert found.clean.dtype == np.float32 and found.clean.min() >= 0 and 0.5 < found.clean.max() <= 1
    assert found.attention.shape == (2, 2, 4, 17) and found.grid == (4, 4) and found.n_prefix == 1
    np.testing.assert_allclose(found.attention.sum(-1), 1, atol=1e-5)
    with torch.no_grad():
        np.testing.assert_allclose(found.clean_logits, task.vit(task.evaluation.clean[:2]).numpy(), atol=1e-5)
    assert found.clean_logits.argmax(-1).tolist() == [3, 3] and len(found.class_names) == 10
    assert not np.array_equal(gather(task, n=2, split="discovery").clean, found.clean)
    with pytest.raises(TaskError, match="n=0"):
        gather(task, n=0)


@pytest.fixture(scope="module")
def crossed():
    return class_contrast(load_vit("toy/digits-2l"), "digits", target=3, foil=8, n_discovery=4, n_evaluation=20)


def test_full_patterns_are_of_the_first_image_and_left_out_where_they_would_fill_memory(crossed, monkeypatch):
    found = gather(crossed)
    assert np.allclose(found.patterns.sum(-1), 1, atol=2e-3)
    assert np.allclose(found.patterns[0, :, :, 0], found.attention[0], atol=1e-3)  # CLS reads out
    every = gather(crossed, patterns="all").patterns
    assert np.allclose(every[:, :, :, 0], found.attention, atol=1e-3) and np.array_equal(every[:1], found.patterns)
    monkeypatch.setattr("vitcircuits.circuits.figure_data._MOST_WEIGHTS", 3 * found.patterns.size)
    assert len(gather(crossed, patterns="all").patterns) == 3
    monkeypatch.setattr("vitcircuits.circuits.figure_data._MOST_WEIGHTS", found.patterns.size - 1)
    assert gather(crossed).patterns is None


@pytest.mark.parametrize("kind", ["score", "value_weighted"])
def test_attention_is_told_by_every_kind_as_attention_maps_tells_it(crossed, kind):
    found = gather(crossed)
    place = {key: row for row, key in enumerate(image_keys(crossed.evaluation.clean))}
    maps = attention_maps(crossed.vit, crossed.evaluation.clean[[place[key] for key in found.keys]], kind=kind)
    for name in maps:
        layer, head = (int(part[1:]) for part in name.split("."))
        np.testing.assert_allclose(found.kinds[kind][:, layer, head], maps.readout(name), atol=1e-5)


def test_pairs_of_a_crossed_task_are_of_every_cell_and_no_clean_image_twice(crossed):
    found = gather(crossed)
    assert found.clean_logits.argmax(-1).tolist() == [3, 8, 3, 8]
    assert found.corrupt_logits.argmax(-1).tolist() == [8, 3, 3, 8]
    assert len({image.tobytes() for image in found.clean}) == 4
    assert len(gather(crossed, n=2).clean) == 2
    many = gather(crossed, n=200).clean
    assert len({image.tobytes() for image in many}) == len(many) >= 20


def test_pictures_of_single_images_are_those_that_were_asked_for(crossed):
    pairs = crossed.evaluation
    wanted = [int(pairs.design.clean_image[-1]), int(pairs.design.clean_image[0])]
    found = gather(crossed, images=[*wanted, 10**6])
    assert list(found.pictures) == wanted
    shown = crossed.vit.preprocess.denormalise(pairs.clean[[-1, 0]]).clamp(0, 1).permute(0, 2, 3, 1)
    for picture, image in zip(found.pictures.values(), shown, strict=True):
        np.testing.assert_allclose(picture, image.numpy(), atol=1e-6)
    assert gather(crossed).pictures == {}


def test_without_cls_attention_is_the_mean_over_targets():
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    module = VisionTransformer(
        img_size=8,
        patch_size=4,
        in_chans=1,
        num_classes=3,
        embed_dim=8,
        depth=1,
        num_heads=2,
        class_token=False,
        global_pool="avg",
    )
    vit = load_vit(module)
    images = 3 * torch.randn(4, 2, 1, 8, 8)
    task = Task(vit, Metric("logit", (0,)), Pairs(images[0], images[1]), Pairs(images[2], images[3]))
    found = gather(task)
    _, cache = vit.run_with_cache(images[2], names_filter="blocks.0.attn.hook_pattern")
    np.testing.assert_allclose(found.attention[:, 0], cache["pattern", 0].mean(-2).detach().numpy(), atol=1e-6)
    assert found.n_prefix == 0 and found.clean.min() >= 0 and found.clean.max() <= 1
