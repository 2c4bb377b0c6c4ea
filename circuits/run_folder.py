"""What a run leaves behind: a folder that says what was run, resumes after an interruption, and is written atomically.

`run.json` comes first, with status `running`, and is written again with status `done`. It alone holds what may differ
between two runs of the same command (times, dates, the machine, versions): every other file has the same bytes again,
on any number of processes, of which the first opens the folder and writes.

| file | content |
| --- | --- |
| run.json | command, configuration, versions, seed, device, data hash, times |
| readout.safetensors | the readout, where it is not the model's own |
| scores.safetensors | scores of all edges |
| circuit.json | the circuit, without loss |
| edges.csv, circuit.graphml, circuit.dot | the kept edges for other tools |
| patch_effects.csv, patch_effects.png | what each patch of the image carries, where it was measured |
| circuit.svg, circuit.html, faithfulness.svg | the circuit to look at, and what circuits of every size keep |
| report.json | every figure of the evaluation |
| journal.jsonl | what a search has decided so far, for resuming (ACDC) |
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..models import processes
from ..models.cards import READOUT_FILE
from ..models.errors import FormatError
from ..models.files import another_folder, lock_folder, unlock_folder
from .formats import RUN_FILES
from .formats.plain import plain, read_json, write_json

if TYPE_CHECKING:
    from ..models.hooked import HookedViT
    from .circuit import Circuit
    from .figure_data import Exhibit
    from .patch_effects import PatchEffects
    from .report import Report
    from .scores import Scores

RUN_SCHEMA = "vitcircuits.run/1"

SCORES = "scores.safetensors"
PATCH_FILES = ("patch_effects.csv", "patch_effects.png")
RESULT_FILES = (SCORES, *RUN_FILES, *PATCH_FILES, "faithfulness.svg", "report.json")

JOURNAL = "journal.jsonl"

_PACKAGES = ("vitcircuits", "torch", "timm", "numpy")


_DECIDES = ("config", "seed", "data_hash")
_NOT_SET = "not set"


AFTER_SEARCH = ("by", "granularity", "level", "size", "threshold", "random", "patches")
"""Settings that only what is made of the scores depends on: with other ones scores are kept."""


@dataclass(frozen=True)
class RunFolder:
    """A folder that one run writes into; `RunFolder.open` makes or resumes it.

    Args:
        path: The folder.
        record: What `run.json` says about the run, in plain values.
        resumes: Whether an earlier run of the same search, device and versions was found there.
    """

    path: Path
    record: Mapping[str, Any]
    resumes: bool = False

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r}, resumes={self.resumes})"

    @classmethod
    def open(
        cls,
        path: str | Path,
        config: Mapping[str, Any],
        *,
        command: Sequence[str] = (),
        seed: int | None = None,
        device: str = "cpu",
        data_hash: str | None = None,
        overwrite: bool = False,
    ) -> RunFolder:
        """The folder, made if it is missing, with a `run.json` of status `running`.

        What an earlier run of the same configuration left is kept for resuming, unless it ran with other versions or
        on another device. Of an unfinished run of another configuration that is kept which the new one would find
        again (scores, where only the selection differs); the rest is removed, and a warning says so.

        Args:
            path: The folder.
            config: The resolved configuration: everything that decides the result.
            command: The command line.
            seed: The seed.
            device: Where the run computes.
            data_hash: Hash of the images and labels.
            overwrite: Replace what a finished run of another configuration left there.

        Raises:
            FormatError: The folder cannot be written, holds a finished run of another configuration, or another process
                is writing there.
        """
        facts = {"config": dict(config), "seed": seed, "device": device, "data_hash": data_hash}
        record = plain({**facts, "command": list(command), "versions": versions()}, non_finite="keep")
        return processes.from_first(lambda: cls._locked(Path(path), record, overwrite))

    @classmethod
    def _locked(cls, path: Path, record: dict[str, Any], overwrite: bool) -> RunFolder:
        lock_folder(path)
        try:
            return cls._opened(path, record, overwrite)
        except BaseException:
            unlock_folder(path)
            raise

    @classmethod
    def _opened(cls, path: Path, record: dict[str, Any], overwrite: bool) -> RunFolder:
        earlier = None if overwrite else _earlier(path)
        changes = {} if earlier is None else _changes(earlier, record)
        if changes and earlier is not None and "finished" in earlier:
            raise FormatError(f"{str(path)!r} holds a run of another configuration: {_said(changes)}. {_repair(path)}")
        same = earlier is not None and all(earlier.get(name) == record[name] for name in ("device", "versions"))
        resumes = same and changes.keys() <= set(AFTER_SEARCH)
        if changes:
            logging.getLogger("vitcircuits").warning(
                "%s held an unfinished run of another configuration (%s): %s.",
                *(path, _said(changes), "its search goes on" if resumes else "what it left is removed"),
            )
        record |= {"resumed": resumes, "started": _now(), "machine": _machine()}
        if earlier is not None and "finished" in earlier:  # protected, also while the same run is repeated
            record["finished"] = earlier["finished"]
        folder = cls(path, record, resumes)
        if changes or not resumes:
            # Before run.json, so that an interruption never leaves old results under a new configuration.
            folder._remove_results(kept=(SCORES, READOUT_FILE, JOURNAL) if resumes else ())
        folder._write_record(status="running")
        return folder

    @property
    def config(self) -> Mapping[str, Any]:
        """The resolved configuration."""
        return self.record["config"]

    def finish(self, times: Mapping[str, float] | None = None) -> Path:
        """Sets the status to `done` and returns the path of `run.json`; `times` are seconds by stage."""
        written = self._write_record(status="done", finished=_now(), times=dict(times or {}))
        self.release()
        return written

    def release(self) -> None:
        """Lets other processes write into the folder."""
        unlock_folder(self.path)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    @property
    def journal(self) -> Path:
        """Where a search writes down what it decides, so that an interrupted run can go on from there."""
        return self.path / JOURNAL

    def save_readout(self, vit: HookedViT) -> list[Path]:
        """Writes `readout.safetensors` where the ViT's readout is not its own, and returns what was written.

        Raises:
            FormatError: The readout is of a kind that cannot be written.
        """
        from ..models.readout_files import save_beside

        return save_beside(vit, self.path)

    def save_scores(self, scores: Scores) -> Path:
        """Writes `scores.safetensors` as soon as there are scores, so that an interrupted run can go on from there."""
        from .formats.json import save_scores

        return save_scores(scores, self.path / SCORES)

    def load_scores_if_same(self) -> Scores | None:
        """The scores of an earlier run of the same configuration, if it got that far."""
        return processes.from_first(self._load_scores)

    def _load_scores(self) -> Scores | None:
        from .formats.json import load_scores

        path = self.path / SCORES
        if not (self.resumes and path.is_file()):
            return None
        try:
            return load_scores(path)
        except FormatError:  # damaged by somebody else: the run computes and writes them again
            return None

    def write_all(
        self,
        circuit: Circuit,
        report: Report | None = None,
        exhibit: Exhibit | None = None,
        patch_effects: PatchEffects | None = None,
    ) -> list[Path]:
        """Writes every result there is something to write for, each whole or not at all, and returns the paths.

        Raises:
            FormatError: A file cannot be written.
        """
        return processes.from_first(lambda: self._write_all(circuit, report, exhibit, patch_effects))

    def _write_all(
        self, circuit: Circuit, report: Report | None, exhibit: Exhibit | None, patch_effects: PatchEffects | None
    ) -> list[Path]:
        written = [] if circuit.scores is None else [self.save_scores(circuit.scores)]
        if report is not None:
            written.append(report.save(self.path / "report.json"))
        written += [] if patch_effects is None else patch_effects.write(self.path)
        curve = self._draw_curve(report)
        options: dict[str, Any] = {"report": report, "exhibit": exhibit, "patch_effects": patch_effects}
        options["curve_svg"] = curve and curve.read_text(encoding="utf-8")
        written += [one.write(circuit, self.path / name, **options) for name, one in RUN_FILES.items()]
        return [*written, curve] if curve else written

    def _draw_curve(self, report: Report | None) -> Path | None:
        """The curve of the report, if it has one."""
        return report.draw(self.path / "faithfulness.svg") if report is not None and report.curves else None

    def _write_record(self, **more: Any) -> Path:
        return write_json(self.path / "run.json", {"schema": RUN_SCHEMA, **self.record, **more})

    def _remove_results(self, kept: Sequence[str]) -> None:
        for name in {*RESULT_FILES, READOUT_FILE, JOURNAL} - set(kept):
            try:
                (self.path / name).unlink(missing_ok=True)
            except OSError as error:
                raise FormatError(
                    f"cannot replace {str(self.path / name)!r}: {error.strerror or error}. Pass another folder."
                ) from error


def read_run(path: str | Path) -> dict[str, Any]:
    """What the `run.json` in a run folder says.

    Raises:
        FormatError: There is none, or it cannot be read.
    """
    return read_json(Path(path) / "run.json", RUN_SCHEMA)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers, read without importing them."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _earlier(path: Path) -> dict[str, Any] | None:
    if (path / "run.json").exists():
        try:
            return read_run(path)
        except FormatError as error:
            raise FormatError(f"{error} {_repair(path)}") from error
    strangers = [name for name in RESULT_FILES if (path / name).exists()]
    if strangers:
        raise FormatError(f"{str(path)!r} holds {strangers[0]} but no run.json, so it is no run. {_repair(path)}")
    return None


def _changes(earlier: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What decides the result and differs, by name: before and now."""
    before, now = (_flat({name: source.get(name) for name in _DECIDES}) for source in (earlier, record))
    pairs = {name: (before.get(name, _NOT_SET), now.get(name, _NOT_SET)) for name in {**before, **now}}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _said(changes: Mapping[str, tuple[Any, Any]]) -> str:
    said = [f"{name} was {before!r} and is {now!r}" for name, (before, now) in list(changes.items())[:5]]
    return "; ".join(said) + f" and {len(changes) - 5} more" * (len(changes) > 5)


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {name.removeprefix("config."): value}
    return {k: v for key, item in value.items() for k, v in _flat(item, f"{name}.{key}" if name else key).items()}


def _repair(path: Path) -> str:
    return f"Pass another folder, such as {str(another_folder(path))!r}, or overwrite=True to replace it."


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _machine() -> str:
    return f"{platform.system()} {platform.machine()}"
