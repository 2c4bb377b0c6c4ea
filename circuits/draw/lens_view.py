"""What a lens reads at each patch, over the image: a class's colour or its emoji on the patch, layer by layer.

The classes that most patches of an image name, over all layers, have colours of their own, those with the most first;
the rest are grey. Emoji come from a file that the user names, and stand in pictures only where an installed font has
them all: what cannot be drawn is coloured instead. In the page the browser draws them; its stills are there without a
script. Probabilities there are bytes, the square root of them in 255ths, so that small ones are told apart.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...models.errors import DataError
from ...models.files import read_text, require_file, user_path
from ..words import shortened
from .images import png_uri
from .page_data import script_json
from .pages import explorer, markup, render
from .style import FRAME, INK, LABEL, draw_plot, head, legible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..report import Table

COLOURS = (
    "#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#1fb8c4", "#d4a700", "#e377c2", "#9a6324", "#5a7d2a",
)  # fmt: skip
OTHER = "#9ca3af"
_SIDE, _COLUMNS = 1.7, 5  # inches of a layer's picture; how many stand beside one another


@dataclass(frozen=True, eq=False)
class LensView:
    """A lens at tokens, ready to be drawn.

    Args:
        title: What is seen.
        layers: Names of the layers.
        tokens: Names of the tokens; the patches, row by row, are the last.
        grid: Rows and columns of patches.
        class_names: Of all classes.
        top: The highest classes, (layer, image, token, rank).
        probabilities: Of these.
        pictures: The images in [0, 1], (image, height, width, 1 or 3).
        said: What is said under each image.
        emoji: Index of a class -> its emoji.
        answers: The class that the model answers to each image.
    """

    title: str
    layers: tuple[str, ...]
    tokens: tuple[str, ...]
    grid: tuple[int, int]
    class_names: tuple[str, ...]
    top: NDArray[np.int64]
    probabilities: NDArray[np.floating]
    pictures: NDArray[np.float32]
    said: tuple[str, ...]
    answers: tuple[int, ...]
    emoji: Mapping[int, str] = field(default_factory=dict)

    @property
    def n_prefix(self) -> int:
        """Tokens in front of the patches."""
        return len(self.tokens) - self.grid[0] * self.grid[1]

    def named(self, image: int) -> NDArray[np.int64]:
        """The class that each patch names, (layer, row, column)."""
        return self.top[:, image, self.n_prefix :, 0].reshape(len(self.layers), *self.grid)

    def coloured(self, image: int) -> list[int]:
        """Classes that have a colour of their own on an image, by how many patches name them over all layers."""
        classes, counts = np.unique(self.named(image), return_counts=True)
        return classes[np.argsort(-counts, kind="stable")][: len(COLOURS)].tolist()


def read_emoji(path: str | Path, class_names: tuple[str, ...]) -> dict[int, str]:
    """Emoji of classes, from a JSON object of class index or name -> emoji.

    Raises:
        DataError: There is no such file, or it is no such object, or fits no class.
    """
    require_file(path, "a .json with an emoji per class", DataError)
    wanted = 'such as {"0": "\N{FISH}"}: class index or name -> emoji'
    try:
        table = json.loads(read_text(user_path(path)))
        places = {name: place for place, name in enumerate(class_names)}
        found = {places.get(key, int(key) if key.isdecimal() else -1): str(value) for key, value in table.items()}
    except (ValueError, AttributeError) as error:
        raise DataError(f"{path} holds no JSON object {wanted}.") from error
    if not any(0 <= place < len(class_names) for place in found):
        raise DataError(f"{path} has an emoji for none of the {len(class_names)} classes: pass a file {wanted}.")
    return found


def draw_view(view: LensView, path: str | Path, *, image: int = 0) -> Path:
    """Draws an image under what each layer reads at its patches, all layers in one, to an .svg, .pdf or .png.

    Raises:
        DataError: There is no such image.
        FormatError: The ending is not known, or the file cannot be written.
    """
    if not 0 <= image < len(view.pictures):
        raise DataError(f"image={image} is not kept: pass one from 0 to {len(view.pictures) - 1}.")
    classes, named = view.coloured(image), view.named(image)
    signs = {one: view.emoji.get(one, "") for one in np.unique(named).tolist()}
    font = emoji_font("".join(signs.values())) if all(signs.values()) else None
    n = len(view.layers) + 1
    columns = min(_COLUMNS, n)
    rows = -(-n // columns)

    def fill(figure: Figure) -> None:
        places: Any = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in places:
            axes.set_axis_off()
        _show(places[0], view.pictures[image], view.said[image])
        for axes, name, row in zip(places[1:], view.layers, named, strict=False):
            _show(axes, _under(view.pictures[image], row, classes, coloured=font is None), name)
            if font is not None:
                _write_signs(axes, row, signs, font, view.pictures.shape[1:3])
        if font is None:
            _legend(figure, view, classes, named)
        head(figure, view.title)

    aspect = view.pictures.shape[2] / view.pictures.shape[1]
    size = (max(columns * (_SIDE * aspect + 0.1), 6.0), rows * (_SIDE + 0.3) + 0.75)
    return draw_plot(path, "a lens", size, fill)


def _show(axes: Any, picture: NDArray[np.floating], said: str) -> None:
    axes.imshow(np.repeat(picture, 3, -1) if picture.shape[-1] == 1 else picture, interpolation="nearest")
    axes.set_title(legible(shortened(said, 26)), fontsize=8, color=LABEL, parse_math=False)


def under(picture: NDArray[np.floating], named: NDArray[np.int64], classes: list[int]) -> NDArray[np.float64]:
    """A picture in grey under the colours of what its patches name, (height, width, 3)."""
    return _under(picture, named, classes, coloured=True)


def _under(
    picture: NDArray[np.floating], named: NDArray[np.int64], classes: list[int], *, coloured: bool
) -> NDArray[np.float64]:
    grey = np.nan_to_num(picture).mean(-1, keepdims=True)
    scale = max(1, -(-96 // max(grey.shape[:2])))  # small pictures are enlarged by whole factors
    grey = np.repeat(np.repeat(grey, scale, 0), scale, 1) * np.ones(3)
    if not coloured:
        return 0.35 * grey + 0.65
    table = np.array([_rgb(COLOURS[classes.index(one)] if one in classes else OTHER) for one in named.ravel().tolist()])
    rows = np.arange(grey.shape[0]) * named.shape[0] // grey.shape[0]
    columns = np.arange(grey.shape[1]) * named.shape[1] // grey.shape[1]
    return 0.45 * grey + 0.55 * table.reshape(*named.shape, 3)[rows][:, columns]


def _rgb(colour: str) -> list[float]:
    return [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]


def _write_signs(
    axes: Any, named: NDArray[np.int64], signs: Mapping[int, str], font: str, shape: tuple[int, ...]
) -> None:
    from matplotlib.font_manager import FontProperties

    scale = max(1, -(-96 // max(shape)))
    tall, wide = shape[0] * scale / named.shape[0], shape[1] * scale / named.shape[1]
    look = FontProperties(fname=font, size=72 * _SIDE / max(named.shape) * 0.8)
    for (row, column), one in np.ndenumerate(named):
        place = {"ha": "center", "va": "center", "parse_math": False}
        axes.text((column + 0.5) * wide, (row + 0.5) * tall, signs[int(one)], fontproperties=look, color=INK, **place)


def _legend(figure: Figure, view: LensView, classes: list[int], named: NDArray[np.int64]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=colour, label=_label(view, one)) for colour, one in zip(COLOURS, classes, strict=False)]
    if len(np.unique(named)) > len(classes):
        handles.append(Patch(color=OTHER, label="others"))
    drawn = figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    for text in drawn.get_texts():
        text.set_color(FRAME)
        text.set_parse_math(False)


def _label(view: LensView, one: int) -> str:
    return legible(shortened(view.class_names[one], 24))


@cache
def emoji_font(signs: str) -> str | None:
    """The file of an installed font that has all of these signs, as outlines; None where there is none."""
    from matplotlib.font_manager import fontManager
    from matplotlib.ft2font import FT2Font

    wanted = {ord(sign) for sign in signs if ord(sign) not in (0x200D, 0xFE0F)}  # joiners draw nothing
    for entry in sorted(fontManager.ttflist, key=lambda entry: ("emoji" not in entry.name.lower(), entry.fname)):
        if "last resort" in entry.name.lower():  # a box for every sign
            continue
        try:
            font = FT2Font(entry.fname)
        except (RuntimeError, OSError):  # of colour bitmaps alone
            continue
        if font.scalable and wanted <= set(font.get_charmap()):
            return entry.fname
    return None


def to_html(view: LensView, table: Table) -> str:
    """The page as text.

    Args:
        view: What is seen; of all images that it has.
        table: How far the lens is to be trusted, layer by layer.
    """
    classes, named = view.coloured(0), view.named(0)
    rows, columns = view.grid
    return render(
        "lens.html",
        title=view.title,
        facts=[
            ("layers", str(len(view.layers))),
            ("patches", f"{rows} x {columns}"),
            ("classes", f"{len(view.class_names):,}"),
        ],
        stills=[
            (name, png_uri(under(view.pictures[0], row, classes))) for name, row in zip(view.layers, named, strict=True)
        ],
        legend=[(colour, view.class_names[one]) for colour, one in zip(COLOURS, classes, strict=False)],
        pictures=[(said, png_uri(picture)) for said, picture in zip(view.said, view.pictures, strict=True)],
        columns=[(column.replace("_", " "), "" if not place else "n") for place, column in enumerate(table.columns)],
        rows=[list(map(str, row)) for row in table.rows],
        note=table.method,
        data=markup(script_json(page_data(view))),
        **explorer("lens"),
    )


def page_data(view: LensView) -> dict[str, Any]:
    """What the script reads; only classes that occur are in it, under numbers of their own."""
    classes, numbers = np.unique(view.top, return_inverse=True)
    place = {one: number for number, one in enumerate(classes.tolist())}
    return {
        "schema": "vitcircuits.lens/1",
        "layers": view.layers,
        "tokens": view.tokens,
        "n_prefix": view.n_prefix,
        "grid": view.grid,
        "classes": [view.class_names[one] for one in classes.tolist()],
        "emoji": [view.emoji.get(one, "") for one in classes.tolist()],
        "answers": [place.get(one, -1) for one in view.answers],
        "colours": COLOURS,
        "other": OTHER,
        "shape": view.top.shape,
        "top": _base64(numbers.reshape(view.top.shape).astype("<u2")),
        "roots": _base64(np.rint(255 * np.sqrt(np.clip(view.probabilities, 0, 1))).astype(np.uint8)),
    }


def _base64(array: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")
