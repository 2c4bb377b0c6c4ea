"""The tests on circuits: against runs by hand, with the controls that say when they cannot decide."""

import dataclasses

import numpy as np
import pytest
from vitcircuits.circuits import Circuit, compile_graph
from vitcircuits.circuits.checks.hypotheses import (
    check_equivalence,
    check_independence,
    check_minimality,
    check_partial_necessity,
    check_sufficiency,
    others,
    random_superset,
)
from vitcircuits.circuits.judging.control_kinds import kinds_of
from vitcircuits.circuits.nodes import node_circuit
from vitcircuits.circuits.reach import Walks, prune

XOR = "planted/neighbour-xor"


def test_an_inflated_circuit_has_one_whole_path_more(tiny_vit, tokens, ports):
    graph = compile_graph(tiny_vit(reg_tokens=1), tokens=tokens, ports=ports)
    walks, rng = Walks.of(graph), np.random.default_rng(0)
    mask = prune(graph, np.random.default_rng(1).random(len(graph)) < 0.2)
    for _ in range(20):
        larger, edge = random_superset(graph, walks, mask, rng)
        assert larger[edge] and not mask[edge] and larger[mask].all()
        np.testing.assert_array_equal(prune(graph, larger), larger)


def test_few_pairs_leave_equivalence_open_unless_it_plainly_fails(planted, bench_of):
    task, graph, truth = planted(XOR)
    few = dataclasses.replace(task, evaluation=task.evaluation.select(slice(0, 30)))
    verdict = check_equivalence(bench_of(Circuit(graph, truth), few)).verdicts["equivalence"]
    assert verdict.passed is None and "or more" in verdict.words
    assert check_equivalence(bench_of(Circuit.empty(graph), few)).verdicts["equivalence"].passed is False


def test_independence_says_where_it_cannot_decide(planted, bench_of, tiny_task, tiny_circuit):
    task, graph, truth = planted(XOR)
    verdict = check_independence(bench_of(Circuit(graph, truth), task)).verdicts["independence"]
    assert verdict.passed is None and "same on all pairs" in verdict.words and verdict.p_value is None
    empty = bench_of(Circuit.empty(compile_graph(tiny_task.vit)), tiny_task, n_permutations=200)
    verdict = check_independence(empty).verdicts["independence"]  # the complement is the model itself
    assert verdict.passed is False and verdict.p_value < 0.05 and "depends" in verdict.words
    same = dataclasses.replace(tiny_task, evaluation=dataclasses.replace(
        tiny_task.evaluation, corrupt=tiny_task.evaluation.clean + 1e-3))  # fmt: skip
    verdict = check_independence(bench_of(tiny_circuit, same, n_permutations=200)).verdicts["independence"]
    assert verdict.passed is None and "resemble" in verdict.words


@pytest.mark.parametrize(
    ("check", "name"), [(check_sufficiency, "sufficiency"), (check_partial_necessity, "partial_necessity")]
)
def test_random_circuits_are_counted_as_by_hand(check, name, tiny_task, tiny_circuit, bench_of):
    evaluator = bench_of(tiny_circuit, tiny_task, n_draws=20, quantile=0.5)
    verdict, inside, wins = check(evaluator).verdicts[name], name == "sufficiency", {}
    for kind in kinds_of(tiny_circuit):
        masks = others(evaluator, kind)
        away = [np.sqrt(np.mean((evaluator.outputs([mask if inside else ~mask], "")[0] - evaluator.full) ** 2))
                for mask in (evaluator.own, *masks)]  # fmt: skip
        wins[kind] = sum(other > away[0] if inside else other < away[0] for other in away[1:]) / len(masks)
    assert set(wins) == {"paths", "dealt", "renamed"}
    assert verdict.statistic.value == pytest.approx(min(wins.values())) and "hardest of 3 kinds" in verdict.words
    assert verdict.n == 20 and verdict.statistic.low is not None and verdict.p_value is not None


@pytest.mark.parametrize("sides", ["one", "both"])
def test_sufficiency_passes_on_the_truth_and_ties_leave_necessity_open(sides, planted, bench_of):
    task, graph, truth = planted(XOR, sides)
    few = dataclasses.replace(task, evaluation=task.evaluation.select(slice(0, None, len(task.evaluation) // 30)))
    evaluator = bench_of(Circuit(graph, truth), few)
    assert check_sufficiency(evaluator).verdicts["sufficiency"].passed is True
    verdict = check_partial_necessity(evaluator).verdicts["partial_necessity"]
    assert verdict.passed is None and "ties" in verdict.words  # every matched circuit holds the one edge to the logits


def test_bonferroni_asks_for_enough_draws(planted, bench_of):
    task, graph, truth = planted(XOR)
    few = dataclasses.replace(task, evaluation=task.evaluation.select(slice(0, 30)))
    verdict = check_minimality(bench_of(Circuit(graph, truth), few, n_draws=5)).verdicts["minimality"]
    assert verdict.level == pytest.approx(0.05 / 13) and verdict.p_value == pytest.approx(2**-5)
    assert verdict.passed is None and "5 draws" in verdict.words


def test_whole_and_empty_circuits_are_not_tested(tiny_task, bench_of):
    graph = compile_graph(tiny_task.vit)
    for circuit in (Circuit.full(graph), Circuit.empty(graph)):
        for check in (check_minimality, check_sufficiency, check_partial_necessity):
            (verdict,) = check(bench_of(circuit, tiny_task)).verdicts.values()
            assert verdict.passed is None and verdict.p_value is None and verdict.words


def test_nodes_are_tested_as_nodes(tiny_task, bench_of):
    circuit = node_circuit(compile_graph(tiny_task.vit), ["a0.h0", "m0", "a1.h1"])
    verdict = check_minimality(bench_of(circuit, tiny_task, n_draws=8)).verdicts["minimality"]
    assert "of 3 nodes" in verdict.words
