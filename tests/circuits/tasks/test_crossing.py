"""Crossed pairs: equally many images of both classes, partners balanced, none its own, the model's mistakes counted."""

from collections import Counter

import numpy as np
import pytest
import torch
from vitcircuits.circuits import Ablation, Circuit, Pairs, Partner, class_contrast, compile_graph, evaluate
from vitcircuits.circuits.partners.partner import CORRUPTIONS, MASKED
from vitcircuits.circuits.tasks.design import FOIL, NEITHER, TARGET, Design
from vitcircuits.models import load_vit
from vitcircuits.models.data import load_data
from vitcircuits.models.errors import TaskError


@pytest.fixture(scope="module")
def vit():
    return load_vit("toy/digits-2l")


@pytest.fixture(scope="module")
def task(vit):
    return class_contrast(
        vit, "digits", target=3, foil=8, n_discovery=12, n_evaluation=40
    )  # it gets two of these wrong


def is_partner_of(design, clean_side):
    """How often each image is the partner of clean images of one side."""
    return Counter(design.partner_image[design.clean_side == clean_side].tolist())


def test_every_image_is_a_partner_equally_often_on_both_sides_and_never_its_own(task):
    for pairs, each in ((task.discovery, 1), (task.evaluation, 2)):
        design = pairs.design
        assert (design.clean_image != design.partner_image).all()
        right = pairs.select(torch.nonzero(design.right).flatten()).design
        of_target, of_foil = is_partner_of(right, TARGET), is_partner_of(right, FOIL)
        assert of_target == of_foil and set(of_target.values()) == {each}
        assert {name for name, _ in right.cells()} == {
            f"{a}_with_{b}" for a in ("target", "foil") for b in ("target", "foil")
        }


def test_sides_are_what_the_labels_say_and_right_is_what_the_model_says(vit, task):
    for pairs in (task.discovery, task.evaluation):
        assert torch.equal(pairs.labels == 3, pairs.design.clean_side == TARGET)
        assert torch.equal(vit(pairs.clean).argmax(1) == pairs.labels, pairs.design.right)
    assert task.discovery.design.right.all()
    design = task.evaluation.design
    n_wrong = task.info["images"]["evaluation"]["target_wrong"] + task.info["images"]["evaluation"]["foil_wrong"]
    assert (
        design.clean_image[~design.right].unique().numel()
        == n_wrong
        == task.info["dropped"]["evaluation"]["clean_wrong"]
    )


def test_one_image_is_one_number_whatever_it_serves_as(task):
    pixels = {}
    design = task.evaluation.design
    for images, numbers in (
        (task.evaluation.clean, design.clean_image),
        (task.evaluation.corrupt, design.partner_image),
    ):
        for image, number in zip(images, numbers.tolist(), strict=True):
            pixels.setdefault(number, image)
            assert torch.equal(pixels[number], image)
    assert len({image.numpy().tobytes() for image in pixels.values()}) == len(pixels)


def test_both_images_at_a_place_meet_the_same_partners(task):
    design = task.evaluation.design
    met = {}
    for side, place, partner in zip(
        design.clean_side.tolist(), design.clean_place.tolist(), design.partner_image.tolist(), strict=True
    ):
        met.setdefault((place, side), set()).add(partner)
    for place in range(task.info["images"]["evaluation"]["target"]):
        assert met[place, TARGET] == met[place, FOIL]


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_every_corruption_makes_a_crossed_task(vit, corruption):
    partner = Partner(corruption, mask="attention" if corruption in MASKED else None)
    task = class_contrast(vit, "digits", target=4, foil=9, corruption=partner, n_discovery=8, n_evaluation=8)
    design = task.evaluation.design
    assert task.sides == "both" and design.sided and task.info["sides"] == "both"
    assert design.crossed == (corruption in ("class_swap", "nearest"))
    assert design.follows == (corruption not in ("class_swap", "another"))
    assert (vit(task.discovery.clean).argmax(1) == task.discovery.labels).all()
    if partner.aligned:
        assert torch.equal(design.clean_image, design.partner_image)


def test_a_word_names_the_other_class(vit, monkeypatch):
    from vitcircuits.circuits.tasks import crossing

    painted = []

    def corrupt(partner, images, *rest, word, **options):
        painted.append((word, len(images)))
        return images

    monkeypatch.setattr(crossing, "corrupt_pixels", corrupt)
    class_contrast(vit, "digits", target=4, foil=9, corruption="word", n_discovery=3, n_evaluation=3)
    assert {word for word, _ in painted[:2]} == {"4", "9"}


def test_nearest_partners_are_the_nearest_by_a_plain_loop(vit):
    task = class_contrast(vit, "digits", target=3, foil=8, corruption="nearest", n_discovery=6, n_evaluation=6)
    pairs, design = task.discovery, task.discovery.design
    images = {int(n): image for n, image in zip(design.clean_image, pairs.clean, strict=True)}
    side = dict(zip(design.clean_image.tolist(), design.clean_side.tolist(), strict=True))
    with torch.no_grad(), vit.borrowed():
        seen = {
            n: torch.nn.functional.normalize(
                vit.readout.select(vit.run_blocks(vit.embed(image[None]))).flatten().double(), dim=0
            )
            for n, image in images.items()
        }
    for clean, partner, other in zip(
        design.clean_image.tolist(), design.partner_image.tolist(), design.partner_side.tolist(), strict=True
    ):
        pool = [n for n in images if side[n] == other and n != clean]
        best = max(float(seen[clean] @ seen[n]) for n in pool)
        assert float(seen[clean] @ seen[partner]) == pytest.approx(best, abs=1e-9)


def test_without_partners_each_clean_image_comes_once(task):
    for kind in ("mean", "zero", "noise", "another"):
        alone = task.evaluation.under(Ablation(kind))
        numbers = alone.design.clean_image.tolist()
        assert len(numbers) == len(set(numbers)) and set(numbers) == set(task.evaluation.design.clean_image.tolist())
        assert alone.design.follows and not alone.design.crossed and alone.design.sided
    assert task.evaluation.under(Ablation("partner")) is task.evaluation
    assert len(task.with_ablation("mean").searched) == len(task.searched) / 2


def test_reference_images_are_equally_many_of_all_classes_or_the_users_own(vit):
    data = load_data("digits", vit.preprocess)
    task = class_contrast(vit, data, target=3, foil=8, n_discovery=4, n_evaluation=4)
    label = {image.numpy().tobytes(): int(k) for image, k in zip(data.train.images, data.train.labels, strict=True)}
    assert Counter(label[image.numpy().tobytes()] for image in task.reference) == dict.fromkeys(range(10), 25)
    own = data.train.images[:7]
    given = class_contrast(vit, data, target=3, foil=8, n_discovery=4, n_evaluation=4, reference=own)
    assert torch.equal(given.reference, own)


def test_third_classes_stand_apart(task):
    others = task.others
    assert (others.design.clean_side == NEITHER).all() and not set(others.labels.tolist()) & {3, 8}
    assert set(others.design.partner_side.tolist()) == {TARGET, FOIL}
    first = class_contrast(
        load_vit("toy/digits-2l"),
        (
            torch.cat([task.discovery.clean, task.evaluation.clean]),
            torch.cat([task.discovery.labels, task.evaluation.labels]),
        ),
        target=3,
        foil=8,
        n_discovery=4,
        n_evaluation=4,
    )
    assert first.others is None


def test_of_other_classes_in_a_folder_a_few_pictures_are_read(vit, tmp_path):
    from PIL import Image

    data = load_data("digits", None)
    for split in ("train", "test"):
        images, labels = getattr(data, split).images, getattr(data, split).labels
        for digit in range(10):
            folder = tmp_path / split / str(digit)
            folder.mkdir(parents=True)
            for row in torch.nonzero(labels == digit).flatten()[:12].tolist():
                Image.fromarray((images[row, 0] * 255).byte().numpy()).save(folder / f"{row}.png")
    task = class_contrast(vit, str(tmp_path), target="3=3", foil="8=8", n_discovery=5, n_evaluation=5)
    assert set(task.others.labels.tolist()) == {0, 1, 2, 4, 5, 6, 7, 9}
    assert task.info["images"]["evaluation"]["target"] >= 2


def test_data_of_one_class_say_what_to_do(vit, task):
    images, labels = task.discovery.clean, torch.full((len(task.discovery),), 3)
    with pytest.raises(TaskError, match=r'no image of \'8\'.*corruption="blur"'):
        class_contrast(vit, (images, labels), target=3, foil=8)
    alone = class_contrast(vit, (images, labels), target=3, foil=8, corruption="blur", n_discovery=4, n_evaluation=4)
    assert alone.evaluation.design.sides == (TARGET,) and alone.info["images"]["evaluation"]["foil"] == 0
    report = evaluate(Circuit.full(compile_graph(vit)), alone, n_random=2)
    assert report["reproduced_variation"].value == pytest.approx(1) and report["right"].value == 1
    for name in ("transmission", "random_transmission", "dealt_transmission"):
        assert report[name].value is None
    assert "the clean images show one class only" in str(report)
    with pytest.raises(TaskError, match=r"of each class.*sides="):
        class_contrast(vit, "digits", target=3, foil=8, n_discovery=1)
    with pytest.raises(TaskError, match="is not known"):
        class_contrast(vit, "digits", target=3, foil=8, sides="two")
    with pytest.raises(TaskError, match='leave sides="both"'):
        class_contrast(vit, "digits", target=3, foil=8, corruption="nearest", sides="one")


def test_balanced_weights_make_cells_equal_and_contrasts_add_up(task):
    design = task.evaluation.design
    weights = design.balanced(np.ones(len(design)))
    assert [weights[inside].sum() for _, inside in design.cells()] == pytest.approx([0.25] * 4)
    contrast, partner = design.contrast(weights), design.partner_contrast(weights)
    target = design.clean_side.numpy() == TARGET
    assert contrast[target].sum() == pytest.approx(1) and contrast[~target].sum() == pytest.approx(-1)
    assert partner @ (design.partner_side.numpy() == TARGET) == pytest.approx(1)


def test_a_place_is_drawn_with_all_its_pairs(task):
    design = task.evaluation.design
    clean, partner = design.place_counts(50, seed=3)
    for place in design.clean_place.unique().tolist():
        rows = clean[:, design.clean_place.numpy() == place]
        assert (rows == rows[:, :1]).all()
        both = partner[:, design.partner_place.numpy() == place]
        assert not both.size or (both == rows[:, :1]).all()  # an image that serves as both is one image
    of_right = design.right.numpy()  # a lone mistake is always drawn
    assert clean[:, of_right].std(0).min() > 0


def test_a_design_fits_its_pairs(unchecked):
    one = torch.zeros(2, dtype=torch.long)
    with pytest.raises(TaskError, match="lengths"):
        Design(one, one, one, one, torch.ones(3, dtype=torch.bool))
    design = Design(one, one, one, one, torch.ones(2, dtype=torch.bool))
    with pytest.raises(TaskError, match="design has 2 rows"):
        Pairs(*torch.randn(2, 3, 1, 8, 8), design=design)
