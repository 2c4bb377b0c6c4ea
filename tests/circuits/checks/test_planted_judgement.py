"""On a planted truth the checks say so: complete, minimal, equivalent. What is one edge off is told."""

from dataclasses import replace

import numpy as np
import pytest
from vitcircuits.circuits import Circuit
from vitcircuits.circuits.checks.hypotheses import check_equivalence, check_minimality
from vitcircuits.circuits.checks.single_parts import NEEDED, TABLE, completeness, flagged, local_minimality
from vitcircuits.circuits.reach import prune

XOR = "planted/neighbour-xor"
QUICK = {"n_random": 4, "greedy_steps": 2, "greedy_candidates": 3, "n_draws": 14}
EXACT = ["planted/bright-column", f"{XOR}:norm=none,gain=soft", f"{XOR}:trap,step", f"{XOR}:disguise=1"]

BOTH = ["planted/bright-column", XOR]


def with_false_edges(graph, truth, n=3):
    """The truth and n false edges that lie on paths with it, and their names."""
    mask, names = truth.copy(), []
    for edge in np.random.default_rng(0).permutation(np.flatnonzero(~truth)):
        trial = mask.copy()
        trial[edge] = True
        if len(names) < n and prune(graph, trial)[edge]:
            mask = trial
            names.append(graph.edge(int(edge)).name)
    return mask, set(names)


@pytest.fixture(scope="module")
def bench(planted, bench_of):
    """A circuit of a planted model, ready for a check; circuits of one task share the outputs of masks."""
    made = {}

    def get(name, sides, mask=None, **settings):
        task, graph, truth = planted(name, sides)
        key = (name, sides, *settings)
        if key not in made:
            made[key] = bench_of(Circuit(graph, truth), task, **settings)
        return made[key] if mask is None else replace(made[key], circuit=Circuit(graph, mask))

    return get


@pytest.mark.parametrize(("name", "sides"), [*((name, "one") for name in EXACT), *((name, "both") for name in BOTH)])
def test_the_truth_is_complete_minimal_and_equivalent(name, sides, bench):
    evaluator = bench(name, sides, **QUICK)
    for key, figure in completeness(evaluator).figures.items():
        assert figure.value == pytest.approx(0, abs=1e-5), key
    table = local_minimality(evaluator).tables[TABLE]
    assert flagged(table) == [] and {row[-1] for row in table.rows} == {NEEDED}
    assert check_equivalence(evaluator).verdicts["equivalence"].passed is True
    assert check_minimality(evaluator).verdicts["minimality"].passed is True
    assert sides == "one" or evaluator.transmission.value == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "sides"), [("planted/bright-column", "both"), (XOR, "both"), (f"{XOR}:trap,step", "one")]
)
def test_the_truth_less_any_one_edge_is_not_equivalent(name, sides, planted, bench):
    _, graph, truth = planted(name, sides)
    for edge in np.flatnonzero(truth):
        mask = truth.copy()
        mask[edge] = False
        verdict = check_equivalence(bench(name, sides, mask)).verdicts["equivalence"]
        assert verdict.passed is False, graph.edge(int(edge)).name


@pytest.mark.parametrize(("name", "sides"), [*((name, "one") for name in EXACT), *((name, "both") for name in BOTH)])
def test_exactly_the_three_false_edges_can_go(name, sides, planted, bench):
    _, graph, truth = planted(name, sides)
    mask, false = with_false_edges(graph, truth)
    evaluator = bench(name, sides, mask, **QUICK)
    found = local_minimality(evaluator)
    assert set(flagged(found.tables[TABLE])) == false and len(false) == 3
    assert found.figures["can_go"].value == pytest.approx(3 / mask.sum())
    assert found.figures["faithfulness_without_all_that_can_go"].value == pytest.approx(1, abs=1e-5)
    verdict = check_minimality(evaluator).verdicts["minimality"]
    assert verdict.passed is False
    assert set(verdict.words.split("not shown for ")[1].split("; ")[0].split(", ")) == false


def test_one_of_majoritys_circuits_is_faithful_and_not_complete(planted, bench_of):
    task, graph, truth = planted("planted/majority")
    evaluator = bench_of(Circuit(graph, truth), task, **QUICK)
    np.testing.assert_allclose(evaluator.kept, evaluator.full, atol=1e-4)
    assert completeness(evaluator).figures["incompleteness_nodes_max"].value > 0.9  # a head outside stands in


def test_a_tiny_tolerance_lets_no_true_edge_go_and_a_huge_one_all(planted, bench_of):
    task, graph, truth = planted(XOR)
    circuit = Circuit(graph, truth)
    assert flagged(local_minimality(bench_of(circuit, task, tolerance=2.0)).tables[TABLE]) != []
    assert flagged(local_minimality(bench_of(circuit, task, tolerance=1e-9)).tables[TABLE]) == []
