"""What comparing circuits has to run models for: pairs valid for all, each circuit's figures, curves, what heads do.

What a circuit's rankings keep of the behaviour at many sizes, pair by pair: transmission, one-sided faithfulness.

Circuits found again: by the search that their record describes, on bootstrap resamples of the discovery pairs.

Common pairs are those that are valid for every model: it classifies the clean image right and the partner lowers the
metric. Models that err on different images would otherwise be compared on different images. Pairs are told by their
ids, which say at what place a pair was drawn: with one data set, one contrast, one kind of partner and one seed, the
same id is the same picture, whatever size and normalisation a model wants.

Of crossed tasks (`design.py`) clean images are common, told by their places in the data: those that every model gets
right. Partners that are other images of the task are met anew among them, so that all models see the same pairs; those
that a model chooses itself (`nearest`, `another`) remain its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..circuits.baseline import DEFAULT_MEMORY, make_baseline
from ..circuits.circuit import Circuit
from ..circuits.compare.matching import HeadFeatures
from ..circuits.compare.subject import PairCurve, Subject
from ..circuits.figure_data import gather_heads, in_turn
from ..circuits.figures import compared_figures
from ..circuits.judging.crossed_runs import fewer
from ..circuits.judging.evaluation import evaluate
from ..circuits.judging.plan import Grid, make_grid, ranked_masks
from ..circuits.run import require_model, run_masks
from ..circuits.tasks.redraw import at_rows, met_again, redrawn_rows
from ..circuits.tasks.task import Pairs, Task
from ..models.errors import GraphError, TaskError
from ..models.watching import progress_bar
from .discovery import Discovery

HEAD_IMAGES = 32
MOST_CLASSES = 16


def measure_subjects(
    circuits: Mapping[str, Sequence[tuple[Circuit, Task]]],
    *,
    curves: bool = True,
    heads: bool = True,
    resampled: Mapping[str, Sequence[Sequence[Circuit]]] | None = None,
    head_images: int = HEAD_IMAGES,
    memory: int = DEFAULT_MEMORY,
    progress: bool | None = None,
) -> dict[str, list[Subject]]:
    """Kinds of model with their seeds' circuits -> the same with everything that `compare` can use.

    Args:
        circuits: Kind -> (circuit, task) of each seed; tasks on common pairs (see `common_pairs`).
        curves: Measure what is kept by size, for circuits with scores.
        heads: Gather what heads do on the evaluation images, for matching.
        resampled: Kind -> for each seed, the circuits found on resamples of its discovery pairs.
        head_images: Images for matching, at most.
        memory: Bytes to hold at once.
        progress: Show bars on stderr; None where somebody watches.

    Raises:
        TaskError: There is nothing to measure.
    """
    every = [task for seeds in circuits.values() for _, task in seeds]
    if not every:
        raise TaskError('there are no circuits to measure: pass {"vit": [(circuit, task), ...], "clip": [...]}.')
    grid = _coarsest(every)
    found: dict[str, list[Subject]] = {}
    with progress_bar("measuring", len(every), progress, "circuit") as bar:
        for kind, seeds in circuits.items():
            found[kind] = []
            for place, (circuit, task) in enumerate(seeds):
                measured = (
                    measure_curves(circuit, task, memory=memory, progress=progress)
                    if curves and circuit.scores is not None
                    else {}
                )
                done = heads_of(task, grid, n=head_images) if heads else None
                again = tuple(resampled[kind][place]) if resampled else ()
                report = evaluate(circuit, task, curve=False, n_random=0, memory=memory, progress=progress)
                name = kind if len(seeds) == 1 else f"{kind} {place + 1}"
                found[kind].append(Subject(circuit, name, kind, measured, done, again, compared_figures(report)))
                bar.update()
    return found


def heads_of(task: Task, grid: tuple[int, int] | None = None, *, n: int = HEAD_IMAGES) -> HeadFeatures:
    """What the heads do on the first evaluation images, of a crossed task of both classes, and towards the metric's."""
    classes = list(dict.fromkeys((*task.metric.target, *task.metric.foil)))[:MOST_CLASSES]
    return gather_heads(task.vit, in_turn(task.evaluation.right, n).clean, classes=classes, grid=grid)


def _coarsest(tasks: Sequence[Task]) -> tuple[int, int]:
    """The fewest patch rows and columns of any model."""
    rows, columns = zip(*(task.vit.cfg.tokens.grid for task in tasks), strict=True)
    return min(rows), min(columns)


FINE_POINTS = 40  # sizes, evenly over their logarithm, beside the grid's own on graphs where that is coarse


def measure_curves(
    circuit: Circuit,
    task: Task,
    *,
    pairs: Pairs | None = None,
    memory: int = DEFAULT_MEMORY,
    progress: bool | None = None,
) -> dict[str, PairCurve]:
    """What circuits of many sizes keep, on each pair, ranked as the circuit was and by `signed` and `abs_mean`.

    Sizes are the grid's of `evaluate` and, on large graphs, where that has ten points, 40 more. Costs one run per
    different circuit.

    Args:
        circuit: Its scores rank the edges.
        task: The model, the metric and the ablation.
        pairs: Pairs to measure on; by default the evaluation's, of a crossed task those that `evaluate` takes for
            curves: the first clean images of each class that the model gets right.
        memory: Bytes to hold at once.
        progress: Show a bar on stderr; None where somebody watches.

    Raises:
        GraphError: The circuit has no scores, or belongs to a graph of another model.
    """
    require_model(task.vit, circuit.graph)
    scores = circuit.scores
    if scores is None:
        raise GraphError(f"{circuit} has no scores, so there is no curve: compare it without one, or score its edges.")
    chosen = _pairs(task) if pairs is None else pairs
    metric = task.metric if chosen.design is None else task.metric.response
    grid, on_grid = _fine_grid(len(circuit.graph))
    rankings = list(dict.fromkeys((circuit.provenance.get("by", "signed"), "signed", "abs_mean")))
    masks = [mask for by in rankings for mask in ranked_masks(circuit.graph, scores.ranking(by), grid)]
    baseline = make_baseline(task.vit, task.ablation, task.reference, memory=memory)
    none = np.zeros(len(circuit.graph), dtype=np.bool_)
    runs = run_masks(
        task.vit, circuit.graph, [none, *masks], metric, chosen, baseline, memory=memory, progress=progress
    )
    found, n = {}, len(grid.n)
    for place, by in enumerate(rankings):
        rows = slice(1 + place * n, 1 + (place + 1) * n)
        sizes = np.array([int(mask.sum()) for mask in masks[place * n : (place + 1) * n]], dtype=np.int64)
        ends = (runs.outputs[0], runs.clean_outputs)
        which = (on_grid, grid.method, _ids(chosen), pictures_of(task), chosen.design)
        found[by] = PairCurve(by, len(circuit.graph), grid.share, sizes, runs.outputs[rows], *ends, *which)
    return found


def _pairs(task: Task) -> Pairs:
    """One pair of each cell also under ablations without partners: circuits of several ablations then share pairs."""
    pairs = task.evaluation.right
    return pairs if pairs.design is None else fewer(pairs)


def _ids(pairs: Pairs) -> NDArray[np.int64]:
    """A number for each pair, the same for all models: of a crossed task it says which two images meet."""
    design = pairs.design
    if design is None:
        return pairs.pair_ids.numpy().astype(np.int64)
    return ((design.clean_image << 32) + design.partner_image).numpy().astype(np.int64)


def _fine_grid(n_graph: int) -> tuple[Grid, np.ndarray]:
    """The grid of `evaluate` with sizes in between, and which of them are its own."""
    own = make_grid(n_graph)
    fine = np.geomspace(1, n_graph, FINE_POINTS).round().astype(np.int64)
    extra = np.setdiff1d(fine, own.n) if len(own.n) < FINE_POINTS else np.zeros(0, dtype=np.int64)
    n, share = np.concatenate([own.n, extra]), np.concatenate([own.share, extra / n_graph])
    order = np.argsort(share, kind="stable")
    return replace(own, share=share[order], n=n[order]), (np.arange(len(n)) < len(own.n))[order]


def finder_of(circuit: Circuit, *, memory: int = DEFAULT_MEMORY) -> Callable[[Task], Circuit]:
    """The search that found a circuit, from its record: task -> circuit, by the same algorithm and selection.

    Args:
        circuit: The circuit.
        memory: Bytes to hold at once.

    Raises:
        TaskError: The circuit does not record an algorithm and a selection that can be run again.
    """
    discovery = Discovery.again(circuit)
    return lambda task: discovery.find(task, circuit.graph, memory=memory)


def resampled_circuits(
    find: Callable[[Task], Circuit], task: Task, n: int, *, seed: int = 0, progress: bool | None = None
) -> tuple[Circuit, ...]:
    """Circuits found on `n` bootstrap resamples of the discovery pairs, of a crossed task of its images in each class.

    The draws depend on the seed and the number of pairs only, so models with common pairs get the same resamples.

    Args:
        find: Task -> circuit, such as `lambda task: eap_ig(graph, task).top(40)`.
        task: The task.
        n: How many.
        seed: Draws them.
        progress: Show a bar on stderr; None where somebody watches.
    """
    rng, pairs, found = np.random.default_rng(seed), task.discovery, []
    with progress_bar("resamples", n, progress, "search") as bar:
        for _ in range(n):
            found.append(find(dataclasses.replace(task, discovery=at_rows(pairs, redrawn_rows(pairs, rng)))))
            bar.update()
    return tuple(found)


_PICTURES = ("data", "target_name", "foil_name", "sides", "corruption", "mask", "word", "seed")
_SPLITS = ("discovery", "evaluation")


@dataclass(frozen=True, eq=False)
class CommonPairs:
    """Tasks on common pairs, and what that cost.

    Args:
        tasks: The tasks in their order, each with the common pairs only.
        valid: Pairs that were valid for each model, by split; of crossed tasks, clean images that it gets right.
        common: Pairs (images) that are valid for all, by split.
        either: Pairs (images) that are valid for at least one, by split.
    """

    tasks: tuple[Task, ...]
    valid: Mapping[str, tuple[int, ...]]
    common: Mapping[str, int]
    either: Mapping[str, int]

    def dropped(self, split: str) -> float:
        """Share of the pairs valid for at least one model that are not valid for all."""
        return 1 - self.common[split] / self.either[split]

    @property
    def what(self) -> str:
        """What is common: `pairs`, or of crossed tasks clean `images`."""
        return "images" if self.tasks[0].sides == "both" else "pairs"

    def as_dict(self) -> dict[str, Any]:
        """Counts and shares in plain values, by split."""
        return {
            split: {
                "of": self.what,
                "valid_for_each": list(self.valid[split]),
                "valid_for_any": self.either[split],
                "valid_for_all": self.common[split],
                "share_dropped": self.dropped(split),
            }
            for split in self.common
        }

    def __str__(self) -> str:
        return "; ".join(
            f"{split}: {self.common[split]} {self.what} valid for all {len(self.tasks)} models, "
            f"{self.dropped(split):.0%} of {self.either[split]} dropped "
            f"(valid for each: {', '.join(map(str, self.valid[split]))})"
            for split in self.common
        )


def pictures_of(task: Task) -> str:
    """What decides which pictures the pairs of a task show, in words; equal for tasks whose ids mean the same."""
    return ", ".join(f"{name} {task.info[name]}" for name in _PICTURES if task.info.get(name) is not None)


def common_pairs(tasks: Sequence[Task]) -> CommonPairs:
    """The tasks restricted to the pairs that are valid for every model, discovery and evaluation alike.

    Of crossed tasks to the clean images that every model gets right, with partners among them.

    Metric and ablation may differ (`compare` says so); the pictures may not. Each task's `info["dropped"][split]` gains
    `other_models`. Restrict before circuits are found, so that they are also found on the same pairs.

    Raises:
        TaskError: The tasks are not about the same pictures, or no pair is valid for all.
    """
    _require_same(tasks)
    kept: dict[str, list[int]] = {}
    valid, either = {}, {}
    for split in _SPLITS:
        ids = [_valid(getattr(task, split)) for task in tasks]
        shared = set.intersection(*map(set, ids))
        if not shared:
            counts = ", ".join(f"{_name(task)}: {len(own)}" for task, own in zip(tasks, ids, strict=True))
            raise TaskError(
                f"no {split} pair is valid for every model (valid for each: {counts}): pass more pairs, or leave out "
                f"the model with the fewest."
            )
        kept[split] = sorted(shared)
        valid[split] = tuple(map(len, ids))
        either[split] = len(set.union(*map(set, ids)))
    restricted = tuple(_restricted(task, kept) for task in tasks)
    _require_same_pictures(restricted)
    return CommonPairs(restricted, valid, {split: len(ids) for split, ids in kept.items()}, either)


def _valid(pairs: Pairs) -> list[int]:
    """Ids of the pairs; of a crossed task numbers of the clean images that the model gets right."""
    design = pairs.design
    return pairs.pair_ids.tolist() if design is None else design.clean_image[design.right].unique().tolist()


def _name(task: Task) -> str:
    return str(task.info.get("model", task.vit.cfg.name))


def _require_same(tasks: Sequence[Task]) -> None:
    if not tasks:
        raise TaskError(
            "there are no tasks to compare: pass one for each model, such as common_pairs([first, second])."
        )
    for task in tasks[1:]:
        for name in _PICTURES:
            one, other = tasks[0].info.get(name), task.info.get(name)
            if one != other:
                raise TaskError(
                    f"{_name(tasks[0])} and {_name(task)} have other tasks: {name} is {one!r} in the first and "
                    f"{other!r} in the second. Make both with the same data, contrast, corruption and seed."
                )


def _restricted(task: Task, kept: Mapping[str, list[int]]) -> Task:
    pairs: dict[str, Pairs] = {}
    dropped: dict[str, Any] = dict(task.info.get("dropped", {}))
    images: dict[str, Any] = {}
    for split, wanted in kept.items():
        own: Pairs = getattr(task, split)
        pairs[split] = some = _at(own, wanted)
        dropped[split] = {**dropped.get(split, {}), "other_models": own.n_images - some.n_images}
        if some.design is not None:
            images[split] = {**task.info.get("images", {}).get(split, {}), **some.design.counts}
    info = {**task.info, **{f"n_{split}": len(some) for split, some in pairs.items()}, "dropped": dropped}
    return dataclasses.replace(task, **pairs, info=info | ({"images": images} if images else {}))


def _at(pairs: Pairs, wanted: Sequence[int]) -> Pairs:
    """The pairs of these ids, or of a crossed task those of these clean images, in one order for all models."""
    if pairs.design is None:
        place = {number: row for row, number in enumerate(pairs.pair_ids.tolist())}
        return pairs.select([place[number] for number in wanted])
    rows: dict[int, list[int]] = {number: [] for number in wanted}
    for row, number in enumerate(pairs.design.clean_image.tolist()):
        if number in rows:
            rows[number].append(row)
    found = pairs.select([row for some in rows.values() for row in some])
    assert found.design is not None
    if found.design.sides != pairs.design.sides or (pairs.design.crossed and min(_of_class(found)) < 2):
        raise TaskError(
            f"only {' and '.join(map(str, _of_class(found)))} images of target and foil are classified right by every "
            f"model, and a crossed task needs two of each: pass more pairs, or leave out the model that errs most."
        )
    met = met_again(found)
    return dataclasses.replace(met, ids=torch.arange(len(met), device="cpu"))


def _of_class(pairs: Pairs) -> tuple[int, int]:
    assert pairs.design is not None
    return pairs.design.counts["target"], pairs.design.counts["foil"]


def _require_same_pictures(tasks: Sequence[Task]) -> None:
    """Equal labels and numbers of images; and where two models want the same input, equal clean images."""
    for task in tasks[1:]:
        for split in _SPLITS:
            one, other = getattr(tasks[0], split), getattr(task, split)
            same_labels = one.labels is None or other.labels is None or torch.equal(one.labels, other.labels)
            alike = tasks[0].vit.preprocess == task.vit.preprocess and one.clean.dtype == other.clean.dtype
            same_labels &= _numbers(one) == _numbers(other)
            if not same_labels or (alike and not torch.equal(one.clean.cpu(), other.clean.cpu())):
                raise TaskError(
                    f"the {split} pairs of {_name(tasks[0])} and {_name(task)} show other pictures under the same ids: "
                    f"make both tasks from the same data with the same seed."
                )


def _numbers(pairs: Pairs) -> list[int]:
    return [] if pairs.design is None else pairs.design.clean_image.tolist()
