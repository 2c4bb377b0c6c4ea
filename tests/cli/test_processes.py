"""Commands under torchrun: the files of one process, the words of one process, and one reason where it fails."""

import os
import subprocess
import sys

import pytest
from vitcircuits.cli.main import main

SEARCH = ["--model", "toy/digits-2l", "--data", "digits", "--target", "3", "--foil", "8", "--pairs", "12"]


def torchrun(*arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "vitcircuits"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, env=environment)


def test_the_files_are_those_of_one_process(tmp_path, capsys, one_thread):
    arguments = [*SEARCH, "--eval-pairs", "12", "--random", "1", "--patches", "1"]
    arguments += ["--algorithm", "acdc", "--option", "tau=0.05", "--out"]
    assert main(["discover", *arguments, str(tmp_path / "one")]) == 0
    done = torchrun("discover", *arguments, str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    files = {path.name for path in (tmp_path / "one").iterdir()}
    assert files == {path.name for path in (tmp_path / "two").iterdir()}
    for name in files - {"run.json"}:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    said = [
        [line for line in text.splitlines() if not line.startswith("seconds")] for text in (done.stdout, _out(capsys))
    ]
    assert said[0] == [line.replace(str(tmp_path / "one"), str(tmp_path / "two")) for line in said[1]]


def _out(capsys):
    return capsys.readouterr().out


def test_a_mistake_is_said_once(tmp_path):
    done = torchrun("discover", *SEARCH, "--size", "1000000", "--out", str(tmp_path / "out"))
    assert done.stderr.count("vitcircuits: a size of 1e+06 edges is not possible") == 1
    assert "exitcode  : 2" in done.stderr and done.returncode != 0 and done.stdout == ""


@pytest.mark.parametrize(("place", "said"), [(0, "sweep starts processes itself"), (1, "")])
def test_a_sweep_under_torchrun_is_refused_by_the_first(monkeypatch, capsys, place, said):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", str(place))
    assert main(["sweep", "sweep.toml"]) == (2 if said else 0)
    told = capsys.readouterr()
    assert told.out == "" and said in told.err and bool(told.err) == bool(said)


def test_a_command_that_is_not_shared_is_run_by_the_first_alone(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    told = []
    for place in ("0", "1"):
        monkeypatch.setenv("RANK", place)
        assert main(["models", "toy/digits-2l"]) == 0
        told.append(_out(capsys))
    assert "toy/digits-2l" in told[0] and told[1] == ""
