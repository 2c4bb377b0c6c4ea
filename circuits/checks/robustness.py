"""The spread of a circuit's faithfulness over ablations and metrics (Miller et al. 2024: it can decide the verdict).

One number hides the choices behind it. Here the same circuit on the same pairs is judged under at least three ablations
and two metrics, and the smallest and the largest faithfulness stand beside the table, with intervals. The logits of a
run serve all metrics, so an ablation costs its own values and two runs.

On a crossed task the cells hold transmission, each on the pairs that its ablation takes (`Pairs.under`). Metrics that
compare with the model, such as KL, have no transmission: being as close to the model on either class is no contrast.
The circuit's own distance stands beside the cells, and the extremes are taken without it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...models.errors import TaskError
from ..ablation import Ablation, as_ablation
from ..baseline import DEFAULT_MEMORY, make_baseline
from ..circuit import Circuit
from ..judging.bootstrap import Resamples
from ..judging.faithfulness import Judged, faithfulness
from ..judging.transmission import Crossed
from ..nodes import granularity
from ..reach import prune
from ..report import Figure, Table, Tabular
from ..run import MaskRuns, require_model, run_masks
from ..shown import drawable
from ..tasks.metrics import RELATIVE, UNITS, Metric
from ..tasks.task import Pairs, Task
from .mask_evaluator import Findings, MaskEvaluator

FEWEST_ABLATIONS, FEWEST_METRICS = 3, 2
DEFAULT_ABLATIONS = ("partner", "another", "mean")

_ENDS = ("smallest", "largest")

Choice = tuple[str, str]
"""An ablation and a metric."""
Floats = NDArray[np.float64]


@dataclass(frozen=True, repr=False)
class Robustness(Tabular):
    """The share of the behaviour kept under every choice, and how far the choices lie apart.

    Args:
        cells: (ablation, metric) -> normalised faithfulness; on a crossed task transmission.
        lowest: The smallest over all choices.
        highest: The largest.
        granularity: `edge` or `node`.
        n_pairs: Pairs that were used.
        share: What the cells hold, `faithfulness` or `transmission`.
        distances: (ablation, metric) -> how far the circuit is from the model, 0 at best, of a crossed task's metrics
            that compare with the model.
    """

    cells: dict[Choice, Figure]
    lowest: Figure
    highest: Figure
    granularity: str
    n_pairs: int
    share: str = "faithfulness"
    distances: dict[Choice, Figure] = field(default_factory=dict)

    def table(self) -> Table:
        """A row per choice."""
        kind = "normalised faithfulness" if self.share == "faithfulness" else self.share
        method = f"{kind} of the {self.granularity} circuit under each ablation and metric"
        return Table(("ablation", "metric", self.share), _rows(self.cells), method)

    @property
    def distance_table(self) -> Table:
        """A row per ablation and metric that compares with the model."""
        method = f"mean distance of the {self.granularity} circuit to the model, every cell counting alike; 0 is best"
        return Table(("ablation", "metric", "distance"), _rows(self.distances), method)

    @property
    def headline(self) -> str:
        """The extremes, and what they are of."""
        return f"{self.granularity} circuit, {self.n_pairs} pairs: {self.share} from {self.lowest} to {self.highest}"

    def __str__(self) -> str:
        return super().__str__() + (f"\n{self.distance_table}" if self.distances else "")

    @drawable
    def draw(self, path: str | Path, *, title: str = "") -> Path:
        """Draws every choice with its interval to an .svg, .pdf or .png, and returns the path.

        Raises:
            FormatError: The ending is not known, or the file cannot be written.
        """
        return super().draw(path, title=title or f"{self.granularity} circuit: {self.share} under each choice")


def _rows(figures: dict[Choice, Figure]) -> tuple[tuple[str | Figure, ...], ...]:
    return tuple((ablation, metric, figure) for (ablation, metric), figure in figures.items())


def evaluate_spread(
    circuit: Circuit,
    task: Task,
    *,
    ablations: Sequence[Ablation | str] = DEFAULT_ABLATIONS,
    metrics: Sequence[str] = (),
    pairs: Pairs | None = None,
    n_bootstrap: int = 1000,
    seed: int = 0,
    memory: int = DEFAULT_MEMORY,
    progress: bool | None = None,
) -> Robustness:
    """What the circuit keeps under every ablation and metric, with the smallest and the largest.

    Args:
        circuit: The circuit.
        task: The model, the classes and the pairs.
        ablations: At least three; `zero` leaves the data furthest, so never let it stand alone.
        metrics: At least two; the task's and `kl` by default (or `logit_difference`, `logit` where it is that). On a
            crossed task the task's own and `probability`, and `kl` beside them.
        pairs: Pairs to judge on; `task.evaluation` by default. Of a crossed task with all their partners.
        n_bootstrap: Bootstrap draws of the pairs, of a crossed task of the images.
        seed: Draws them.
        memory: Bytes to hold at once.
        progress: Show a bar on stderr; None where somebody watches.

    Raises:
        TaskError: There are fewer than three ablations or two metrics, or one is not known.
        GraphError: The circuit belongs to a graph of another model.
    """
    require_model(task.vit, circuit.graph)
    chosen = list(dict.fromkeys(map(as_ablation, ablations)))
    used = task.evaluation if pairs is None else pairs
    sided = used.design is not None and used.design.sided
    kinds = list(dict.fromkeys(metrics or (_sided_metrics if sided else _metrics)(task.metric)))
    judged_by = [dataclasses.replace(task.metric, kind=kind) for kind in kinds]
    _require_enough(len(chosen), len(judged_by))
    judged, fitting = {}, {}
    for ablation in chosen:
        fitting[str(ablation)] = some = used.under(ablation)
        resamples = Resamples.of(some, n_bootstrap, seed=seed)
        runs = _run(circuit, task, ablation, some, memory, progress)
        judged |= {(str(ablation), metric.kind): _judged(metric, runs, resamples) for metric in judged_by}
    if sided:
        return _sided(circuit, judged, {str(ablation): ablation for ablation in chosen}, fitting)
    cells = {choice: faithfulness(one) for choice, one in judged.items()}
    lowest, highest = (_extreme(judged, next(iter(judged.values())).resamples, name) for name in _ENDS)
    return Robustness(cells, lowest, highest, granularity(circuit), len(used))


def _sided(
    circuit: Circuit, judged: dict[Choice, Judged], ablations: dict[str, Ablation], pairs: dict[str, Pairs]
) -> Robustness:
    """The spread of a crossed task."""
    cells, distances = {}, {}
    for choice, one in judged.items():
        name, kind = choice
        if kind in RELATIVE:
            distances[choice] = one.resamples.mean(-one.outputs[0], UNITS[kind], f"mean {kind} to the model, 0 is best")
        else:
            cells[choice] = _transmission(pairs[name], one, ablations[name])
    lowest, highest = (_end(cells, name) for name in _ENDS)
    n_pairs = max(map(len, pairs.values()))
    return Robustness(cells, lowest, highest, granularity(circuit), n_pairs, "transmission", distances)


def _transmission(pairs: Pairs, judged: Judged, ablation: Ablation) -> Figure:
    assert pairs.design is not None
    outputs, interchange = judged.outputs, ablation.kind == "partner"
    return Crossed(pairs.design, outputs[0], judged.full, outputs[1], judged.resamples, interchange).headline()


def _sided_metrics(metric: Metric) -> tuple[str, ...]:
    """Of a crossed task. A contrast between classes of how far one is from the model says nothing of either."""
    own = metric.response.kind
    other = "probability" if own != "probability" else "logit_difference" if metric.foil else "logit"
    return own, other, "kl"


def _metrics(metric: Metric) -> tuple[str, ...]:
    return metric.kind, "kl" if metric.kind != "kl" else "logit_difference" if metric.foil else "logit"


def _require_enough(n_ablations: int, n_metrics: int) -> None:
    if n_ablations < FEWEST_ABLATIONS or n_metrics < FEWEST_METRICS:
        raise TaskError(
            f"a spread over {n_ablations} different ablations and {n_metrics} metrics says little: pass at least "
            f"{FEWEST_ABLATIONS} ablations, such as {DEFAULT_ABLATIONS}, and {FEWEST_METRICS} metrics, such as "
            f'("logit_difference", "kl"). For a single choice call evaluate(circuit, task, ablation=...).'
        )


def _run(
    circuit: Circuit, task: Task, ablation: Ablation, pairs: Pairs, memory: int, progress: bool | None
) -> MaskRuns:
    """The circuit and no edge, with their logits."""
    own = prune(circuit.graph, circuit.mask)
    baseline = make_baseline(task.vit, ablation, task.reference, memory=memory)
    return run_masks(
        task.vit,
        circuit.graph,
        [own, np.zeros_like(own)],
        task.metric,
        pairs,
        baseline,
        n_logits=2,
        memory=memory,
        progress=progress,
        label=f"spread, {ablation}",
    )


def _judged(metric: Metric, runs: MaskRuns, resamples: Resamples) -> Judged:
    """Outputs of a run under another metric."""
    clean = runs.clean_logits
    outputs, full = metric(runs.logits, clean.expand_as(runs.logits)), metric(clean, clean)
    return Judged(outputs.numpy().astype(float), full.numpy().astype(float), resamples)


def _end(figures: dict[Choice, Figure], name: str) -> Figure:
    """The smallest or largest transmission, with the interval of the choice that has it.

    Ablations without partners take each image once, so draws of the images don't fit those of the others.
    """
    known = {choice: figure for choice, figure in figures.items() if figure.value is not None}
    method = f"{name} transmission over {len(known)} of {len(figures)} choices of ablation and metric"
    if not known:
        return Figure(None, "share", reason="transmission is undefined under every choice", method=method)
    fold = {"smallest": min, "largest": max}[name]
    choice = fold(known, key=lambda choice: known[choice].value or 0.0)
    method += f": {' and '.join(choice)}, with the interval of that choice alone"
    return dataclasses.replace(known[choice], method=method)


def _extreme(judged: dict[Choice, Judged], resamples: Resamples, name: str) -> Figure:
    """The smallest or largest faithfulness; its interval is that of the extreme in each draw of the pairs."""
    known = {choice: one for choice, one in judged.items() if not one.undefined}
    method = f"{name} faithfulness over {len(known)} of {len(judged)} choices of ablation and metric"
    if not known:
        return Figure(None, "share", reason="faithfulness is undefined under every choice", method=method)
    fold = {"smallest": np.min, "largest": np.max}[name]
    values = np.array([one.values[0] for one in known.values()])
    drawn = np.stack([one.drawn[:, 0] for one in known.values()], -1)
    return resamples.figure(float(fold(values)), fold(drawn, axis=-1), "share", method)


def check_spread(evaluator: MaskEvaluator) -> Findings:
    """The lowest and the highest share over ablations and metrics, with the tables behind them."""
    settings, n = evaluator.settings, len(evaluator.resamples.weights)
    found = evaluate_spread(
        evaluator.circuit,
        evaluator.task,
        ablations=settings.ablations,
        metrics=settings.metrics,
        pairs=evaluator.every_partner or evaluator.pairs,
        n_bootstrap=n,
        seed=evaluator.seed,
        memory=evaluator.memory,
        progress=evaluator.progress,
    )
    figures = {f"lowest_{found.share}": found.lowest, f"highest_{found.share}": found.highest}
    tables = {"spread": found.table()}
    return Findings(figures, tables=tables | ({"spread_distances": found.distance_table} if found.distances else {}))
