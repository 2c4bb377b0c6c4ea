"""Commands on joined processes: the files and words of one process; under torchrun one reason where it fails."""

import io
import os
import subprocess
import sys
from contextlib import redirect_stdout

import matplotlib.pyplot  # noqa: F401  here, and four more: joined processes are forked from one that has this file's
import networkx  # noqa: F401  imports, and need not import again what the command does
import pandas  # noqa: F401
import pytest
import sklearn.datasets  # noqa: F401
import timm  # noqa: F401
from vitcircuits.algorithms import run_config  # noqa: F401
from vitcircuits.cli.main import main

SEARCH = ["--model", "toy/digits-2l", "--data", "digits", "--target", "3", "--foil", "8", "--pairs", "8"]


def torchrun(*arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "vitcircuits"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, env=environment)


def _said(arguments):
    """The exit code of a command, and what it writes to stdout."""
    with redirect_stdout(io.StringIO()) as said:
        code = main(arguments)
    return code, said.getvalue()


def test_the_files_and_words_are_those_of_one_process(tmp_path, one_thread, on_processes):
    arguments = ["discover", *SEARCH, "--eval-pairs", "8", "--random", "1", "--patches", "1", "--ports", "block"]
    arguments += ["--algorithm", "acdc", "--option", "tau=0.05", "--out"]
    one, two = tmp_path / "one", tmp_path / "two"
    code, alone = _said([*arguments, str(one)])
    (first, together), second = on_processes(2, _said, [*arguments, str(two)])
    assert code == first == 0 and second == (0, "")
    files = {path.name for path in one.iterdir()}
    assert files == {path.name for path in two.iterdir()}
    for name in files - {"run.json"}:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    texts = alone.replace(str(one), str(two)), together
    said = [[line for line in text.splitlines() if not line.startswith("seconds")] for text in texts]
    assert said[0] == said[1]


def _out(capsys):
    return capsys.readouterr().out


def test_a_mistake_is_said_once(tmp_path):
    model = ["--model", "toy/digit-2l"]  # which each of the joined processes asks for, before it imports more
    done = torchrun("discover", *SEARCH, *model, "--out", str(tmp_path / "out"))
    assert done.stderr.count("vitcircuits: there is no model 'toy/digit-2l'. Did you mean 'toy/digits-2l'?") == 1
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
