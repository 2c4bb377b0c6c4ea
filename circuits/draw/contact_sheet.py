"""Contact sheets: a small card for each head or neuron, with maps, pictures and bars beside one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .style import BLUE, FRAME, GREY, INK, LABEL, ORANGE, TITLE, draw_plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIDE, _GAP, _WORDS, _TOP = 0.82, 0.07, 0.36, 0.62  # inches
_ACROSS = 13.0  # the widest that a sheet becomes


@dataclass(frozen=True, eq=False)
class SheetCard:
    """What is drawn of one thing.

    Args:
        title: Its name.
        note: A line under it.
        maps: Numbers over a grid, each with its own scale from 0, or about 0 where some are below (blue above, orange
            below); None leaves a place empty.
        pictures: Pixels in [0, 1], (height, width, channel) with 1 or 3 channels.
        boxes: What is outlined in each picture: left, top, width and height as shares.
        strong: Whether its title is in bold.
        bars: Counts, (row, bar), stacked as square roots of their sums, where there are any; in front of the pictures.
    """

    title: str
    note: str
    maps: Sequence[NDArray[np.float64] | None]
    pictures: Sequence[NDArray[np.float32]]
    boxes: Sequence[tuple[float, float, float, float]]
    strong: bool = False
    bars: NDArray[np.float64] | None = None


def draw_contact_sheet(
    cards: Sequence[SheetCard], path: str | Path, *, headings: Sequence[str] = (), title: str = "", most: int = 4
) -> Path:
    """Draws cards beside and below one another to an .svg, .pdf or .png, and returns the path.

    Args:
        cards: What to draw, in rows.
        path: Where to.
        headings: What each map is, what the bars are where cards have them, and what the pictures are.
        title: Stands above.
        most: Pictures of each card that are drawn.

    Raises:
        FormatError: The ending is not known, or the file cannot be written.
    """
    n_places = max((len(c.maps) + (c.bars is not None) + min(len(c.pictures), most) for c in cards), default=1)
    wide, high = n_places * (_SIDE + _GAP) + 0.18, _SIDE + _WORDS + 0.12
    columns = max(1, min(len(cards), int(_ACROSS / wide)))
    rows = -(-len(cards) // columns)
    size = columns * wide + 0.1, rows * high + _TOP

    def fill(figure: Figure) -> None:
        figure.set_layout_engine("none")
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, size[0]), ylim=(size[1], 0))
        axes.set_axis_off()
        fits = min(1.0, (size[0] - 0.2) / (0.092 * max(len(title), 1)))  # inches of a letter in bold
        axes.text(0.12, 0.2, title, va="center", **{**TITLE, "fontsize": TITLE["fontsize"] * fits})
        for place in range(min(columns, len(cards))):
            _write_headings(axes, cards[0], headings, 0.12 + place * wide)
        for place, card in enumerate(cards):
            row, column = divmod(place, columns)
            _draw_card(axes, card, 0.12 + column * wide, _TOP + row * high, most)

    return draw_plot(path, "a contact sheet", size, fill)


def _write_headings(axes: Axes, card: SheetCard, headings: Sequence[str], x: float) -> None:
    for place, words in enumerate(headings):
        axes.text(x + place * (_SIDE + _GAP), _TOP - 0.13, words, fontsize=6.5, color=FRAME, parse_math=False)


def _draw_card(axes: Axes, card: SheetCard, x: float, y: float, most: int) -> None:
    weight = "bold" if card.strong else "normal"
    axes.text(x, y + 0.1, card.title, fontsize=8, color=INK, weight=weight, va="center", parse_math=False)
    axes.text(x, y + 0.25, card.note, fontsize=6.5, color=LABEL, va="center", parse_math=False)
    y += _WORDS
    for values in card.maps:
        if values is not None:
            _draw_map(axes, values, x, y)
        x += _SIDE + _GAP
    if card.bars is not None:
        _draw_bars(axes, card.bars, x, y)
        x += _SIDE + _GAP
    for picture, box in list(zip(card.pictures, card.boxes, strict=True))[:most]:
        _draw_picture(axes, picture, box, x, y)
        x += _SIDE + _GAP


def _draw_map(axes: Axes, values: NDArray[np.float64], x: float, y: float) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    rows, columns = values.shape
    side = _SIDE / max(rows, columns)
    signed, largest = bool((values < 0).any()), float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
    colours = LinearSegmentedColormap.from_list("signed", [ORANGE, "#ffffff", BLUE]) if signed else "magma"
    place = (x, x + columns * side, y + rows * side, y)
    axes.imshow(values, colours, vmin=-largest * signed, vmax=largest, extent=place, aspect="auto")


def _draw_bars(axes: Axes, counts: NDArray[np.float64], x: float, y: float) -> None:
    step = _SIDE / counts.shape[1]
    places = x + step * (np.arange(counts.shape[1]) + 0.5)
    edges = np.sqrt(np.vstack([np.zeros(counts.shape[1]), counts.cumsum(0)]))
    edges *= _SIDE / (edges.max() or 1.0)
    for low, high, colour in zip(edges, edges[1:], (BLUE, GREY), strict=False):
        axes.bar(places, low - high, step * 0.9, bottom=y + _SIDE - low, color=colour)
    axes.plot([x, x + _SIDE], [y + _SIDE, y + _SIDE], color=FRAME, linewidth=0.5)


def _draw_picture(
    axes: Axes, picture: NDArray[np.float32], box: tuple[float, float, float, float], x: float, y: float
) -> None:
    from matplotlib.patches import Rectangle

    height, width = picture.shape[:2]
    side = _SIDE / max(height, width)
    wide, high = width * side, height * side
    shown = picture[..., 0] if picture.shape[-1] == 1 else picture
    axes.imshow(shown, cmap="gray", vmin=0, vmax=1, extent=(x, x + wide, y + high, y), aspect="auto")
    left, top, across, down = box
    place = (x + left * wide, y + top * high)
    axes.add_patch(Rectangle(place, across * wide, down * high, fill=False, edgecolor=ORANGE, linewidth=1.1))
