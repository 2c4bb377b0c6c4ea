"""The page of a lens: what each patch says at each layer, over the image, with a still that is there without a script.

Probabilities are bytes, the square root of them in 255ths, so that small ones are told apart.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .images import png_uri
from .lens_view import COLOURS, OTHER, LensView, under
from .page_data import script_json
from .pages import explorer, markup, render

if TYPE_CHECKING:
    from ..report import Table


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
