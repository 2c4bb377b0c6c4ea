"""What is read off a curve pair by pair is what evaluate and the definition say.

One batch holds the circuits' graphs apart, with every figure of each.
"""

import dataclasses

import numpy as np
import pytest
from vitcircuits.algorithms import eap
from vitcircuits.algorithms.comparing import measure_curves
from vitcircuits.circuits import class_contrast, compile_graph, evaluate
from vitcircuits.circuits.compare import Subject, circuit_batch, compare, describe
from vitcircuits.circuits.compare.subject import PairCurve, curve_figures
from vitcircuits.models import load_vit
from vitcircuits.models.errors import GraphError


@pytest.fixture(scope="module", params=["one", "both"])
def measured(request):
    vit = load_vit("toy/digits-2l")
    task = class_contrast(vit, "digits", target=3, foil=8, sides=request.param, n_discovery=12, n_evaluation=12)
    circuit = eap(compile_graph(vit, ports="head"), task).top(20)
    return circuit, task, measure_curves(circuit, task)


def test_cpr_and_cmd_are_those_of_evaluate_with_their_intervals(measured):
    circuit, task, curves = measured
    report = evaluate(circuit, task, n_random=0, n_bootstrap=100)
    draws = curves["signed"].resamples(100, seed=0)
    found = curve_figures(curves, "signed")
    for name in ("CPR", "CMD"):
        figure = report[name.lower()]
        assert float(found[name]) == pytest.approx(figure.value, abs=1e-9)
        low, high = np.quantile(curve_figures(curves, "signed", draws)[name], [draws.tail, 1 - draws.tail])
        assert (low, high) == pytest.approx((figure.low, figure.high), abs=1e-9)
    curve = curves["signed"].to_curve("x", draws)
    (wanted,) = (drawn for drawn in report.curves if drawn.label.endswith("by signed"))
    np.testing.assert_allclose(curve.faithfulness, wanted.faithfulness, atol=1e-9)
    assert curve.n_edges.tolist() == wanted.n_edges.tolist()


def test_edges_needed_is_the_first_size_that_reaches_the_level(measured):
    curve = measured[2]["signed"]
    values = curve.kept()
    for level in (0.3, 0.8, 1.0):
        first = next(place for place, value in enumerate(values) if value >= level)
        assert float(curve.edges_needed(level)) == curve.n_edges[first]
    assert np.isnan(curve.edges_needed(1e9))
    draws = curve.resamples(7, seed=1)
    for row, weights in zip(curve.edges_needed(0.8, draws), draws.behaviour_weights, strict=True):
        kept = [weights @ (outputs - curve.none) / (weights @ (curve.full - curve.none)) for outputs in curve.outputs]
        assert row == next(n for n, value in zip(curve.n_edges, kept, strict=True) if value >= 0.8)


def test_the_whole_graph_keeps_all_no_edge_nothing_and_the_share_has_its_name(measured):
    _, task, curves = measured
    for curve in curves.values():
        assert curve.kept()[-1] == pytest.approx(1, abs=1e-9) and curve.kept()[0] == pytest.approx(0, abs=1e-9)
        assert curve.name == ("faithfulness" if task.sides == "one" else "transmission")
    assert f"edges for {curve.name} 0.8" in curve_figures(curves, "signed")


def test_a_constant_answer_transmits_nothing_on_a_crossed_task_only(measured):
    curve = measured[2]["signed"]
    said = np.full_like(curve.outputs, curve.full.max())
    constant = dataclasses.replace(curve, outputs=said)
    assert (constant.kept() > 0.9).all() if curve.design is None else np.abs(constant.kept()).max() < 1e-9


def test_pairs_of_crossed_curves_are_told_by_the_images_that_meet(measured):
    circuit, task, curves = measured
    ids = curves["signed"].ids
    assert len(set(ids.tolist())) == len(ids) == curves["signed"].n_pairs
    if task.sides == "both":
        shuffled = dataclasses.replace(task.evaluation, ids=task.evaluation.pair_ids.flip(0))
        again = measure_curves(circuit, dataclasses.replace(task, evaluation=shuffled))
        np.testing.assert_array_equal(again["signed"].ids, ids)


def test_curves_that_share_one_class_only_are_refused(measured):
    circuit, task, curves = measured
    if task.sides == "one":
        pytest.skip("one-sided curves show one class anyway")
    own = {by: curve.at(np.flatnonzero(curve.design.clean_side.numpy() == 1)) for by, curve in curves.items()}
    with pytest.raises(GraphError, match="one class only"):
        compare([Subject(circuit, "a", curves=curves), Subject(circuit, "b", curves=own)], n_random=0, n_bootstrap=5)


def test_sizes_in_between_refine_the_size_and_leave_the_area_alone(measured):
    curve = measured[2]["signed"]
    thin = np.zeros(len(curve.share), bool)
    thin[[0, 10, 30, -1]] = True
    fields = (curve.outputs, curve.none, curve.full)
    coarse = PairCurve(
        "signed", curve.n_graph, curve.share, curve.n_edges, *fields, thin, "four", curve.ids, design=curve.design
    )
    alone = PairCurve(
        "signed",
        curve.n_graph,
        curve.share[thin],
        curve.n_edges[thin],
        curve.outputs[thin],
        curve.none,
        curve.full,
        np.ones(4, bool),
        "four",
        curve.ids,
        design=curve.design,
    )
    areas = [(float(curve.cpr()), float(curve.cmd())) for curve in (coarse, alone)]
    assert areas[0] == pytest.approx(areas[1], rel=0, abs=1e-9)
    assert float(coarse.edges_needed(0.8)) <= float(alone.edges_needed(0.8))


def test_a_batch_takes_apart_into_its_circuits_and_carries_their_statistics(make_graph, make_circuit):
    circuits = {"vit": [make_circuit(make_graph(2, 2), s) for s in (0, 1)], "clip": make_circuit(make_graph(4, 3))}
    batch = circuit_batch(circuits)
    every = [*circuits["vit"], circuits["clip"]]
    assert batch.num_graphs == 3 and batch.num_edges == sum(map(len, every))
    assert batch.kind.tolist() == [0, 0, 1] and batch.kind_names == ["vit", "clip"]
    assert batch.circuit_name == ["vit 1", "vit 2", "clip"]
    for place, circuit in enumerate(every):
        flat = describe(circuit).flat()
        wanted = [flat[name] for name in batch.figure_names]
        np.testing.assert_allclose(batch.statistics[place].numpy(), wanted)
        assert batch[place].edge_names == circuit.to_pyg().edge_names
        assert (batch.batch == place).sum() == circuit.to_networkx().number_of_nodes()


def test_figures_can_be_chosen_and_unknown_ones_are_nan(make_graph, make_circuit):
    batch = circuit_batch([Subject(make_circuit(make_graph()), "x")], figures=["edges", "CPR"])
    assert batch.statistics.isnan().tolist() == [[False, True]]
