"""A sweep read from TOML.

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
task's `models` are the names of the models that it is for. Mistakes are named with the nearest right word.
"""

from __future__ import annotations

import reprlib
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ...circuits.task_config import TaskConfig
from ...models.errors import TaskError
from ...models.files import read_text
from ...models.model_config import ModelConfig
from ...models.settings import nearest, settings_of
from ..discovery import Discovery
from .plan import Choice, Sweep

KEYS: Mapping[str, Collection[str]] = {
    "models": tuple(settings_of(ModelConfig)),
    "tasks": tuple(settings_of(TaskConfig)),
    "algorithms": (*settings_of(Discovery), "options", "faithfulness", "random", "memory"),
}
"""The settings that belong into each kind of table."""

_REQUIRED = {"models": ("model",), "tasks": ("data", "target", "foil"), "algorithms": ("algorithm",)}
_TABLES = tuple(_REQUIRED)
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
    _require_known(data, (*_TABLES, "seeds", "defaults"), "the file")
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
    return Sweep(models, tasks, algorithms, _seeds(data.get("seeds", [0])), defaults)


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
    settings = _settings(entry, [*keys, "name", *(["models"] if table == "tasks" else [])], where)
    name, models = settings.pop("name", None), settings.pop("models", [])
    for key in required:
        if key not in settings and key not in defaults:
            raise TaskError(f"{where} has no {key}: write {_EXAMPLE[table]}.")
    if not isinstance(models, list):
        raise TaskError(
            f'{where}: models is {reprlib.repr(models)}: write a list of names, such as models = ["toy/digits-2l"].'
        )
    return Choice(str(name or _name(table, {**defaults, **settings})), settings, tuple(map(str, models)))


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
        if named != (key == "options") or not all(map(_is_plain, value.values() if named else [value])):
            wanted = "{ steps = 10 }" if key == "options" else "a number, a text or a list of these"
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
