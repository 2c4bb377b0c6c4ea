"""What is read off a curve pair by pair is what evaluate and the definition say."""

import numpy as np
import pytest
from vitcircuits.algorithms import eap
from vitcircuits.algorithms.comparing import measure_curves
from vitcircuits.circuits import class_contrast, compile_graph, evaluate
from vitcircuits.circuits.bootstrap import Resamples
from vitcircuits.circuits.compare.pair_curve import PairCurve, curve_figures
from vitcircuits.models import load_vit


@pytest.fixture(scope="module")
def measured():
    vit = load_vit("toy/digits-2l")
    task = class_contrast(vit, "digits", target=3, foil=8, sides="one", n_discovery=12, n_evaluation=12)
    circuit = eap(compile_graph(vit, ports="head"), task).top(20)
    return circuit, task, measure_curves(circuit, task)


def test_cpr_and_cmd_are_those_of_evaluate_with_their_intervals(measured):
    circuit, task, curves = measured
    report = evaluate(circuit, task, n_random=0, n_bootstrap=100)
    draws = Resamples.draw(len(task.evaluation), 100, seed=0)
    found = curve_figures(curves, "signed")
    for name in ("CPR", "CMD"):
        figure = report[name.lower()]
        assert float(found[name]) == pytest.approx(figure.value, abs=1e-9)
        low, high = np.quantile(curve_figures(curves, "signed", draws)[name], [0.025, 0.975])
        assert (low, high) == pytest.approx((figure.low, figure.high), abs=1e-9)
    curve = curves["signed"].to_curve("x", draws)
    np.testing.assert_allclose(curve.faithfulness, report.curves[0].faithfulness, atol=1e-9)
    assert curve.n_edges.tolist() == report.curves[0].n_edges.tolist()


def test_edges_needed_is_the_first_size_that_reaches_the_level(measured):
    curve = measured[2]["signed"]
    values = curve.faithfulness()
    for level in (0.3, 0.8, 1.0):
        first = next(place for place, value in enumerate(values) if value >= level)
        assert float(curve.edges_needed(level)) == curve.n_edges[first]
    assert np.isnan(curve.edges_needed(1e9))
    draws = Resamples.draw(curve.n_pairs, 7, seed=1)
    for row, weights in zip(curve.edges_needed(0.8, draws), draws.weights, strict=True):
        picked = np.repeat(np.arange(curve.n_pairs), np.round(weights * curve.n_pairs).astype(int))
        assert row == float(curve.at(picked).edges_needed(0.8))


def test_sizes_in_between_refine_the_size_and_leave_the_area_alone(measured):
    curve = measured[2]["signed"]
    thin = np.zeros(len(curve.share), bool)
    thin[[0, 10, 30, -1]] = True
    fields = (curve.outputs, curve.none, curve.full)
    coarse = PairCurve("signed", curve.n_graph, curve.share, curve.n_edges, *fields, thin, "four", curve.ids)
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
    )
    areas = [(float(curve.cpr()), float(curve.cmd())) for curve in (coarse, alone)]
    assert areas[0] == pytest.approx(areas[1], rel=0, abs=1e-9)
    assert float(coarse.edges_needed(0.8)) <= float(alone.edges_needed(0.8))
