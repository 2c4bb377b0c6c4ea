"""The cells of a sweep as jobs of a Slurm cluster; submitit (extra `cluster`) writes the scripts and calls `sbatch`.

A job that was preempted or ran out of time is queued again, and goes on from what its cells left. Jobs outlive the
sweep's process; the next sweep in the folder finds them by what submitit pickled for them, since no job runs without.
"""

from __future__ import annotations

import getpass
import secrets
import subprocess
import time
from collections.abc import Collection, Iterator, Sequence
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

_PICKLE = "_submitted.pkl"
_POLL = 10.0  # seconds between two looks at the cells
_REQUEUES = 3  # times that a job is queued again after it ran out of time; preempted ones always are
_ARRAY = 1000  # jobs in one array: Slurm's MaxArraySize is 1001 unless set otherwise


def run_slurm(work: Work, cells: Sequence[Cell], out: Path, workers: int) -> Iterator[Outcome]:
    """Jobs of a Slurm cluster, as many at once as there are workers; those of an earlier sweep are waited for.

    Jobs outlive this process: the same sweep given again finds them.

    Raises:
        TaskError: There is no Slurm, or it refuses the jobs.
    """
    out, known = out.absolute(), {cell.folder: cell for cell in cells}
    waiting = [
        (job, [known.pop(one.folder) for one in theirs if one.folder in known]) for job, _, theirs in at_slurm(out)
    ]
    waiting += _submitted(work, list(known.values()), out, workers)
    names = " ".join(dict.fromkeys(job.partition("_")[0] for job, _ in waiting))
    say(f"with Slurm: {len(waiting)} jobs, which go on when this command ends (scancel {names} ends them)")
    gone: set[str] = set()
    over: set[str] = set()  # gone at two looks, so that disks had the time to tell what they left
    while waiting := [(job, left) for job, left in waiting if left]:
        time.sleep(_POLL)
        with suppress(TaskError):  # it is asked again
            queued = queue()
            over |= {job for job, _ in waiting if job in gone and job not in queued}
            gone = {job for job, _ in waiting if job not in queued}
        for job, left in waiting:
            for outcome in [_looked_at(cell, out, job, over) for cell in left]:
                if outcome.status in ("done", "failed"):
                    left.remove(outcome.cell)
                    yield outcome


def _looked_at(cell: Cell, out: Path, job: str, over: Collection[str]) -> Outcome:
    if job not in over:
        return read_outcome(cell, out)
    return ended(cell, out, f"its Slurm job {job} ended before it was done, see {_folder(out) / f'{job}_0_log.err'}")


def at_slurm(out: Path) -> list[tuple[str, str, tuple[Cell, ...]]]:
    """Jobs of a sweep's folder that are in Slurm's queue: their ids, their states, and the cells of each.

    What submitit pickles for a job is the record: no job runs without.

    Raises:
        TaskError: The queue cannot be read, or submitit is not installed.
    """
    pickles = {path.name.removesuffix(_PICKLE): path for path in sorted(_folder(out).glob(f"*{_PICKLE}"))}
    queued = {job: state for job, state in queue().items() if job in pickles} if pickles else {}
    if not queued:
        return []
    require_submitit()
    from submitit.core.utils import DelayedSubmission

    def cells(path: Path) -> tuple[Cell, ...]:
        job: Any = DelayedSubmission.load(path).function
        return job.cells

    return [(job, state, cells(pickles[job])) for job, state in queued.items()]


def queue() -> dict[str, str]:
    """This user's jobs that Slurm has not ended, with their states; none where there is no Slurm.

    Raises:
        TaskError: Slurm does not answer.
    """
    command = ["squeue", "--noheader", "--array", "--user", getpass.getuser(), "--format", "%i %T"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        return {}
    except subprocess.CalledProcessError as error:
        raise TaskError(f"squeue does not answer: {error.stderr.strip()}. Try again when Slurm does.") from error
    return dict(line.split() for line in told.splitlines() if len(line.split()) == 2)


def _folder(out: Path) -> Path:
    return out / JOBS / "slurm"


def _submitted(work: Work, cells: Sequence[Cell], out: Path, workers: int) -> list[tuple[str, list[Cell]]]:
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    submitted = []
    for resources in dict.fromkeys(cell.resources for cell in cells):
        batches = _batches([cell for cell in cells if cell.resources == resources], resources.cells)
        executor = slurm_executor(out, resources, workers)
        n = resources.n_processes
        jobs = [Job(secrets.token_hex(4), work, tuple(batch), out, n_processes=n) for batch in batches]
        try:
            with environment(resources.cpus):
                made = [job.job_id for array in _batches(jobs, _ARRAY) for job in executor.submit_array(array)]
        except (FailedJobError, FailedSubmissionError) as error:
            raise TaskError(f"Slurm refuses the jobs: {str(error).strip()}. Change [resources] in the file.") from error
        submitted += zip(made, batches, strict=True)
    return submitted


def slurm_executor(out: Path, resources: Resources, workers: int) -> Executor:
    """What writes the script of a job and hands it to `sbatch`.

    Raises:
        TaskError: There is no Slurm.
    """
    from submitit import AutoExecutor

    try:
        executor = AutoExecutor(_folder(out), cluster="slurm", slurm_max_num_timeout=_REQUEUES)
    except RuntimeError as error:
        raise TaskError("there is no Slurm here (no `srun`): run this where its jobs are submitted from.") from error
    given = {name: getattr(resources, name) for name in ("partition", "account", "qos", "constraint")}
    executor.update_parameters(
        name="vitcircuits",
        timeout_min=resources.time,
        cpus_per_task=resources.cpus,
        tasks_per_node=resources.n_processes,
        gpus_per_node=resources.gpus or None,
        mem_gb=None if resources.memory is None else resources.memory / 1e9,
        slurm_array_parallelism=max(workers, 1),
        slurm_additional_parameters={"requeue": True},
        **{f"slurm_{name}": value for name, value in given.items()},
    )
    return executor


def _batches(values: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [values[start : start + size] for start in range(0, len(values), size)]
