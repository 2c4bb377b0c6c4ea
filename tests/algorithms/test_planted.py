"""What each algorithm finds where the circuit is known: the figures that the planted models were published with."""

from dataclasses import replace

import numpy as np
import pytest
from vitcircuits.algorithms import acdc, eap, eap_ig, exact_effects
from vitcircuits.circuits import compile_graph, evaluate, judge, planted_task, planted_truth, truth_mask
from vitcircuits.circuits.truths.planted import roc_auc
from vitcircuits.models import load_vit

XOR = "planted/neighbour-xor"
MANY = 256  # pairs: five points seldom meet the one where hard attention turns, so few pairs can miss an edge
EXACT = (
    "planted/bright-column",
    "planted/bright-column:norm=none,disguise=1",
    XOR,
    f"{XOR}:norm=none,gain=soft",
    f"{XOR}:norm=none,disguise=2",
    f"{XOR}:gain=medium",
    f"{XOR}:trap,step",
    f"{XOR}:trap,step,disguise=1",
)


@pytest.fixture(scope="module")
def found():
    """Runs an algorithm on a planted model and judges it: found(eap, name, **options)."""
    tasks = {}

    def run(algorithm, name, *, n=64, seed=0, **options):
        if (name, n, seed) not in tasks:
            tasks[name, n, seed] = planted_task(load_vit(name), n=n, seed=seed)
        task = tasks[name, n, seed]
        return judge(algorithm(compile_graph(task.vit), task, **options), task.vit.minimal_circuits())

    return run


@pytest.mark.parametrize("name", EXACT)
def test_exact_effects_rank_every_true_edge_above_every_false_one(found, name):
    figures = found(exact_effects, name, n=32)
    assert figures.roc_auc == figures.roc_auc_per_pair == figures.average_precision == figures.precision == 1


WAYS = ({}, {"metric": "logit_difference"}, {"order": "eap", "worsening": "absolute"})
TURNS = [(name, WAYS[place % 3]) for place, name in enumerate(EXACT)]
TURNS += [(EXACT[-1], way) for way in WAYS if (EXACT[-1], way) not in TURNS]


@pytest.mark.parametrize(("name", "options"), TURNS)
def test_acdc_finds_exactly_the_truth(name, options):
    task = planted_task(load_vit(name), n=64)
    circuit = acdc(compile_graph(task.vit), task, tau=0.01, **options)
    assert set(circuit.edge_names()) == task.vit.truth()


@pytest.mark.parametrize("disguise", [None, 1])
@pytest.mark.parametrize("name", ["planted/bright-column", XOR])
def test_acdc_finds_the_larger_truth_under_zero_ablation(name, disguise):
    task = planted_task(load_vit(name, norm="none", disguise=disguise), n=64, ablation="zero")
    circuit = acdc(compile_graph(task.vit), task, tau=0.01)
    assert set(circuit.edge_names()) == task.vit.truth(ablation="zero") > task.vit.truth()


def test_a_circuit_found_under_one_ablation_is_judged_under_another():
    task = planted_task(load_vit(XOR, norm="none"), n=64)
    by_zero = acdc(compile_graph(task.vit), planted_task(task.vit, n=64, ablation="zero"), tau=0.01)
    by_partner = acdc(compile_graph(task.vit), task, tau=0.01)

    def faithfulness(circuit, ablation):
        return evaluate(circuit, task, ablation=ablation, curve=False, n_random=0)["faithfulness"].value

    assert faithfulness(by_zero, "zero") == pytest.approx(1, abs=1e-4)
    assert faithfulness(by_zero, "partner") == pytest.approx(1, abs=1e-4)  # it holds every edge that partners change
    assert faithfulness(by_partner, "partner") == pytest.approx(1, abs=1e-4)
    assert faithfulness(by_partner, "zero") < 0.9  # but partners share position and CLS, and zeros don't


@pytest.mark.parametrize("order", ["paper", "eap"])
@pytest.mark.parametrize("disguise", [None, 1, 2])
def test_acdc_finds_one_of_majoritys_three_circuits(disguise, order):
    task = planted_task(load_vit("planted/majority", disguise=disguise), n=64)
    circuit = acdc(compile_graph(task.vit), task, tau=0.01, order=order)
    assert set(circuit.edge_names()) in task.vit.minimal_circuits()


def test_acdc_finds_the_truth_of_a_trained_model_and_one_weak_edge():
    task = planted_task(load_vit("planted/digit-pairs"), n=64)
    found = set(acdc(compile_graph(task.vit), task, tau=0.01).edge_names())
    assert found >= task.vit.truth() and len(found - task.vit.truth()) <= 1


@pytest.mark.parametrize("tokens", ["all", "role"])
def test_exact_effects_find_the_truth_at_every_choice_of_ports(tokens):
    task = planted_task(load_vit(XOR), n=32)
    for ports in ("head", "block"):
        graph = compile_graph(task.vit, tokens=tokens, ports=ports)
        scores = exact_effects(graph, task)
        true = truth_mask(graph, task.vit.truth(tokens=tokens))
        assert np.array_equal(scores.mean_abs > 1e-4, true)


SOFT = ("planted/bright-column", XOR, f"{XOR}:gain=medium", f"{XOR}:norm=none", f"{XOR}:disguise=2")


@pytest.mark.parametrize(("name", "seed"), [*((name, place % 3) for place, name in enumerate(SOFT)), (XOR, 2)])
def test_ig_with_frozen_norms_is_perfect_without_traps(found, name, seed):
    figures = found(eap_ig, name, n=MANY, seed=seed, freeze_norm=True)
    assert figures.roc_auc == figures.roc_auc_per_pair == 1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ig_with_frozen_norms_is_nearly_perfect_with_trap_and_step(found, seed):
    figures = found(eap_ig, f"{XOR}:trap,step", n=MANY, seed=seed, freeze_norm=True)
    assert min(figures.roc_auc, figures.roc_auc_per_pair) >= 0.95


def test_ig_with_live_norms_scores_edges_that_nobody_reads(found):
    live = [found(eap_ig, f"{XOR}:gain=medium", seed=seed, freeze_norm=False).roc_auc for seed in range(3)]
    assert min(live) < 1  # the radial part of the norm's gradient


@pytest.mark.parametrize("freeze_norm", [True, False])
@pytest.mark.parametrize("name", ["planted/bright-column", XOR, f"{XOR}:norm=none", f"{XOR}:trap,step"])
def test_eap_fails_behind_a_saturated_softmax(found, name, freeze_norm):
    figures = found(eap, name, freeze_norm=freeze_norm)
    assert max(figures.roc_auc, figures.roc_auc_per_pair) < 0.95


def test_eap_is_right_where_attention_is_soft(found):
    assert found(eap, f"{XOR}:norm=none,gain=soft").roc_auc == 1


@pytest.mark.parametrize("disguise", [None, 1])
def test_no_redundant_edge_of_majority_has_an_effect(disguise):
    vit = load_vit("planted/majority", disguise=disguise)
    graph = compile_graph(vit)
    effects = exact_effects(graph, planted_task(vit))
    scored = {name for name, value in zip(graph.edge_names(), effects.mean_abs, strict=True) if value > 1e-5}
    assert scored == {"m0->logits"}  # the one true edge that has no copy


@pytest.mark.parametrize(("name", "tokens", "ports"), [
    ("planted/bright-column", "each", "qkv"),
    ("planted/bright-column", "mask", "head"),
    (XOR, "each", "block"),
    (XOR, "grid:2x2", "qkv"),
    (XOR, "mask", "qkv"),
    (f"{XOR}:trap,step", "mask", "block"),
])  # fmt: skip
def test_exact_effects_find_the_truth_of_finer_tokens(name, tokens, ports, planted_objects):
    vit = load_vit(name)
    task = planted_task(vit, n=128 if tokens == "each" else 64)  # an edge at a single patch matters in few images
    pairs = replace(task.discovery, objects=planted_objects(vit, len(task.discovery)))
    graph = compile_graph(vit, tokens=tokens, ports=ports)
    truth, scores = planted_truth(graph, vit, pairs), exact_effects(graph, replace(task, discovery=pairs))
    assert 0 < truth.sum() < len(graph)
    assert roc_auc(scores.values, truth) == roc_auc(scores.mean_abs, truth) == 1


def test_acdc_finds_exactly_the_truth_of_masks(planted_objects):
    vit = load_vit(XOR)
    task = planted_task(vit, n=64)
    task = replace(task, discovery=replace(task.discovery, objects=planted_objects(vit, 64)))
    graph = compile_graph(vit, tokens="mask", ports="block")
    assert np.array_equal(acdc(graph, task, tau=0.01).mask, planted_truth(graph, vit, task.discovery))
