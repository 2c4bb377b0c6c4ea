"""A circuit is judged on images that it was not found on, nor on near-duplicates of them."""

import pytest
import torch
from vitcircuits.circuits import Pairs, Task, class_contrast
from vitcircuits.circuits.tasks.metrics import Metric
from vitcircuits.circuits.tasks.task import require_held_apart
from vitcircuits.models import load_vit
from vitcircuits.models.data import load_data
from vitcircuits.models.errors import TaskError


def pictures(n, seed):
    return torch.rand(n, 1, 28, 28, generator=torch.Generator().manual_seed(seed))


def pairs(seed, n=4, **parts):
    return Pairs(**{"clean": pictures(n, seed), "corrupt": pictures(n, seed + 1), **parts})


DISCOVERY = pairs(0)


def moved(images):
    return torch.roll(images, 1, -1)


def test_pairs_of_different_images_are_accepted():
    require_held_apart(DISCOVERY, pairs(2), {})
    again = DISCOVERY.select([0, 0, 1])
    require_held_apart(again, pairs(2).select([1, 1]), {})  # an image may come again within one of the two


@pytest.mark.parametrize("change", [lambda x: x, moved, lambda x: 0.9 * x + 0.1])
@pytest.mark.parametrize("where", ["clean", "corrupt"])
@pytest.mark.parametrize("source", ["clean", "corrupt"])
def test_a_near_duplicate_in_both_is_refused_with_its_places(change, where, source):
    images = pictures(4, 3)
    images[2] = change(getattr(DISCOVERY, source)[1])
    with pytest.raises(TaskError, match="discovery pairs and in the evaluation pairs") as caught:
        require_held_apart(DISCOVERY, pairs(5, **{where: images}), {})
    assert "1 images" in str(caught.value) and f"evaluation.{where}[2]" in str(caught.value)
    assert f"discovery.{source}[1]" in str(caught.value)
    repaired = str(caught.value).rpartition("such as ")[2].removesuffix(".")
    require_held_apart(DISCOVERY, eval(repaired, {"evaluation": pairs(5, **{where: images})}), {})


def test_one_photograph_as_every_partner_in_both_is_refused():
    one = pictures(1, 9).expand(4, -1, -1, -1)
    found, judged = pairs(0, corrupt=one), pairs(2, corrupt=one)
    with pytest.raises(TaskError, match=r"that one photograph.*Ablation\(\"mean\"\)"):
        require_held_apart(found, judged, {"corruption": "class_swap"})
    with pytest.raises(TaskError, match="that one photograph"):
        require_held_apart(found, pairs(2, corrupt=moved(one)), {})
    require_held_apart(found, judged, {"corruption": "mean"})
    require_held_apart(found, pairs(2, corrupt=pictures(1, 11).expand(4, -1, -1, -1)), {})


def test_a_constant_image_may_be_everyones_partner():
    flat = torch.full((4, 1, 28, 28), 0.5)
    require_held_apart(pairs(0, corrupt=flat), pairs(2, corrupt=flat), {})
    with pytest.raises(TaskError, match=r"evaluation\.clean\[0\]"):  # but clean images must still differ
        require_held_apart(pairs(0, corrupt=flat), pairs(0, corrupt=flat), {"corruption": "mean"})


def test_partners_made_from_the_clean_image_are_judged_by_the_clean_image():
    blurred = pictures(4, 7)
    require_held_apart(pairs(0, corrupt=blurred), pairs(2, corrupt=moved(blurred)), {"corruption": "blur"})
    with pytest.raises(TaskError):
        require_held_apart(pairs(0, corrupt=blurred), pairs(2, corrupt=moved(blurred)), {"corruption": "another"})


@pytest.mark.parametrize("data", ["sprites", "planted"])
def test_generated_images_may_differ_by_a_shift_but_not_be_equal(data):
    shifted = pairs(2, clean=moved(DISCOVERY.clean))
    require_held_apart(DISCOVERY, shifted, {"data": data})
    with pytest.raises(TaskError, match="4 images"):
        require_held_apart(DISCOVERY, pairs(2, clean=DISCOVERY.clean), {"data": data})


def test_a_task_holds_its_pairs_apart():
    vit = load_vit("toy/digits-2l")
    task = class_contrast(vit, "digits", target=3, foil=8, n_discovery=20, n_evaluation=10)
    brighter = Pairs(task.discovery.clean + 0.1, task.discovery.corrupt + 0.1)
    with pytest.raises(TaskError, match="near-duplicates"):
        Task(vit, Metric("logit", (3,)), task.discovery, brighter, info=task.info)


def test_data_drop_test_images_that_are_near_duplicates():
    train, labels = pictures(6, 0), torch.arange(6) % 2
    test = torch.cat([moved(train[:2]), pictures(4, 1)])
    data = load_data({"train": (train, labels), "test": (test, labels)}, None)
    assert data.n_duplicates_dropped == 2 and torch.equal(data.test.images, test[2:])
