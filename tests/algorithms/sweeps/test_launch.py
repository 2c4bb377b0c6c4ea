"""Cells are run by processes of which any may die, and which end with whoever waits for them.

What runs a cell here is made within a function, so that it is pickled whole and needs no module of the tests.
"""

import dataclasses
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import psutil
import pytest
from vitcircuits.algorithms.sweeps import launch
from vitcircuits.algorithms.sweeps.launch import run_local
from vitcircuits.algorithms.sweeps.outcomes import LOG
from vitcircuits.algorithms.sweeps.plan import Cell
from vitcircuits.algorithms.sweeps.resources import Resources
from vitcircuits.algorithms.sweeps.sweep import run_sweep
from vitcircuits.models.errors import TaskError


def after(leave, *code):
    """Work that runs some code and then leaves what a run leaves."""

    def work(cell, folder):
        for line in code:
            exec(line, {"cell": cell, "folder": folder})
        leave(cell, folder)

    return work


NOTES = "import os, pathlib; folder.mkdir(parents=True, exist_ok=True); (folder / 'pid').write_text(str(os.getpid()))"
SLEEPS = "import time; time.sleep(60)"


def statuses(outcomes):
    return {outcome.cell.folder: outcome.status for outcome in outcomes}


def test_a_cell_whose_process_dies_is_failed_with_its_log_and_costs_no_other(tmp_path, cells, leave):
    dies = "import os, signal; print('about to', flush=True); cell.algorithm == 'bad' and os.kill(os.getpid(), 9)"
    outcomes = run_sweep(cells, tmp_path, after(leave, dies), workers=2)
    assert [outcome.status for outcome in outcomes] == ["done", "done", "failed", "failed"]
    assert "process died" in outcomes[2].error and "memory" in outcomes[2].error and LOG in outcomes[2].error
    assert all((tmp_path / cell.folder / LOG).read_text() == "about to\n" for cell in cells)


def test_processes_share_the_cells_and_are_no_more_than_asked_for(tmp_path, cells, leave):
    outcomes = list(run_local(after(leave, NOTES, "import time; time.sleep(0.3)"), cells, tmp_path, 2))
    assert set(statuses(outcomes).values()) == {"done"} and len(outcomes) == len(cells)
    assert len({(tmp_path / cell.folder / "pid").read_text() for cell in cells}) == 2


def test_processes_have_the_threads_of_their_cells_and_leave_the_environment_alone(tmp_path, cells, leave, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    more = [dataclasses.replace(cells[0], resources=Resources(cpus=3)), cells[1]]
    notes = (
        "import os; folder.mkdir(parents=True, exist_ok=True); (folder / 'n').write_text(os.environ['OMP_NUM_THREADS'])"
    )
    assert set(statuses(run_local(after(leave, notes), more, tmp_path, 2)).values()) == {"done"}
    assert [(tmp_path / cell.folder / "n").read_text() for cell in more] == ["3", "1"]
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_processes_end_when_nobody_waits_for_their_cells(tmp_path, cells, leave):
    slow = f"cell.seed and exec({SLEEPS!r})"
    ended = run_local(after(leave, NOTES, slow), cells[:2], tmp_path, 1)
    assert next(ended).status == "done"
    pid = _pid(tmp_path / cells[1].folder / "pid")
    ended.close()
    assert not _alive(pid)


def test_processes_leave_an_interruption_to_their_parent(tmp_path, cells, leave):
    interrupted = "import os, signal; os.kill(os.getpid(), signal.SIGINT)"
    assert [one.status for one in run_local(after(leave, interrupted), cells[:1], tmp_path, 1)] == ["done"]


def test_an_interruption_while_a_process_starts_is_not_lost():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background has none
    try:
        with pytest.raises(KeyboardInterrupt), launch._deaf():
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_processes_end_with_a_parent_that_is_killed(tmp_path):
    blows = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
    script = tmp_path / "script.py"  # imports once, and forks a parent for each blow
    script.write_text(
        "import os, signal\n"
        "from vitcircuits.algorithms.sweeps.plan import Cell\n"
        "from vitcircuits.algorithms.sweeps.sweep import run_sweep\n"
        f"def work(cell, folder): exec({NOTES!r}, locals()); exec({SLEEPS!r})\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # which a shell's background takes away
        f"for place in range({len(blows)}):\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        f"        out = {str(tmp_path)!r} + f'/{{place}}'\n"
        "        os.mkdir(out)\n"
        "        open(out + '/parent', 'w').write(str(os.getpid()))\n"
        "        run_sweep([Cell('m', 't', 'eap', 0, {}, 'cells/one')], out, work)\n"
        "        os._exit(0)\n"
        f"for _ in range({len(blows)}): os.wait()\n"
    )
    with subprocess.Popen([sys.executable, script], stderr=subprocess.DEVNULL) as parents:
        for place, blow in enumerate(blows):
            pid, parent = (_pid(tmp_path / str(place) / name) for name in ("cells/one/pid", "parent"))
            (os.killpg if blow == signal.SIGINT else os.kill)(parent, blow)  # Ctrl-C reaches the processes too
            assert _soon(lambda pid=pid: not _alive(pid)), blow
        assert parents.wait() == 0  # no parent outlived its blow


def test_a_preempted_process_is_started_again_and_goes_on(tmp_path, cells, leave):
    preempted = (
        "import os, signal, pathlib; lives = folder.parent / 'lives'; first = not lives.exists()\n"
        "lives.open('a').write(str(cell.seed))\n"
        "first and os.kill(os.getpid(), signal.SIGUSR2)"
    )
    folder = tmp_path / cells[0].folder
    folder.mkdir(parents=True)
    assert statuses(run_local(after(leave, preempted), cells[:2], tmp_path, 1)) == dict.fromkeys(
        [cell.folder for cell in cells[:2]], "done"
    )
    assert (folder.parent / "lives").read_text() == "001"


def test_a_process_that_cannot_start_is_said(tmp_path, cells, monkeypatch):
    elsewhere = types.ModuleType("nowhere_else")
    exec("def work(cell, folder): pass", elsewhere.__dict__)
    monkeypatch.setitem(sys.modules, "nowhere_else", elsewhere)
    with pytest.raises(TaskError, match=r"could not start.*No module named 'nowhere_else'.*--workers 0"):
        list(run_local(elsewhere.work, cells, tmp_path, 2))


def test_without_submitit_cells_run_in_this_process_and_others_say_what_to_install(tmp_path, cells, work, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TaskError, match=r"vitcircuits\[cluster\].*--workers 0"):
        run_sweep(cells[:2], tmp_path, work)
    assert [one.status for one in run_sweep(cells[:2], tmp_path, work, workers=0)] == ["done", "done"]


TOGETHER = """
import os
from vitcircuits.models import processes
place, named = processes.place(), cell.algorithm + str(cell.seed)
if cell.algorithm == "bad" and cell.seed and place:
    os.kill(os.getpid(), 9)
if cell.algorithm == "bad" and place:
    raise ValueError("bad luck")
told = processes.at_once(lambda job: (job, processes.place()), [named + "a", named + "b"])
if processes.is_first():
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "told").write_text(repr(told))
"""


def test_several_processes_run_each_cell_together_and_end_together(tmp_path, cells, leave):
    """Cells of `bad` end with what one process alone says, or with its death; the others are done."""
    shared = [dataclasses.replace(cell, resources=Resources(processes=2)) for cell in cells]
    outcomes = run_sweep(shared, tmp_path, after(leave, TOGETHER), workers=1)
    assert [one.status for one in outcomes] == ["done", "done", "failed", "failed"]
    for one in outcomes[:2]:
        named = one.cell.algorithm + str(one.cell.seed)
        assert (tmp_path / one.cell.folder / "told").read_text() == repr([(f"{named}a", 0), (f"{named}b", 1)])
    assert "bad luck" in outcomes[2].error and "process" in outcomes[3].error


def test_a_cell_of_two_processes_leaves_the_same_bytes_as_one_process(tmp_path):
    settings = {"model": "toy/digits-2l", "data": "digits", "target": 3, "foil": 8, "algorithm": "eap", "size": 0.3}
    settings |= {"pairs": 4, "eval_pairs": 4, "random": 0, "seed": 0, "ports": "block"}
    shared = Cell("m", "t", "eap", 0, settings, "cells/one", Resources(processes=2))
    for out, cell, workers in (("alone", dataclasses.replace(shared, resources=Resources()), 0), ("both", shared, 1)):
        (outcome,) = run_sweep([cell], tmp_path / out, workers=workers)
        assert outcome.status == "done", outcome.error
    for name in ("circuit.json", "scores.safetensors", "report.json"):
        alone, both = (tmp_path / out / "cells/one" / name for out in ("alone", "both"))
        assert alone.read_bytes() == both.read_bytes(), name


def test_more_memory_than_there_is_is_refused(tmp_path, cells, leave):
    here = psutil.virtual_memory().total
    large = [dataclasses.replace(cell, resources=Resources(memory=int(0.4 * here))) for cell in cells]
    with pytest.raises(TaskError, match="pass --workers 2"):
        run_sweep(large, tmp_path, leave, workers=3)


def test_no_cell_starts_no_process(tmp_path):
    assert list(run_local(print, [], tmp_path, 3)) == []


def test_gpus_are_taken_in_turns(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert [launch._gpus(place, 1) for place in range(3)] == [[4], [6], [4]]
    assert launch._gpus(1, 2) == [4, 6]
    with pytest.raises(TaskError, match="3 GPUs, and 2 are here"):
        launch._gpus(0, 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-3f")
    with pytest.raises(TaskError, match="gpus = 0"):
        launch._gpus(0, 1)


def _pid(path: Path) -> int:
    assert _soon(lambda: path.exists() and path.read_text())
    return int(path.read_text())


def _alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def _soon(holds) -> bool:
    for _ in range(1200):
        if holds():
            return True
        time.sleep(0.05)
    return False
