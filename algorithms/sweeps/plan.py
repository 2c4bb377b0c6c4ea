"""A sweep as pure data: models, tasks, algorithms and seeds, and the cells that they make when crossed.

A cell is one search: its settings are options of `vitcircuits discover` by name, and its run goes into a folder named

    MODEL--TASK--ALGORITHM--sSEED-HASH

where the hash is of everything that decides the result. A changed setting is another cell with another folder, and what
an earlier sweep found under the same settings is found again.

A sweep read from TOML.

    seeds = [0, 1]
    models = ["toy/digits-2l"]

    [[tasks]]
    data = "digits"
    target = 3
    foil = 8

    [[algorithms]]
    algorithm = "eap_ig"
    options = { steps = 10 }

    [defaults]
    size = 20

The keys are the options of `vitcircuits discover`, each in the table that it belongs to, or in `defaults` for all. A
model or an algorithm that needs nothing else is written as its name. `name` says what tables and folders call it. A
task's `models` are the names of the models that it is for. `[resources]`, or `resources` of a model, a task or an
algorithm, is what a job gets (`resources.py`). Mistakes are named with the nearest right word.
"""

from __future__ import annotations

import hashlib
import json
import re
import reprlib
import tomllib
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ...circuits.formats.plain import plain
from ...circuits.tasks.task_config import TaskConfig
from ...models.errors import TaskError, VitCircuitsError
from ...models.files import read_text
from ...models.model_config import ModelConfig
from ...models.settings import is_gpu, nearest, settings_of
from ..discovery import Discovery
from ..registry import ALGORITHMS
from ..run_config import SELECTIONS, RunConfig
from .resources import Resources

CELLS = "cells"
"""The folder of a sweep that holds its cells."""


@dataclass(frozen=True)
class Choice:
    """One model, task or algorithm of a sweep.

    Args:
        name: What it is called in tables and folders.
        settings: Options of `discover`, by name.
        models: Names of the models that a task is for; empty for all.
        resources: What its jobs get, by the names of `Resources`.
    """

    name: str
    settings: Mapping[str, Any]
    models: tuple[str, ...] = ()
    resources: Mapping[str, Any] = field(default_factory=dict)


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
        resources: What its job gets.
    """

    model: str
    task: str
    algorithm: str
    seed: int
    settings: Mapping[str, Any]
    folder: str
    resources: Resources = Resources()

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
        resources: What every job gets, likewise.
    """

    models: tuple[Choice, ...]
    tasks: tuple[Choice, ...]
    algorithms: tuple[Choice, ...]
    seeds: tuple[int, ...]
    defaults: Mapping[str, Any]
    resources: Mapping[str, Any] = field(default_factory=dict)

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
        resources = Resources.of({**self.resources, **model.resources, **task.resources, **algorithm.resources})
        if resources.gpus is None:
            resources = resources.changed(gpus=int(is_gpu(str(settings.get("device", "cpu")))))
        return Cell(*names, seed, settings, str(PurePosixPath(CELLS, folder)), resources)


def _has_use(name: str, own: Mapping[str, Any]) -> bool:
    """Whether a default is for a cell with these settings: a size is not for an algorithm that decides itself."""
    entry = ALGORITHMS.get(str(own.get("algorithm")))
    if name not in SELECTIONS or entry is None or entry.finds == "scores":
        return True
    return name in entry.options or (name == "level" and "size" in entry.options)


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


KEYS: Mapping[str, Collection[str]] = {
    "models": tuple(settings_of(ModelConfig)),
    "tasks": tuple(settings_of(TaskConfig)),
    "algorithms": (*settings_of(Discovery), "options", "faithfulness", "random", "patches", "memory"),
}
"""The settings that belong into each kind of table."""

_REQUIRED = {"models": ("model",), "tasks": ("data", "target", "foil"), "algorithms": ("algorithm",)}
_TABLES = tuple(_REQUIRED)
_OF_NAMES = {"options": "{ steps = 10 }", "resources": '{ time = "4h" }'}
_NOT_FOR_ALL = ("model", "algorithm", "options", "name", "seed")
_EXAMPLE = {
    "models": 'models = ["toy/digits-2l"]',
    "tasks": '[[tasks]] with data = "digits", target = 3, foil = 8',
    "algorithms": 'algorithms = ["eap_ig"]',
}


def read_sweep(path: str | Path) -> Sweep:
    """The sweep that a TOML file describes.

    Raises:
        FormatError: There is no such file.
        TaskError: It is not TOML, or a key or value does not fit.
    """
    try:
        data = tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise TaskError(f"{path} is not TOML: {error}. See `vitcircuits sweep --help` for an example.") from error
    try:
        return sweep_from_dict(data)
    except TaskError as error:
        raise TaskError(f"{path}: {error}") from error


def sweep_from_dict(data: Mapping[str, Any]) -> Sweep:
    """The sweep that a table of plain values describes.

    Raises:
        TaskError: A key or value does not fit.
    """
    _require_known(data, (*_TABLES, "seeds", "defaults", "resources"), "the file")
    for table in _TABLES:
        if not data.get(table):
            raise TaskError(f"{table} are missing: write {_EXAMPLE[table]}.")
    every = [key for table in _TABLES for key in KEYS[table] if key not in _NOT_FOR_ALL]
    defaults = _settings(data.get("defaults", {}), every, "[defaults]")
    models, tasks, algorithms = (_choices(table, data[table], KEYS[table], defaults) for table in _TABLES)
    for task in tasks:
        for name in task.models:
            if name not in (known := [model.name for model in models]):
                raise TaskError(f"the task {task.name!r} is for the model {name!r}.{nearest(name, known)}")
    resources = _resources(data.get("resources", {}), "[resources]")
    return Sweep(models, tasks, algorithms, _seeds(data.get("seeds", [0])), defaults, resources)


def _choices(table: str, entries: Any, keys: Collection[str], defaults: Mapping[str, Any]) -> tuple[Choice, ...]:
    if not isinstance(entries, list):
        raise TaskError(f"{table} is no list: write {_EXAMPLE[table]}.")
    choices = tuple(_choice(table, entry, place, keys, defaults) for place, entry in enumerate(entries, 1))
    names = [choice.name for choice in choices]
    for name in names:
        if names.count(name) > 1:
            raise TaskError(f'two of the {table} are called {name!r}: give one of them another name = "...".')
    return choices


def _choice(table: str, entry: Any, place: int, keys: Collection[str], defaults: Mapping[str, Any]) -> Choice:
    where, required = f"[[{table}]] number {place}", _REQUIRED[table]
    if isinstance(entry, str) and len(required) == 1:
        entry = {required[0]: entry}
    if not isinstance(entry, dict):
        raise TaskError(f"{where} is {reprlib.repr(entry)}: write {_EXAMPLE[table]}.")
    settings = _settings(entry, [*keys, "name", "resources", *(["models"] if table == "tasks" else [])], where)
    name, models = settings.pop("name", None), settings.pop("models", [])
    resources = _resources(settings.pop("resources", {}), f"{where}, resources")
    for key in required:
        if key not in settings and key not in defaults:
            raise TaskError(f"{where} has no {key}: write {_EXAMPLE[table]}.")
    if not isinstance(models, list):
        raise TaskError(
            f'{where}: models is {reprlib.repr(models)}: write a list of names, such as models = ["toy/digits-2l"].'
        )
    return Choice(str(name or _name(table, {**defaults, **settings})), settings, tuple(map(str, models)), resources)


def _resources(entry: Any, where: str) -> dict[str, Any]:
    settings = _settings(entry, tuple(settings_of(Resources)), where)
    try:
        Resources.of(settings)
    except TaskError as error:
        raise TaskError(f"{where}: {error}") from error
    return settings


def _name(table: str, settings: Mapping[str, Any]) -> str:
    if table == "tasks":
        return " vs ".join(str(settings[end]).partition("=")[0] for end in ("target", "foil"))
    return str(settings[_REQUIRED[table][0]])


def _settings(entry: Any, known: Collection[str], where: str) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise TaskError(f"{where} is {reprlib.repr(entry)}: write a table of settings.")
    settings = {key.replace("-", "_"): value for key, value in entry.items()}
    _require_known(settings, [key for key in known if key != "seed"], where)
    for key, value in settings.items():
        named = isinstance(value, dict)
        if named != (key in _OF_NAMES) or not all(map(_is_plain, value.values() if named else [value])):
            wanted = _OF_NAMES.get(key, "a number, a text or a list of these")
            raise TaskError(f"{where}: {key} is {reprlib.repr(value)}: write {wanted}.")
    return settings


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(isinstance(one, str | int | float) for one in value)
    return isinstance(value, str | int | float)


def _require_known(data: Mapping[str, Any], known: Collection[str], where: str) -> None:
    for key in data:
        if key == "seed" and "seed" not in known:
            raise TaskError(f"{where} has a seed: write seeds = [0, 1] at the top, for all cells.")
        if key not in known:
            raise TaskError(f"{where} has no use for {key!r}.{nearest(key, known)}")


def _seeds(seeds: Any) -> tuple[int, ...]:
    whole = isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not whole or not seeds or len(set(seeds)) < len(seeds):
        raise TaskError(f"seeds is {reprlib.repr(seeds)}: write different whole numbers, such as seeds = [0, 1, 2].")
    return tuple(seeds)
