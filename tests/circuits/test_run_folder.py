"""The run folder: it says what was run, resumes, refuses another run's folder, and has the same bytes again."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from vitcircuits.circuits import Circuit, Report, Scores, compile_graph
from vitcircuits.circuits.formats.json import load_report, load_scores
from vitcircuits.circuits.report import Curve, Figure
from vitcircuits.circuits.run_folder import PATCH_FILES, RESULT_FILES, RunFolder, read_run
from vitcircuits.models.config import TokenLayout, VitConfig
from vitcircuits.models.errors import FormatError

CONFIG = {"model": "toy/small", "options": {"steps": 5, "rule": "midpoint"}, "target": (3,), "tau": float("-inf")}


@pytest.fixture(scope="module")
def circuit() -> Circuit:
    layout = TokenLayout(has_cls=True, n_registers=0, grid=(2, 2))
    cfg = VitConfig("toy/small", 2, 2, 8, 4, 16, 10, (4, 4), (2, 2), 1, layout, (0,), "token")
    graph = compile_graph(cfg, tokens="role")
    values = np.random.default_rng(0).normal(size=len(graph))
    exact = np.zeros(len(graph), dtype=bool)
    task = {"metric": "logit_difference", "target_names": ["NA"], "foil_names": ['<b> & "é"']}
    return Scores(graph, values, np.abs(values), np.abs(values) / 3, exact, 8, "eap_ig", task=task).top(20)


@pytest.fixture(scope="module")
def report(circuit: Circuit) -> Report:
    n = np.array([5, 10, 20])
    curve = Curve("eap_ig", n, n, np.array([0.2, 0.5, 0.8]))
    figures = {"faithfulness": Figure(0.8, "share", 0.7, 0.9, method="mean over pairs")}
    return Report(figures, (curve,), len(circuit), len(circuit.graph), 8, {"metric": "logit_difference"})


def start(path: Path, config: dict[str, Any] = CONFIG, **options: Any) -> RunFolder:
    return RunFolder.open(path, config, command=["vitcircuits", "demo"], seed=0, data_hash="abc", **options)


def test_run_json_comes_first_and_is_finished_last(tmp_path: Path):
    folder = start(tmp_path / "deep" / "run")
    assert [path.name for path in folder.path.iterdir()] == ["run.json"]
    running = read_run(folder.path)
    assert running["status"] == "running"
    assert running["config"] == folder.config == {**CONFIG, "target": [3]}
    assert {"vitcircuits", "python", "torch", "timm", "numpy"} == set(running["versions"])
    folder.finish(times={"scores": 1.5})
    done = read_run(folder.path)
    assert (done["status"], done["times"], done["seed"], done["device"]) == ("done", {"scores": 1.5}, 0, "cpu")
    assert done["command"] == ["vitcircuits", "demo"]
    assert done["data_hash"] == "abc"


def written(path: Path, circuit: Circuit, report: Report, patch_effects: Any, seconds: float) -> list[Path]:
    """A whole run, finished: the paths of its results."""
    folder = start(path)
    paths = folder.write_all(circuit, report, patch_effects=patch_effects())
    folder.finish({"all": seconds})
    return paths


@pytest.fixture(scope="module")
def whole(circuit: Circuit, report: Report, patch_effects: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return written(tmp_path_factory.mktemp("whole"), circuit, report, patch_effects, 0.0)


def test_write_all_leaves_every_file_and_each_is_valid(circuit: Circuit, report: Report, whole: list[Path]):
    folder = whole[0].parent
    assert {path.name for path in whole} == set(RESULT_FILES)
    assert {path.name for path in folder.iterdir()} == {*RESULT_FILES, "run.json"}
    assert Circuit.load(folder / "circuit.json") == circuit
    assert load_scores(folder / "scores.safetensors") == circuit.scores
    assert load_report(folder / "report.json")["faithfulness"] == report["faithfulness"]
    for name in ("circuit.svg", "faithfulness.svg", "circuit.graphml"):
        ElementTree.parse(folder / name)


def test_law_10_the_same_run_gives_the_same_bytes(
    circuit: Circuit, report: Report, patch_effects: Any, whole: list[Path], tmp_path: Path
):
    again = written(tmp_path / "again", circuit, report, patch_effects, 1 / 3)
    first, second = (
        {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths} for paths in (whole, again)
    )
    assert first == second


def test_without_scores_or_report_the_rest_is_written(circuit: Circuit, tmp_path: Path):
    written = start(tmp_path).write_all(Circuit.from_edges(circuit.graph, circuit.edge_names()))
    assert {path.name for path in written} == {*RESULT_FILES} - {
        *PATCH_FILES,
        "scores.safetensors",
        "report.json",
        "faithfulness.svg",
    }


def test_an_interrupted_run_resumes_with_its_scores(circuit: Circuit, tmp_path: Path):
    first = start(tmp_path)
    assert first.load_scores_if_same() is None
    assert circuit.scores is not None
    first.save_scores(circuit.scores)
    again = start(tmp_path)
    assert again.resumes
    assert again.load_scores_if_same() == circuit.scores
    assert read_run(tmp_path)["resumed"] is True


@pytest.mark.parametrize("change", ["versions", "device"])
def test_scores_of_other_versions_or_devices_are_not_taken(circuit: Circuit, tmp_path: Path, change: str):
    assert circuit.scores is not None
    start(tmp_path).save_scores(circuit.scores)
    record = json.loads((tmp_path / "run.json").read_text())
    record[change] = "another"
    (tmp_path / "run.json").write_text(json.dumps(record))
    again = start(tmp_path)
    assert not again.resumes
    assert again.load_scores_if_same() is None
    assert start(tmp_path).load_scores_if_same() is None  # nor once run.json says the new ones


def test_damaged_scores_are_computed_again(tmp_path: Path):
    start(tmp_path)
    (tmp_path / "scores.safetensors").write_bytes(b"damaged")
    assert start(tmp_path).load_scores_if_same() is None


def test_another_configuration_is_refused_and_can_be_overwritten(circuit: Circuit, tmp_path: Path):
    first = start(tmp_path)
    first.write_all(circuit)
    first.finish()
    (tmp_path / "notes.txt").write_text("mine")
    other = {**CONFIG, "options": {"steps": 10, "rule": "midpoint"}}
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(FormatError, match=r"options\.steps was 5 and is 10\. .*overwrite=True"):
        start(tmp_path, other)
    assert (tmp_path / "run.json").read_bytes() == before
    folder = start(tmp_path, other, overwrite=True)
    assert folder.load_scores_if_same() is None
    assert {path.name for path in tmp_path.iterdir()} == {"run.json", "notes.txt"}


def test_a_finished_run_stays_protected_while_it_is_repeated(circuit: Circuit, tmp_path: Path):
    start(tmp_path).finish()
    start(tmp_path).write_all(circuit)  # and is interrupted
    with pytest.raises(FormatError, match=r"tau was -inf and is 1\.0"):
        start(tmp_path, {**CONFIG, "tau": 1.0})
    assert Circuit.load(tmp_path) == circuit


def test_an_unfinished_run_of_another_search_is_removed_and_this_is_said(circuit: Circuit, tmp_path: Path, caplog):
    first = start(tmp_path)
    first.write_all(circuit)
    first.journal.write_text("of the other search")
    (tmp_path / "notes.txt").write_text("mine")
    again = start(tmp_path, {**CONFIG, "target": [4]})
    assert not again.resumes and again.load_scores_if_same() is None
    assert {path.name for path in tmp_path.iterdir()} == {"run.json", "notes.txt"}
    assert "target was [3] and is [4]" in caplog.text and "removed" in caplog.text


def test_an_unfinished_run_keeps_scores_and_journal_where_only_the_selection_differs(
    circuit: Circuit, tmp_path: Path, caplog
):
    first = start(tmp_path, {**CONFIG, "size": 5, "level": None})
    first.write_all(circuit)
    first.journal.write_text("of the same search")
    again = start(tmp_path, {**CONFIG, "size": None, "level": 0.9})
    assert again.load_scores_if_same() == circuit.scores
    assert {path.name for path in tmp_path.iterdir()} == {"run.json", "scores.safetensors", "journal.jsonl"}
    assert "size was 5 and is None" in caplog.text and "goes on" in caplog.text


def test_a_folder_that_another_process_writes_into_is_left_alone(tmp_path: Path):
    script = (
        "import sys; from vitcircuits.circuits.run_folder import RunFolder\n"
        "RunFolder.open('run', {'a': 1}); print('open', flush=True); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, **pipes) as other:
        assert other.stdout.readline() == "open\n"
        before = (tmp_path / "run" / "run.json").read_bytes()
        with pytest.raises(FormatError, match="another process writes"):
            RunFolder.open(tmp_path / "run", {"a": 2}, overwrite=True)
        assert (tmp_path / "run" / "run.json").read_bytes() == before
        other.stdin.close()
    RunFolder.open(tmp_path / "run", {"a": 2}).finish()  # it died unfinished


def test_a_run_folder_stands_for_its_circuit(circuit: Circuit, tmp_path: Path):
    folder = start(tmp_path)
    with pytest.raises(FormatError, match="not finished"):
        Circuit.load(tmp_path)
    folder.write_all(circuit)
    assert Circuit.load(tmp_path) == circuit == Circuit.load(tmp_path / "circuit.json")
    with pytest.raises(FormatError, match="pass a run folder"):
        Circuit.load(tmp_path.parent)


def test_a_readout_is_written_where_it_is_not_the_models_own_and_goes_with_its_run(tmp_path: Path):
    from torch import nn
    from vitcircuits.models import load_readout, load_vit

    vit = load_vit("toy/digits-2l")
    folder = start(tmp_path)
    assert folder.save_readout(vit) == []
    other = vit.with_readout(nn.Linear(vit.cfg.d_model, 2), ("a", "b"))
    (path,) = folder.save_readout(other)
    assert load_readout(vit, path).readout.info == other.readout.info
    assert start(tmp_path).resumes and path.is_file()
    start(tmp_path, {**CONFIG, "tau": 1.0}, overwrite=True)
    assert not path.exists()


@pytest.mark.parametrize(("option", "value"), [("seed", 1), ("data_hash", "xyz")])
def test_another_seed_or_other_data_is_another_run(tmp_path: Path, option: str, value: Any):
    RunFolder.open(tmp_path, CONFIG, seed=0, data_hash="abc").finish()
    with pytest.raises(FormatError, match=option):
        RunFolder.open(tmp_path, CONFIG, **{"seed": 0, "data_hash": "abc", option: value})


def test_a_file_under_the_path_and_a_path_under_a_file_are_said(tmp_path: Path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(FormatError, match="is a file"):
        start(file)
    with pytest.raises(FormatError, match="cannot write"):
        start(file / "run")


def test_a_folder_that_is_no_run_is_left_alone(tmp_path: Path):
    (tmp_path / "report.json").write_text("mine")
    with pytest.raises(FormatError, match=r"report\.json but no run\.json"):
        start(tmp_path)
    assert (tmp_path / "report.json").read_text() == "mine"
    (tmp_path / "report.json").unlink()
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(FormatError, match=r"not JSON.*overwrite=True"):
        start(tmp_path)
    assert start(tmp_path, overwrite=True).resumes is False


def test_opening_and_finishing_needs_no_torch(tmp_path: Path):
    script = (
        "import sys; from vitcircuits.circuits.run_folder import RunFolder\n"
        "RunFolder.open('run', {'a': 1}, seed=0).finish({'all': 1.0})\n"
        "assert not {'torch', 'timm', 'pandas', 'networkx', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    assert read_run(tmp_path / "run")["status"] == "done"
