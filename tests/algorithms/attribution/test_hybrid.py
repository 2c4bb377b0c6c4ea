"""The hybrid against exact effects and known truths: what is called exact is exact, and the ranking is the truth's."""

import numpy as np
import pytest
from vitcircuits.algorithms import eap_ig, exact_effects, hybrid
from vitcircuits.circuits import compile_graph, judge, planted_task
from vitcircuits.models import load_vit
from vitcircuits.models.errors import TaskError

XOR = "planted/neighbour-xor"
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


def runs(scores):
    return scores.diagnostics["measured"] + scores.diagnostics["group_tests"]


@pytest.mark.parametrize("name", EXACT)
def test_every_true_edge_outranks_every_false_one_with_at_most_half_the_runs(name):
    task = planted_task(load_vit(name), n=32)
    scores = hybrid(compile_graph(task.vit), task)
    figures = judge(scores, task.vit.minimal_circuits())
    assert figures.roc_auc == figures.roc_auc_per_pair == 1
    assert runs(scores) <= len(scores) / 2


def test_gradients_that_see_nothing_are_found_out_in_groups():
    task = planted_task(load_vit(f"{XOR}:trap,step"), n=32)
    scores = hybrid(compile_graph(task.vit), task, first="eap")
    assert judge(scores, task.vit.minimal_circuits()).roc_auc == 1
    assert scores.diagnostics["group_tests"] > 1 and runs(scores) <= len(scores) / 2


@pytest.mark.parametrize("tokens", ["all", "role"])
def test_what_is_called_exact_is_exact(tokens):
    task = planted_task(load_vit("planted/digit-pairs"), n=6)
    graph = compile_graph(task.vit, tokens=tokens)
    scores, wanted = hybrid(graph, task, budget=0.2), exact_effects(graph, task)
    assert 0 < scores.exact.sum() < len(graph)
    for name in ("values", "mean_abs", "std_err"):
        got, right = (getattr(found, name)[scores.exact] for found in (scores, wanted))
        np.testing.assert_allclose(got, right, rtol=0, atol=1e-4 * np.abs(wanted.values).max())
    assert runs(scores) <= 0.2 * len(graph)


def test_edges_that_are_left_keep_the_gradients_order_and_sign():
    task = planted_task(load_vit("planted/digit-pairs"), n=6)
    graph = compile_graph(task.vit)
    scores, first = hybrid(graph, task, budget=0.3), eap_ig(graph, task)
    left = ~scores.exact & (scores.mean_abs > 0)
    assert left.any() and np.array_equal(np.sign(scores.values[left]), np.sign(first.values[left]))
    ratios = scores.mean_abs[left] / first.mean_abs[left]
    assert ratios.max() <= scores.diagnostics["calibration"] * (1 + 1e-9)  # bounded by what the group moves


def test_zero_ablation_settles_no_source_without_a_run():
    task = planted_task(load_vit(XOR, norm="none"), n=8, ablation="zero")
    scores = hybrid(compile_graph(task.vit), task)
    assert scores.diagnostics["zero_sources"] == 0
    truths, exact = [task.vit.truth(ablation="zero")], exact_effects(scores.graph, task)
    assert (
        judge(scores, truths).roc_auc
        == judge(exact, truths).roc_auc
        > judge(eap_ig(scores.graph, task), truths).roc_auc
    )


@pytest.mark.parametrize("options", [{"first": "exact_effects"}, {"budget": 0.0}, {"budget": 2.0}])
def test_options_that_make_no_sense_are_refused(unchecked, options):
    task = planted_task(load_vit("planted/bright-column"), n=2)
    with pytest.raises(TaskError, match=next(iter(options))):
        hybrid(compile_graph(task.vit), task, **options)
