"""`vitcircuits sweep`: killed and resumed, with one process or two, the table has the same bytes."""

import json
import random
import re
import subprocess
import sys
import time

import pytest
from vitcircuits.algorithms.sweeps.plan import KEYS
from vitcircuits.cli import discover
from vitcircuits.cli.main import main
from vitcircuits.cli.options import Parser

SWEEP = """
seeds = [0, 1, 2]
resources = { memory = "1GB" }
models = ["toy/digits-2l", { name = "absent", model = "deit_tiny_patch16_224", checkpoint = "absent.safetensors" }]
algorithms = [{ algorithm = "eap", options = { freeze_norm = false } }]

[[tasks]]
data = "digits"
target = 3
foil = 8

[defaults]
pairs = 4
eval_pairs = 4
random = 1
size = 5
ports = "block"
"""
MAIN = "import sys; from vitcircuits.cli.main import main; sys.exit(main())"
TABLES = ("table.csv", "index.html")


@pytest.fixture(scope="module")
def toml(tmp_path_factory):
    path = tmp_path_factory.mktemp("sweep") / "sweep.toml"
    path.write_text(SWEEP)
    return path


@pytest.fixture(scope="module")
def whole(toml):
    """A sweep that nobody disturbs, one cell after another in this process."""
    folder = toml.parent / "whole"
    assert main(["sweep", str(toml), "--out", str(folder), "--workers", "0"]) == 1
    return {name: (folder / name).read_bytes() for name in TABLES}


def test_a_failed_cell_is_a_row_and_the_others_are_done(whole):
    rows = whole["table.csv"].decode().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["toy/digits-2l"] * 3 + ["absent"] * 3
    assert all("ModelError: there is no file 'absent.safetensors'" in row for row in rows[4:])
    assert not any("Error" in row for row in rows[:4])


def test_two_processes_killed_and_resumed_give_the_same_table(toml, whole, tmp_path, capsys):
    _kill(["sweep", str(toml), "--out", str(tmp_path), "--workers", "2"], tmp_path, random.Random(0))
    assert main(["sweep", str(toml), "--out", str(tmp_path), "--workers", "0"]) == 1
    assert "6 cells: 3 done, 3 failed." in capsys.readouterr().out
    assert {name: (tmp_path / name).read_bytes() for name in TABLES} == whole
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.slow
def test_twelve_cells_killed_three_times_give_the_same_table(tmp_path):
    seeds, algorithms = "[0, 1, 2, 3, 4, 5]", '["eap", { algorithm = "eap_ig", options = { steps = 3 } }]'
    (tmp_path / "sweep.toml").write_text(
        f'seeds = {seeds}\nmodels = ["toy/digits-2l"]\nalgorithms = {algorithms}\n' + SWEEP[SWEEP.index("[[tasks]]") :]
    )
    command = ["sweep", str(tmp_path / "sweep.toml"), "--workers", "2", "--out"]
    assert main([*command, str(tmp_path / "whole")]) == 0
    draw = random.Random(0)
    for _ in range(3):
        _kill([*command, str(tmp_path / "killed")], tmp_path / "killed", draw)
    assert main([*command, str(tmp_path / "killed")]) == 0
    for name in TABLES:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def _kill(command, folder, draw):
    """Kills a sweep once one more cell is done, after a while."""
    process = subprocess.Popen([sys.executable, "-c", MAIN, *command], stderr=subprocess.DEVNULL)
    _wait_for_cells(folder, _n_done(folder) + 1, process)
    time.sleep(draw.uniform(0, 2))
    process.kill()
    process.wait()


def _wait_for_cells(folder, number, process):
    for _ in range(3600):
        if _n_done(folder) >= number:
            return
        assert process.poll() is None, "the sweep ended too early"
        time.sleep(0.05)
    raise AssertionError("no cell was done in three minutes")


def _n_done(folder):
    records = [json.loads(path.read_text()) for path in folder.glob("cells/*/run.json")]
    return sum(record["status"] == "done" for record in records)


def test_a_cell_is_what_discover_finds(toml, whole, tmp_path, one_thread):
    (folder,) = (toml.parent / "whole" / "cells").glob("toy*--eap--s1-*")
    assert main(["discover", "--config", str(folder / "run.json"), "--out", str(tmp_path)]) == 0
    for name in ("circuit.json", "report.json", "circuit.html"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name


def test_every_option_of_discover_can_be_set():
    parser = Parser()
    discover.add_parser(parser.add_subparsers())
    args = parser.parse_args(["discover", "--model", "m", "--data", "d", "--target", "1", "--foil", "2"])
    not_settings = {"out", "overwrite", "run", "option", "config"}
    every = {key for keys in KEYS.values() for key in keys}
    assert every == (set(vars(args)) - not_settings) | {"options", "faithfulness"}


def test_a_dry_run_says_how_long_and_how_large_and_runs_nothing(toml, tmp_path, capsys):
    assert main(["sweep", str(toml), "--out", str(tmp_path / "none"), "--dry-run"]) == 0
    *_, counts, takes = capsys.readouterr().out.splitlines()
    assert counts == "6 cells: 6 not run."
    assert re.fullmatch(
        r"6 cells take about \d+ s of one device and 1 MB of disk, 3 left out that cannot be timed", takes
    )
    assert not (tmp_path / "none").exists()


def test_what_has_become_of_each_cell_is_said_with_its_error(toml, whole, capsys):
    assert main(["sweep", str(toml), "--out", str(toml.parent / "whole"), "--status"]) == 0
    *lines, counts = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["done"] * 3 + ["failed"] * 3
    assert "there is no file 'absent.safetensors'" in lines[3]
    assert counts == "6 cells: 3 done, 3 failed."


def test_a_cluster_that_is_not_there_is_said(toml, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["sweep", str(toml), "--out", str(tmp_path / "out"), "--launcher", "slurm"]) == 2
    assert "there is no Slurm here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"eap"', '"eapp"', "eapp on toy/digits-2l, 3 vs 8: there is no algorithm 'eapp'"),
        ("freeze_norm", "freeze", "has no option 'freeze': its options are freeze_norm"),
        ("pairs = 4", 'pairs = "many"', "pairs='many'"),
        ("size = 5", "sise = 5", "Did you mean 'size'"),
        ("size = 5", "size = 5\nthreshold = 0.1", "each say how large"),
    ],
)
def test_mistakes_are_said_before_anything_runs(old, new, said, tmp_path, capsys):
    path = tmp_path / "sweep.toml"
    path.write_text(SWEEP.replace(old, new, 1))
    assert main(["sweep", str(path), "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_help_teaches_by_example(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["sweep", "--help"])
    assert stop.value.code == 0
    assert "vitcircuits sweep" in capsys.readouterr().out.split("examples:")[1]
