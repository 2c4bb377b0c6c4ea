"""A journal of what a long search has decided, line by line, so that a run that is killed at any moment goes on.

The first line says what the search is; every other line is one step, whole or not there. A line that was cut off when
the process died is dropped when the journal is opened again. A journal of another search is refused.

Of several processes the first reads and writes it. Nothing in it depends on how many there are.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ...circuits.formats.plain import plain
from ...circuits.graph import Graph
from ...circuits.run_folder import versions
from ...circuits.scores import Scores
from ...circuits.tasks.task import Task, objects_digest
from ...models import processes
from ...models.errors import FormatError
from ...models.files import write_text_atomic

SCHEMA = "vitcircuits.journal/1"


class Journal:
    """An append-only file of JSON lines; without a path nothing is written.

    Args:
        path: The file, made if it is missing; its folder too.
        config: Everything that decides what the search finds, in plain values.

    Raises:
        FormatError: The file cannot be written, is no journal, or belongs to another search.
    """

    def __init__(self, path: str | Path | None, config: Mapping[str, Any]) -> None:
        self.steps: list[dict[str, Any]] = []  # of an earlier run
        self._handle = None
        if path is None:
            return
        self._path, self._header = Path(path), {"schema": SCHEMA, "config": plain(config)}
        self.steps = processes.from_first(self._open)

    def _open(self) -> list[dict[str, Any]]:
        """The steps that are there; more can be written from now on."""
        file = self._path
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            text = file.read_bytes().decode("utf-8", errors="replace") if file.exists() else ""
            whole = text[: text.rfind("\n") + 1]
            steps = _read(file, whole, self._header) if whole else []
            self._handle = file.open("r+b" if file.exists() else "w+b")
            self._handle.truncate(len(whole.encode()))
            self._handle.seek(0, os.SEEK_END)
        except OSError as error:
            raise FormatError(f"cannot write the journal {str(file)!r}: {error.strerror or error}.") from error
        if not whole:
            self.append(self._header)
        return steps

    def append(self, step: Mapping[str, Any]) -> None:
        """Writes one step; once this returns, it survives the process."""
        if self._handle is not None:
            self._handle.write((json.dumps(step) + "\n").encode())
            self._handle.flush()

    def replace(self, step: Mapping[str, Any]) -> None:
        """Puts one step in the place of all others; a process that dies leaves the old journal or the new one.

        For a search whose steps are states, of which only the last counts.
        """
        if self._handle is None:
            return
        self._handle.close()
        write_text_atomic(self._path, json.dumps(self._header) + "\n" + json.dumps(step) + "\n")
        self._handle = self._path.open("r+b")
        self._handle.seek(0, os.SEEK_END)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file, its bytes on the disk."""
        if self._handle is not None:
            os.fsync(self._handle.fileno())
            self._handle.close()
            self._handle = None


def _read(path: Path, text: str, header: dict[str, Any]) -> list[dict[str, Any]]:
    try:
        found, *steps = (json.loads(line) for line in text.splitlines())
    except ValueError as error:
        raise FormatError(f"{str(path)!r} is no journal: {error}. Pass another file, or remove it.") from error
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise FormatError(f"{str(path)!r} is no journal of this version ({SCHEMA}). Pass another file, or remove it.")
    differing = [key for key in header["config"] if found["config"].get(key) != header["config"][key]]
    if differing or found["config"].keys() != header["config"].keys():
        name = (differing or ["its keys"])[0]
        before = found["config"].get(name)
        repair = f"Set OMP_NUM_THREADS={before} to go on with it" if name == "threads" else "Pass another file"
        raise FormatError(
            f"{str(path)!r} is the journal of another search: {name} was {before!r} and is "
            f"{header['config'].get(name)!r}. {repair}, or remove it to start anew."
        )
    return steps


def search_identity(graph: Graph, task: Task, *, memory: int) -> dict[str, Any]:
    """Graph, weights, images, ablation, metric and machine, in plain values."""
    images = hashlib.sha256()
    for tensor in (task.discovery.clean, task.discovery.corrupt, task.discovery.pair_ids, task.reference):
        images.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    if task.discovery.answers is not None:
        images.update(task.discovery.answers.detach().cpu().contiguous().numpy().tobytes())
    return {
        "graph": graph.signature,
        "model": task.vit.cfg.name,
        "weights": task.vit.digest(),
        "judged": [task.metric.kind, list(task.metric.target), list(task.metric.foil)],
        "ablation": task.ablation.as_record(),
        "images": images.hexdigest(),
        **({"objects": objects_digest(task.discovery)} if graph.groups.per_pair else {}),
        "memory": memory,
        "device": str(task.vit.device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def scores_digest(scores: Scores | str) -> str:
    """A hash of the ranking that a search starts from; empty where it is a name."""
    return hashlib.sha256(scores.values.tobytes()).hexdigest() if isinstance(scores, Scores) else ""
