"""Figures against a known truth, by hand and against scikit-learn; truth as masks at every choice of ports."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score
from vitcircuits.circuits import Circuit, Scores, compile_graph, judge, truth_mask
from vitcircuits.circuits.truths.planted import average_precision, match, precision_at_size, roc_auc
from vitcircuits.models import load_vit
from vitcircuits.models.errors import GraphError


def scored(graph, values, mean_abs=None):
    values = np.asarray(values, dtype=np.float64)
    spread = np.abs(values) if mean_abs is None else np.asarray(mean_abs, dtype=np.float64)
    return Scores(graph, values, spread, np.zeros(len(graph)), np.zeros(len(graph), dtype=bool), 4, "made up")


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40))
def test_auc_and_average_precision_are_scikit_learns(edges):
    values, truth = np.array([float(v) for v, _ in edges]), np.array([t for _, t in edges])
    if truth.all() or not truth.any():
        assert np.isnan(roc_auc(values, truth))
        return
    assert roc_auc(values, truth) == pytest.approx(roc_auc_score(truth, values))
    assert average_precision(values, truth) == pytest.approx(average_precision_score(truth, values))


def test_rounding_errors_count_as_zero():
    truth = np.array([True, True, False, False])
    noisy = np.array([1.0, 0.0, 9e-6, 9e-6])  # without the floor false edges outrank a true one
    assert roc_auc(noisy, truth) == 0.75
    assert roc_auc(np.array([1.0, 0.0, 2e-5, 2e-5]), truth) == 0.5
    assert roc_auc(np.zeros(4), truth) == 0.5


def test_edges_tied_at_the_end_count_in_part():
    truth = np.array([True, True, True, False, False])
    assert precision_at_size(np.array([5.0, 4.0, 3.0, 2.0, 1.0]), truth) == 1
    assert precision_at_size(np.array([1.0, 2.0, 3.0, 5.0, 4.0]), truth) == pytest.approx(1 / 3)
    assert precision_at_size(np.array([5.0, 1.0, 1.0, 1.0, 1.0]), truth) == pytest.approx((1 + 2 * 2 / 4) / 3)


def test_a_circuit_is_set_against_the_nearest_truth():
    first, second = np.array([1, 1, 0, 0], dtype=bool), np.array([0, 1, 1, 0], dtype=bool)
    found = match(np.array([0, 1, 1, 1], dtype=bool), [first, second])
    assert (found.precision, found.recall, found.size) == (pytest.approx(2 / 3), 1, 3)
    assert found.f1 == pytest.approx(0.8)
    nothing = match(np.zeros(4, dtype=bool), [first])
    assert (nothing.precision, nothing.recall, nothing.f1) == (1, 0, 0)


@pytest.mark.parametrize("tokens", ["all", "role", "each"])
def test_truth_at_coarser_ports_holds_what_the_finer_one_folds_to(tokens):
    vit = load_vit("planted/neighbour-xor")
    names = vit.truth(tokens=tokens)
    for ports in ("qkv", "head", "block"):
        graph = compile_graph(vit, tokens=tokens, ports=ports)
        kept = {graph.edge(int(index)).name for index in np.flatnonzero(truth_mask(graph, names))}
        folded = {name.replace("<q>", "").replace("<k>", "").replace("<v>", "") for name in names}
        if ports == "block":
            folded = {_to_block(name) for name in folded}
        assert kept == (names if ports == "qkv" else folded)


def _to_block(name):
    source, destination = name.split("->")
    inside = source.split("@")[0] == destination.split("@")[0]
    ends = [source, destination]
    for place in (0, 1) if inside else (1,):
        node, _, group = ends[place].partition("@")
        ends[place] = node.split(".")[0] + (f"@{group}" if group else "")
    return "->".join(ends)


def test_a_truth_of_other_tokens_or_another_model_is_refused_with_the_repair():
    vit = load_vit("planted/neighbour-xor")
    graph = compile_graph(vit, tokens="role")
    with pytest.raises(GraphError, match="tokens='role'"):
        truth_mask(graph, vit.truth())
    with pytest.raises(GraphError, match="same model"):
        truth_mask(compile_graph(load_vit("planted/bright-column")), vit.truth())


def test_the_true_scores_get_full_marks_and_the_reverse_none():
    vit = load_vit("planted/neighbour-xor")
    graph = compile_graph(vit)
    truth = truth_mask(graph, vit.truth())
    best = judge(scored(graph, -1.0 * truth), [vit.truth()])
    assert (best.roc_auc, best.average_precision, best.precision, best.recall, best.size) == (1, 1, 1, 1, 13)
    worst = judge(scored(graph, ~truth), [vit.truth()])
    assert (worst.roc_auc, worst.precision) == (0, 0)
    cancelled = judge(scored(graph, np.zeros(len(graph)), truth), [vit.truth()])
    assert (cancelled.roc_auc, cancelled.roc_auc_per_pair, cancelled.precision) == (0.5, 1, 1)


def test_any_minimal_circuit_of_majority_is_right():
    vit = load_vit("planted/majority")
    graph = compile_graph(vit)
    for names in vit.minimal_circuits():
        found = judge(Circuit.from_edges(graph, names), vit.minimal_circuits())
        assert (found.precision, found.recall, found.size, found.roc_auc) == (1, 1, 5, None)
    whole = judge(Circuit.from_edges(graph, vit.truth()), vit.minimal_circuits())
    assert (whole.precision, whole.recall) == (5 / 7, 1)
