"""Learned masks: sizes are kept, what is learned is faithful, a descent cut off goes on as if it had not been."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from vitcircuits.algorithms import eap, learned_masks
from vitcircuits.algorithms.pruning import gate_gradients, masks
from vitcircuits.algorithms.pruning.gate_gradients import FiniteDifference, Goal
from vitcircuits.algorithms.pruning.gates import draw_gates, draw_masks
from vitcircuits.algorithms.pruning.mask_plan import MaskPlan
from vitcircuits.algorithms.registry import chosen, least_memory
from vitcircuits.circuits import Pairs, class_contrast, compile_graph, evaluate, planted_task
from vitcircuits.circuits.baseline import make_baseline
from vitcircuits.circuits.reach import prune
from vitcircuits.circuits.run import run_masks, run_pairs
from vitcircuits.models import load_vit
from vitcircuits.models.errors import FormatError, GraphError, TaskError

XOR = "planted/neighbour-xor"
FEW = {
    "steps": 30,
    "batch": 4,
    "learning_rate": 0.15,
    "objective": "metric",
    "start": "none",
    "polish": "no",
    "derivative": "pathwise",
}


def plan_of(graph, task, sizes, memory, **options):
    usual = {"polish": "no", "batch": 4, "learning_rate": 0.15, "objective": "metric", "derivative": "pathwise"}
    return MaskPlan(graph, task, sizes, "none", memory, chosen("learned_masks", usual, **options))


@pytest.fixture(scope="module")
def digits():
    """3 against 8 on the digits' toy."""
    return class_contrast(load_vit("toy/digits-2l"), "digits", target=3, foil=8, n_discovery=32, n_evaluation=24)


@pytest.fixture(scope="module")
def graph(digits):
    return compile_graph(digits.vit)


def _transmission(circuit, task):
    return evaluate(circuit, task, curve=False, n_random=0, n_bootstrap=0).figures["transmission"].value


def test_one_descent_gives_all_sizes_and_they_hold_on_other_images(digits, graph):
    sizes = [0.2, 0.4]
    small, large = learned_masks(graph, digits, size=sizes, steps=80, derivative="pathwise", polish="no")
    for circuit, share in zip((small, large), sizes, strict=True):
        assert 0.9 * share * len(graph) <= len(circuit) <= round(share * len(graph))
        assert np.array_equal(prune(graph, circuit.mask), circuit.mask)
    assert _transmission(large, digits) > max(0.8, _transmission(eap(graph, digits).top(len(large)), digits))
    assert _transmission(small, digits) > 0.5


@pytest.mark.parametrize(
    "options",
    [{}, {"objective": "kl", "partners": "given"}, {"objective": "both", "start": "eap"}, {"memory": 1_500_000}],
    ids=str,
)
def test_the_same_call_gives_the_same_circuit(digits, graph, options):
    first, second = (learned_masks(graph, digits, size=20, **{**FEW, "steps": 6, **options}) for _ in range(2))
    assert first == second and 0 < len(first) <= 20


def test_a_budget_of_one_pair_changes_nothing_but_rounding(digits, graph):
    options = {**FEW, "steps": 10, "size": 0.3}
    least = least_memory("learned_masks", graph, digits, **options)
    whole, one = (learned_masks(graph, digits, memory=memory, **options) for memory in (2_000_000_000, least))
    np.testing.assert_allclose(whole.scores.values, one.scores.values, atol=1e-3)


def test_a_descent_that_was_cut_off_anywhere_ends_with_the_same_circuit(digits, graph, tmp_path, monkeypatch):
    options, journal, drawn = {**FEW, "steps": 12, "size": [30, 15]}, tmp_path / "journal.jsonl", MaskPlan.pairs_of
    wanted, seen = learned_masks(graph, digits, **options), []
    monkeypatch.setattr(masks, "SAVE_SECONDS", -1.0)  # after every step

    def until(stop):
        def draw(plan, step):
            if step == stop:
                raise KeyboardInterrupt
            seen.append(step)
            return drawn(plan, step)

        monkeypatch.setattr(MaskPlan, "pairs_of", draw)

    for stop in (1, 11, 12, 13, 23):
        until(stop)
        with pytest.raises(KeyboardInterrupt):
            learned_masks(graph, digits, **options, journal=journal)
    until(None)
    assert learned_masks(graph, digits, **options, journal=journal) == wanted
    assert seen == list(range(24))  # no step was taken twice
    with pytest.raises(FormatError, match="another search"):
        learned_masks(graph, digits, **options, seed=1, journal=journal)


def test_the_schedule_goes_down_and_rests(digits, graph):
    plan = plan_of(
        graph,
        digits,
        [10, 40, 10],
        1,
        steps=50,
    )
    densities = [plan.density(step) for step in range(plan.total_steps)]
    assert plan.total_steps == 100 and densities == sorted(densities, reverse=True)
    assert densities[30:50] == [40 / len(graph)] * 20 and densities[-1] == 10 / len(graph)


def test_a_descent_stays_near_scores_for_fewer_steps_where_removed_edges_carry_no_other_image(digits, graph):
    scores = eap(graph, digits)
    near = class_contrast(digits.vit, "digits", target=3, foil=8, ablation="mean", n_discovery=8)
    one_sided = class_contrast(digits.vit, "digits", target=3, foil=8, sides="one", ablation="mean", n_discovery=8)
    found = {}
    for name, task in {"near": near, "swap": digits, "one side": one_sided}.items():
        plan = replace(plan_of(graph, task, [10], 1, steps=50), start=scores)
        found[name] = plan.steps, plan.rate(0), float(plan.first_log_alpha().max() - plan.first_log_alpha().min())
        assert plan.density(plan.steps - 1) == 10 / len(graph)
    assert found["near"][0] == 35 and found["swap"][0] == found["one side"][0] == 50
    assert found["near"][1] == pytest.approx(2 / 3 * found["swap"][1])
    assert found["near"][2] > found["swap"][2]
    assert plan_of(graph, near, [10], 1, steps=50).steps == 50, "nothing to stay near"


def test_every_pair_comes_once_in_an_epoch_and_partners_are_shuffled_only_where_they_are_other_images(digits, graph):
    plan = plan_of(
        graph,
        digits,
        [10],
        1,
        steps=8,
    )
    n = len(digits.discovery)
    seen = np.concatenate([plan.pairs_of(step)[0] for step in range(n)])
    assert all(sorted(epoch) == list(range(n)) for epoch in seen.reshape(-1, n))
    assert plan.shuffles and any(not np.array_equal(*plan.pairs_of(step)) for step in range(4))
    blurred = class_contrast(digits.vit, "digits", target=3, foil=8, corruption="blur", n_discovery=8, n_evaluation=8)
    assert not plan_of(
        graph,
        blurred,
        [10],
        1,
        steps=8,
    ).shuffles


@pytest.mark.parametrize("size", [0, -0.1, 1.5, 10_000, []])
def test_a_size_that_makes_no_sense_is_refused(digits, graph, size):
    with pytest.raises(GraphError, match="size"):
        learned_masks(graph, digits, size=size)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"steps": 0}, "steps=0"), ({"learning_rate": 0.0}, "learning_rate"), ({"start": "nothing"}, "eap_ig")],
)
def test_options_that_make_no_sense_are_refused(digits, graph, options, said):
    with pytest.raises(TaskError, match=said):
        learned_masks(graph, digits, **options)


@pytest.mark.parametrize("name", ["planted/bright-column", f"{XOR}:trap,step", "planted/majority"])
def test_the_truth_is_found_at_its_size_where_every_slope_misleads(name):
    task = planted_task(load_vit(name), n=16)
    truths = task.vit.minimal_circuits()
    circuit = learned_masks(compile_graph(task.vit), task, size=len(truths[0]), steps=100)
    assert frozenset(circuit.edge_names()) in truths


def test_a_measured_derivative_is_the_loss_with_the_gate_open_less_the_loss_with_it_shut(digits, graph):
    plan = plan_of(
        graph,
        digits,
        [20],
        2_000_000_000,
        steps=30,
        batch=3,
        learning_rate=0.15,
        objective="metric",
        derivative="measured",
    )
    vit, baseline, log_alpha = digits.vit, make_baseline(digits.vit, digits.ablation), torch.zeros(len(graph)).double()
    goal = Goal.of(graph, digits, "metric", baseline, memory=plan.memory)
    clean, partners = np.array([4, 0, 7]), np.array([1, 4, 2])
    with torch.no_grad(), vit.borrowed():
        told = FiniteDifference(plan, goal, baseline)(log_alpha, plan.generator(3), clean, partners)
    mask, pairs = draw_masks(log_alpha, plan.generator(3)), digits.discovery
    met = Pairs(pairs.clean[clean], pairs.corrupt[partners])

    def loss(edge, kept):
        flipped = mask.copy()
        flipped[edge] = kept
        outputs = digits.metric(run_pairs(vit, graph, flipped, met, baseline)).double()
        return float((outputs - digits.metric(goal.full[clean])).square().mean()) / goal.scale

    for edge in range(0, len(graph), 7):
        assert abs(float(told.gradient[edge]) - (loss(edge, True) - loss(edge, False))) < 1e-5


def test_a_step_is_the_sum_over_pairs_under_gates_of_their_own(digits, graph, monkeypatch):
    monkeypatch.setattr(gate_gradients, "chunk_size", lambda *_: 1)  # as of a large model
    plan = plan_of(graph, digits, [20], 2_000_000_000, steps=30)
    vit, baseline, log_alpha = digits.vit, make_baseline(digits.vit, digits.ablation), torch.zeros(len(graph)).double()
    goal = Goal.of(graph, digits, "metric", baseline, memory=plan.memory)
    clean, partners, generator = np.array([4, 0, 7, 2]), np.array([1, 4, 2, 0]), plan.generator(3)
    drawn, wanted, met = [draw_gates(log_alpha, generator) for _ in range(2)], 0.0, digits.searched
    with torch.no_grad(), vit.borrowed():
        told = gate_gradients.Reparameterized(plan, goal, baseline)(log_alpha, plan.generator(3), clean, partners)
        for at, (gates, slope) in zip(([0, 1], [2, 3]), drawn, strict=True):
            full, ablated = goal.full[clean[at]].to(vit.dtype), baseline(met.select(partners[at].tolist()))
            found = gate_gradients.GatedRunner(vit, graph)(
                gates,
                vit.embed(met.clean[clean[at]]),
                ablated,
                lambda logits, full=full: goal.distance(logits, full).sum() / (4 * goal.scale),
            )
            wanted = wanted + found.gradient.double() * slope
    assert torch.allclose(told.gradient, wanted, rtol=1e-5, atol=1e-9)
    assert not torch.equal(*(gates for gates, _ in drawn))


def test_swaps_only_bring_a_circuit_closer(digits, graph):
    rough, polished = (learned_masks(graph, digits, size=10, **{**FEW, "polish": polish}) for polish in ("no", "yes"))
    assert len(polished) <= 10 and "edges_exchanged" in polished.provenance and "polished" not in rough.provenance
    runs = run_masks(
        digits.vit,
        graph,
        [rough.mask, polished.mask],
        digits.metric,
        digits.discovery,
        make_baseline(digits.vit, digits.ablation),
    )
    before, after = np.square(runs.outputs - runs.clean_outputs).mean(-1)
    assert after <= before


def test_a_metric_without_a_gradient_asks_for_kl(digits, graph):
    task = class_contrast(digits.vit, "digits", target=3, foil=8, metric="accuracy", n_discovery=8, n_evaluation=8)
    with pytest.raises(TaskError, match="objective"):
        learned_masks(graph, task, **FEW)
    assert len(learned_masks(graph, task, size=10, **{**FEW, "objective": "kl"})) <= 10


def test_clean_images_of_both_classes_take_turns_on_a_crossed_task(digits, graph):
    plan = plan_of(
        graph, digits, [10], 1, steps=8, batch=8, learning_rate=0.15, objective="metric", derivative="pathwise"
    )
    for step in range(6):
        signs = digits.searched.sign[plan.pairs_of(step)[0]]
        assert int(signs.sum()) == 0


def test_what_is_learned_on_both_sides_reads_the_image_and_on_one_side_need_not(digits, graph):
    """The defaults of graphs that are learned through: both distances, from EAP-IG's ranking at high density."""
    learned = {"steps": 60, "derivative": "pathwise", "polish": "no"}
    whole, both = (
        learned_masks(graph, digits, size=size, **learned, objective="both", start="eap_ig") for size in (0.3, 0.15)
    )
    assert whole.provenance["options"]["objective"] == "both"
    assert _transmission(whole, digits) > 0.7
    task = class_contrast(digits.vit, "digits", target=3, foil=8, sides="one", n_discovery=32, n_evaluation=24)
    one = learned_masks(graph, task, size=0.15, **learned)
    assert one.provenance["options"]["objective"] == "metric"
    assert _transmission(one, digits) < _transmission(both, digits)


def test_both_distances_are_learned_through_gates_only(digits, graph):
    with pytest.raises(TaskError, match="pathwise"):
        learned_masks(graph, digits, objective="both", derivative="measured")


def test_the_blend_is_the_squared_difference_over_its_variance_and_the_divergence(digits, graph):
    from vitcircuits.circuits.tasks.metrics import kl_divergence

    goal = Goal.of(graph, digits, "both", make_baseline(digits.vit, digits.ablation), memory=2_000_000_000)
    logits = goal.none
    difference = digits.metric(logits) - digits.metric(goal.full)
    variance = float(digits.metric(goal.full).var(unbiased=False))
    wanted = difference.square() / variance + kl_divergence(goal.full, logits)
    assert torch.allclose(goal.distance(logits, goal.full), wanted, rtol=1e-9)
