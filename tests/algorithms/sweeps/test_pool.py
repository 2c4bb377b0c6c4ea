"""Jobs are done by processes of which any may die; jobs here are Python code, run by `exec`."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from vitcircuits.algorithms.sweeps.pool import run_jobs

DIES = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


def writes(path, what="''"):
    return f"import os, pathlib; pathlib.Path({str(path)!r}).write_text(str({what}))"


def test_every_job_is_done_and_one_that_kills_its_process_costs_no_other(tmp_path):
    names = [tmp_path / str(number) for number in range(4)]
    ended = dict(run_jobs(exec, [writes(names[0]), DIES, *map(writes, names[1:])], workers=2))
    assert ended == {0: None, 1: -9, 2: None, 3: None, 4: None}
    assert all(name.exists() for name in names)


def test_workers_have_their_threads_and_leave_the_environment_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert list(run_jobs(exec, [writes(tmp_path / "n", "os.environ['OMP_NUM_THREADS']")], threads=3)) == [(0, None)]
    assert ((tmp_path / "n").read_text(), os.environ["OMP_NUM_THREADS"]) == ("3", "7")


def test_workers_end_when_nobody_waits_for_their_jobs(tmp_path):
    jobs = [writes(tmp_path / "begun", "os.getpid()"), f"{writes(tmp_path / 'pid', 'os.getpid()')}\n{_SLEEP}"]
    ended = run_jobs(exec, jobs)
    assert next(ended) == (0, None)
    pid = _pid(tmp_path / "begun")
    ended.close()
    assert not _alive(pid)


def test_workers_leave_an_interruption_to_their_parent():
    assert list(run_jobs(exec, ["import os, signal; os.kill(os.getpid(), signal.SIGINT)"])) == [(0, None)]


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_a_parent_that_is_killed(tmp_path, blow):
    script = tmp_path / "script.py"
    job = f"{writes(tmp_path / 'pid', 'os.getpid()')}\n{_SLEEP}"
    script.write_text(
        "from vitcircuits.algorithms.sweeps.pool import run_jobs\n"
        f"if __name__ == '__main__':\n    list(run_jobs(exec, [{job!r}]))\n"
    )
    parent = subprocess.Popen([sys.executable, script], start_new_session=True, stderr=subprocess.DEVNULL)
    pid = _pid(tmp_path / "pid")
    (os.killpg if blow == signal.SIGINT else os.kill)(parent.pid, blow)  # Ctrl-C reaches the workers too
    parent.wait()
    assert _soon(lambda: not _alive(pid))


def test_a_script_without_a_guard_is_told_so(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("from vitcircuits.algorithms.sweeps.pool import run_jobs\nlist(run_jobs(exec, ['']))\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and '`if __name__ == "__main__":`' in done.stderr.splitlines()[-1]


def test_jobs_are_done_here_without_workers():
    done = []
    assert list(run_jobs(done.append, ["a", "b"], workers=0)) == [(0, None), (1, None)]
    assert done == ["a", "b"]


def test_no_job_starts_no_process():
    assert list(run_jobs(exec, [], workers=3)) == []


_SLEEP = "import time; time.sleep(60)"


def _pid(path: Path) -> int:
    assert _soon(lambda: path.exists() and path.read_text())
    return int(path.read_text())


def _alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def _soon(holds) -> bool:
    for _ in range(400):
        if holds():
            return True
        time.sleep(0.05)
    return False
