"""The benchmark: its cells are the algorithms' own figures, runs are counted, one failing cell is a row."""

import csv
import json

import pytest
from vitcircuits.algorithms import ALGORITHMS, eap, registry, run_benchmark
from vitcircuits.algorithms.benchmark import MODELS, judge_reading, save_benchmark
from vitcircuits.algorithms.registry import AlgorithmEntry
from vitcircuits.circuits import Circuit, compile_graph, judge, planted_task
from vitcircuits.models import load_vit
from vitcircuits.models.errors import TaskError

SMALL = "planted/bright-column"


def test_a_cell_holds_the_algorithms_own_figures():
    (row,) = run_benchmark(models=[SMALL], algorithms=["eap"], n=8)
    task = planted_task(load_vit(SMALL), n=8)
    wanted = judge(eap(compile_graph(task.vit), task), [task.vit.truth()])
    assert (row.roc_auc, row.average_precision, row.precision) == (
        wanted.roc_auc,
        wanted.average_precision,
        wanted.precision,
    )
    assert (row.algorithm, row.model, row.n_edges, row.n_true, row.size, row.error) == ("eap", SMALL, 18, 2, 2, "")
    assert row.runs is not None and 1 < row.runs < 3  # two forward passes and one backward, less the unread tokens


def test_every_algorithm_meets_the_model_and_searches_are_told_the_true_size(monkeypatch):
    run = registry.run_algorithm

    def quick(name, graph, task, **options):
        return run(name, graph, task, **options | ({"steps": 5, "polish": "no"} if name == "learned_masks" else {}))

    monkeypatch.setattr(registry, "run_algorithm", quick)
    rows = run_benchmark(models=[SMALL], n=4)
    assert [(row.model, row.algorithm) for row in rows] == [(SMALL, name) for name in ALGORITHMS]
    assert not any(row.error for row in rows)
    sized = {row.algorithm: row.size for row in rows if "size" in ALGORITHMS[row.algorithm].options}
    assert sized == {"learned_masks": 2, "budgeted_pruning": 2}


def test_an_algorithm_that_returns_a_circuit_is_judged_as_a_set(monkeypatch):
    def find(name, graph, task, **options):
        return Circuit.from_edges(graph, task.vit.truth())

    monkeypatch.setattr("vitcircuits.algorithms.registry.run_algorithm", find)
    (row,) = run_benchmark(models=["planted/neighbour-xor"], algorithms=["eap"], n=4)
    assert (row.precision, row.recall, row.size, row.roc_auc) == (1, 1, 13, None)


EXACT = [name for name in MODELS if name != "planted/digit-pairs"]


@pytest.mark.parametrize("model", MODELS)
def test_the_truth_transmits_all_leaks_nothing_and_reproduces_every_image(model):
    vit = load_vit(model)
    task, graph = planted_task(vit, n=8, sides="both"), compile_graph(vit)
    tolerance = 1e-6 if model in EXACT else 0.01
    for truth in vit.minimal_circuits():
        read = judge_reading(Circuit.from_edges(graph, truth), task)
        assert [figure.value for figure in read.values()] == pytest.approx([1, 0, 1], abs=tolerance)
    nothing = judge_reading(Circuit.empty(graph), task)
    assert nothing["transmission"].value == pytest.approx(0, abs=1e-6)
    assert nothing["leakage"].value == pytest.approx(1, abs=1e-6) and nothing["reproduced_variation"].value < 0.5


def test_what_was_found_is_judged_on_the_crossed_task():
    (exact,) = run_benchmark(models=["planted/neighbour-xor"], algorithms=["exact_effects"], n=8)
    vit = load_vit("planted/neighbour-xor")
    assert (
        exact.precision == 1 and exact.transmission == pytest.approx(1) and exact.leakage == pytest.approx(0, abs=1e-6)
    )
    assert exact.reproduced_variation == pytest.approx(1)
    found = eap(compile_graph(vit), planted_task(vit, n=8))
    (row,) = run_benchmark(models=["planted/neighbour-xor"], algorithms=["eap"], n=8)
    crossed = planted_task(vit, n=8, sides="both")
    sets = [judge_reading(found.top(13, by=by), crossed)["transmission"].value for by in ("abs_mean", "mean_abs")]
    assert any(row.transmission == pytest.approx(one) for one in sets)


def test_one_failing_cell_is_a_row_with_its_error(monkeypatch):
    monkeypatch.setitem(ALGORITHMS, "broken", AlgorithmEntry("broken", ".nowhere", ""))
    good, bad = run_benchmark(models=[SMALL], algorithms=["eap", "broken"], n=4)
    assert good.roc_auc is not None and not good.error
    assert bad.roc_auc is None and "nowhere" in bad.error
    (lost,) = run_benchmark(models=["planted/none"], algorithms=["eap"])
    assert "planted/" in lost.error
    (known,) = run_benchmark(models=["toy/digits-2l"], algorithms=["eap"])
    assert "no known circuit" in known.error


def test_only_keeps_the_cells_that_fit_every_pattern():
    rows = run_benchmark(models=[SMALL, "planted/majority"], only=["eap*", "major"], n=4)
    assert {(row.model, row.algorithm) for row in rows} == {
        ("planted/majority", name) for name in ("eap", "eap_ig", "eap_ig_activations")
    }
    with pytest.raises(TaskError, match="planted/majority"):
        run_benchmark(only=["nothing"])


def test_what_is_written_is_what_was_measured(tmp_path):
    rows = run_benchmark(models=[SMALL], algorithms=["eap", "none"], n=4)
    paths = save_benchmark(rows, tmp_path / "new")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(path.name for path in paths)
    with (tmp_path / "new" / "benchmark.csv").open() as file:
        table = list(csv.DictReader(file))
    assert float(table[0]["transmission"]) == rows[0].transmission and table[1]["leakage"] == ""
    assert float(table[0]["roc_auc"]) == rows[0].roc_auc and table[1]["roc_auc"] == "" and table[1]["error"]
    record = json.loads((tmp_path / "new" / "benchmark.json").read_text())
    assert record["rows"][0]["runs"] == rows[0].runs and record["rows"][1]["roc_auc"] is None
    assert "backward" in record["runs"]
