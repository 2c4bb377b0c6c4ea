"""The spread of a circuit's faithfulness over ablations and metrics (Miller et al. 2024: it can decide the verdict).

One number hides the choices behind it. Here the same circuit on the same pairs is judged under at least three ablations
and two metrics, and the smallest and the largest faithfulness stand beside the table, with intervals. The logits of a
run serve all metrics, so an ablation costs its own values and two runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...models.errors import TaskError
from ..ablation import Ablation, as_ablation
from ..baseline import DEFAULT_MEMORY, make_baseline
from ..bootstrap import Resamples
from ..circuit import Circuit
from ..faithfulness import Judged, faithfulness
from ..mask_runs import MaskRuns, run_masks
from ..metrics import Metric
from ..nodes import granularity
from ..pairs import Pairs
from ..reach import prune
from ..report import Figure, Table
from ..run import require_model
from ..task import Task

FEWEST_ABLATIONS, FEWEST_METRICS = 3, 2
DEFAULT_ABLATIONS = ("partner", "another", "mean")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Spread:
    """Faithfulness under every choice, and how far the choices lie apart.

    Args:
        cells: (ablation, metric) -> normalised faithfulness.
        lowest: The smallest over all choices.
        highest: The largest.
        granularity: `edge` or `node`.
        n_pairs: Pairs that were used.
    """

    cells: dict[tuple[str, str], Figure]
    lowest: Figure
    highest: Figure
    granularity: str
    n_pairs: int

    @property
    def table(self) -> Table:
        """A row per choice."""
        rows = tuple((ablation, metric, figure) for (ablation, metric), figure in self.cells.items())
        method = f"normalised faithfulness of the {self.granularity} circuit under each ablation and metric"
        return Table(("ablation", "metric", "faithfulness"), rows, method)

    def __str__(self) -> str:
        head = f"{self.granularity} circuit, {self.n_pairs} pairs: faithfulness from {self.lowest} to {self.highest}"
        return f"{head}\n{self.table}"

    def draw(self, path: str | Path) -> Path:
        """Draws every choice with its interval to an .svg, .pdf or .png, and returns the path.

        Raises:
            FormatError: The ending is not known, or the file cannot be written.
        """
        from ..draw.intervals import draw_spread

        return draw_spread(self.table, path, title=f"{self.granularity} circuit: faithfulness under each choice")


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
    progress: bool = False,
) -> Spread:
    """The circuit's faithfulness under every ablation and metric, with the smallest and the largest.

    Args:
        circuit: The circuit.
        task: The model, the classes and the pairs.
        ablations: At least three; `zero` leaves the data furthest, so never let it stand alone.
        metrics: At least two; the task's and `kl` by default (or `logit_difference`, `logit` where it is that).
        pairs: Pairs to judge on; `task.evaluation` by default.
        n_bootstrap: Bootstrap draws of the pairs, the same for every choice.
        seed: Draws them.
        memory: Bytes to hold at once.
        progress: Show a bar on stderr.

    Raises:
        TaskError: There are fewer than three ablations or two metrics, or one is not known.
        GraphError: The circuit belongs to a graph of another model.
    """
    require_model(task.vit, circuit.graph)
    chosen = _distinct([as_ablation(ablation) for ablation in ablations])
    judged_by = [dataclasses.replace(task.metric, kind=kind) for kind in _metrics(task.metric, metrics)]
    _require_enough(len(chosen), len(judged_by))
    used = task.evaluation if pairs is None else pairs
    resamples = Resamples.draw(len(used), n_bootstrap, seed=seed)
    judged = {}
    for ablation in chosen:
        runs = _run(circuit, task, ablation, used, memory, progress)
        judged |= {(str(ablation), metric.kind): _judged(metric, runs, resamples) for metric in judged_by}
    cells = {choice: faithfulness(one) for choice, one in judged.items()}
    lowest, highest = (_extreme(judged, resamples, name) for name in ("smallest", "largest"))
    return Spread(cells, lowest, highest, granularity(circuit), len(used))


def _distinct(ablations: list[Ablation]) -> list[Ablation]:
    return list(dict.fromkeys(ablations))


def _metrics(metric: Metric, wanted: Sequence[str]) -> list[str]:
    other = "kl" if metric.kind != "kl" else "logit_difference" if metric.foil else "logit"
    return list(dict.fromkeys(wanted or (metric.kind, other)))


def _require_enough(n_ablations: int, n_metrics: int) -> None:
    if n_ablations < FEWEST_ABLATIONS or n_metrics < FEWEST_METRICS:
        raise TaskError(
            f"a spread over {n_ablations} different ablations and {n_metrics} metrics says little: pass at least "
            f"{FEWEST_ABLATIONS} ablations, such as {DEFAULT_ABLATIONS}, and {FEWEST_METRICS} metrics, such as "
            f'("logit_difference", "kl"). For a single choice call evaluate(circuit, task, ablation=...).'
        )


def _run(circuit: Circuit, task: Task, ablation: Ablation, pairs: Pairs, memory: int, progress: bool) -> MaskRuns:
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


def _extreme(judged: dict[tuple[str, str], Judged], resamples: Resamples, name: str) -> Figure:
    """The smallest or largest faithfulness; its interval is that of the extreme in each draw of the pairs."""
    known = {choice: one for choice, one in judged.items() if not one.undefined}
    method = f"{name} faithfulness over {len(known)} of {len(judged)} choices of ablation and metric"
    if not known:
        return Figure(None, "share", reason="faithfulness is undefined under every choice", method=method)
    fold = {"smallest": np.min, "largest": np.max}[name]
    values = np.array([one.values[0] for one in known.values()])
    drawn = np.stack([one.drawn[:, 0] for one in known.values()], -1)
    return resamples.figure(float(fold(values)), fold(drawn, axis=-1), "share", method)
