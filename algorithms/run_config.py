"""The library's main job in one call: from a model and a task to a circuit, its judgement, and a run folder.

    discover("toy/digits-2l", {"data": "digits", "target": 3, "foil": 8}, size=40, out="runs/3v8")

`RunConfig` is what such a run is told, as a typed value that reads and writes TOML and JSON. Nothing here imports torch
before a model is opened.
"""

from __future__ import annotations

import dataclasses
import json
import re
import time
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..circuits.formats.plain import json_text, plain
from ..circuits.tasks.task_config import TaskConfig
from ..models import processes
from ..models.errors import FormatError, TaskError
from ..models.files import is_folder, read_text, write_text_atomic
from ..models.model_config import ModelConfig
from ..models.settings import DEFAULT_MEMORY, FROM_NONE, Range, Settings, brief, nearest, setting, settings_of, short
from .discovered import Discovered
from .discovery import N_PATCHED, Discovery, memory_on

if TYPE_CHECKING:
    from ..circuits.circuit import Circuit
    from ..circuits.run_folder import RunFolder
    from ..circuits.scores import Scores
    from ..circuits.sizes import Size
    from ..circuits.tasks.task import Task
    from ..models.hooked import HookedViT
    from .discovery import Algorithm

N_RANDOM = 10
_PATCHES = f"pairs on which to measure what each patch carries (small models: {N_PATCHED}, others: 0)"
SELECTIONS = ("level", "faithfulness", "size", "threshold")
"""Ways to say how large a circuit is, of which a run has one; the second is the first's former name."""


def read_bytes(text: str) -> int:
    """2GB, 500MB or a plain number -> bytes."""
    match = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,15})?)\s*([kmg]?)b?\s*", text.lower())
    if match is None:
        raise ValueError("write 2GB, 500MB or a number of bytes")
    return int(float(match[1]) * {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}[match[2]])


@dataclass(frozen=True)
class RunConfig(Settings):
    """Everything that decides the result of a run.

    In files and records the model's and the search's settings stand side by side, the task's and the algorithm's
    options in tables of their own:

        model = "toy/digits-2l"
        algorithm = "eap_ig"
        size = 40
        [task]
        data = "digits"
        target = 3
        foil = 8
        [options]
        steps = 10

    Args:
        model: Which model.
        task: Which behaviour.
        discovery: How its circuit is found.
        random: Random circuits that it is compared with.
        patches: Pairs on which is measured what each patch of the image carries.
        memory: Bytes to hold at once; None for what the model's device has free (2 GB on a CPU).
    """

    model: ModelConfig
    task: TaskConfig
    discovery: Discovery = field(default_factory=Discovery)
    random: int = setting(
        N_RANDOM, f"random circuits to compare with ({N_RANDOM})", read=int, range=FROM_NONE, metavar="N"
    )
    patches: int | None = setting(None, _PATCHES, read=int, range=FROM_NONE, metavar="N")
    memory: int | None = setting(
        DEFAULT_MEMORY,
        "such as 2GB (default; on a GPU 60%% of what is free)",
        read=read_bytes,
        range=Range(least=1),
        metavar="SIZE",
    )

    def __repr__(self) -> str:
        return brief(self)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> RunConfig:
        """From settings by name, the task's among them or in a table `task`.

        Raises:
            TaskError: A name is not known, or a value does not fit.
        """
        rest = {name: value for name, value in given.items() if name != "identity"}
        if "faithfulness" in rest:  # as the level was called
            rest["level"] = rest.pop("faithfulness")
        rest |= rest.pop("task", None) or {}
        parts = {name: {} for name in _PARTS}
        for name, known in _PARTS.items():
            parts[name] = {key: rest.pop(key) for key in list(rest) if key in known}
        own = {name: one.value(name, rest.pop(name, None)) for name, one in settings_of(cls).items()}
        own = {name: value for name, value in own.items() if value is not None}
        if given.get("device") not in (None, "cpu"):
            own.setdefault("memory", None)  # is seen when the model is there
        if rest:
            name = next(iter(rest))
            every = [key for known in _PARTS.values() for key in known]
            raise TaskError(f"there is no setting {name!r}.{nearest(name, [*every, *settings_of(cls)])}")
        task = TaskConfig.of(parts["task"])
        return cls(ModelConfig.of(parts["model"]), task, Discovery.of(parts["discovery"]), **own)

    @classmethod
    def load(cls, path: str | Path) -> RunConfig:
        """From a .toml or .json file, or a run folder's `run.json`.

        Raises:
            FormatError: There is no such file, or it does not parse.
            TaskError: A setting does not fit.
        """
        return cls.of(read_settings(path))

    def save(self, path: str | Path) -> Path:
        """Writes a .toml or .json file and returns its path.

        Raises:
            FormatError: The file cannot be written, or ends in something else.
        """
        path, said = Path(path), plain(without_none(self.as_dict()))
        if path.suffix == ".json":
            return write_text_atomic(path, json_text(said))
        if path.suffix != ".toml":
            raise FormatError(f"{path} is neither TOML nor JSON: pass a path that ends in .toml or .json.")
        import tomli_w

        return write_text_atomic(path, tomli_w.dumps(said))

    def as_dict(self) -> dict[str, Any]:
        """Every setting in plain values, as files and records have them; dtype and readout only where given."""
        model = self.model.as_dict()
        rest = {name: model.pop(name) for name in _READOUT}
        search = self.discovery.as_dict() | {"algorithm": self.discovery.name}
        return {
            **model,
            **without_none(rest),
            "task": self.task.as_dict(),
            **search,
            "random": self.random,
            **without_none({"patches": self.patches}),
            "memory": self.memory,
        }

    def with_seed(self, seed: int) -> RunConfig:
        """The same with another seed of the task, and of the algorithm where it draws by chance."""
        discovery, task = self.discovery.with_seed(seed), self.task.changed(seed=seed)
        return dataclasses.replace(self, task=task, discovery=discovery)

    def load_model(self) -> HookedViT:
        """The opened model under its readout."""
        return self.model.load(self.task.data, data_dir=self.task.data_dir, seed=self.task.seed)

    def run(
        self,
        out: str | Path | None = None,
        *,
        vit: HookedViT | None = None,
        command: Sequence[str] = (),
        overwrite: bool = False,
        progress: bool | None = None,
    ) -> Discovered:
        """Finds, judges, draws and writes; goes on from what an interrupted run left in the folder.

        Args:
            out: The run folder; nothing is written without one.
            vit: The opened model, where it is at hand.
            command: The command line, for the record.
            overwrite: Replace a finished run of another configuration.
            progress: Show bars on stderr; None where somebody watches.
        """
        self.task.require_found()
        clock, again = time.perf_counter(), vit is None
        vit = self.load_model() if vit is None else vit
        memory, task = self.memory or memory_on(str(vit.device)), self.task.make(vit)
        seconds = {"task": time.perf_counter() - clock}
        record = {**self.as_dict(), "memory": memory, "identity": identity(task)}
        folder = None if out is None else open_folder(out, record, task, command, overwrite)
        return find_and_judge(
            task,
            self.discovery,
            folder,
            n_random=self.random,
            patches=self.patches,
            memory=memory,
            progress=progress,
            seconds=seconds,
            again=again,
        )


_READOUT = ("dtype", "readout", "prompts", "probe", "templates", "clip", "pool")
_PARTS: dict[str, tuple[str, ...]] = {
    "model": tuple(settings_of(ModelConfig)),
    "task": tuple(settings_of(TaskConfig)),
    "discovery": (*settings_of(Discovery), "options"),
}


def discover(
    model: HookedViT | str | None,
    task: Task | TaskConfig | Mapping[str, Any],
    *,
    algorithm: Algorithm = "eap_ig",
    size: Size | None = None,
    level: float | None = None,
    threshold: float | None = None,
    by: str = "auto",
    granularity: str = "edge",
    tokens: str = "all",
    ports: str = "qkv",
    random: int = N_RANDOM,
    patches: int | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    memory: int | None = None,
    progress: bool | None = None,
    **options: Any,
) -> Discovered:
    """Finds the circuit of a behaviour on discovery images, and judges it on others.

    Joined processes (`torch.distributed.init_process_group`) that all call it share the work; the first one writes.

    Args:
        model: An opened model, or its name as `load_vit` takes it; None for the model of a `Task`.
        task: A task, or what `TaskConfig` takes: {"data": "digits", "target": 3, "foil": 8}.
        algorithm: A registered name (`ALGORITHMS`), or a function (graph, task, *, options) -> Scores or Circuit.
        size: Edges of the circuit, on paths from input to logits: a count, or a share of the graph's below 1.
        level: Instead of a size: the smallest circuit of this transmission (one-sided: faithfulness); by default .8.
        threshold: Instead of both: all edges that score at least this.
        by: How edges are ranked.
        granularity: `edge`, or `node` for heads and MLPs kept whole.
        tokens, ports: As `compile_graph` takes them.
        random: Random circuits beside it.
        patches: Pairs to measure `patch_effects` on for the run folder; by default 8 for small models, else none.
        out: A run folder; nothing is written without one.
        overwrite: Replace what a finished run of another configuration left there.
        memory: Bytes to hold at once; by default 2 GB, on a GPU 60% of what is free.
        progress: Show bars on stderr; None where somebody watches.
        **options: The algorithm's own.

    Raises:
        TaskError: There is no such algorithm, option or class, or the task belongs to another model.
        FormatError: The folder holds another finished run, or cannot be written.
    """
    from ..circuits.tasks.task import Task
    from ..models.load import load_vit

    discovery = Discovery(algorithm, options, tokens, ports, by, granularity, level, size, threshold)
    if model and isinstance(task, Mapping) and not isinstance(task.get("data"), str | Path | None):
        model = load_vit(model) if isinstance(model, str) else model
        task = TaskConfig.of(task).make(model)  # data in memory, which no record can name but by its digest
    if isinstance(task, Task):
        return _of_task(model, task, discovery, random, patches, memory, out, overwrite, progress)
    name, vit = _named(model)
    memory = DEFAULT_MEMORY if memory is None and vit is None else memory  # a model by name is loaded onto the CPU
    asked = task if isinstance(task, TaskConfig) else TaskConfig.of(task)
    found = RunConfig(ModelConfig(name), asked, discovery, random, patches, memory)
    return found.run(out, vit=vit, overwrite=overwrite, progress=progress)


def _named(model: HookedViT | str | None) -> tuple[str, HookedViT | None]:
    """A model's name, and the model itself where it is at hand."""
    if model is None:
        raise TaskError('no model is named: pass one, such as "toy/digits-2l".')
    return (model, None) if isinstance(model, str) else (model.cfg.name, model)


def _of_task(
    model: HookedViT | str | None,
    task: Task,
    discovery: Discovery,
    random: int,
    patches: int | None,
    memory: int | None,
    out: str | Path | None,
    overwrite: bool,
    progress: bool | None,
) -> Discovered:
    """A run of a task that is at hand, whose record is the task's own."""
    if model not in (None, task.vit):
        raise TaskError("the task was made for another model: pass model=None, or what TaskConfig takes as task.")
    memory = memory or memory_on(str(task.vit.device))
    record = {"model": task.vit.cfg.name, "task": dict(task.info), **discovery.as_dict(), "random": random}
    record |= {"algorithm": discovery.name, "memory": memory, "identity": identity(task)}
    folder = None if out is None else open_folder(out, record, task, (), overwrite)
    options = {"n_random": random, "patches": patches, "memory": memory, "progress": progress}
    return find_and_judge(task, discovery, folder, **options)


def find_and_judge(
    task: Task,
    discovery: Discovery,
    folder: RunFolder | None,
    *,
    n_random: int,
    patches: int | None = None,
    memory: int,
    progress: bool | None,
    seconds: Mapping[str, float] = MappingProxyType({}),
    again: bool = False,
) -> Discovered:
    """Searches, selects and judges; with a folder also writes, and goes on from what is there."""
    from ..circuits.figure_data import gather
    from ..circuits.judging.evaluation import evaluate
    from ..circuits.words import images_shown
    from .estimate import say_estimate
    from .patching.patch_effects import effects_in_run

    with nullcontext() if folder is None else folder:
        say_estimate(task, discovery, n_random=n_random, progress=progress)
        known = _known_scores(discovery, folder)
        _require_memory(task, discovery, memory, searched=known is None)
        written = [] if folder is None else folder.save_readout(task.vit)
        clock, seconds, seed = time.perf_counter(), dict(seconds), int(task.info.get("seed", 0))
        found = _searched(task, discovery, folder, memory, progress) if known is None else known
        circuit = discovery.select(found, task, memory=memory, progress=progress)
        seconds["search"], clock = time.perf_counter() - clock, time.perf_counter()
        report = evaluate(circuit, task, n_random=n_random, seed=seed, memory=memory, progress=progress)
        seconds["evaluation"], clock = time.perf_counter() - clock, time.perf_counter()
        if folder is None:
            return Discovered(task, circuit, report, [], seconds, again)
        effects = effects_in_run(circuit, task, patches, memory=memory, progress=progress)
        seconds["patches"], clock = time.perf_counter() - clock, time.perf_counter()

        def write() -> list[Path]:
            return folder.write_all(circuit, report, gather(task, images=images_shown(report)), effects)

        files = [*written, *processes.from_first(write)]
        seconds["files"] = time.perf_counter() - clock
        files.append(folder.finish(seconds))
        return Discovered(task, circuit, report, files, seconds, again)


def _require_memory(task: Task, discovery: Discovery, memory: int, *, searched: bool) -> None:
    """Refuses a budget that the search, if there is one, or the judgement after it would refuse, before either."""
    from ..circuits.memory import require_memory
    from ..circuits.run import masks_sizes
    from .discovery import under_means
    from .registry import least_memory

    least = 0
    if searched and discovery.entry is not None:
        least = least_memory(discovery.name, discovery.graph(task.vit), under_means(task), **discovery.called)
    require_memory(
        memory, f"{discovery.name} of {task.vit.cfg.name}", *masks_sizes(task.vit, task.ablation), least=least
    )


def _known_scores(discovery: Discovery, folder: RunFolder | None) -> Scores | None:
    """Scores that an earlier run left; what a function does, no record says."""
    left = folder is not None and discovery.entry is not None and not discovery.finds_circuits
    return folder.load_scores_if_same() if folder is not None and left else None


def _searched(
    task: Task, discovery: Discovery, folder: RunFolder | None, memory: int, progress: bool | None
) -> Scores | Circuit:
    """What the search finds."""
    from ..circuits.circuit import Circuit

    if folder is None:
        return discovery.search(task, memory=memory, progress=progress)
    found = discovery.search(task, journal=folder.journal, memory=memory, progress=progress)
    if not isinstance(found, Circuit):
        folder.save_scores(found)
    return found


def read_settings(path: str | Path) -> dict[str, Any]:
    """The settings that a .toml or .json file, or the `run.json` of a run folder, holds, by name and not yet checked.

    Raises:
        FormatError: There is no such file, or it does not parse.
    """
    path = Path(path) / "run.json" if is_folder(path) else path
    text = read_text(path)
    try:
        settings = tomllib.loads(text) if Path(path).suffix == ".toml" else json.loads(text)
    except ValueError as error:
        raise FormatError(f"{path} cannot be read: {error}.") from error
    if not isinstance(settings, dict) or not isinstance(settings.get("config", {}), dict):
        raise FormatError(f'{path} holds no settings: write names and values, such as model = "toy/digits-2l".')
    settings = settings.get("config", settings)
    for table in ("task", "options"):
        if not isinstance(settings.get(table, {}), dict):
            raise FormatError(f"{path}: {table} is {short(settings[table])}: write a table, [{table}].")
    return settings


def identity(task: Task) -> dict[str, Any]:
    """What may change behind the same settings: weights, a readout, masks and reference images in files."""
    found: dict[str, Any] = {"weights": task.vit.digest()}
    if "sha256" in task.vit.readout.info:
        found["readout"] = dict(task.vit.readout.info)
    for name, digest in (("masks", "mask_digest"), ("reference", "reference_digest")):
        if digest in task.info:
            found[name] = task.info[digest]
    return found


def open_folder(
    out: str | Path, record: Mapping[str, Any], task: Task, command: Sequence[str], overwrite: bool
) -> RunFolder:
    """The run folder of a record; see `RunFolder.open`."""
    from ..circuits.run_folder import RunFolder

    return RunFolder.open(
        out,
        record,
        command=list(command),
        seed=task.info.get("seed", 0),
        device=str(task.vit.device),
        data_hash=task.info.get("data_digest"),
        overwrite=overwrite,
    )


def without_none(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that have a value, tables within tables."""
    return {
        name: without_none(value) if isinstance(value, Mapping) else value
        for name, value in settings.items()
        if value is not None
    }
