"""How a training went: loss, accuracy and learning rate by step, as numbers (CSV) and as a picture (SVG)."""

from __future__ import annotations

import csv
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

ROWS = 200  # so many points at most, which are enough for a curve
CSV_FILE, SVG_FILE = "training.csv", "training.svg"


@dataclass(frozen=True)
class CurveRow:
    """What stands in one line of `training.csv`; what was not measured is empty.

    Args:
        step: Updates so far.
        epoch: Passes over the training split so far.
        learning_rate: At the last update.
        loss: Mean over the batches since the line before, in nats, as it is trained (augmented, smoothed).
        train_accuracy: Mean over the same batches.
        test_accuracy: Of the weights as they are stored, at checkpoints and at the end.
    """

    step: int
    epoch: float
    learning_rate: float | None = None
    loss: float | None = None
    train_accuracy: float | None = None
    test_accuracy: float | None = None


@dataclass
class Curves:
    """Collects what `training.csv` will hold.

    Args:
        steps: Updates in all.
        steps_per_epoch: Updates in one pass over the training split.
        rows: What has been collected.
    """

    steps: int
    steps_per_epoch: int
    rows: list[CurveRow] = field(default_factory=list)
    _pending: list[tuple[float, float, float]] = field(default_factory=list)

    def update(self, step: int, *, loss: float, accuracy: float, learning_rate: float) -> None:
        """After an update; `step` counts from 1."""
        self._pending.append((loss, accuracy, learning_rate))
        if step % math.ceil(self.steps / ROWS) == 0:
            self._close(step, None)

    def tested(self, step: int, accuracy: float) -> None:
        """After a look at the test split."""
        if self.rows and self.rows[-1].step == step:
            self.rows[-1] = CurveRow(**{**asdict(self.rows[-1]), "test_accuracy": accuracy})
        else:
            self._close(step, accuracy)

    def write(self, folder: Path, title: str) -> None:
        """Write `training.csv` and `training.svg` into the folder."""
        with (folder / CSV_FILE).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [f.name for f in fields(CurveRow)], lineterminator="\n")
            writer.writeheader()
            writer.writerows({name: _text(value) for name, value in asdict(row).items()} for row in self.rows)
        draw_curves(self.rows, folder / SVG_FILE, title)

    def _close(self, step: int, test: float | None) -> None:
        epoch = step / self.steps_per_epoch
        if not self._pending:
            self.rows.append(CurveRow(step, epoch, test_accuracy=test))
            return
        losses, accuracies, rates = zip(*self._pending, strict=True)
        n = len(self._pending)
        self.rows.append(CurveRow(step, epoch, rates[-1], sum(losses) / n, sum(accuracies) / n, test))
        self._pending.clear()


def draw_curves(rows: list[CurveRow], path: Path, title: str) -> None:
    """Write a picture of the loss above that of the accuracies; the same rows give the same bytes."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # without a salt the ids in the file are drawn anew each time
    with rc_context({"svg.hashsalt": "vitcircuits", "font.size": 9, "axes.spines.top": False}):
        figure = Figure(figsize=(6.4, 4.8), layout="constrained")
        FigureCanvasSVG(figure)
        above, below = figure.subplots(2, 1, sharex=True)
        _draw_loss(above, rows)
        _draw_accuracy(below, rows)
        above.set_title(title, loc="left")
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": "vitcircuits"})


def _draw_loss(axes: Any, rows: list[CurveRow]) -> None:
    trained = [row for row in rows if row.loss is not None]
    steps = [row.step for row in trained]
    axes.plot(steps, [row.loss for row in trained], color="#20639b", linewidth=1.2)
    axes.set_ylabel("loss (nats)")
    axes.set_ylim(bottom=0)
    axes.spines["top"].set_visible(False)
    rate = axes.twinx()
    rate.plot(steps, [row.learning_rate for row in trained], color="#999999", linewidth=0.9, linestyle=":")
    rate.set_ylabel("learning rate (dotted)", color="#777777")
    rate.set_ylim(bottom=0)


def _draw_accuracy(axes: Any, rows: list[CurveRow]) -> None:
    trained = [row for row in rows if row.train_accuracy is not None]
    tested = [row for row in rows if row.test_accuracy is not None]
    axes.plot([row.step for row in trained], [row.train_accuracy for row in trained], color="#20639b", linewidth=1.2)
    style = {"color": "#d1495b", "marker": "o", "markersize": 4, "linewidth": 0.9}
    axes.plot([row.step for row in tested], [row.test_accuracy for row in tested], **style)
    axes.legend(["training batches", "test split"], loc="lower right", frameon=False)
    axes.set_ylabel("accuracy")
    axes.set_xlabel("step")
    axes.set_ylim(0, 1.02)
    axes.spines["right"].set_visible(False)


def _text(value: float | int | None) -> str:
    return "" if value is None else f"{value:.6g}"
