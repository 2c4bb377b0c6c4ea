"""Tasks: pairs that are checked and share no image, classes as people write them, corruptions."""

import copy

import pytest
import torch
from torch import nn
from vitcircuits.circuits import Ablation, Pairs, Partner, Task, class_contrast
from vitcircuits.circuits.partners.partner import CORRUPTIONS, MASKED, corrupt_pixels
from vitcircuits.circuits.tasks.classes import parse_classes
from vitcircuits.circuits.tasks.metrics import Metric
from vitcircuits.models import load_vit
from vitcircuits.models.errors import DataError, TaskError


@pytest.fixture(scope="module")
def vit():
    return load_vit("toy/digits-2l")


def rows(images):
    return {image.numpy().tobytes() for image in images}


def test_discovery_and_evaluation_share_no_image(vit):
    task = class_contrast(vit, "digits", target=3, foil=8, sides="one")
    first = rows(task.discovery.clean) | rows(task.discovery.corrupt)
    second = rows(task.evaluation.clean) | rows(task.evaluation.corrupt)
    assert not first & second
    assert len(first) == 2 * len(task.discovery)
    with pytest.raises(TaskError, match="discovery pairs and in the evaluation pairs"):
        Task(vit, task.metric, task.discovery, task.discovery)


@pytest.mark.parametrize("corruption", [kind for kind in CORRUPTIONS if kind != "nearest"])
def test_every_pair_is_valid_and_the_others_are_counted(vit, corruption):
    partner = Partner(corruption, mask="attention" if corruption in MASKED else None)
    sizes = {"n_discovery": 40, "n_evaluation": 40}
    task = class_contrast(vit, "digits", target=4, foil=9, corruption=partner, sides="one", **sizes)
    for name, pairs in (("discovery", task.discovery), ("evaluation", task.evaluation)):
        clean, corrupt = vit(pairs.clean), vit(pairs.corrupt)
        assert (clean.argmax(1) == 4).all()
        assert (task.metric(corrupt) < task.metric(clean)).all()
        assert (pairs.labels == 4).all()
        assert len(pairs) + sum(task.info["dropped"][name].values()) == 40


def test_the_same_seed_gives_the_same_pairs_and_another_seed_others(vit):
    first, same, other = (class_contrast(vit, "digits", target=3, foil=8, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.discovery.clean, same.discovery.clean)
    assert not torch.equal(first.discovery.clean, other.discovery.clean)


@pytest.mark.parametrize("head", [nn.Identity(), nn.Linear(64, 6, bias=False)])
def test_outputs_that_are_no_classes_are_no_target(vit, head):
    bare = vit.with_readout(head)
    with pytest.raises(TaskError, match=r"has no classes.*probe_readout"):
        class_contrast(bare, "digits", target=3, foil=4)
    Task(bare, Metric("logit", (3,)), *(Pairs(*torch.randn(2, 2, 1, 8, 8)) for _ in range(2)))  # a feature, on purpose


def test_a_task_records_the_readout_that_is_not_the_models_own(vit):
    head = nn.Linear(64, 10).requires_grad_(False)
    head.load_state_dict(vit.readout.head.state_dict())
    task = class_contrast(vit.with_readout(head, vit.labels), "digits", target=3, foil=8)
    own = class_contrast(vit, "digits", target=3, foil=8)
    assert task.info["readout"]["classes"] == list("0123456789") and "readout" not in own.info
    other = {"readout": None, "weights": None}  # whose digest counts the head
    assert {**task.info, **other} == {**own.info, **other}


def test_classes_as_people_write_them(vit):
    assert parse_classes(3, vit).indices == (3,)
    assert parse_classes(range(2, 5), vit).indices == (2, 3, 4)
    assert parse_classes("1,4-6", vit).indices == (1, 4, 5, 6)
    named = parse_classes("cats=2-3", vit)
    assert (named.name, named.indices, named.folder) == ("cats", (2, 3), "cats")
    task = class_contrast(vit, "digits", target="0-4", foil="5-9", n_discovery=30, n_evaluation=10, sides="one")
    assert set(task.discovery.labels.tolist()) <= set(range(5))


@pytest.mark.parametrize(
    ("target", "said"), [(8, "both target and foil"), (12, "0 to 9"), ("x", "a label"), ((), "no class")]
)
def test_classes_that_make_no_sense_are_refused(vit, target, said):
    with pytest.raises(TaskError, match=said):
        class_contrast(vit, "digits", target=target, foil=8)


def test_a_name_that_is_no_class_names_the_folder_or_the_labels_that_could_be_meant(vit, tmp_path):
    named = replace_labels(vit, ("patas", "tabby cat", "tiger cat", "Persian cat", "wolf", "cougar", "Siamese cat"))
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
    for target, said in (
        (
            "cats",
            "The data has a folder 'cats': .*, such as cats=1-3,6 .tabby cat, tiger cat, Persian cat, Siamese cat",
        ),
        ("cat", "such as cats=1-3,6"),
        ("dogs", "such as dogs=281-285"),
        ("Cats", "such as cats=1-3,6"),
        ("tigers", "a label such as 'tiger cat'"),
        ("cougars", "a label such as 'cougar'"),
        ("penguin", "or a label[.]"),
        ("0-999999999999", "0 to 9"),
    ):
        with pytest.raises(TaskError, match=said):
            class_contrast(named, str(tmp_path), target=target, foil="wolf")
    with pytest.raises(TaskError, match="a label such as 'tabby cat', 'tiger cat'"):
        class_contrast(named, "digits", target="cats", foil="wolf")


def replace_labels(vit, labels):
    other = copy.copy(vit)
    other.labels = (*labels, *map(str, range(len(labels), 10)))
    return other


def test_labels_of_tensors_are_the_models_classes(vit):
    whole = class_contrast(vit, "digits", target=3, foil=8, sides="one")
    images = torch.cat([whole.discovery.clean, whole.discovery.corrupt])
    labels = torch.tensor([3] * len(whole.discovery) + [8] * len(whole.discovery))
    task = class_contrast(vit, (images, labels), target=3, foil=8, sides="one")
    assert (task.discovery.labels == 3).all()
    with pytest.raises(TaskError, match="no image of '9'"):
        class_contrast(vit, (images, labels), target=3, foil=9)


def test_patch_shuffle_moves_whole_patches(vit):
    images = torch.arange(64.0).reshape(1, 1, 8, 8)
    mixed = corrupt_pixels("patch_shuffle", images, vit.cfg, images[0], torch.Generator().manual_seed(0))
    patches = lambda x: {tuple(p.flatten().tolist()) for r in x[0, 0].split(2) for p in r.split(2, dim=1)}  # noqa: E731
    assert patches(mixed) == patches(images)
    assert not torch.equal(mixed, images)


@pytest.mark.parametrize("kind", ["mean", "noise", "blur", "patch_shuffle"])
def test_pixel_corruptions_keep_the_shape_and_change_the_image(vit, kind):
    images = torch.randn(3, 1, 8, 8)
    changed = corrupt_pixels(kind, images, vit.cfg, images.mean(0), torch.Generator().manual_seed(0))
    assert changed.shape == images.shape
    assert (changed != images).flatten(1).any(1).all()
    assert bool(torch.isfinite(changed).all())


def test_blur_leaves_a_flat_image_alone(vit):
    flat = torch.full((1, 1, 8, 8), 0.7)
    generator = torch.Generator()
    assert torch.allclose(corrupt_pixels("blur", flat, vit.cfg, flat[0], generator), flat, atol=1e-6)


def test_pairs_that_do_not_fit_are_refused(vit, unchecked):
    good, nan = torch.zeros(2, 1, 8, 8), torch.full((2, 1, 8, 8), torch.nan)
    with pytest.raises(TaskError, match="own corrupted partner"):
        Pairs(good, good[:1])
    with pytest.raises(TaskError, match="at least one pair"):
        Pairs(good[:0], good[:0])
    with pytest.raises(TaskError, match="NaN"):
        Pairs(good, nan)
    with pytest.raises(DataError, match="channels, height, width"):
        Task(vit, Metric("logit", (3,)), Pairs(torch.zeros(2, 1, 9, 9), torch.ones(2, 1, 9, 9)), Pairs(good, good + 1))


def test_ablations_are_described_and_refused():
    assert str(Ablation("mean", over="tokens")) == "mean (over tokens)"
    assert Ablation(**Ablation("noise", seed=3).as_dict()) == Ablation("noise", seed=3)
    with pytest.raises(TaskError, match="'partner'"):
        Ablation("nothing")
