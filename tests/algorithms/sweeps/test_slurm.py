"""Cells as jobs of a cluster: here of one made of three shell scripts, which run what they are given at once.

`OPTIONS` are the long options that sbatch(1) of Slurm 22.05 documents.
"""

import os
import re
import signal
import time
from pathlib import Path

import pytest
from vitcircuits.algorithms.sweeps import slurm
from vitcircuits.algorithms.sweeps.outcomes import read_outcome
from vitcircuits.algorithms.sweeps.resources import Resources
from vitcircuits.algorithms.sweeps.sweep import run_sweep
from vitcircuits.models.errors import TaskError

OPTIONS = """account acctg-freq array batch bb bbf begin chdir cluster-constraint clusters comment constraint container
contiguous core-spec cores-per-socket cpu-freq cpus-per-gpu cpus-per-task deadline delay-boot dependency distribution
error exclude exclusive export export-file extra-node-info get-user-env gid gpu-bind gpu-freq gpus gpus-per-node
gpus-per-socket gpus-per-task gres gres-flags help hint hold ignore-pbs input job-name kill-on-invalid-dep licenses
mail-type mail-user mcs-label mem mem-bind mem-per-cpu mem-per-gpu mincpus network nice no-kill no-requeue nodefile
nodelist nodes ntasks ntasks-per-core ntasks-per-gpu ntasks-per-node ntasks-per-socket open-mode output overcommit
oversubscribe parsable partition power prefer priority profile propagate qos quiet reboot requeue reservation signal
sockets-per-node spread-job switches test-only thread-spec threads-per-core time time-min tmp uid usage use-min-nodes
verbose version wait wait-all-nodes wckey wrap"""

SBATCH = """#!/bin/sh
cd "$(dirname "$0")/../queue" || exit 1
script="$(dirname "$PWD")/script.$(ls .. | wc -l)"
cp "$1" "$script"  # as Slurm does: submitit renames its own when it is told a number
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\)%.*/\\1/p' "$1")
for i in $(seq 0 "${last:-0}"); do
    id=7${last:+_$i}
    touch "$id"
    export SLURM_JOB_ID=$((100 + i)) SLURM_PROCID=0
    if [ -n "$last" ]; then export SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=$i; else export SLURM_JOB_ID=7; fi
    (cd "$WHERE" && sh "$script"; rm -f "$OLDPWD/$id") >"../$id.log" 2>&1 &
done
echo "Submitted batch job 7"
"""
SRUN = """#!/bin/sh
while [ "${1#--}" != "$1" ]; do [ "$1" = --unbuffered ] || shift; shift; done
exec "$@"
"""
SQUEUE = """#!/bin/sh
for id in $(ls "$(dirname "$0")/../queue"); do echo "$id RUNNING"; done
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """The folder of a cluster, whose jobs in the queue are files of its folder `queue`."""
    where = tmp_path / "cluster"
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "squeue": SQUEUE}.items():
        path = where / "bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    (where / "queue").mkdir()
    monkeypatch.setenv("PATH", f"{where / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("WHERE", str(Path.cwd()))
    monkeypatch.setattr(slurm, "_POLL", 0.2)
    return where


def asked(path):
    """The options of a script, with their values."""
    lines = re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", path.read_text(), re.M)
    assert len(lines) == path.read_text().count("#SBATCH")
    return dict(lines)


def test_the_script_asks_for_the_resources_by_options_that_sbatch_documents(cluster, tmp_path):
    resources = Resources(
        gpus=2, cpus=4, memory=16_000_000_000, time=240, partition="gpu", account="a", qos="q", constraint="a100"
    )
    slurm.slurm_executor(tmp_path, resources, 5).submit_array([print, print])
    (script,) = cluster.glob("script.*")
    options = asked(script)
    assert options.keys() <= set(OPTIONS.split())
    wanted = {"cpus-per-task": "4", "mem": "16GB", "time": "240", "partition": "gpu", "gpus-per-node": "2"}
    wanted |= {"ntasks-per-node": "2"}  # a process for each
    wanted |= {"account": "a", "qos": "q", "constraint": "a100", "requeue": "", "array": "0-1%2", "open-mode": "append"}
    assert wanted.items() <= options.items()
    assert re.fullmatch(r"USR2@\d+", options["signal"])  # so long before the end of its time a job is told
    _until(lambda: not list((cluster / "queue").iterdir()))


def test_what_is_not_asked_for_is_the_cluster_s_default(cluster, tmp_path):
    slurm.slurm_executor(tmp_path, Resources(gpus=0), 1).submit(print)
    options = asked(next(cluster.glob("script.*")))
    assert not options.keys() & {"mem", "partition", "gpus-per-node", "account", "qos", "constraint", "array"}
    assert options["time"] == str(24 * 60)
    _until(lambda: not list((cluster / "queue").iterdir()))


def test_each_cell_is_a_job_and_one_that_fails_is_a_row(cluster, tmp_path, cells, leave):
    def work(cell, folder):
        if cell.algorithm == "bad":
            raise ValueError("bad luck")
        leave(cell, folder)

    outcomes = run_sweep(cells, tmp_path / "out", work, launcher="slurm", workers=3)
    assert [one.status for one in outcomes] == ["done", "done", "failed", "failed"]
    assert outcomes[2].error == "ValueError: bad luck"
    assert asked(next(cluster.glob("script.*")))["array"] == "0-3%3"


def waits(leave, go):
    """Work that waits for a file, and says which process it is."""

    def work(cell, folder):
        import os
        import time

        (folder / "pid").write_text(str(os.getpid()))
        while not go.exists():
            time.sleep(0.05)
        leave(cell, folder)

    return work


def test_jobs_of_a_sweep_that_is_gone_are_found_and_waited_for(cluster, tmp_path, cells, leave):
    go, out = tmp_path / "go", tmp_path / "out"
    work = waits(leave, go)
    slurm._submitted(work, cells, out, 2)  # and then the sweep is killed
    assert [job for job, _, _ in slurm.at_slurm(out)] == ["7_0", "7_1", "7_2", "7_3"]
    with pytest.raises(TaskError, match=r"jobs of Slurm are at cells of .*7_0"):
        run_sweep(cells, out, work, workers=0)
    go.touch()
    outcomes = run_sweep(cells, out, work, launcher="slurm", workers=2)
    assert [one.status for one in outcomes] == ["done"] * 4
    assert len(list(cluster.glob("script.*"))) == 1


def test_a_job_that_is_cancelled_fails_its_cell_and_no_other(cluster, tmp_path, cells, leave):
    go, out = tmp_path / "go", tmp_path / "out"
    work = waits(leave, go)
    slurm._submitted(work, cells[:2], out, 2)
    pid = out / cells[1].folder / "pid"
    _until(lambda: pid.exists() and pid.read_text())
    os.kill(int(pid.read_text()), signal.SIGKILL)
    _until(lambda: not (cluster / "queue" / "7_1").exists())
    assert read_outcome(cells[1], out).status == "not run"
    go.touch()
    (cluster / "queue" / "7_1").touch()  # in the queue until it is looked at
    ended = slurm.run_slurm(work, cells[:2], out, 2)
    assert next(ended).status == "done"
    (cluster / "queue" / "7_1").unlink()
    (failed,) = ended
    assert failed.status == "failed" and "Slurm job 7_1 ended" in failed.error


def test_a_queue_that_does_not_answer_is_said_and_no_cluster_has_no_jobs(cluster, tmp_path, monkeypatch):
    (cluster / "bin" / "squeue").write_text("#!/bin/sh\necho 'cannot connect' >&2\nexit 1\n")
    with pytest.raises(TaskError, match="squeue does not answer: cannot connect"):
        slurm.queue()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert slurm.queue() == {}


def _until(holds):
    for _ in range(1200):
        if holds():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come to pass in a minute")
