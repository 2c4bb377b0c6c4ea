"""The smallest circuit that keeps a level: no smaller one does, on small and large graphs, on tasks of both kinds."""

import numpy as np
import pytest
from vitcircuits.circuits import Scores, class_contrast, compile_graph, evaluate
from vitcircuits.circuits.judging import select
from vitcircuits.circuits.judging.select import smallest_faithful, smallest_of
from vitcircuits.models import load_vit
from vitcircuits.models.errors import GraphError, TaskError

KEPT = {"both": ("smallest_transmitting", "transmission"), "one": ("smallest_faithful", "faithfulness")}


@pytest.fixture(scope="module", params=KEPT)
def task(request):
    sizes = {"n_discovery": 12, "n_evaluation": 8, "sides": request.param}
    return class_contrast(load_vit("toy/digits-2l"), "digits", target=3, foil=8, **sizes)


@pytest.fixture(scope="module")
def scores(task):
    graph = compile_graph(task.vit)
    values = np.random.default_rng(0).random(len(graph))
    return Scores(graph, values, values, np.zeros(len(graph)), np.zeros(len(graph), bool), 1, "chance")


def kept(circuit, task):
    """What a circuit transmits of the discovery images, or its faithfulness on one-sided pairs."""
    report = evaluate(circuit, task, pairs=task.discovery, curve=False, n_random=0, n_bootstrap=0)
    return report[KEPT[task.sides][1]].value


def test_the_first_size_that_reaches_the_level_on_discovery_pairs(task, scores):
    circuit = smallest_faithful(scores, task, level=0.6)
    found, (selection, name) = circuit.provenance, KEPT[task.sides]
    assert found["selection"] == selection and found["reached"] is True
    assert kept(circuit, task) == pytest.approx(found[name], abs=1e-5) and found[name] >= 0.6
    assert all(kept(scores.top(size), task) < 0.6 for size in range(max(0, found["n"] - 5), found["n"]))


def test_every_size_that_was_tried_is_recorded_with_what_it_keeps(task, scores):
    found = smallest_faithful(scores, task, level=0.6).provenance
    sizes = [edges for edges, _ in found["frontier"]]
    assert (
        sizes == sorted(set(sizes)) and [len(scores.top(found["n"])), found[KEPT[task.sides][1]]] in found["frontier"]
    )
    for edges, share in found["frontier"][:: len(sizes) // 3]:
        alike = next(circuit for n in range(1, len(scores) + 1) if len(circuit := scores.top(n)) == edges)
        assert kept(alike, task) == pytest.approx(share, abs=1e-5)


def test_large_graphs_are_searched_and_refined(task, scores, monkeypatch):
    monkeypatch.setattr(select, "EVERY_SIZE_UP_TO", 10)
    circuit = smallest_faithful(scores, task, level=0.6)
    n = circuit.provenance["n"]
    assert kept(circuit, task) >= 0.6 > kept(scores.top(n - 1), task)


def test_a_level_out_of_reach_gives_the_best_and_says_so(task, scores, monkeypatch):
    monkeypatch.setattr(select, "EVERY_SIZE_UP_TO", 10)
    circuit = smallest_faithful(scores, task, level=1e6)
    found = circuit.provenance
    assert found["reached"] is False and found[KEPT[task.sides][1]] >= 1 - 1e-6
    assert max(share for _, share in found["frontier"]) == found[KEPT[task.sides][1]]


def test_what_cannot_be_asked_is_refused(task, scores):
    with pytest.raises(GraphError, match="level"):
        smallest_faithful(scores, task, level=0.0)
    same = task.discovery.__class__(task.discovery.clean, task.discovery.clean)
    with pytest.raises(TaskError, match="not defined"):
        smallest_faithful(scores, task, pairs=same)


def test_of_several_circuits_the_smallest_that_reaches_the_level_or_else_the_best(task, scores):
    several = [scores.top(n) for n in (100, 20, 60, 90)]
    shares = {len(one): kept(one, task) for one in several}
    frontier = [[n, pytest.approx(shares[n], abs=1e-9)] for n in sorted(shares)]
    for level in (0.3, 0.9, 1.5):
        found = smallest_of(several, task, level=level)
        reaching = [n for n in sorted(shares) if shares[n] >= level]
        assert len(found) == (reaching[0] if reaching else max(shares, key=shares.__getitem__))
        assert found.provenance["reached"] == bool(reaching) and found.provenance["frontier"] == frontier


def test_no_size_is_chosen_where_partners_show_the_class_themselves(scores):
    sizes = {"n_discovery": 12, "n_evaluation": 8}
    vit = load_vit("toy/digits-2l")
    blurred = class_contrast(vit, "digits", target=3, foil=8, corruption="blur", **sizes)
    with pytest.raises(TaskError, match=r"with no edge kept T0 is .*, above 0\.3.*size=0\.2"):
        smallest_faithful(scores, blurred)
