"""One style for every picture: colours, escaped markup, and matplotlib figures as bytes.

The same data give the same bytes, and no global state is left behind.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...models.errors import FormatError
from ...models.files import write_bytes_atomic
from ..formats.plain import legible as legible  # handed on to what draws

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


INK, FRAME, LABEL, GREY, PALE = "#111827", "#6b7280", "#374151", "#9ca3af", "#e5e7eb"
BLUE, ORANGE = "#2b6cb0", "#d9622b"
"""What helps and what hurts; the first thing and the second."""
HEAT = "#ffb020"
"""How much there is at a place of an image."""
LINES = (BLUE, ORANGE, "#2f855a", "#7b5ea7", "#b7791f", "#4a5568")
"""Colours of lines that are told apart."""
MARKS = ("o", "s", "^", "D", "v", "P")
"""Their marks, so that they are told apart in black and white, too."""
DASHED: Any = (0, (4, 3))
TITLE: dict[str, Any] = {"ha": "left", "fontsize": 11, "fontweight": "bold", "color": INK, "parse_math": False}

_SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "vitcircuits",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica Neue", "Helvetica", "Arial", "Liberation Sans", "DejaVu Sans"],
    "font.size": 10.0,
    "axes.unicode_minus": True,
    "image.composite_image": False,  # several pictures in one frame stay as sharp as they are
}
# matplotlib writes dates and versions unless told not to, and the same data must give the same bytes.
_METADATA = {
    "svg": dict.fromkeys(("Creator", "Date", "Format", "Type")),
    "pdf": dict.fromkeys(("Creator", "Producer", "CreationDate")),
    "png": {"Software": None},
}


def plot_kind(path: str | Path, what: str) -> str:
    """`svg`, `pdf` or `png`, by the path's ending.

    Raises:
        FormatError: The ending is not known; `what` is the thing that cannot be drawn.
    """
    kind = Path(path).suffix.lower().lstrip(".")
    if kind not in _METADATA:
        raise FormatError(
            f"cannot draw {what} to {str(path)!r}: the ending {Path(path).suffix!r} is not known. End the name in "
            f".svg, .pdf or .png."
        )
    return kind


def draw_plot(path: str | Path, what: str, size: tuple[float, float], fill: Callable[[Figure], None]) -> Path:
    """Writes a figure of a size in inches, filled by a function, to an .svg, .pdf or .png, and returns the path.

    Raises:
        FormatError: The ending is not known (`what` is the thing that cannot be drawn), or the file cannot be written.
    """
    return write_bytes_atomic(path, plotted(plot_kind(path, what), size, fill))


def plotted(kind: str, size: tuple[float, float], fill: Callable[[Figure], None]) -> bytes:
    """A figure of a size in inches, filled by a function, as the bytes of an `svg`, `pdf` or `png`."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    buffer = io.BytesIO()
    # Class names may hold signs that the installed fonts lack; a box in the title is no reason to warn.
    with warnings.catch_warnings(), rc_context(_SETTINGS):
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=size, layout="constrained")
        fill(figure)
        figure.savefig(buffer, format=kind, dpi=160, metadata=_METADATA[kind])
    return buffer.getvalue()


def dress(axes: Axes, **ticks: Any) -> None:
    """The frame that all plots with axes have: left and bottom, in grey."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FRAME)
    axes.tick_params(color=FRAME, labelcolor=LABEL, **ticks)


def head(of: Axes | Figure, title: str) -> None:
    """The title above a plot, or above all plots of a figure."""
    from matplotlib.figure import Figure

    if isinstance(of, Figure):
        of.suptitle(title, x=0.01, **TITLE)
    else:
        of.set_title(title, loc="left", **{key: value for key, value in TITLE.items() if key != "ha"})


def tag(name: str, /, *children: str, **attributes: object) -> str:
    """An XML element; attributes are escaped, children are markup already.

    An attribute's underscores become hyphens and a trailing one is dropped, so `class_` and `stroke_width` can be
    written as keywords; None leaves it out.
    """
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    head = name + "".join(f' {key}="{text(value)}"' for key, value in given.items())
    return f"<{head}>{''.join(children)}</{name}>" if children else f"<{head}/>"


def text(value: object) -> str:
    """Escaped for XML and HTML, in text and in attributes; numbers to a tenth, control characters replaced."""
    if isinstance(value, float):
        return f"{round(value, 1) + 0.0:g}" if abs(value) >= 1 or value == 0 else f"{value:.2g}"
    return escape(legible(str(value)))
