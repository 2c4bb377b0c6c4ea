"""The spread: each cell is what `evaluate` says for that choice, the extremes are those of the cells."""

import dataclasses

import numpy as np
import pytest
from vitcircuits.circuits import Circuit, compile_graph, evaluate, evaluate_spread
from vitcircuits.models.errors import TaskError

ABLATIONS = ("partner", "zero", "noise")
METRICS = ("logit_difference", "kl", "probability")


def test_each_cell_is_the_evaluation_of_that_choice(tiny_task, tiny_circuit):
    found = evaluate_spread(tiny_circuit, tiny_task, ablations=ABLATIONS, metrics=METRICS, n_bootstrap=50)
    assert len(found.cells) == 9 and len(found.table().rows) == 9
    for (ablation, metric), figure in found.cells.items():
        task = dataclasses.replace(tiny_task, metric=dataclasses.replace(tiny_task.metric, kind=metric))
        kind = ablation.split(" ")[0]
        wanted = evaluate(tiny_circuit, task, ablation=kind, curve=False, n_random=0, n_bootstrap=50)["faithfulness"]
        assert (figure.value, figure.low, figure.high) == pytest.approx((wanted.value, wanted.low, wanted.high))
    values = [figure.value for figure in found.cells.values()]
    assert found.lowest.value == min(values) and found.highest.value == max(values)
    assert found.lowest.low <= min(figure.low for figure in found.cells.values()) + 1e-12
    for line in str(found.table()).splitlines()[1:]:
        assert "[" in line


def test_on_both_sides_each_cell_is_the_transmission_of_that_choice_and_kl_stands_beside(planted):
    task, graph, truth = planted("planted/neighbour-xor", "both")
    circuit = Circuit(graph, np.where(np.arange(len(graph)) == np.flatnonzero(truth)[0], False, truth))
    found = evaluate_spread(circuit, task, ablations=("partner", "zero", "mean"), n_bootstrap=50)
    assert found.share == "transmission" and {metric for _, metric in found.cells} == {
        "logit_difference",
        "probability",
    }
    for (ablation, metric), figure in found.cells.items():
        choice = dataclasses.replace(task, metric=dataclasses.replace(task.metric, kind=metric))
        kind = ablation.split(" ")[0]
        report = evaluate(circuit, choice, ablation=kind, curve=False, n_random=0, n_bootstrap=50)
        wanted = report["transmission_all_images"]
        assert (figure.value, figure.low, figure.high) == pytest.approx(
            (wanted.value, wanted.low, wanted.high), abs=1e-6
        )
        assert found.distances[ablation, "kl"].value == pytest.approx(report["kl_all_images"].value)
    values = [figure.value for figure in found.cells.values()]
    assert found.lowest.value == min(values) and found.highest.value == max(values)
    assert "distance" in str(found)


def test_the_defaults_are_three_ablations_and_two_metrics(tiny_task, tiny_circuit):
    found = evaluate_spread(tiny_circuit, tiny_task, n_bootstrap=10)
    assert len({ablation for ablation, _ in found.cells}) == 3 and len({metric for _, metric in found.cells}) == 2


@pytest.mark.parametrize(
    "choice", [{"ablations": ("partner", "zero")}, {"metrics": ("kl",)}, {"ablations": ("zero",) * 3}]
)
def test_fewer_choices_are_refused_with_the_repaired_call(choice, tiny_task, tiny_circuit):
    with pytest.raises(TaskError, match="at least 3 ablations"):
        evaluate_spread(tiny_circuit, tiny_task, **choice)


def test_an_undefined_choice_is_left_out_of_the_extremes_and_said(tiny_task):
    circuit = Circuit.full(compile_graph(tiny_task.vit))
    same = dataclasses.replace(tiny_task.evaluation, corrupt=tiny_task.evaluation.clean.clone())
    found = evaluate_spread(circuit, dataclasses.replace(tiny_task, evaluation=same), n_bootstrap=10)
    assert found.cells["partner", "kl"].value is None and "4 of 6" in found.lowest.method
    assert found.lowest.value == pytest.approx(1) and "undefined" in str(found)


def test_it_is_drawn_with_every_interval(tiny_task, tiny_circuit, tmp_path):
    found = evaluate_spread(tiny_circuit, tiny_task, n_bootstrap=20)
    text = found.draw(tmp_path / "spread.svg").read_text()
    for figure in found.cells.values():
        assert f"{figure.value:.2f} [{figure.low:.2f}, {figure.high:.2f}]" in text.replace("\N{MINUS SIGN}", "-")
    assert found.draw(tmp_path / "a.png").read_bytes() == found.draw(tmp_path / "b.png").read_bytes()
    np.testing.assert_equal(text.count("edge circuit"), 1)
