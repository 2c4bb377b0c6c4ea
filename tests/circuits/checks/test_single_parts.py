"""Completeness and local minimality by hand: the same masks run one by one, ratios of means, samples that are said."""

import numpy as np
import pytest
from vitcircuits.circuits import Circuit, compile_graph, node_circuit, run_circuit
from vitcircuits.circuits.checks.single_parts import TABLE, completeness, local_minimality
from vitcircuits.circuits.names import parse_edge
from vitcircuits.circuits.nodes import node_names


def mean_metric(task, graph, mask):
    pairs = task.evaluation
    return float(task.metric(run_circuit(task.vit, Circuit(graph, mask), pairs.clean, pairs.corrupt)).mean())


@pytest.fixture
def by_hand(tiny_task):
    """Mean metric under a mask, and m(none) and m(E)."""
    graph = compile_graph(tiny_task.vit)

    def measure(mask):
        return mean_metric(tiny_task, graph, mask)

    return measure, measure(np.zeros(len(graph), bool)), measure(np.ones(len(graph), bool))


def test_the_complement_is_everything_but_the_circuit(tiny_task, tiny_circuit, bench_of, by_hand):
    measure, none, full = by_hand
    figure = completeness(bench_of(tiny_circuit, tiny_task)).figures["complement"]
    assert figure.value == pytest.approx((measure(~tiny_circuit.mask) - none) / (full - none))
    assert figure.low < figure.value < figure.high


def test_incompleteness_over_nodes_by_hand(tiny_task, tiny_circuit, bench_of, by_hand):
    measure, none, full = by_hand
    found, graph = [], tiny_circuit.graph
    for name in node_names(graph):
        leaves = np.array([parse_edge(edge)[0].node == name for edge in graph.edge_names()])
        part = leaves & tiny_circuit.mask
        if part.any():
            found.append(abs(measure(tiny_circuit.mask & ~part) - measure(~part)) / abs(full - none))
    figures = completeness(bench_of(tiny_circuit, tiny_task)).figures
    assert figures["incompleteness_nodes_mean"].value == pytest.approx(np.mean(found))
    assert figures["incompleteness_nodes_max"].value == pytest.approx(np.max(found))
    assert figures["incompleteness_random_max"].value >= figures["incompleteness_random_mean"].value
    empty = abs(measure(tiny_circuit.mask) - full) / abs(full - none)
    assert figures["incompleteness_greedy"].value >= empty - 1e-9


def test_the_whole_model_is_complete_and_the_empty_circuit_has_no_parts(tiny_task, bench_of):
    graph = compile_graph(tiny_task.vit)
    figures = completeness(bench_of(Circuit.full(graph), tiny_task)).figures
    assert all(figure.value == pytest.approx(0, abs=1e-9) for figure in figures.values())
    figures = completeness(bench_of(Circuit.empty(graph), tiny_task)).figures
    assert figures["complement"].value == pytest.approx(1) and "empty" in figures["incompleteness_nodes_max"].reason


def test_a_sample_of_nodes_is_said(tiny_task, tiny_circuit, bench_of):
    figures = completeness(bench_of(tiny_circuit, tiny_task, most_nodes=2)).figures
    assert (
        "2 of" in figures["incompleteness_nodes_mean"].method
        and "sample" in figures["incompleteness_nodes_mean"].method
    )


def test_local_minimality_by_hand(tiny_task, tiny_circuit, bench_of, by_hand):
    measure, none, full = by_hand
    table = local_minimality(bench_of(tiny_circuit, tiny_task)).tables[TABLE]
    assert sorted(str(row[0]) for row in table.rows) == sorted(tiny_circuit.edge_names())
    for name, without, loss, _ in table.rows[::7]:
        mask = tiny_circuit.mask.copy()
        mask[tiny_circuit.graph.index(name)] = False
        assert without.value == pytest.approx((measure(mask) - none) / (full - none))
        assert loss.value == pytest.approx((measure(tiny_circuit.mask) - measure(mask)) / (full - none))
        assert loss.low <= loss.value <= loss.high


def test_a_sample_of_edges_is_said_and_few_pairs_leave_edges_undecided(tiny_task, tiny_circuit, bench_of):
    found = local_minimality(bench_of(tiny_circuit, tiny_task, most_parts=9))
    assert len(found.tables[TABLE].rows) == 9
    assert f"9 of {len(tiny_circuit)} edges" in found.figures["can_go"].method
    assert "random sample" in found.figures["can_go"].method
    words = {row[-1] for row in local_minimality(bench_of(tiny_circuit, tiny_task)).tables[TABLE].rows}
    assert "undecided" in words


def test_nodes_are_taken_out_whole(tiny_task, bench_of, by_hand):
    measure, none, full = by_hand
    graph = compile_graph(tiny_task.vit)
    circuit = node_circuit(graph, ["a0.h1", "m0", "a1.h0"])
    table = local_minimality(bench_of(circuit, tiny_task)).tables[TABLE]
    assert {row[0] for row in table.rows} == {"a0.h1", "m0", "a1.h0"} and table.columns[0] == "node"
    (row,) = [row for row in table.rows if row[0] == "m0"]
    rest = node_circuit(graph, ["a0.h1", "a1.h0"])
    assert row[1].value == pytest.approx((measure(rest.mask) - none) / (full - none))


def test_where_nothing_is_to_be_explained_every_figure_says_so(tiny_task, tiny_circuit, bench_of):
    import dataclasses

    pairs = dataclasses.replace(tiny_task.evaluation, corrupt=tiny_task.evaluation.clean.clone())
    evaluator = bench_of(tiny_circuit, dataclasses.replace(tiny_task, evaluation=pairs))
    for figure in (completeness(evaluator).figures | local_minimality(evaluator).figures).values():
        assert figure.value is None and "m(none)" in figure.reason
