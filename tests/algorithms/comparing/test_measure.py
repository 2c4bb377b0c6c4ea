"""What is measured about circuits before they are compared: on common pairs, and on the same resamples."""

import numpy as np
import pytest
import torch
from vitcircuits.algorithms import comparing, eap
from vitcircuits.algorithms.comparing import common_pairs, measure_curves, measure_subjects, resampled_circuits
from vitcircuits.circuits import Circuit, compile_graph, evaluate
from vitcircuits.circuits.compare import compare
from vitcircuits.circuits.judging.crossed_runs import fewer
from vitcircuits.models.errors import GraphError


@pytest.mark.parametrize("sides", ["one", "both"])
def test_measured_circuits_are_compared_on_common_pairs_with_intervals(vits, tasks, crossed, sides, tmp_path):
    found = common_pairs(tasks if sides == "one" else crossed)
    name, unnamed = ("faithfulness", "transmission")[:: 1 if sides == "one" else -1]
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
    judged = found.tasks[0].evaluation if sides == "one" else fewer(found.tasks[0].evaluation)
    assert report.pairs["evaluation"]["valid_for_all"] == judged.n_images
    assert report.pairs["compared"] == {"pairs": len(judged), "share_dropped": 0}
    assert all(figure in report.figures[0] for figure in (f"edges for {name} 0.8", "CPR", "CMD", "path length"))
    assert any(one.figure == f"edges for {name} 0.8" for one in report.findings) and unnamed not in str(report)
    report.save(tmp_path)
    assert (tmp_path / f"{name}.csv").read_text().startswith(f"circuit,by,edges,share,{name}\n")
    assert not (tmp_path / f"{unnamed}.csv").exists()
    assert f"{name.capitalize()} by size" in (tmp_path / "comparison.html").read_text()
    alone = evaluate(every[0][0], found.tasks[0], n_random=0, curve=False).figures
    assert report.figures[0][name if sides == "both" else "faithfulness (one-sided)"] == alone[name]
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


def test_crossed_resamples_hold_whole_images_and_are_the_same_for_all(crossed):
    seen = []

    def find(task):
        seen.append(task.discovery)
        return Circuit.empty(compile_graph(task.vit, ports="block"))

    found = common_pairs(crossed)
    for task in found.tasks[:2]:
        resampled_circuits(find, task, 3, seed=3)
    for one, other in zip(seen[:3], seen[3:], strict=True):
        assert torch.equal(one.clean, other.clean) and torch.equal(one.corrupt, other.corrupt)
        counts = one.design.counts
        assert counts == found.tasks[0].discovery.design.counts
        assert {int((one.design.clean_image == image).sum()) for image in one.design.clean_image} == {2}


def test_heads_are_seen_on_images_of_both_classes(crossed, monkeypatch):
    shown, gather = [], comparing.gather_heads
    monkeypatch.setattr(
        comparing, "gather_heads", lambda vit, some, **more: shown.append(some) or gather(vit, some, **more)
    )
    comparing.heads_of(crossed[0], n=6)
    assert crossed[0].vit(shown[0]).argmax(1).tolist() == [3, 8, 3, 8, 3, 8]
    assert len({image.numpy().tobytes() for image in shown[0]}) == 6


def test_circuits_without_scores_have_no_curve(tasks):
    graph = compile_graph(tasks[0].vit, ports="block")
    with pytest.raises(GraphError, match="no scores"):
        measure_curves(Circuit.full(graph), tasks[0])
    found = measure_subjects({"full": [(Circuit.full(graph), tasks[0])]}, heads=False)
    assert found["full"][0].curves == {} and found["full"][0].heads is None
