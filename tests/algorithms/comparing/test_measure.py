"""What is measured about circuits before they are compared: on common pairs, and on the same resamples."""

import numpy as np
import pytest
from vitcircuits.algorithms import eap
from vitcircuits.algorithms.comparing import common_pairs, measure_curves, measure_subjects, resampled_circuits
from vitcircuits.circuits import Circuit, compile_graph
from vitcircuits.circuits.compare import compare
from vitcircuits.models.errors import GraphError


def test_measured_circuits_are_compared_on_common_pairs_with_intervals(vits, tasks):
    found = common_pairs(tasks)
    graph = compile_graph(vits[0], ports="block")

    def find(task):
        return eap(compile_graph(task.vit, ports="block"), task).top(12)

    again = [resampled_circuits(find, task, 2) for task in found.tasks]
    every = [(find(task), task) for task in found.tasks]
    measured = measure_subjects(
        {"toy": every[:1], "noisy": every[1:]},
        resampled={"toy": again[:1], "noisy": again[1:]},
        head_images=6,
    )
    report = compare(measured, n_random=2, n_bootstrap=30, pairs=found.as_dict())
    assert report.names == ("toy", "noisy 1", "noisy 2")
    assert (
        report.pairs["evaluation"]["valid_for_all"]
        == report.pairs["compared"]["pairs"]
        == len(found.tasks[0].evaluation)
    )
    assert all(name in report.figures[0] for name in ("edges for faithfulness 0.8", "CPR", "CMD", "path length"))
    assert report.figures[0]["CPR"].low is not None and report.figures[0]["path length"].low is not None
    assert not np.isnan(report["edges, heads matched"]).any()
    matching = report.agreement.matchings[0, 1]
    assert all(a == b for b, a in matching.heads.items())  # the same blocks: every head is itself
    assert len(graph) == report.subjects[0].curves["signed"].n_graph


def test_the_same_resamples_for_all_and_only_of_discovery_pairs(tasks):
    seen = []

    def find(task):
        seen.append((task.discovery.pair_ids.tolist(), task.evaluation))
        return Circuit.empty(compile_graph(task.vit, ports="block"))

    found = common_pairs(tasks)
    for task in found.tasks[:2]:
        resampled_circuits(find, task, 4, seed=3)
    assert [ids for ids, _ in seen[:4]] == [ids for ids, _ in seen[4:]]
    assert len({tuple(ids) for ids, _ in seen}) == 4 and all(
        pairs is found.tasks[i // 4].evaluation for i, (_, pairs) in enumerate(seen)
    )


def test_circuits_without_scores_have_no_curve(tasks):
    graph = compile_graph(tasks[0].vit, ports="block")
    with pytest.raises(GraphError, match="no scores"):
        measure_curves(Circuit.full(graph), tasks[0])
    found = measure_subjects({"full": [(Circuit.full(graph), tasks[0])]}, heads=False)
    assert found["full"][0].curves == {} and found["full"][0].heads is None
