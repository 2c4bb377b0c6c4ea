"""Laws of an evaluation: what all edges and no edge get, ratios of means, areas by hand, reproducible intervals."""

import dataclasses

import numpy as np
import pytest
import torch
from vitcircuits.circuits import Circuit, Pairs, Scores, Task, class_contrast, compile_graph, evaluate
from vitcircuits.circuits.baseline import make_baseline
from vitcircuits.circuits.judging.bootstrap import Resamples, normalised, share
from vitcircuits.circuits.judging.plan import MIB_SHARES, area, log_area, make_grid
from vitcircuits.circuits.run import run_masks, run_pairs
from vitcircuits.circuits.tasks.metrics import Metric
from vitcircuits.models import load_vit
from vitcircuits.models.errors import GraphError


def digits():
    vit = load_vit("toy/digits-2l")
    return class_contrast(vit, "digits", target=3, foil=8, sides="one", n_discovery=16, n_evaluation=24)


@pytest.fixture(scope="module")
def task():
    return digits()


def random_scores(graph, seed=0):
    values = np.random.default_rng(seed).normal(size=len(graph))
    return Scores(graph, values, np.abs(values), np.zeros(len(graph)), np.zeros(len(graph), bool), 1, "chance")


def tiny_task(**fields):
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    sizes = {
        "img_size": 8,
        "patch_size": 4,
        "in_chans": 1,
        "num_classes": 5,
        "embed_dim": 16,
        "depth": 2,
        "num_heads": 2,
    }
    vit = load_vit(VisionTransformer(**sizes).double())
    images = torch.randn(4, 5, 1, 8, 8, dtype=torch.float64)
    return Task(
        vit, Metric("logit_difference", (1,), (2,)), Pairs(images[0], images[1]), Pairs(images[2], images[3]), **fields
    )


@pytest.mark.parametrize("tokens", ["all", "role"])
def test_no_edge_gets_0_and_all_edges_get_1(tokens):
    task = tiny_task()
    graph = compile_graph(task.vit, tokens=tokens)
    full, empty = (evaluate(kind(graph), task, curve=False, n_random=0) for kind in (Circuit.full, Circuit.empty))
    assert full["faithfulness"].value == pytest.approx(1.0, abs=1e-12)
    assert empty["faithfulness"].value == pytest.approx(0.0, abs=1e-12)
    assert full["agreement"].value == 1.0
    assert full["kl"].value == pytest.approx(0.0, abs=1e-12)
    assert full["logit_difference_retained"].value == pytest.approx(1.0)


def test_the_empty_circuit_by_run_is_the_corrupted_run():
    task = tiny_task()
    graph, pairs = compile_graph(task.vit), task.evaluation
    runs = run_masks(
        task.vit, graph, [np.zeros(len(graph), bool)], task.metric, pairs, make_baseline(task.vit, task.ablation)
    )
    with torch.no_grad():
        wanted = task.metric(task.vit(pairs.corrupt)).numpy()
    np.testing.assert_allclose(runs.outputs[0], wanted, atol=1e-9)


def test_shared_runs_equal_single_runs_in_any_batches():
    task = tiny_task()
    graph, pairs = compile_graph(task.vit, tokens="role"), task.evaluation
    masks = [random_scores(graph).top(n).mask for n in (10, 40, 10, len(graph))]
    baseline = make_baseline(task.vit, task.ablation)
    runs = run_masks(task.vit, graph, masks, task.metric, pairs, baseline, n_logits=4, memory=1)
    for mask, logits in zip(masks, runs.logits, strict=True):
        torch.testing.assert_close(logits, run_pairs(task.vit, graph, mask, pairs, baseline), rtol=0, atol=1e-9)


def test_faithfulness_is_a_ratio_of_means():
    outputs = np.array([[1.0, 9.0], [0.0, 0.0]])  # the circuit, no edge
    full = np.array([2.0, 90.0])
    value = normalised(outputs.mean(-1), np.asarray(0.0), np.asarray(full.mean()))[0]
    assert value == pytest.approx(10 / 92)  # the mean of ratios would be (.5 + .1) / 2


def test_ratio_whose_denominator_vanishes_is_undefined_with_its_reason():
    figure = Resamples.draw(2, 10, seed=0).ratio(np.ones(2), np.array([1.0, -1.0]), "the gap", "")
    assert figure.value is None and "the gap" in figure.reason


def test_identical_partners_leave_faithfulness_undefined():
    task = tiny_task()
    pairs = Pairs(task.evaluation.clean, task.evaluation.clean.clone())
    report = evaluate(random_scores(compile_graph(task.vit)).top(30), task, pairs=pairs, n_random=2)
    for name in ("faithfulness", "random_faithfulness", "cpr", "cmd", "cpr_log", "cpr_random"):
        assert report[name].value is None and "m(none)" in report[name].reason, name
    assert report.curves == ()


def test_area_of_a_known_curve_on_mibs_grid():
    grid = make_grid(110, "mib")
    assert grid.n.tolist() == [0, 0, 0, 1, 2, 5, 11, 22, 55, 110]
    assert tuple(grid.share) == MIB_SHARES
    perfect = (grid.n > 0).astype(float)  # faithful from the first edge on
    assert area(grid.share, perfect) == pytest.approx(0.5 * 0.005 + 0.99)
    assert area(grid.share, np.ones(10)) == pytest.approx(0.999)
    assert log_area(grid.share, np.ones(10)) == pytest.approx(1.0)


def test_every_count_on_a_small_graph_thinned_on_a_middling_one():
    small, middling, large = (make_grid(n) for n in (110, 1999, 2001))
    assert small.n.tolist() == list(range(111)) and area(small.share, small.share) == pytest.approx(0.5)
    assert len(middling.n) <= 150 and middling.n[0] == 0 and middling.n[-1] == 1999
    assert "150" not in middling.method and "of 2000 counts" in middling.method
    assert large.n.tolist() == make_grid(2001, "mib").n.tolist()


def test_cpr_ranks_by_the_signed_mean_and_cmd_by_its_absolute_value(task):
    scores = random_scores(compile_graph(task.vit))
    report = evaluate(scores.top(30), task, n_random=0, n_bootstrap=0)
    signed, absolute = report.curves
    assert not np.allclose(signed.faithfulness, absolute.faithfulness)
    k = signed.n_nominal / len(scores)
    assert report["cpr"].value == pytest.approx(
        float(np.sum(np.diff(k) * (signed.faithfulness[1:] + signed.faithfulness[:-1]) / 2))
    )
    off = np.abs(1 - absolute.faithfulness)
    assert report["cmd"].value == pytest.approx(float(np.sum(np.diff(k) * (off[1:] + off[:-1]) / 2)))
    assert signed.faithfulness[0] == 0 and signed.faithfulness[-1] == pytest.approx(1)


def test_the_circuit_lies_on_its_curve_and_everything_is_reproducible(task):
    circuit = random_scores(compile_graph(task.vit)).top(80)
    first, second = (evaluate(circuit, task, n_random=2, n_bootstrap=50, grid="auto") for _ in range(2))
    assert first.figures == second.figures
    assert first.curves[0].faithfulness[80] == pytest.approx(first["faithfulness"].value, abs=1e-6)
    assert first["faithfulness"].low < first["faithfulness"].value < first["faithfulness"].high
    for name, figure in first.figures.items():
        assert figure.method and (figure.low is not None or figure.reason), name
    assert first.curves[-1].label == "random circuits"


def test_a_circuit_without_scores_says_that_it_has_no_curve():
    task = tiny_task()
    circuit = Circuit.from_edges(compile_graph(task.vit), ["input->m0", "m0->logits"])
    report = evaluate(circuit, task, n_random=3)
    assert report["cpr"].value is None and "no scores" in report["cmd"].reason
    assert report["random_faithfulness"].value is not None and report.curves == ()


def test_a_metric_without_foil_has_no_logit_difference():
    task = dataclasses.replace(tiny_task(), metric=Metric("logit", (1,)))
    report = evaluate(Circuit.full(compile_graph(task.vit)), task, curve=False, n_random=0)
    assert "foil" in report["logit_difference_retained"].reason


@pytest.mark.parametrize("ablation", ["mean", "zero", "noise", "another"])
def test_every_ablation_is_judged_and_recorded(ablation):
    task = tiny_task()
    report = evaluate(Circuit.full(compile_graph(task.vit)), task, ablation=ablation, curve=False, n_random=0)
    assert report.method["ablation"]["kind"] == ablation
    assert report["faithfulness"].value == pytest.approx(1.0)


def test_a_single_pair_has_no_interval():
    task = tiny_task()
    pairs = task.evaluation.select([0])
    figure = evaluate(Circuit.full(compile_graph(task.vit)), task, pairs=pairs, curve=False, n_random=0)["faithfulness"]
    assert figure.value == pytest.approx(1.0) and figure.low is None and "two pairs" in figure.reason


def test_wilsons_interval_is_not_empty_where_all_hit():
    figure = share(np.ones(100, bool), "")
    assert figure.value == 1.0 and figure.low == pytest.approx(0.963, abs=1e-3) and figure.high == 1.0


def test_what_chance_other_tasks_and_renamed_heads_get_stands_beside_transmission():
    vit = load_vit("toy/digits-2l")
    task = class_contrast(vit, "digits", target=3, foil=8, n_discovery=8, n_evaluation=16)
    graph = compile_graph(task.vit)
    circuit, other = random_scores(graph).top(60), random_scores(graph, seed=1).top(60)
    options = {"curve": False, "n_random": 3, "n_bootstrap": 50}
    report = evaluate(circuit, task, controls={"another": other, "everything": Circuit.full(graph)}, **options)
    rows = {row[0]: row for row in report.tables["controls"].rows}
    alone = evaluate(other, task, **options).tables["controls"].rows[0]
    assert rows["another"][1:] == alone[1:] and rows["everything"][1].value == pytest.approx(1)
    for kind in ("random", "dealt", "renamed"):
        figure = report[f"{kind}_transmission"]
        assert figure.low <= figure.value <= figure.high < 1
    assert sum("exchanged at random" in name or "dealt anew" in name for name in rows) == 2
    elsewhere = Circuit.full(compile_graph(task.vit, tokens="role"))
    with pytest.raises(GraphError, match="another graph"):
        evaluate(circuit, task, controls={"elsewhere": elsewhere}, **options)
