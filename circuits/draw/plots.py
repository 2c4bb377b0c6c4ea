"""matplotlib figures as bytes: the same data give the same bytes, and no global state is left behind."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...models.errors import FormatError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, FRAME, LABEL = "#111827", "#6b7280", "#374151"

_SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "vitcircuits",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica Neue", "Helvetica", "Arial", "Liberation Sans", "DejaVu Sans"],
    "font.size": 10.0,
    "axes.unicode_minus": True,
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
