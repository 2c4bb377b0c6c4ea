"""Clean images beside their partners, so that one sees what a removed edge carries.

Beside a partner that is the clean image changed at some places stands what changed: the changed pixels in full colour
and the rest pale, the patches that hold a changed pixel outlined. It is drawn once for partners that change the same
patches, and not for those that change all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..words import shortened
from .style import FRAME, INK, LABEL, ORANGE, draw_plot, head, legible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..figure_data import PartnerExhibit

_SIDE = 1.5  # inches of a picture


@dataclass(frozen=True, eq=False)
class _Column:
    """One column of pictures.

    Args:
        title: Stands above.
        images: Shape (image, height, width, channel).
        captions: Under each picture.
        tokens: Patches to outline, shape (image, row, column).
    """

    title: str
    images: NDArray[np.floating]
    captions: tuple[str, ...]
    tokens: NDArray[np.bool_] | None = None


def draw_partners(exhibit: PartnerExhibit, path: str | Path, *, title: str = "") -> Path:
    """Draws a row for each clean image to an .svg, .pdf or .png, and returns the path.

    Args:
        exhibit: What `gather_partners` found.
        path: Where to.
        title: Stands above.

    Raises:
        FormatError: The ending is not known, or the file cannot be written.
    """
    columns = _columns(exhibit)
    n_rows, (height, width) = len(exhibit.clean), exhibit.clean.shape[1:3]

    def fill(figure: Figure) -> None:
        every: Any = figure.subplots(n_rows, len(columns), squeeze=False)
        for row, place in np.ndindex(every.shape):
            _picture(every[row, place], columns[place], row)
        if title:
            head(figure, title)

    size = len(columns) * (_SIDE * width / height + 0.1), n_rows * (_SIDE + 0.17) + 0.35 + 0.35 * bool(title)
    return draw_plot(path, "partners", size, fill)


def _columns(exhibit: PartnerExhibit) -> list[_Column]:
    columns = [_Column("clean", exhibit.clean, exhibit.captions["clean"])]
    last: NDArray[np.bool_] | None = None
    for name, images in exhibit.partners.items():
        columns.append(_Column(name, images, exhibit.captions[name]))
        if name not in exhibit.changed:
            continue
        changed, tokens = exhibit.changed[name], exhibit.tokens[name]
        if not tokens.all() and not (last is not None and np.array_equal(tokens, last)):
            share = [f"{some.sum()} of {some.size} patches" for some in tokens]
            columns.append(_Column("changed", _paled(exhibit.clean, changed), tuple(share), tokens))
            last = tokens
    return columns


def _paled(clean: NDArray[np.floating], changed: NDArray[np.bool_]) -> NDArray[np.floating]:
    return np.where(changed[..., None], clean, 0.25 * clean + 0.75 * 0.9)


def _picture(axes: Axes, column: _Column, row: int) -> None:
    image = np.clip(column.images[row], 0, 1)
    image = np.repeat(image, 3, -1) if image.shape[-1] == 1 else image
    axes.imshow(image, interpolation="nearest")
    if column.tokens is not None:
        _outline(axes, column.tokens[row], image.shape[0], image.shape[1])
    if row == 0:
        axes.set_title(shortened(column.title, 22), fontsize=9, color=INK, parse_math=False)
    caption = legible(shortened(column.captions[row], 24))
    axes.set_xlabel(caption, fontsize=7, color=LABEL, labelpad=2, parse_math=False)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color(FRAME)
    axes.spines[:].set_linewidth(0.4)


def _outline(axes: Axes, tokens: NDArray[np.bool_], height: int, width: int) -> None:
    """The border of the marked patches."""
    tall, wide = height / tokens.shape[0], width / tokens.shape[1]
    padded = np.pad(tokens, 1)
    for row, column in np.argwhere(padded[1:, :] != padded[:-1, :]).tolist():  # a line between two rows
        left, y = (column - 1) * wide - 0.5, row * tall - 0.5
        axes.plot([left, left + wide], [y, y], color=ORANGE, linewidth=0.9, solid_capstyle="projecting")
    for row, column in np.argwhere(padded[:, 1:] != padded[:, :-1]).tolist():
        top, x = (row - 1) * tall - 0.5, column * wide - 0.5
        axes.plot([x, x], [top, top + tall], color=ORANGE, linewidth=0.9, solid_capstyle="projecting")
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylim(height - 0.5, -0.5)
