"""Effects of places on the image, drawn where they are: patches over the photograph, tables by token as small maps;
and what flows between them.

Colours are those of heat maps: blue helps, orange hurts, symmetrical about zero. Over an image, in grey, the colour is
the denser the larger the effect, and patches that were not measured stay without any.

Flows between token groups are drawn layer by layer, in lanes that go upwards as in the pictures of circuits: bands as
wide as what they carry (Sankey 1898). One scale serves all bands, and the widest say their number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..words import shortened
from .heatmap import Heatmap, dress_bar, effect_colours, ends_of, fill_grids, size_of, write_title
from .style import BLUE, FRAME, GREY, INK, LABEL, ORANGE, TITLE, draw_plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

    from ..patch_effects import PatchEffects

MOST_MAPS = 150
"""Of more layers or heads, those with the largest effects are drawn."""
_SIDE = 1.9  # inches of a picture
_MAP, _WIDE = 1.15, 12.0  # inches of a map, and of all maps of a row
_IN_A_ROW = 5  # maps of layers
_PATCH = re.compile(r"r(\d+)c(\d+)")


def places_of(tokens: Sequence[str]) -> dict[int, tuple[int, int]]:
    """Number of a token -> its row and column on the image, by its name; empty if no token has a place of its own."""
    found = {at: _PATCH.fullmatch(name) for at, name in enumerate(tokens)}
    return {at: (int(match[1]), int(match[2])) for at, match in found.items() if match is not None}


def effect_image(image: NDArray[np.floating], effects: NDArray[np.floating], largest: float) -> NDArray[np.float64]:
    """The image in grey under signed heat, shape (height, width, 3).

    Args:
        image: In [0, 1], shape (height, width, channel).
        effects: One number per place, shape (row, column); NaN leaves the place without heat.
        largest: The absolute value that gets the full colour.
    """
    rows, columns = effects.shape
    scale = max(1, -(-8 * rows // image.shape[0]), -(-8 * columns // image.shape[1]))
    grey = np.repeat(np.repeat(np.nan_to_num(image).mean(-1), scale, 0), scale, 1)
    row, column = (np.arange(n) * cells // n for n, cells in zip(grey.shape, (rows, columns), strict=True))
    heat = np.clip(np.nan_to_num(effects) / largest, -1, 1)[row][:, column][..., None]
    base = (0.35 + 0.55 * grey)[..., None] * np.ones(3)
    colour = np.where(heat > 0, _rgb(BLUE), _rgb(ORANGE))
    return base + 0.8 * np.abs(heat) * (colour - base)


def effect_map(effects: NDArray[np.floating], largest: float) -> NDArray[np.float64]:
    """The same heat over white, a pixel for each place, shape (row, column, 3)."""
    return np.asarray(effect_colours()(np.ma.masked_invalid(effects / largest / 2 + 0.5)))[..., :3]


def _rgb(colour: str) -> NDArray[np.float64]:
    return np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])


def draw_patch_effects(effects: PatchEffects, path: str | Path, *, show: str, title: str, images: int) -> Path:
    """Draws the mean over the pairs and single pairs, circuit beside full model; see `PatchEffects.draw`.

    Raises:
        TaskError: `show` is not known.
        FormatError: The ending is not known, or the file cannot be written.
    """
    subjects, shown = effects.subjects, min(max(images, 0), effects.n_pairs)
    singles = [effects.of_pairs([pair]) for pair in range(shown)]
    height, width = effects.images.shape[1:3]
    across = _SIDE * width / height
    size = max((1 + len(subjects)) * (across + 0.1) + 1.1, 5.2), (1 + shown) * (_SIDE + 0.12) + 0.75

    def fill(figure: Figure) -> None:
        places: Any = figure.subplots(1 + shown, 1 + len(subjects), squeeze=False)
        _effects_row(figure, places[0], effects, None, show)
        for row, single in zip(places[1:], singles, strict=True):
            _effects_row(figure, row, single, single.images[0], show)
        for axes, said in zip(places[0], ("clean image", *(one.subject for one in subjects)), strict=True):
            axes.set_title(said, fontsize=10, color=INK, parse_math=False)
        said = f"patches of the image, {effects.direction}, {effects.n_pairs} pairs, ablation {effects.ablation}"
        write_title(figure, *(shortened(one, int(size[0] / inches)) for one, inches in ((title, 0.096), (said, 0.074))))

    return draw_plot(path, "patch effects", size, fill)


def _effects_row(
    figure: Figure, places: Sequence[Axes], effects: PatchEffects, image: NDArray[np.floating] | None, show: str
) -> None:
    """A row of pictures: the image, then each subject's effects over it; over nothing where there is no image."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    values = [one.shown(show) for one in effects.subjects]
    lowest, largest = ends_of(np.stack(values), share=show == "flips")
    base = np.ones_like(effects.images[0]) if image is None else image
    height, width = effects.images.shape[1:3]
    drawn = [np.repeat(base, 3, -1) if base.shape[-1] == 1 else base]
    drawn += [effect_map(one, largest) if image is None else effect_image(image, one, largest) for one in values]
    for axes, picture in zip(places, drawn, strict=True):
        axes.imshow(np.clip(picture, 0, 1), interpolation="nearest", extent=(0, width, height, 0))
        _bare(axes)
    if image is None:
        middle: dict[str, Any] = {"transform": places[0].transAxes, "ha": "center", "va": "center"}
        places[0].text(0.5, 0.5, f"mean over\n{effects.n_pairs} pairs", fontsize=10, color=LABEL, **middle)
        places[0].spines[:].set_visible(False)
    scale = ScalarMappable(Normalize(-largest, largest), effect_colours())
    bar = figure.colorbar(scale, ax=list(places), fraction=0.035, pad=0.015, aspect=14)
    dress_bar(bar, (lowest, largest), effects.unit if show == "effect" else "share", share=show == "flips")


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color(FRAME)
    axes.spines[:].set_linewidth(0.4)


def draw_token_maps(
    values: NDArray[np.float64],
    places: Mapping[int, tuple[int, int]],
    heat: Heatmap,
    others: Heatmap | None,
    path: str | Path,
    *,
    heads: bool,
) -> Path:
    """Draws a map of the patches for each layer or head, and beside them the tokens without a place on their own scale.

    Args:
        values: Effects, shape (layer, head, token).
        places: Row and column of the tokens that have a place.
        heat: What the numbers are called.
        others: The other tokens' effects.
        path: Where to.
        heads: Whether heads are told apart.

    Raises:
        FormatError: The ending is not known, or the file cannot be written.
    """
    maps = _maps(values, places, heads)
    names, left_out = list(maps), len(maps) - MOST_MAPS
    if left_out > 0:
        strongest = sorted(names, key=lambda name: -np.nanmax(np.abs(maps[name])))[:MOST_MAPS]
        names = [name for name in names if name in set(strongest)]
    columns = min(values.shape[1] if heads and left_out <= 0 else _IN_A_ROW + 5 * heads, len(names))
    rows = -(-len(names) // columns)
    grid_rows, grid_columns = maps[names[0]].shape
    side = min(_MAP, _WIDE / columns)
    wide = columns * (side + 0.06) + 1.0
    high = rows * (side * grid_rows / grid_columns + 0.26) + 0.8
    beside = size_of(others) if others is not None else (0.0, 0.0)
    said = heat.subtitle + f", the {len(names)} strongest of {len(maps)}" * (left_out > 0)
    size = max(wide + beside[0], 0.3 + max(0.096 * len(heat.title), 0.074 * len(said))), max(high, beside[1])

    def fill(figure: Figure) -> None:
        parts: Any = figure.subfigures(1, 2, width_ratios=(wide, beside[0])) if others is not None else [figure]
        _fill_maps(parts[0], {name: maps[name] for name in names}, columns, heat)
        if others is not None:
            fill_grids(parts[1], others, beside[0], size[1])
        write_title(figure, heat.title, said)

    return draw_plot(path, "maps of tokens", size, fill)


def _maps(
    values: NDArray[np.float64], places: Mapping[int, tuple[int, int]], heads: bool
) -> dict[str, NDArray[np.float64]]:
    """A map (row, column) for each layer, or for each head with the last layer first, as heat maps go upwards."""
    tokens, (row, column) = list(places), np.array(list(places.values())).T
    laid = np.full((*values.shape[:2], row.max() + 1, column.max() + 1), np.nan)
    laid[..., row, column] = values[..., tokens]
    if not heads:
        return {f"layer {layer}": laid[layer, 0] for layer in range(len(laid))}
    order = [(layer, head) for layer in reversed(range(laid.shape[0])) for head in range(laid.shape[1])]
    return {f"a{layer}.h{head}": laid[layer, head] for layer, head in order}


def _fill_maps(
    figure: Figure | SubFigure, maps: Mapping[str, NDArray[np.float64]], columns: int, heat: Heatmap
) -> None:
    lowest, largest = ends_of(np.stack(list(maps.values())), share=heat.share)
    places: Any = figure.subplots(-(-len(maps) // columns), columns, squeeze=False)
    shown: Any = None
    for axes, (name, values) in zip(places.flat, maps.items(), strict=False):
        shown = axes.imshow(values, cmap=effect_colours(), vmin=-largest, vmax=largest)
        axes.set_title(name, fontsize=7, color=LABEL, pad=2)
        _bare(axes)
    for axes in places.flat[len(maps) :]:
        axes.set_axis_off()
    bar = figure.colorbar(shown, ax=places.ravel().tolist(), fraction=0.03, pad=0.01, aspect=25)
    dress_bar(bar, (lowest, largest), f"{heat.unit}, of patches", share=heat.share)


_LANE, _LAYER = 1.9, 0.62  # inches
_WIDEST = 0.42  # of a lane's distance
_SAID = 0.2  # of the largest effect: bands of at least so much say their number
_LEAST = 0.01  # of the largest: narrower bands cannot be seen


def draw_flow(
    values: NDArray[np.float64],
    sources: Sequence[str],
    targets: Sequence[str],
    unit: str,
    path: str | Path,
    *,
    titles: tuple[str, str] = ("", ""),
) -> Path:
    """Draws flows to an .svg, .pdf or .png, and returns the path.

    Args:
        values: Effect of each flow, shape (layer, source, target); NaN where there is none.
        sources: Names of the groups that flows come from.
        targets: Names of those that they lead to, which are among the sources.
        unit: What the numbers are.
        path: Where to.
        titles: What stands above, and the line under it.

    Raises:
        FormatError: The ending is not known, or the file cannot be written.
    """
    n_layers = len(values)
    ends = [sources.index(name) for name in targets]

    def fill(figure: Figure) -> None:
        axes = figure.subplots()
        _lanes(axes, sources, n_layers)
        _bands(axes, values, ends)
        axes.set_ylabel("layer", color=LABEL)
        axes.set_xlabel(f"blue helps, orange hurts; bands are as wide as their {unit}", color=LABEL, fontsize=8)
        if any(titles):
            figure.suptitle(titles[0], x=0.01, **TITLE)
            axes.set_title(titles[1], loc="left", fontsize=8, color=LABEL, parse_math=False, wrap=True)

    return draw_plot(path, "flow", (1.4 + _LANE * max(len(sources), 2), 1.6 + _LAYER * n_layers), fill)


def _lanes(axes: Axes, sources: Sequence[str], n_layers: int) -> None:
    for lane in range(len(sources)):
        axes.plot([lane, lane], [0, n_layers], color=GREY, linewidth=0.8, zorder=0)
    axes.set_xticks(range(len(sources)), sources, fontsize=10, color=INK, parse_math=False)
    axes.set_yticks(np.arange(n_layers) + 0.5, [str(layer) for layer in range(n_layers)])
    axes.set_xlim(-0.5, len(sources) - 0.5)
    axes.set_ylim(-0.05, n_layers + 0.05)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelcolor=LABEL)


def _bands(axes: Axes, values: NDArray[np.float64], ends: Sequence[int]) -> None:
    known = np.nan_to_num(values)
    largest = float(np.abs(known).max(initial=0.0)) or 1.0
    order = sorted(np.ndindex(*known.shape), key=lambda place: -abs(known[place]))
    for place in order:
        layer, source, target = place
        share = float(abs(known[place])) / largest
        if share < _LEAST:
            continue
        colour = BLUE if known[place] > 0 else ORANGE
        _band(axes, (source, ends[target]), layer, share * _WIDEST, colour)
        if share >= _SAID:
            middle = (source + ends[target]) / 2
            axes.text(
                middle,
                layer + 0.5,
                f"{known[place]:+.2g}",
                ha="center",
                va="center",
                fontsize=7,
                color=INK,
                bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": FRAME, "linewidth": 0.3},
                zorder=3,
            )


def _band(axes: Axes, lanes: tuple[int, int], layer: int, width: float, colour: str) -> None:
    """From a lane below a layer to a lane above it."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Outline

    start, stop = lanes
    half, low, high, middle = width / 2, layer + 0.04, layer + 0.96, layer + 0.5
    points = [
        (start - half, low),
        (start - half, middle),
        (stop - half, middle),
        (stop - half, high),
        (stop + half, high),
        (stop + half, middle),
        (start + half, middle),
        (start + half, low),
        (start - half, low),
    ]
    codes = [
        Outline.MOVETO,
        *[Outline.CURVE4] * 3,
        Outline.LINETO,
        *[Outline.CURVE4] * 3,
        Outline.CLOSEPOLY,
    ]
    axes.add_patch(PathPatch(Outline(points, codes), facecolor=colour, alpha=0.55, linewidth=0, zorder=1))
