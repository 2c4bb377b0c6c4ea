"""The smallest circuit that keeps a level: no smaller one does, on small and on large graphs."""

import numpy as np
import pytest
from vitcircuits.circuits import Scores, class_contrast, compile_graph, evaluate, select
from vitcircuits.circuits.select import smallest_faithful
from vitcircuits.models import load_vit
from vitcircuits.models.errors import GraphError, TaskError


@pytest.fixture(scope="module")
def task():
    return class_contrast(
        load_vit("toy/digits-2l"), "digits", target=3, foil=8, sides="one", n_discovery=16, n_evaluation=8
    )


@pytest.fixture(scope="module")
def scores(task):
    graph = compile_graph(task.vit)
    values = np.random.default_rng(0).random(len(graph))
    return Scores(graph, values, values, np.zeros(len(graph)), np.zeros(len(graph), bool), 1, "chance")


def faithfulness(circuit, task):
    return evaluate(circuit, task, pairs=task.discovery, curve=False, n_random=0, n_bootstrap=0)["faithfulness"].value


def test_the_first_size_that_reaches_the_level_on_discovery_pairs(task, scores):
    circuit = smallest_faithful(scores, task, level=0.6)
    n = circuit.provenance["n"]
    assert circuit.provenance["selection"] == "smallest_faithful" and circuit.provenance["reached"] is True
    assert (
        faithfulness(circuit, task) == pytest.approx(circuit.provenance["faithfulness"], abs=1e-5)
        and circuit.provenance["faithfulness"] >= 0.6
    )
    assert all(faithfulness(scores.top(size), task) < 0.6 for size in range(max(0, n - 5), n))


def test_large_graphs_are_searched_and_refined(task, scores, monkeypatch):
    monkeypatch.setattr(select, "EVERY_SIZE_UP_TO", 10)
    circuit = smallest_faithful(scores, task, level=0.6)
    n = circuit.provenance["n"]
    assert faithfulness(circuit, task) >= 0.6 > faithfulness(scores.top(n - 1), task)


def test_a_level_out_of_reach_gives_the_best_and_says_so(task, scores, monkeypatch):
    monkeypatch.setattr(select, "EVERY_SIZE_UP_TO", 10)
    circuit = smallest_faithful(scores, task, level=1e6)
    assert circuit.provenance["reached"] is False and circuit.provenance["faithfulness"] >= 1 - 1e-6


def test_what_cannot_be_asked_is_refused(task, scores):
    with pytest.raises(GraphError, match="level"):
        smallest_faithful(scores, task, level=0.0)
    same = task.discovery.__class__(task.discovery.clean, task.discovery.clean)
    with pytest.raises(TaskError, match="not defined"):
        smallest_faithful(scores, task, pairs=same)
