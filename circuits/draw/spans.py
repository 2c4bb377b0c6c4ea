"""Share of a head's variance that its texts explain, between what random directions do and what any could."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...models.files import write_bytes_atomic
from ..report import Figure
from .plots import FRAME, INK, LABEL, plot_kind, plotted
from .words import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

_BLUE, _GREY = "#2b6cb0", "#9ca3af"
_SAID = 3  # texts that are written beside a row
_LONGEST = 30  # letters of each


@dataclass(frozen=True, eq=False)
class SpanRow:
    """One head.

    Args:
        head: Its name.
        explained: What its texts explain.
        random: Where random directions lie, from and to; None where there were none.
        principal: What as many principal components explain.
        texts: The texts, the first taken first.
    """

    head: str
    explained: Figure
    random: tuple[float, float] | None
    principal: float
    texts: tuple[str, ...]


def draw_spans(rows: Sequence[SpanRow], path: str | Path, *, title: str = "") -> Path:
    """Draws one row per head, the first at the bottom, to an .svg, .pdf or .png, and returns the path.

    Raises:
        FormatError: The ending is not known, or the file cannot be written.
    """
    kind = plot_kind(path, "texts of heads")

    def fill(drawing: Drawing) -> None:
        axes = drawing.add_subplot()
        for place, row in enumerate(rows):
            _row(axes, place, row)
        _dress(axes, [row.head for row in rows])
        drawing.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold", color=INK, parse_math=False)
        drawing.legend(
            *axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=9
        )

    return write_bytes_atomic(path, plotted(kind, (9.6, 1.6 + 0.28 * max(len(rows), 1)), fill))


def _row(axes: Axes, place: int, row: SpanRow) -> None:
    first = place == 0
    if row.random is not None:
        axes.plot(row.random, [place, place], color=_GREY, linewidth=7, solid_capstyle="butt", alpha=0.55,
                  label="random directions" if first else None)  # fmt: skip
    axes.plot([row.principal], [place], "|", color=INK, markersize=11, markeredgewidth=1.4,
              label="principal components" if first else None)  # fmt: skip
    if row.explained.low is not None and row.explained.high is not None:
        axes.plot([row.explained.low, row.explained.high], [place, place], color=_BLUE, linewidth=2.2, alpha=0.6)
    value = np.nan if row.explained.value is None else row.explained.value
    axes.plot([value], [place], "o", color=_BLUE, markersize=5, label="texts" if first else None)
    said = "; ".join(shortened(text, _LONGEST) for text in row.texts[:_SAID])
    axes.annotate(
        said, (1, place), xycoords=("axes fraction", "data"), xytext=(8, 0), textcoords="offset points", va="center",
        fontsize=8, color=LABEL, annotation_clip=False, parse_math=False,
    )  # fmt: skip


def _dress(axes: Axes, heads: Sequence[str]) -> None:
    axes.set_yticks(range(len(heads)), list(heads))
    axes.set_ylim(-0.6, max(len(heads), 1) - 0.4)
    axes.set_xlim(0, 1.02)
    axes.set_xlabel("share of the variance over images that is explained", color=LABEL)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FRAME)
    axes.tick_params(color=FRAME, labelcolor=LABEL, labelsize=9)
