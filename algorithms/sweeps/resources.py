"""What the job of a cell gets: GPUs, processor cores, memory, time, and where a cluster runs it.

It decides where and how fast a cell runs, not what it finds, so that changed resources leave a cell's folder as it is.

    [resources]
    memory = "16GB"
    time = "4h"
    partition = "gpu"

    [[algorithms]]
    algorithm = "acdc"
    resources = { time = "2d" }
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import dataclass

from ...models.errors import TaskError
from ...models.settings import COUNTS, Range, Settings, setting
from ..run_config import read_bytes

_MINUTES = {"min": 1, "h": 60, "d": 24 * 60}


def read_minutes(text: str) -> int:
    """30min, 4h or 2d -> minutes; a plain number is minutes."""
    match = re.fullmatch(r"\s*(\d{1,6}(?:\.\d{1,6})?)\s*(min|h|d|)\s*", text.lower())
    if match is None or not (minutes := round(float(match[1]) * _MINUTES[match[2] or "min"])):
        raise ValueError('write "30min", "4h", "2d" or a number of minutes')
    return minutes


@dataclass(frozen=True)
class Resources(Settings):
    """What a job gets, by the names that TOML has for it.

    Args:
        gpus: None for one where the model's `device` is a GPU, and none elsewhere.
        processes: That share the work of a cell, as under `torchrun`; None for one for each GPU, or a single one.
        cpus: Processor cores of each process, and threads of PyTorch.
        memory: Bytes of main memory; None for the cluster's default. (The `memory` of a cell's settings is what its
            search holds at once.)
        time: Minutes after which the cluster ends a job; it is queued again, and goes on from what its cells left. A
            job on this machine may take as long as it does.
        partition, account, qos, constraint: The cluster's, as `sbatch` takes them.
        cells: Cells that a job of a cluster runs one after another.

    Raises:
        TaskError: A value does not fit.
    """

    gpus: int | None = setting(None, "GPUs", read=int, range=Range(least=0, most=1024))
    processes: int | None = setting(None, "processes", read=int, range=Range(least=1, most=1024))
    cpus: int = setting(1, "processor cores", read=int, range=Range(least=1, most=1024))
    memory: int | None = setting(None, "main memory", read=read_bytes, range=Range(least=1))
    time: int = setting(24 * 60, "minutes", read=read_minutes, range=Range(least=1))
    partition: str | None = setting(None, "partition")
    account: str | None = setting(None, "account")
    qos: str | None = setting(None, "quality of service")
    constraint: str | None = setting(None, "features of the node")
    cells: int = setting(1, "cells of a job", read=int, range=COUNTS)

    @property
    def n_processes(self) -> int:
        """How many share a job's work."""
        return self.processes or max(1, self.gpus or 0)


def require_fit(all_resources: Collection[Resources], workers: int) -> None:
    """Does nothing if so many jobs fit into this machine's memory at once.

    Raises:
        TaskError: They don't.
    """
    here = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    largest = max((one.memory or 0 for one in all_resources), default=0)
    if workers * largest > here:
        fit = here // largest
        repair = f"pass --workers {fit}" if fit else "ask for less in [resources], or use a larger machine"
        raise TaskError(
            f"{workers} at once with {largest / 1e9:.3g} GB each: this machine has {here / 1e9:.3g}, {repair}."
        )
