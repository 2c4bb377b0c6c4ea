"""Cells of the tables: one contrast, method, seed, and what removed edges carry. Each leaves one JSON file.

1. The method searches the discovery pairs; what it found is kept in `<cell>/found.json`, its journal beside it.
2. All circuits of a cell run together on the held-out pairs, some pairs at a time; each part that is done is kept.
   Where constants are learned for each circuit, each runs under its own, after they are.
3. The figures of each circuit are read off, as `evaluate` reads them, and written into `<cell>.json`.

So a cell that was killed goes on. Its seconds are then those of all its goes that ended or ran out of time.
"""

from __future__ import annotations

import io
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fooled import LESSON
from numpy.typing import NDArray
from studies import FIRST, LEARNED, LEAST, MASKED, RANKINGS, STARTS, STUDIES, Study, available, count_kinds
from vitcircuits.algorithms import ALGORITHMS, acdc, optimal_ablation, run_algorithm
from vitcircuits.algorithms.work import counted_work
from vitcircuits.circuits import Circuit, Graph, Scores, Task
from vitcircuits.circuits.baseline import Baseline, make_baseline
from vitcircuits.circuits.judging.controls import random_masks
from vitcircuits.circuits.judging.crossed_runs import CrossedRuns, describe_images, fewer, other_classes
from vitcircuits.circuits.report import Figure
from vitcircuits.circuits.run import MaskRuns, run_masks
from vitcircuits.circuits.sizes import edges_of
from vitcircuits.circuits.tasks.task import Pairs
from vitcircuits.models.files import write_bytes_atomic, write_text_atomic

Bools = NDArray[np.bool_]

N_RANDOM = 3  # random circuits of each size
ALIGNED = 0.1  # the further share of the edges under partners that are the clean image without its animal
PART = 32  # pairs whose runs are kept together
LESSON_STUDY, COUNT = "lesson", "kinds-counted"


@dataclass(frozen=True)
class Cell:
    """One square of the tables.

    Args:
        study: A key of `STUDIES`, or `lesson`.
        method: An algorithm, or a key of `LESSON`.
        removed: A key of `REMOVED`.
        seed: Of methods with chance in them.
        shares: Sizes of its circuits.
    """

    study: str
    method: str
    removed: str
    seed: int
    shares: tuple[float, ...]

    @property
    def name(self) -> str:
        """Its files' name."""
        return f"{self.study}.{self.method}.{self.removed}.{self.seed}"


COUNTING = Cell(COUNT, "top-1", "swap", 0, ())


def cells_of(name: str) -> Iterator[Cell]:
    """All cells of a study, those that most depends on first."""
    study = STUDIES[name]
    for removed in filter(available, study.removed):
        usual = removed in ("swap", "means")
        for method in study.methods:
            first = method in FIRST
            if first or usual:
                shares = study.shares if first and usual else study.few_shares
                shares = (ALIGNED, *shares) if removed in MASKED else shares
                yield Cell(name, method, removed, 0, shares)
                for seed in range(1, study.seeds if usual and "seed" in ALGORITHMS[method].options else 1):
                    yield Cell(name, method, removed, seed, shares if study.toy else study.few_shares)


def plan(work: Path) -> list[Cell]:
    """Every cell, in the order in which they are made; kinds of cat once they have been counted and are enough."""
    cells = [COUNTING, *(Cell(LESSON_STUDY, row, "swap", 0, LESSON[row].sizes) for row in LESSON)]
    for name in STUDIES:
        if name != "kinds" or enough(read(COUNTING, work)):
            cells += cells_of(name)
    return sorted(cells, key=_turn)


def _turn(cell: Cell) -> tuple[bool, ...]:
    unusual = cell.removed not in ("swap", "means")
    idea = cell.study in STUDIES and bool(STUDIES[cell.study].idea)
    return cell.study not in (COUNT, LESSON_STUDY), idea, unusual, cell.method not in (*FIRST, *LESSON), cell.seed > 0


def enough(record: Mapping[str, Any] | None) -> bool:
    """Whether the contrast of kinds has enough held-out images of each side."""
    if record is None or "kinds" not in record:
        return False
    title = STUDIES["kinds"].title.split(", ", 1)[1]
    return min(record["kinds"][title]["held_out"]) >= LEAST


def read(cell: Cell, work: Path) -> dict[str, Any] | None:
    """What a cell left; None where it has not."""
    path = work / f"{cell.name}.json"
    return json.loads(path.read_text()) if path.exists() else None


# 1. Search.


@dataclass(frozen=True)
class Found:
    """Circuits of one cell.

    Args:
        rows: Ranking ("" where there is none) and size that was asked for, of each.
        masks: Kept edges of each, shape (edge,).
        seconds: Of the search on its processor, in its last go.
        passes: Forward passes' worth of work over the pairs that were used, times these pairs; likewise.
        n_pairs: Pairs that were used.
    """

    rows: list[tuple[str, float]]
    masks: list[Bools]
    seconds: float
    passes: float
    n_pairs: int


def find(cell: Cell, task: Task, graph: Graph, folder: Path) -> Found:
    """Runs the cell's method on the discovery pairs, or on some of them."""
    path = folder / "found.json"
    if not path.exists():
        if cell.study != LESSON_STUDY:
            most = STUDIES[cell.study].few.get(cell.method)
            task = task if most is None else with_few(task, most)
        start = time.process_time()
        with counted_work(task) as work:
            found = _search(cell, task, graph, folder / "journal.jsonl")
        n_pairs = len(task.searched)
        record = {"rows": [row for row, _ in found], "seconds": time.process_time() - start}
        record |= {"masks": [np.flatnonzero(mask).tolist() for _, mask in found]}
        write_text_atomic(path, json.dumps({**record, "passes": work.runs * n_pairs, "n_pairs": n_pairs}))
    record = json.loads(path.read_text())
    masks = [np.isin(np.arange(len(graph)), edges) for edges in record["masks"]]
    return Found(**{**record, "masks": masks, "rows": [tuple(row) for row in record["rows"]]})


def with_few(task: Task, most: int) -> Task:
    """The task with at most so many discovery pairs: equally many images of each class, each with all its partners."""
    design, searched = task.discovery.design, len(task.searched)
    if searched <= most:
        return task
    assert design is not None
    images = {side: design.clean_image[design.clean_side == side].unique_consecutive() for side in design.sides}
    each = max(1, most * sum(map(len, images.values())) // searched // len(images))
    kept = torch.cat([some[:each] for some in images.values()])
    rows = torch.nonzero(torch.isin(design.clean_image, kept)).flatten()
    return replace(task, discovery=task.discovery.select(rows))


def _search(cell: Cell, task: Task, graph: Graph, journal: Path) -> list[tuple[tuple[str, float], Bools]]:
    lesson = LESSON.get(cell.method) if cell.study == LESSON_STUDY else None
    method = lesson.method if lesson else cell.method
    options = dict(lesson.options if lesson else STUDIES[cell.study].options.get(method, {}))
    if method == "acdc":
        return _acdc(cell, task, graph, journal)
    if "size" in ALGORITHMS[method].options:
        if "seed" in ALGORITHMS[method].options:
            options.setdefault("seed", cell.seed)
        if start := study_of(cell).start:
            options["start"] = _started(start, graph, task, journal.with_name("start.npz"))
        circuits = run_algorithm(method, graph, task, size=list(cell.shares), journal=journal, **options)
        return [(("", share), circuit.mask) for share, circuit in zip(cell.shares, circuits, strict=True)]
    scores = run_algorithm(method, graph, task, **options)
    rankings = (lesson.by,) if lesson else RANKINGS
    return [((by, share), scores.top(share, by=by).mask) for share in cell.shares for by in rankings]


def _started(start: str, graph: Graph, task: Task, path: Path) -> Scores:
    """What masks start from; scored once."""
    names = ("values", "mean_abs", "std_err", "exact")
    if not path.exists():
        scores = STARTS[start](graph, task)
        _save(path, {name: getattr(scores, name) for name in names})
    with np.load(path) as saved:
        return Scores(graph, **{name: saved[name] for name in names}, n_pairs=0, algorithm=start)


def _acdc(cell: Cell, task: Task, graph: Graph, journal: Path) -> list[tuple[tuple[str, float], Bools]]:
    """Of the circuits at several thresholds the largest that is small enough."""
    circuits = acdc(graph, task, tau=STUDIES[cell.study].taus, journal=journal)
    masks = [np.zeros(len(graph), dtype=bool), *(circuit.mask for circuit in circuits)]
    sizes = edges_of(cell.shares, graph)
    best = [max((mask for mask in masks if mask.sum() <= size), key=np.sum) for size in sizes]
    return [(("", share), mask) for share, mask in zip(cell.shares, best, strict=True)]


# 2. Runs.


def baselines_of(cell: Cell, task: Task, graph: Graph, found: Found, folder: Path) -> list[Baseline]:
    """What removed edges carry: one baseline, or that of no edge and one for each circuit."""
    usual = make_baseline(task.vit, task.ablation, task.reference)
    out = [usual]
    for place, mask in enumerate(found.masks if cell.removed == LEARNED else ()):
        path = folder / f"constants-{place}.json"
        if not path.exists():
            optimal_ablation(Circuit(graph, mask), task).save(path)
        out.append(make_baseline(task.vit, Circuit.load(path, graph=graph).ablation, task.reference))
    return out


def runs_of(
    task: Task,
    graph: Graph,
    masks: Sequence[Bools],
    pairs: Pairs,
    baselines: Sequence[Baseline],
    folder: Path,
    label: str,
) -> MaskRuns:
    """Runs of all masks under one baseline, or of each under its own."""
    if len(baselines) == 1:
        return runs_in_parts(task, graph, masks, pairs, baselines[0], folder, label)
    each = [
        runs_in_parts(task, graph, [mask], pairs, own, folder, f"{label}-{place}")
        for place, (mask, own) in enumerate(zip(masks, baselines, strict=True))
    ]
    return MaskRuns(
        np.concatenate([one.outputs for one in each]),
        each[0].clean_outputs,
        torch.cat([one.logits for one in each]),
        each[0].clean_logits,
    )


def runs_in_parts(
    task: Task, graph: Graph, masks: Sequence[Bools], pairs: Pairs, baseline: Baseline, folder: Path, label: str
) -> MaskRuns:
    """`run_masks` with the logits of all masks, some pairs at a time; what an earlier go has run is read."""
    parts = []
    for at, some in enumerate(pairs.batches(PART)):
        path = folder / f"{label}-{at}.npz"
        if not path.exists():
            runs = run_masks(task.vit, graph, masks, task.metric.response, some, baseline, n_logits=len(masks))
            small = {name: getattr(runs, name).numpy().astype(np.float32) for name in ("logits", "clean_logits")}
            _save(path, {"outputs": runs.outputs, "clean_outputs": runs.clean_outputs, **small})
        with np.load(path) as saved:
            parts.append({name: saved[name] for name in saved.files})
    axes = {"outputs": 1, "clean_outputs": 0, "logits": 1, "clean_logits": 0}
    whole = {name: np.concatenate([part[name] for part in parts], axis) for name, axis in axes.items()}
    logits = {name: torch.from_numpy(whole.pop(name)).double() for name in ("logits", "clean_logits")}
    return MaskRuns(**whole, **logits)


def _save(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_bytes_atomic(path, buffer.getvalue())


@dataclass(frozen=True, eq=False)
class _Judge:
    """Runs of the empty circuit and of all others on some pairs."""

    task: Task
    pairs: Pairs
    runs: MaskRuns  # mask 0 keeps no edge

    def of(self, row: int) -> CrossedRuns:
        """The runs of one circuit, as `evaluate` has them."""
        rows, runs = [row, 0], self.runs
        own = MaskRuns(runs.outputs[rows], runs.clean_outputs, runs.logits[rows], runs.clean_logits)
        return CrossedRuns(self.task, self.pairs, own, self.task.ablation.kind == "partner", 1000, 0)


def judge(task: Task, graph: Graph, found: Found, baselines: Sequence[Baseline], folder: Path) -> dict[str, Any]:
    """Every circuit of a cell on the held-out pairs: rows with their figures, and how many images there were."""
    masks, pairs = [np.zeros(len(graph), dtype=bool), *found.masks], task.evaluation.under(task.ablation)
    everything = _Judge(task, pairs, runs_of(task, graph, masks, pairs, baselines, folder, "held-out"))
    others = None
    if task.others is not None:
        rest = task.others.under(task.ablation)
        others = _Judge(task, rest, runs_of(task, graph, masks, rest, baselines, folder, "others"))
    chance = random_transmission(task, graph, found, pairs, baselines[0], folder)
    rows = []
    for row, ((ranking, asked), mask) in enumerate(zip(found.rows, found.masks, strict=True), start=1):
        figures = figures_of(everything.of(row), None if others is None else others.of(row))
        figures["random_transmission"] = chance[asked]
        plain = {name: as_list(figure) for name, figure in figures.items()}
        rows.append(
            {"ranking": ranking, "asked": asked, "edges": int(mask.sum()), "mask": as_text(mask), "figures": plain}
        )
    return {"rows": rows, "images": describe_images(everything.of(1))}


def figures_of(everything: CrossedRuns, others: CrossedRuns | None) -> dict[str, Figure]:
    """The figures of one circuit: over the images that the model gets right, over all, and one side alone."""
    right = everything.right or everything
    shown = {**right.figures(), **everything.figures("_all_images"), "other_classes": other_classes(others)}
    return {**shown, **right.one_sided()}


def random_transmission(
    task: Task, graph: Graph, found: Found, pairs: Pairs, baseline: Baseline, folder: Path
) -> dict[float, Figure]:
    """T of random circuits of whole paths, like the first circuit of each size: mean, smallest and largest."""
    firsts: dict[float, Bools] = {}
    for (_, asked), mask in zip(found.rows, found.masks, strict=True):
        firsts.setdefault(asked, mask)
    drawn = {asked: random_masks(graph, mask, N_RANDOM, seed=0) for asked, mask in firsts.items()}
    masks = [np.zeros(len(graph), dtype=bool), *(mask for some in drawn.values() for mask in some)]
    part, values, row = fewer(pairs), {}, 1
    judged = _Judge(task, part, runs_in_parts(task, graph, masks, part, baseline, folder, "random"))
    for asked, some in drawn.items():
        own = [judged.of(row + at).crossed.headline().value for at in range(len(some))]
        known = [value for value in own if value is not None]
        row += len(some)
        values[asked] = (
            Figure(float(np.mean(known)), "share", min(known), max(known))
            if known
            else Figure(None, reason="undefined")
        )
    return values


def as_text(mask: Bools) -> str:
    """A mask in hexadecimal, eight edges in two digits; `np.unpackbits` of `bytes.fromhex` reads it back."""
    return np.packbits(mask).tobytes().hex()


def as_list(figure: Figure) -> list[Any]:
    """[value, low, high], or [None, why]."""
    return [None, figure.reason] if figure.value is None else [figure.value, figure.low, figure.high]


def as_figure(values: Sequence[Any]) -> Figure:
    """The figure of such a list."""
    return Figure(None, reason=values[1]) if values[0] is None else Figure(values[0], "", values[1], values[2])


# 3. The cell.


def study_of(cell: Cell) -> Study:
    """The study that a cell belongs to; of the lesson, the one whose behaviour it looks at."""
    return STUDIES[LESSON[cell.method].study if cell.study == LESSON_STUDY else cell.study]


def tasks_of(cell: Cell) -> tuple[Task, Task]:
    """What a cell's method searches, and what its circuits are judged on."""
    study = study_of(cell)
    if cell.study != LESSON_STUDY:
        task = study.task(cell.removed)
        return task, task
    return study.task(sides="one"), study.task()


def make(cell: Cell, work: Path) -> dict[str, Any]:
    """Makes a cell, or what is left of it, and writes its file."""
    folder, start, busy = work / cell.name, time.perf_counter(), time.process_time()
    folder.mkdir(parents=True, exist_ok=True)
    if cell.study == COUNT:
        record: dict[str, Any] = {"kinds": count_kinds()}
    else:
        searched, judged = tasks_of(cell)
        graph = study_of(cell).compiled(searched)
        found = find(cell, searched, graph, folder)
        baselines = baselines_of(cell, judged, graph, found, folder)
        record = {**judge(judged, graph, found, baselines, folder), "n_graph": len(graph)}
        record |= {"seconds": found.seconds, "passes": found.passes, "n_pairs": found.n_pairs}
        record |= {"all_pairs": len(searched.searched), "n_held_out": len(judged.evaluation.under(judged.ablation))}
    before = spent(folder)
    record |= {"goes": before["goes"] + 1, "whole_seconds": before["seconds"] + time.perf_counter() - start}
    record["busy_seconds"] = time.process_time() - busy  # of the last go
    write_text_atomic(work / f"{cell.name}.json", json.dumps(record))
    shutil.rmtree(folder)
    return record


def spent(folder: Path) -> dict[str, float]:
    """Goes that ran out of time, and their seconds."""
    path = folder / "spent.json"
    return json.loads(path.read_text()) if path.exists() else {"goes": 0, "seconds": 0.0}
