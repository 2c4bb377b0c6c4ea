"""What is measured about each circuit before circuits are compared: curves pair by pair, and what heads do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...circuits.baseline import DEFAULT_MEMORY
from ...circuits.circuit import Circuit
from ...circuits.compare.matching import HeadFeatures
from ...circuits.compare.subject import Subject
from ...circuits.figure_data import gather_heads, in_turn
from ...circuits.task import Task
from ...models.errors import TaskError
from ..progress import progress_bar
from .curves import measure_curves

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
    progress: bool = False,
) -> dict[str, list[Subject]]:
    """Kinds of model with their seeds' circuits -> the same with everything that `compare` can use.

    Args:
        circuits: Kind -> (circuit, task) of each seed; tasks on common pairs (see `common_pairs`).
        curves: Measure what is kept by size, for circuits with scores.
        heads: Gather what heads do on the evaluation images, for matching.
        resampled: Kind -> for each seed, the circuits found on resamples of its discovery pairs.
        head_images: Images for matching, at most.
        memory: Bytes to hold at once.
        progress: Show bars on stderr.

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
                name = kind if len(seeds) == 1 else f"{kind} {place + 1}"
                found[kind].append(Subject(circuit, name, kind, measured, done, again))
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
