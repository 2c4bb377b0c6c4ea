"""Over masks, every algorithm finds what it finds pair by pair, each on the groups of its own."""

import dataclasses

import numpy as np
import pytest
import torch
from vitcircuits.algorithms import acdc, budgeted_pruning, exact_effects, learned_masks
from vitcircuits.algorithms.engines.gated_run import GatedRunner, measure_slopes
from vitcircuits.algorithms.optimal import ShiftDescent
from vitcircuits.algorithms.pruning.gate_gradients import FiniteDifference, Goal, Reparameterized
from vitcircuits.algorithms.pruning.gates import draw_gates, draw_masks
from vitcircuits.algorithms.pruning.mask_plan import MaskPlan
from vitcircuits.algorithms.registry import ALGORITHMS, chosen, run_algorithm
from vitcircuits.circuits import Circuit, run_circuit
from vitcircuits.circuits.reach import prune
from vitcircuits.models.errors import TaskError

MODELS = [
    ("plain", "qkv", {"kind": "partner"}),
    ("no-class-registers", "head", {"kind": "mean"}),
    ("average", "block", {"kind": "noise", "seed": 3}),
]
SCORES = {
    "direct_logit_attribution": {},
    "eap": {},
    "eap_ig": {"steps": 2, "freeze_norm": False},
    "eap_ig_activations": {"steps": 1},
    "ceap": {"steps": 2},
    "relp": {},
    "atp_star": {},
    "exact_effects": {},
    "hybrid": {"budget": 1.0},
}


def name_of(cell):
    return "-".join((*cell[:2], cell[2]["kind"])) if isinstance(cell, tuple) else None


@pytest.fixture(params=MODELS, ids=name_of)
def mask_case(request, case_of):
    """Four pairs: an object and a background, all object, no object, another object."""
    return case_of(request.param[0], "mask", *request.param[1:], n=4)


def expected(case, score):
    """Mean, mean of absolute values and standard error over the pairs in which an edge occurs."""
    table = np.full((len(case.of_pairs), len(case.graph)), np.nan)
    for row, (one, edges) in zip(table, case.of_pairs, strict=True):
        row[edges] = score(one)
    values = [column[~np.isnan(column)] for column in table.T]
    spread = [own.std(ddof=1) / len(own) ** 0.5 if len(own) > 1 else np.nan for own in values]
    return table, np.array([own.mean() for own in values]), np.array([abs(own).mean() for own in values]), spread


TURNS = [(name, MODELS[place % 3]) for place, name in enumerate(SCORES)]  # each meets one, and EAP every model
TURNS += [("eap", model) for model in MODELS if ("eap", model) not in TURNS]


@pytest.mark.parametrize(("name", "mask_case"), TURNS, indirect=["mask_case"], ids=name_of)
def test_scores_are_means_over_the_pairs_in_which_an_edge_occurs(name, mask_case, same_scores):
    def score(case):
        return run_algorithm(name, case.graph, case.task, **SCORES[name]).values

    found = run_algorithm(name, mask_case.graph, mask_case.task, **SCORES[name])
    table, mean, mean_abs, std_err = expected(mask_case, score)
    assert np.isnan(table).any() and not np.isnan(table).all(0).any()
    same_scores(found.values, mean, mask_case.vit)
    same_scores(found.mean_abs, mean_abs, mask_case.vit)
    np.testing.assert_allclose(found.std_err, std_err, rtol=0, atol=1e-8 * np.nanmax(mean_abs))


def test_every_algorithm_that_scores_is_held_against_its_pairs():
    assert {name for name, entry in ALGORITHMS.items() if entry.finds == "scores"} - set(SCORES) == {"rank_ensemble"}


def test_slopes_are_those_of_each_pair(mask_case, same_scores):
    mask = prune(mask_case.graph, mask_case.mask(0.6))
    now, slopes = measure_slopes(
        mask_case.vit, mask_case.graph, mask, mask_case.task.metric, mask_case.pairs, mask_case.baseline
    )
    for row, (one, edges) in enumerate(mask_case.of_pairs):
        own, wanted = measure_slopes(one.vit, one.graph, mask[edges], one.task.metric, one.pairs, one.baseline)
        assert now[row] == pytest.approx(own[0], abs=1e-9)
        same_scores(slopes[row, edges], wanted[0], one.vit)
        assert not np.delete(slopes[row], edges).any()


@pytest.mark.parametrize("mask_case", [("plain", "block", {"kind": "partner"}), MODELS[1]], indirect=True, ids=name_of)
def test_law_6_acdc_decides_one_edge_at_a_time_over_the_pairs_that_have_it(mask_case):
    graph, task, pairs = mask_case.graph, mask_case.task, mask_case.pairs
    clean, occurs = mask_case.clean.double(), np.zeros((len(pairs), len(graph)), dtype=bool)
    for row, (_, edges) in enumerate(mask_case.of_pairs):
        occurs[row, edges] = True

    def measure(mask):
        said = {"ablation": task.ablation, "reference": task.reference, "objects": pairs.objects.any(1)}
        logits = run_circuit(task.vit, Circuit(graph, mask), pairs.clean, pairs.corrupt, **said)
        return task.metric(logits.double(), clean).numpy()

    rank = {"logits": 0, "mlp": 1, "inside": 2, "attention": 3}
    mask, losses, tau = np.ones(len(graph), dtype=bool), np.zeros(len(graph)), 0.1
    now = measure(mask)
    for block in sorted(graph.blocks, key=lambda b: (b.kind != "logits", -b.layer, rank[b.kind])):
        for row, group in np.argwhere(block.present).tolist():
            for column in reversed(np.flatnonzero(block.columns).tolist()):
                edge = block.index(row, group, column)
                trial = mask.copy()
                trial[edge] = False
                found = measure(trial)
                losses[edge] = (now - found)[occurs[:, edge]].mean()
                if abs(losses[edge]) < tau:
                    mask, now = trial, found
    circuit = acdc(graph, task, tau=tau, metric="task", worsening="absolute")
    np.testing.assert_allclose(circuit.scores.values, losses, rtol=0, atol=1e-9)
    assert np.array_equal(circuit.mask, prune(graph, mask)) and 0 < circuit.mask.sum() < len(graph)


@pytest.mark.parametrize("derivative", ["pathwise", "measured"])
def test_masks_are_learned_from_every_pair_on_its_own_groups(derivative, case_of, same_scores):
    case = case_of("plain", "mask", "block", n=4)
    options = {"size": 0.5, "steps": 1, "batch": 4, "derivative": derivative, "objective": "metric", "start": "none"}
    plan = MaskPlan(case.graph, case.task, [20], "none", 10**9, chosen("learned_masks", options | {"size": 20}))
    goal, rows = Goal.of(case.graph, case.task, "metric", case.baseline, memory=10**9), np.array([2, 0, 3, 1])
    log_alpha, wanted = torch.zeros(len(case.graph), dtype=torch.float64), np.zeros(len(case.graph))
    with torch.no_grad(), case.vit.borrowed():
        tell = (Reparameterized if derivative == "pathwise" else FiniteDifference)(plan, goal, case.baseline)
        told = tell(log_alpha, torch.Generator().manual_seed(0), rows, rows)
        generator = torch.Generator().manual_seed(0)
        gates, slope = draw_gates(log_alpha, generator)
        mask = draw_masks(log_alpha, torch.Generator().manual_seed(0))
        for pair, (one, edges) in enumerate(case.of_pairs):

            def loss(logits, pair=pair):
                return goal.distance(logits, goal.full[[pair]]).sum() / (4 * goal.scale)

            if derivative == "pathwise":
                found = GatedRunner(one.vit, one.graph)(gates[edges], *one.ends, loss).gradient * slope[edges]
                wanted[edges] += found.numpy()
            else:
                now, kept = float(loss(one.logits(mask[edges]))), mask[edges]
                for place, edge in enumerate(edges):
                    flipped = kept.copy()
                    flipped[place] = ~kept[place]
                    wanted[edge] += (now - float(loss(one.logits(flipped)))) * (1 if kept[place] else -1)
    same_scores(told.gradient.numpy(), wanted, case.vit)
    assert 0 < learned_masks(case.graph, case.task, **options, polish="no").mask.sum() <= len(case.graph) / 2
    with pytest.raises(TaskError, match="augment"):
        learned_masks(case.graph, case.task, **options, augment="yes")


def test_budgeted_pruning_runs_over_masks(case_of):
    case = case_of("plain", "mask", "block", n=4)
    found = budgeted_pruning(case.graph, case.task, size=8, measure="exact", share=0.5, regrow_rounds=1, swaps=1)
    effects = exact_effects(case.graph, case.task)
    assert found.mask.sum() <= 8 and np.isfinite(found.scores.values).all() and effects.exact.all()


def test_constants_are_learned_from_every_pair_on_its_own_groups(case_of, same_scores):
    case = case_of("plain", "mask", "block", {"kind": "mean"}, n=4)
    mask, rows = case.mask(0.6), np.array([3, 1, 0, 2])
    descent = ShiftDescent(Circuit(case.graph, mask), case.task, 10**9)
    shifts = torch.randn(descent.first.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad(), case.vit.borrowed():
        loss, gradient = descent.gradient(shifts, rows)
        wanted = 0.0
        for pair, (one, edges) in enumerate(case.of_pairs):
            own = ShiftDescent(Circuit(one.graph, mask[edges]), one.task, 10**9)
            alone = {name: getattr(descent.goal, name)[[pair]] for name in ("full", "none", "signs")}
            own.__dict__["goal"] = dataclasses.replace(descent.goal, **alone)
            own.goal.__dict__["variance"] = descent.goal.variance
            part, slope = own.gradient(shifts, np.array([0]))
            loss, wanted = loss - part / 4, wanted + slope / 4
    assert loss == pytest.approx(0, abs=1e-9)
    same_scores(gradient.numpy(), wanted.numpy(), case.vit)
