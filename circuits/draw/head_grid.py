"""Every head's map over one image as a still picture: layers downwards, heads across, each by its own largest value."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .images import attention_image
from .style import LABEL, draw_plot, head

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIDE = 0.9  # inches of a map
_ACROSS = 12  # maps in a row that belong to no head


def draw_grid(
    panels: Mapping[str, NDArray[np.floating]], path: str | Path, *, image: NDArray[np.floating] | None, title: str
) -> Path:
    """Draws maps to an .svg, .pdf or .png, and returns the path.

    Args:
        panels: `a3.h1` (or any name) -> heights over the patches, (row, column).
        path: Where to.
        image: The picture beneath, (height, width, channel) in [0, 1]; None for the maps alone.
        title: Stands above.

    Raises:
        FormatError: The ending is not known, or the file cannot be written.
    """
    rows = in_rows(panels)
    across, (high, wide) = max(map(len, rows)), next(iter(panels.values())).shape
    width = across * _SIDE + 0.1
    lines = textwrap.wrap(title, max(16, int(width * 11)), max_lines=3)
    ratio = high / wide if image is None else image.shape[0] / image.shape[1]

    def fill(figure: Figure) -> None:
        every: Any = figure.subplots(len(rows), across, squeeze=False)
        for row, place in np.ndindex(every.shape):
            axes = every[row, place]
            axes.set_axis_off()
            if place < len(rows[row]):
                name = rows[row][place]
                values = panels[name]
                axes.imshow(attention_image(np.zeros((high, wide, 1)) if image is None else image, values))
                axes.set_title(name, fontsize=6, color=LABEL, pad=1.5, parse_math=False)
        head(figure, "\n".join(lines))

    height = len(rows) * (_SIDE * ratio + 0.16) + 0.2 + 0.2 * len(lines)
    return draw_plot(path, "heads", (width, height), fill)


def in_rows(names: Mapping[str, Any]) -> list[list[str]]:
    """Names of heads by layer; what belongs to no head in rows of equal length."""
    rows: dict[str, list[str]] = {}
    for at, name in enumerate(names):
        layer, dot, _ = name.partition(".")
        rows.setdefault(layer if dot else str(at // _ACROSS), []).append(name)
    return list(rows.values())
