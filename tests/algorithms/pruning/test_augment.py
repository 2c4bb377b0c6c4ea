"""Images changed at every step: the same size, the same for one seed, whole where nothing is cut, answered anew."""

import torch
from vitcircuits.algorithms.pruning import mask_plan
from vitcircuits.algorithms.pruning.gate_gradients import Goal, Reparameterized
from vitcircuits.algorithms.pruning.mask_plan import MaskPlan, augmented
from vitcircuits.algorithms.registry import chosen
from vitcircuits.circuits import class_contrast, compile_graph
from vitcircuits.circuits.baseline import make_baseline
from vitcircuits.models import HookedViT, load_vit


def plan_of(graph, task, sizes, memory, **options):
    usual = {"polish": "no", "batch": 4, "objective": "both", "derivative": "pathwise"}
    return MaskPlan(graph, task, sizes, "none", memory, chosen("learned_masks", usual, **options))


run = HookedViT.__call__


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_images_keep_their_size_and_one_seed_gives_the_same():
    images = torch.randn(6, 3, 64, 80)
    first, again, other = (augmented(images, generator(seed)) for seed in (0, 0, 1))
    assert first.shape == images.shape and torch.equal(first, again) and not torch.equal(first, other)


def test_without_cropping_an_image_is_itself_or_its_mirror(monkeypatch):
    monkeypatch.setattr(mask_plan, "LEAST_AREA", 1.0)
    images = torch.randn(20, 3, 64, 64)
    found = augmented(images, generator())
    same = [torch.allclose(a, b, atol=1e-5) for a, b in zip(found, images, strict=True)]
    mirrored = [torch.allclose(a, b.flip(-1), atol=1e-5) for a, b in zip(found, images, strict=True)]
    assert all(a != b for a, b in zip(same, mirrored, strict=True)) and 0 < sum(same) < 20


def test_at_least_four_fifths_of_the_area_are_kept():
    ramp = torch.linspace(0, 1, 100).expand(1, 100, 100)
    for image in augmented(ramp[None].repeat(30, 1, 1, 1), generator()):
        assert float(image.max() - image.min()) > 0.85  # sides of .89 and more


def test_the_full_model_answers_anew_and_its_own_gates_reach_it():
    """With every gate open the run under the gates is the full model's, on whatever the images were made into."""
    vit = load_vit("toy/digits-2l")
    task, graph = class_contrast(vit, "digits", target=3, foil=8, n_discovery=6, n_evaluation=4), compile_graph(vit)
    plan = plan_of(
        graph, task, [20], 2_000_000_000, steps=5, batch=4, objective="both", derivative="pathwise", augment="yes"
    )
    baseline = make_baseline(vit, task.ablation)
    goal = Goal.of(graph, task, "both", baseline, memory=plan.memory)
    with torch.no_grad(), vit.borrowed():
        tell = Reparameterized(plan, goal, baseline)
        wide_open = torch.full((len(graph),), 60.0, dtype=torch.float64)
        told = tell(wide_open, plan.generator(0), *plan.pairs_of(0))
    assert plan.augments and told.loss < 1e-8


def test_the_full_model_answers_each_view_once_and_the_same_in_every_step(monkeypatch):
    vit = load_vit("toy/digits-2l")
    task, graph = class_contrast(vit, "digits", target=3, foil=8, n_discovery=3, n_evaluation=4), compile_graph(vit)
    plan = plan_of(graph, task, [20], 2_000_000_000, steps=5, batch=4, augment="yes")
    baseline, images = make_baseline(vit, task.ablation), []
    goal = Goal.of(graph, task, "both", baseline, memory=plan.memory)
    with torch.no_grad(), vit.borrowed():
        tell = Reparameterized(plan, goal, baseline)
        monkeypatch.setattr(type(vit), "__call__", lambda vit, some: images.append(some) or run(vit, some))
        for step in range(30):
            tell(plan.first_log_alpha(), plan.generator(step), *plan.pairs_of(step))
    assert len(images) == len(tell._answers) <= mask_plan.VIEWS * len(task.searched)
    row, view = next(iter(tell._answers))
    seen = augmented(task.searched.clean[[row]], plan.view_generator(row, view))
    assert torch.equal(images[0], seen)


def test_photographs_on_crossed_tasks_are_changed_and_digits_are_not():
    vit = load_vit("toy/digits-2l")
    task, graph = class_contrast(vit, "digits", target=3, foil=8, n_discovery=4, n_evaluation=4), compile_graph(vit)
    plan = plan_of(
        graph, task, [20], 2_000_000_000, steps=5, batch=4, learning_rate=0.3, objective="both", derivative="pathwise"
    )
    assert not plan.augments
    rates = [plan.rate(step) for step in range(5)]
    assert rates[:3] == [0.3] * 3 and rates[3] > rates[4] and abs(rates[4] - 0.1) < 1e-9
