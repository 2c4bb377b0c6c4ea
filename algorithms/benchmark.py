"""Every algorithm on every model whose circuit is known: who finds it, and at what price.

Runs are forward passes' worth of work over all discovery pairs, counted in floating-point operations of matrix products
and attention, forward and backward. What an algorithm skips, such as unread tokens of the last block, costs it nothing.

An algorithm that prunes to a size is told the number of edges of a minimal circuit. Rankings are judged by all their
edges, so precision at the true size is that of the highest-ranked edges, those on no path as well: no circuit is made.

Whether the truth is found is asked on the one-sided task (`planted_task`). What was found is then judged as circuits of
models are whose truth nobody knows: its transmission, leakage and R^2 (`circuits/transmission.py`) on the crossed task,
of scores those of their best edges, as many as precision is taken over. The truth has 1, 0 and 1
(digit-pairs, whose weights were trained to use it: .99, .005 and .99).
"""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..circuits.baseline import DEFAULT_MEMORY, make_baseline
from ..circuits.circuit import Circuit
from ..circuits.formats.plain import plain
from ..circuits.graph import compile_graph
from ..circuits.judging.crossed_runs import CrossedRuns
from ..circuits.report import Figure, Table, Tabular
from ..circuits.scores import By, Scores
from ..circuits.shown import drawable
from ..circuits.tasks.task import Task
from ..circuits.truths.planted import average_precision, judge, planted_task, truth_mask
from ..models.errors import TaskError
from ..models.load import load_vit
from ..models.planted.vit import PlantedViT
from ..models.watching import progress_bar
from .discovery import Discovery
from .registry import ALGORITHMS
from .work import counted_work

if TYPE_CHECKING:
    import pandas

LEAST_IMAGES = 4  # of each class: none is its own partner

MODELS = (
    "planted/bright-column",
    "planted/neighbour-xor:norm=none,gain=soft",
    "planted/neighbour-xor:gain=medium",
    "planted/neighbour-xor",
    "planted/neighbour-xor:trap,step",
    "planted/neighbour-xor:disguise=1",
    "planted/majority",
    "planted/digit-pairs",
)
RANKINGS: tuple[By, ...] = ("abs_mean", "mean_abs")  # those that `judge` looks at
SCHEMA = "vitcircuits.benchmark/1"


@dataclass(frozen=True)
class Row:
    """One algorithm on one model. What was not measured is None.

    Args:
        algorithm: Its registered name.
        model: The model's name, options included.
        n_edges: Edges of the graph.
        n_true: True edges.
        roc_auc: Edges ranked by the absolute value of the mean over pairs.
        roc_auc_per_pair: Ranked by the mean over pairs of absolute values.
        average_precision: By the better of the two.
        precision: At the true size; of the set as it is for an algorithm that returns a circuit.
        recall: Likewise.
        size: Edges that precision and recall are taken over.
        transmission: T of the circuit on the crossed task; of scores, of the edges at the true size.
        leakage: L, likewise.
        reproduced_variation: R^2, likewise.
        runs: Forward passes' worth of work over all pairs.
        seconds: Wall clock.
        error: Why there are no figures; empty if there are.
    """

    algorithm: str
    model: str
    n_edges: int | None = None
    n_true: int | None = None
    roc_auc: float | None = None
    roc_auc_per_pair: float | None = None
    average_precision: float | None = None
    precision: float | None = None
    recall: float | None = None
    size: int | None = None
    transmission: float | None = None
    leakage: float | None = None
    reproduced_variation: float | None = None
    runs: float | None = None
    seconds: float | None = None
    error: str = ""


def run_benchmark(
    *,
    models: Sequence[str] = MODELS,
    algorithms: Sequence[str] | None = None,
    only: Sequence[str] = (),
    n: int = 64,
    seed: int = 0,
    progress: bool | None = None,
) -> Benchmark:
    """A row for every algorithm on every model, algorithm by algorithm within a model.

    Args:
        models: Names of planted models.
        algorithms: Registered names; all by default.
        only: Patterns; each must fit a cell's algorithm or model.
        n: Discovery pairs; evaluation images of each class of the crossed task.
        seed: Draws them.
        progress: Show a bar on stderr; None where somebody watches.

    Raises:
        TaskError: The patterns fit nothing.
    """
    every = [(model, name) for model in models for name in (ALGORITHMS if algorithms is None else algorithms)]
    cells = [cell for cell in every if all(any(_fits(pattern, part) for part in cell) for pattern in only)]
    if not cells:
        raise TaskError(
            f"no algorithm or model fits {' and '.join(map(repr, only))}: the algorithms are {', '.join(ALGORITHMS)}, "
            f"the models {', '.join(models)}."
        )
    rows = Benchmark()
    tasks: dict[str, tuple[Task, Task]] = {}
    with progress_bar("benchmark", len(cells), progress, "cell") as bar:
        for model, name in cells:
            bar.set_postfix_str(f"{name} on {model}")
            rows.append(_row(model, name, tasks, n, seed))
            bar.update()
    return rows


class Benchmark(list[Row], Tabular):
    """The rows of a benchmark: algorithms on models whose circuit is known."""

    __repr__ = Tabular.__repr__

    def table(self) -> Table:
        """A row per algorithm and model."""
        why = "measured once"
        names = ("algorithm", "model", "roc_auc", "average_precision", "precision", "transmission", "runs")
        rows = []
        for row in self:
            values = [getattr(row, name) for name in names[2:]]
            cells = [Figure(value, reason=row.error if value is None else why) for value in values]
            rows.append((row.algorithm, row.model, *cells))
        return Table(names, tuple(rows))

    def frame(self) -> pandas.DataFrame:
        """A row per algorithm and model, with every field of `Row`."""
        import pandas

        return pandas.DataFrame([asdict(row) for row in self], columns=[one.name for one in fields(Row)], dtype=object)

    def record(self) -> dict[str, Any]:
        """The rows, and what their runs count."""
        said = (__doc__ or "").split("\n\n")[1].replace("\n", " ").strip()
        return plain({"schema": SCHEMA, "runs": said, "rows": list(self)}, non_finite="null")

    @drawable
    def draw(self, path: str | Path, *, title: str = "") -> Path:
        """Draws what was found, algorithm by model, to an .svg, .pdf or .png, and returns the path.

        Raises:
            FormatError: The ending is not known, or the file cannot be written.
        """
        from ..circuits.draw.heatmap import draw_grids

        names, models = (list(dict.fromkeys(getattr(row, part) for row in self)) for part in ("algorithm", "model"))
        rows = {(row.algorithm, row.model): row for row in self}

        def panel(figure: Callable[[Row], float | None]) -> np.ndarray:
            cells = [[rows.get((name, model)) for model in models] for name in names]
            values = [[None if cell is None else figure(cell) for cell in row] for row in cells]
            return np.array(values, dtype=np.float64)  # None: NaN

        panels = {
            "ROC-AUC": panel(lambda row: None if row.roc_auc is None else max(row.roc_auc, row.roc_auc_per_pair or 0)),
            "average precision": panel(lambda row: row.average_precision),
            "precision at the true size": panel(lambda row: row.precision),
            "transmission": panel(lambda row: row.transmission),
        }
        return draw_grids(panels, names, [model.removeprefix("planted/") for model in models], path)


def save_benchmark(rows: Sequence[Row], folder: str | Path) -> list[Path]:
    """Writes `benchmark.csv`, `.json`, `.svg` and `.png`, each whole or not at all, and returns their paths.

    Raises:
        FormatError: The folder cannot be written.
    """
    return Benchmark(rows).save_all(folder, "benchmark")


def _fits(pattern: str, text: str) -> bool:
    return fnmatch.fnmatch(text, pattern if "*" in pattern else f"*{pattern}*")


def _row(model: str, name: str, tasks: dict[str, tuple[Task, Task]], n: int, seed: int) -> Row:
    """A cell's figures, or what went wrong in it."""
    try:
        if model not in tasks:
            vit = _planted(model)
            crossed = planted_task(vit, n=max(n, LEAST_IMAGES), seed=seed, sides="both")
            tasks[model] = planted_task(vit, n=n, seed=seed), crossed
        return _measure(model, name, *tasks[model])
    except Exception as error:  # one cell that fails must not cost the others
        return Row(name, model, error=f"{type(error).__name__}: {error}")


def _planted(model: str) -> PlantedViT:
    vit = load_vit(model)
    if not isinstance(vit, PlantedViT):
        raise TaskError(f"{model} has no known circuit: pass a planted model, such as {MODELS[0]!r}.")
    return vit


def _measure(model: str, name: str, task: Task, crossed: Task) -> Row:
    vit = task.vit
    assert isinstance(vit, PlantedViT)
    graph, truths = compile_graph(vit), vit.minimal_circuits()
    discovery = Discovery(name)
    if discovery.finds_circuits and discovery.takes("size"):  # what prunes to a size is told the true one
        discovery = Discovery(name, size=len(truths[0]))
    start = time.perf_counter()
    found: Any = discovery.search(task, graph)
    seconds = time.perf_counter() - start
    with counted_work(task) as work:  # again, since counting takes time
        discovery.search(task, graph)
    if not isinstance(found, Scores | Circuit):
        raise TaskError(f"{name} returned a {type(found).__name__}: scores or a circuit can be compared.")
    read = judge_reading(_circuit(found, truths), crossed)
    figures: dict[str, Any] = {**vars(judge(found, truths)), **{name: one.value for name, one in read.items()}}
    sizes = {"n_edges": len(graph), "n_true": len(frozenset().union(*truths))}
    return Row(name, model, **sizes, **figures, runs=work.runs, seconds=seconds)


def _circuit(found: Scores | Circuit, truths: Sequence[frozenset[str]]) -> Circuit:
    """The circuit itself; of scores the best edges at the true size, ranked by what ranks the truth higher."""
    if isinstance(found, Circuit):
        return found
    union = frozenset().union(*truths)
    mask = truth_mask(found.graph, union)
    best: By = max(RANKINGS, key=lambda by: average_precision(found.ranking_values(by), mask))
    return found.top(len(union), by=best)


def judge_reading(circuit: Circuit, task: Task) -> dict[str, Figure]:
    """Transmission, leakage and R^2 of a circuit on a crossed task, without intervals."""
    runs = CrossedRuns.of(
        task,
        circuit.graph,
        circuit.mask,
        task.evaluation.right.under(task.ablation),
        make_baseline(task.vit, task.ablation, task.reference),
        n_bootstrap=0,
        seed=0,
        memory=DEFAULT_MEMORY,
        progress=False,
    )
    crossed = runs.crossed
    return {
        "transmission": crossed.transmission(),
        "leakage": crossed.leakage(),
        "reproduced_variation": crossed.reproduced(),
    }
