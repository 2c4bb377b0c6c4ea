"""What each algorithm finds where the circuit is known: the figures that the planted models were published with."""

import numpy as np
import pytest
from vitcircuits.algorithms import eap, eap_ig, exact_effects
from vitcircuits.circuits import compile_graph, judge, planted_task, truth_mask
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


@pytest.mark.parametrize("tokens", ["all", "role"])
def test_exact_effects_find_the_truth_at_every_choice_of_ports(tokens):
    task = planted_task(load_vit(XOR), n=32)
    for ports in ("head", "block"):
        graph = compile_graph(task.vit, tokens=tokens, ports=ports)
        scores = exact_effects(graph, task)
        true = truth_mask(graph, task.vit.truth(tokens=tokens))
        assert np.array_equal(scores.mean_abs > 1e-4, true)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    "name", ["planted/bright-column", XOR, f"{XOR}:gain=medium", f"{XOR}:norm=none", f"{XOR}:disguise=2"]
)
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
