"""`vitcircuits compare`: run folders and files in, one folder out; the same bytes again; mistakes with their repair."""

import json

import numpy as np
import pytest
from vitcircuits.algorithms import eap
from vitcircuits.algorithms.comparing import common_pairs
from vitcircuits.circuits import Circuit, compile_graph, evaluate
from vitcircuits.circuits.run_folder import RunFolder
from vitcircuits.circuits.tasks.task_config import TaskConfig
from vitcircuits.cli.main import main
from vitcircuits.models import load_vit

FILES = {"report.json", "comparison.html", "figures.csv", "agreement.csv", "findings.csv", "rank_overlap.csv"}
QUICK = ["--random", "1", "--bootstrap", "20"]


def run_in(folder, size, *, target=3, foil=8, ablation="partner"):
    """What `discover` leaves that `compare` reads."""
    settings = TaskConfig("digits", target=target, foil=foil, pairs=8, eval_pairs=8, ablation=ablation)
    vit = load_vit("toy/digits-2l")
    task = settings.make(vit)
    circuit = eap(compile_graph(vit, ports="block"), task).top(size)
    run = RunFolder.open(
        folder, {"model": "toy/digits-2l", "checkpoint": None, "device": "cpu", "task": settings.as_dict()}
    )
    circuit.save(folder / "circuit.json")
    run.finish()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three runs: two of one kind, and one of another size and ablation."""
    folder = tmp_path_factory.mktemp("runs")
    run_in(folder / "one", 12)
    run_in(folder / "two", 16)
    run_in(folder / "mean", 12, ablation="mean")
    return folder


def refused(capsys, arguments):
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def test_run_folders_are_compared_on_common_pairs(runs, tmp_path, capsys):
    paths = [f"toy={runs / 'one'}", f"toy={runs / 'two'}", f"mean={runs / 'mean'}"]
    assert main(["compare", *paths, *QUICK, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "ablation differs: partner (toy 1, toy 2); mean (per token) (mean)" in said
    assert "images valid for all 3 models, 0% of" in said and "toy 1 and toy 2: edges" in said
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES | {"transmission.csv"}
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["schema"] == "vitcircuits.comparison/1"
    assert [one["name"] for one in report["circuits"]] == ["toy 1", "toy 2", "mean"]
    assert report["pairs"]["evaluation"]["share_dropped"] == 0
    assert {one["figure"] for one in report["findings"]} >= {"CPR", "modularity", "edges for transmission 0.8"}
    assert all(one["words"] and one["verdict"] for one in report["findings"])
    assert report["agreement"]["edges, heads matched"]["value"][0][1] == report["agreement"]["edges"]["value"][0][1]
    assert main(["compare", *paths, *QUICK, "--out", str(tmp_path / "again")]) == 0
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes(), name


def test_resamples_find_the_circuits_again(runs, tmp_path):
    paths = [str(runs / "one"), str(runs / "two")]
    assert main(["compare", *paths, *QUICK, "--resamples", "2", "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert [one["name"] for one in report["circuits"]] == ["one", "two"]
    for one in report["figures"]:
        assert one["path length"]["low"] <= one["path length"]["high"]
        assert one["CPR"]["low"] < one["CPR"]["value"] < one["CPR"]["high"]


def test_all_are_measured_on_both_sides_unless_one_is_asked_for(runs, tmp_path, capsys):
    record = json.loads((runs / "one" / "circuit.json").read_text())
    for name in ("sides", "images", "n_partners"):
        del record["task"][name]
    old = tmp_path / "old.json"
    old.write_text(json.dumps(record))
    paths = [f"toy={runs / 'two'}", f"toy={old}"]
    few = ["--pairs", "4", "--eval-pairs", "6", "--n-partners", "1"]
    assert main(["compare", *paths, *QUICK, *few, "--out", str(tmp_path / "out")]) == 0
    assert "images valid for all 2 models, 0% of" in capsys.readouterr().out
    figures = json.loads((tmp_path / "out" / "report.json").read_text())["figures"]
    config = TaskConfig("digits", target=3, foil=8, pairs=4, eval_pairs=6, n_partners=1)
    task = config.make(load_vit("toy/digits-2l"))
    task = common_pairs([task, task]).tasks[0]  # whose partners are dealt anew, the same for all models
    judged = evaluate(Circuit.load(runs / "two" / "circuit.json"), task, n_random=0, n_bootstrap=0)
    assert figures[0]["CPR"]["value"] == pytest.approx(judged["cpr"].value, abs=1e-5)  # of transmission
    again = ["compare", *paths, *QUICK, "--eval-pairs", "8", "--resamples", "2", "--out", str(tmp_path / "new")]
    assert "--sides one" in refused(capsys, again)
    assert "leave --sides out" in refused(capsys, [*again, "--sides", "one"])


def test_files_alone_are_compared_in_structure_and_a_circuit_with_itself_agrees(runs, tmp_path, capsys):
    path = str(runs / "one" / "circuit.json")
    assert main(["compare", path, path, "--structure", *QUICK, "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "structure only" in said and "one (1) and one (2): edges 1.00" in said
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["differences"] == [] and {one["p"] for one in report["findings"]} == {1.0}
    assert {one["difference"] for one in report["findings"]} == {0.0}
    for measure, table in report["agreement"].items():
        assert np.allclose(np.array(table["value"], dtype=float), 1) or "matched" in measure, measure


def test_other_tasks_are_measured_on_their_own_pairs(runs, tmp_path, capsys):
    run_in(tmp_path / "4v9", 12, target=4, foil=9)
    assert main(["compare", str(runs / "one"), str(tmp_path / "4v9"), *QUICK, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "each circuit is measured on its own pairs" in said and "task differs: 3 vs 8 (one); 4 vs 9 (4v9)" in said
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert "each_on_its_own_pairs" in report["pairs"]["compared"]


def test_the_page_loads_nothing_and_shows_both_circuits(runs, tmp_path):
    assert main(["compare", str(runs / "one"), str(runs / "two"), "--structure", *QUICK, "--out", str(tmp_path)]) == 0
    page = (tmp_path / "comparison.html").read_text()
    assert "default-src 'none'" in page and "<script src" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    first, second = (Circuit.load(runs / name / "circuit.json") for name in ("one", "two"))
    shared = int((first.mask & second.mask).sum())
    assert f"both: {shared} edges" in page and f"only two: {len(second) - shared} edges" in page
    assert page.count('class="edge ') == len(first) + len(second)


def test_mistakes_are_said_with_their_repair(runs, tmp_path, capsys):
    out = ["--out", str(tmp_path / "new")]
    assert "two or more" in refused(capsys, ["compare", str(runs / "one"), *out])
    assert "there is no file" in refused(capsys, ["compare", str(runs / "one"), str(runs / "none.json"), *out])
    one = str(runs / "one")
    assert "beauty" in refused(capsys, ["compare", one, one, "--structure", "--figure", "beauty", *QUICK, *out])
    bare = Circuit.load(runs / "one" / "circuit.json")
    path = Circuit(bare.graph, bare.mask.copy()).save(tmp_path / "bare.json")
    assert "--data" in refused(capsys, ["compare", one, str(path), *out])
    assert not (tmp_path / "new").exists()
