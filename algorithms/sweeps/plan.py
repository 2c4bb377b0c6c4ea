"""A sweep as pure data: models, tasks, algorithms and seeds, and the cells that they make when crossed.

A cell is one search: its settings are options of `vitcircuits discover` by name, and its run goes into a folder named

    MODEL--TASK--ALGORITHM--sSEED-HASH

where the hash is of everything that decides the result. A changed setting is another cell with another folder, and what
an earlier sweep found under the same settings is found again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from ...circuits.formats.plain import plain
from ...models.errors import TaskError, VitCircuitsError
from ..registry import ALGORITHMS
from ..run_config import SELECTIONS, RunConfig

CELLS = "cells"
"""The folder of a sweep that holds its cells."""


@dataclass(frozen=True)
class Choice:
    """One model, task or algorithm of a sweep.

    Args:
        name: What it is called in tables and folders.
        settings: Options of `discover`, by name.
        models: Names of the models that a task is for; empty for all.
    """

    name: str
    settings: Mapping[str, Any]
    models: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """One search of a sweep.

    Args:
        model: Name of the model.
        task: Name of the task.
        algorithm: Name of the algorithm.
        seed: Draws images and partners, and what the algorithm draws.
        settings: Options of `discover`, by name.
        folder: Where its run goes, below the sweep's folder, such as `cells/toy-digits-2l--3-vs-8--eap--s0-1f2e3d4c`.
    """

    model: str
    task: str
    algorithm: str
    seed: int
    settings: Mapping[str, Any]
    folder: str

    def __str__(self) -> str:
        return f"{self.algorithm} on {self.model}, {self.task}, seed {self.seed}"

    @property
    def config(self) -> RunConfig:
        """What is run."""
        return run_config(self.settings)


@dataclass(frozen=True)
class Sweep:
    """What is crossed with what; `read_sweep` reads one from TOML.

    Args:
        models: The models.
        tasks: The tasks.
        algorithms: The algorithms.
        seeds: The seeds.
        defaults: Settings of every cell, where nothing more particular says otherwise.
    """

    models: tuple[Choice, ...]
    tasks: tuple[Choice, ...]
    algorithms: tuple[Choice, ...]
    seeds: tuple[int, ...]
    defaults: Mapping[str, Any]

    def cells(self) -> tuple[Cell, ...]:
        """All cells, model by model, then task by task, algorithm by algorithm, and seed by seed.

        Raises:
            TaskError: A cell's settings do not fit, or two cells are one.
        """
        cells = tuple(
            self._cell(model, task, algorithm, seed)
            for model in self.models
            for task in self.tasks
            if not task.models or model.name in task.models
            for algorithm in self.algorithms
            for seed in self.seeds
        )
        for folder, times in Counter(cell.folder for cell in cells).most_common(1):
            if times > 1:
                twice = " and ".join(f"({cell})" for cell in cells if cell.folder == folder)
                raise TaskError(f"{twice} are one cell: leave one of them out, or change a setting of it.")
        return cells

    def _cell(self, model: Choice, task: Choice, algorithm: Choice, seed: int) -> Cell:
        own = {**model.settings, **task.settings, **algorithm.settings}
        defaults = {name: value for name, value in self.defaults.items() if _has_use(name, own)}
        if any(name in own for name in SELECTIONS):  # one's own way to say the size takes the place of the other ways
            defaults = {name: value for name, value in defaults.items() if name not in SELECTIONS}
        settings = {**defaults, **own, "seed": seed}
        names = (model.name, task.name, algorithm.name)
        try:
            digest = _digest(run_config(settings).as_dict())
        except VitCircuitsError as error:
            raise TaskError(f"{names[2]} on {names[0]}, {names[1]}: {error}") from error
        folder = f"{'--'.join(map(_slug, names))}--s{seed}-{digest}"
        return Cell(*names, seed, settings, str(PurePosixPath(CELLS, folder)))


def _has_use(name: str, own: Mapping[str, Any]) -> bool:
    """Whether a default is for a cell with these settings: a size is not for an algorithm that decides itself."""
    entry = ALGORITHMS.get(str(own.get("algorithm")))
    decides = name in SELECTIONS and entry is not None and entry.finds == "circuit"
    return not decides or name in entry.options or (name == "level" and "faithfulness" in entry.options)


def run_config(settings: Mapping[str, Any]) -> RunConfig:
    """The run of a cell's settings, whose seed is also the algorithm's where that draws by chance.

    Raises:
        TaskError: A setting does not fit.
    """
    options = dict(settings.get("options", {}))
    entry = ALGORITHMS.get(str(settings.get("algorithm")))
    if entry is not None and "seed" in entry.options:
        options.setdefault("seed", settings["seed"])
    return RunConfig.of({**settings, "options": options})


def _digest(config: Mapping[str, Any]) -> str:
    text = json.dumps(plain(config, non_finite="tag"), sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:8]


def _slug(name: str) -> str:
    """The name as part of a file name on any system."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.")[:48] or "x"
