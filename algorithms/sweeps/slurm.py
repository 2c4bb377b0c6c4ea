"""The cells of a sweep as jobs of a Slurm cluster; submitit (extra `cluster`) writes the scripts and calls `sbatch`.

A job that was preempted or ran out of time is queued again, and goes on from what its cells left. Jobs outlive the
sweep's process; the next sweep in the folder finds them by what submitit pickled for them, since no job runs without.
"""

from __future__ import annotations

import secrets
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...models.errors import TaskError
from ...models.watching import say
from .jobs import Job
from .launch import JOBS, ended, environment, require_submitit
from .outcomes import Outcome, Work, read_outcome
from .plan import Cell
from .resources import Resources

if TYPE_CHECKING:
    from submitit import Executor
    from submitit import Job as Submitted

_POLL = 10.0  # seconds between two looks at the cells
_REQUEUES = 3  # times that a job is queued again after it ran out of time; preempted ones always are
_ARRAY = 1000  # jobs in one array: Slurm's MaxArraySize is 1001 unless set otherwise


def run_slurm(work: Work, cells: Sequence[Cell], out: Path, workers: int) -> Iterator[Outcome]:
    """Jobs of a Slurm cluster, as many at once as there are workers; those of an earlier sweep are waited for.

    Jobs outlive this process: the same sweep given again finds them.

    Raises:
        TaskError: submitit is not installed, there is no Slurm, or it refuses the jobs.
    """
    out, known = out.absolute(), {cell.folder: cell for cell in cells}
    waiting = [
        (job, [known.pop(cell.folder) for cell in theirs if cell.folder in known]) for job, theirs in at_slurm(out)
    ]
    waiting += _submitted(work, list(known.values()), out, workers)
    names = " ".join(dict.fromkeys(job.job_id.split("_")[0] for job, _ in waiting))
    say(f"with Slurm: {len(waiting)} jobs, which go on when this command ends (scancel {names} ends them)")
    over: set[str] = set()
    while waiting := [(job, left) for job, left in waiting if left]:
        time.sleep(_POLL)
        for job, left in waiting:
            if job.job_id in over:  # it was at the last look, and disks have had the time to tell
                reason = f"its Slurm job {job.job_id} ended before it was done ({job.state}); see {job.paths.stderr}"
                outcomes = [ended(cell, out, reason) for cell in left]
            else:
                outcomes = [read_outcome(cell, out) for cell in left]
            if _is_over(job):
                over.add(job.job_id)
            for outcome in outcomes:
                if outcome.status in ("done", "failed"):
                    left.remove(outcome.cell)
                    yield outcome


def at_slurm(out: Path) -> list[tuple[Submitted[None], tuple[Cell, ...]]]:
    """Jobs of a sweep's folder that Slurm has not ended, and the cells of each.

    What submitit pickles for a job is the record: no job runs without.
    """
    pickles = sorted((out / JOBS / "slurm").glob("*_submitted.pkl"))
    if not pickles:
        return []
    require_submitit()
    from submitit import SlurmJob

    jobs = [SlurmJob(path.parent, path.name.removesuffix("_submitted.pkl")) for path in pickles]
    return [(job, job.submission().function.cells) for job in jobs if not _is_over(job)]


def _is_over(job: Submitted[None]) -> bool:
    """Whether a job of Slurm has ended; `squeue` tells where there is no accounting to ask."""
    if job.done(force_check=True):
        return True
    if job.state != "UNKNOWN":
        return False
    with suppress(OSError):
        asked = subprocess.run(["squeue", "-h", "-j", job.job_id], capture_output=True, text=True, check=False)
        return "Invalid job id" in asked.stderr if asked.returncode else not asked.stdout.strip()
    return False


def _submitted(work: Work, cells: Sequence[Cell], out: Path, workers: int) -> list[tuple[Submitted[None], list[Cell]]]:
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    submitted = []
    for resources in dict.fromkeys(cell.resources for cell in cells):
        batches = _batches([cell for cell in cells if cell.resources == resources], resources.cells)
        executor = slurm_executor(out, resources, workers)
        jobs = [Job(secrets.token_hex(4), work, tuple(batch), out) for batch in batches]
        try:
            with environment(resources.cpus):
                made = [job for array in _batches(jobs, _ARRAY) for job in executor.submit_array(array)]
        except (FailedJobError, FailedSubmissionError) as error:
            raise TaskError(f"Slurm refuses the jobs: {str(error).strip()}. Change [resources] in the file.") from error
        submitted += zip(made, batches, strict=True)
    return submitted


def slurm_executor(out: Path, resources: Resources, workers: int) -> Executor:
    """What writes the script of a job and hands it to `sbatch`.

    Raises:
        TaskError: submitit is not installed, or there is no Slurm.
    """
    require_submitit()
    from submitit import AutoExecutor

    try:
        executor = AutoExecutor(out / JOBS / "slurm", cluster="slurm", slurm_max_num_timeout=_REQUEUES)
    except RuntimeError as error:
        raise TaskError("there is no Slurm here (no `srun`): run this where its jobs are submitted from.") from error
    given = {name: getattr(resources, name) for name in ("partition", "account", "qos", "constraint")}
    executor.update_parameters(
        name="vitcircuits",
        timeout_min=resources.time,
        cpus_per_task=resources.cpus,
        gpus_per_node=resources.gpus or None,
        mem_gb=None if resources.memory is None else resources.memory / 1e9,
        slurm_array_parallelism=max(workers, 1),
        slurm_additional_parameters={"requeue": True},
        **{f"slurm_{name}": value for name, value in given.items()},
    )
    return executor


def _batches(values: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [values[start : start + size] for start in range(0, len(values), size)]
