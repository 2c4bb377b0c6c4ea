"""What stands under a diagram: the first pair's images with their patch grid, and the legend."""

from __future__ import annotations

from collections.abc import Sequence

from ..circuit import Circuit
from ..exhibit import Exhibit
from .layout import Layout
from .legend import legend
from .picture import caption, chips_width, image_with_grid
from .strokes import Stroke
from .words import tag, text

_IMAGE, _SPACE, _LEGEND = 132.0, 22.0, 310.0


def foot_width(circuit: Circuit, exhibit: Exhibit | None) -> float:
    """How wide the picture has to be for the images and the legend."""
    if exhibit is None or not len(exhibit.clean):
        return 0.0
    chips = chips_width(circuit.graph.cfg.tokens)
    height, width = exhibit.clean.shape[1:3]
    return 2 * (_IMAGE * width / height + chips + _SPACE) + _LEGEND


def foot(
    circuit: Circuit,
    layout: Layout,
    drawn: Sequence[Stroke],
    *,
    exhibit: Exhibit | None,
    corner: tuple[float, float],
) -> tuple[list[str], float]:
    """SVG of the foot with its upper left corner at `corner`, and where it ends."""
    x, y = corner
    parts: list[str] = []
    bottom = y
    if exhibit is not None and len(exhibit.clean):
        parts, x = _images(circuit, exhibit, x, y)
        bottom = y + _IMAGE + 20.0
    words, height = legend(circuit.graph, layout, drawn, len(circuit), x=x, y=y - 6.0)
    return parts + words, max(bottom, y + height)


def _images(circuit: Circuit, exhibit: Exhibit, x: float, y: float) -> tuple[list[str], float]:
    tokens, parts = circuit.graph.cfg.tokens, []
    for which, images in (("clean", exhibit.clean), ("corrupt", exhibit.corrupt)):
        x += chips_width(tokens)
        said = caption(exhibit, 0, which, length=200)
        words = tag("title", text(said)) + text(caption(exhibit, 0, which, length=14))
        parts += image_with_grid(images[0], tokens, x=x, y=y, size=_IMAGE, alt=said)
        parts.append(tag("text", words, x=x, y=y + _IMAGE + 15.0, class_="caption"))
        x += _IMAGE * images.shape[2] / images.shape[1] + _SPACE
    return parts, x + 8.0
