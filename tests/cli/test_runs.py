"""Commands that run a model, in process."""

import json

import pytest
from vitcircuits.circuits.run_folder import RESULT_FILES
from vitcircuits.cli.main import main

QUICK = ["discover", "--model", "toy/digits-2l", "--data", "digits", "--target", "4", "--foil", "9"]
QUICK += ["--ports", "block", "--pairs", "4", "--eval-pairs", "4"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "4v9"
    assert main([*QUICK, "--out", str(path)]) == 0
    return path


def test_demo_leaves_every_file_with_the_same_bytes_twice(tmp_path, capsys):
    for name in ("one", "two"):
        assert main(["demo", "--out", str(tmp_path / name)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert str(tmp_path / "two" / "circuit.html") in last
    for name in RESULT_FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_the_same_command_resumes_with_its_scores(folder, capsys):
    before = (folder / "circuit.json").read_bytes()
    assert main([*QUICK, "--out", str(folder)]) == 0
    assert "earlier run" in capsys.readouterr().out
    assert json.loads((folder / "run.json").read_text())["resumed"] is True
    assert (folder / "circuit.json").read_bytes() == before


def test_another_configuration_needs_overwrite(folder, capsys):
    assert main([*QUICK, "--out", str(folder), "--size", "5"]) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_evaluate_takes_the_task_from_the_circuit(folder, capsys, tmp_path):
    assert main(["evaluate", str(folder / "circuit.json"), "--no-curve", "--out", str(tmp_path / "r.json")]) == 0
    again = json.loads((tmp_path / "r.json").read_text())["figures"]["faithfulness"]["value"]
    first = json.loads((folder / "report.json").read_text())["figures"]["faithfulness"]["value"]
    assert again == first
    assert "4 against 9" in capsys.readouterr().out


def test_draw_writes_a_picture(folder, tmp_path):
    assert main(["draw", str(folder / "circuit.json"), str(tmp_path / "c.svg")]) == 0
    assert (tmp_path / "c.svg").read_text().startswith("<")


def test_models_lists_toys_with_their_figures(capsys):
    assert main(["models", "toy"]) == 0
    assert "toy/digits-2l" in capsys.readouterr().out


def test_doctor_finds_nothing_wrong(tmp_path, capsys):
    assert main(["doctor", "--out", str(tmp_path)]) == 0
    assert "all is well" in capsys.readouterr().out


def test_doctor_fails_where_nothing_can_be_written(tmp_path):
    assert main(["doctor", "--out", str(tmp_path / "missing")]) == 1
