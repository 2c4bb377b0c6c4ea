"""A circuit drawn to a file, the kind chosen by the ending."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...models.errors import FormatError
from ..circuit import Circuit
from ..formats.plain import write_bytes_atomic, write_text_atomic
from .dot import render, to_dot
from .html import write_html
from .svg import MAX_EDGES, to_svg

if TYPE_CHECKING:
    from ..figure_data import Exhibit


def draw_circuit(
    circuit: Circuit, path: str | Path, *, exhibit: Exhibit | None = None, max_edges: int = MAX_EDGES
) -> Path:
    """Draws a circuit, and returns the path.

    Args:
        circuit: The circuit.
        path: Ends in .svg (needs no other program), .dot (text, always all edges), .html (a page), or .png or .pdf
            (drawn by Graphviz' `dot`).
        exhibit: Images to show; in .svg and .html.
        max_edges: The most edges to draw in .svg, .png and .pdf; the picture says how many were left out.

    Raises:
        FormatError: The ending is not known, `dot` is missing or fails, or the file cannot be written.
    """
    ending = Path(path).suffix.lower()
    match ending:
        case ".svg":
            return write_text_atomic(path, to_svg(circuit, exhibit=exhibit, max_edges=max_edges))
        case ".dot" | ".gv":
            return write_text_atomic(path, to_dot(circuit))
        case ".png" | ".pdf":
            return write_bytes_atomic(path, render(to_dot(circuit, max_edges=max_edges), ending[1:]))
        case ".html":
            return write_html(circuit, path, exhibit=exhibit)
    raise FormatError(
        f"cannot draw to {str(path)!r}: the ending {ending!r} is not known. End the name in .svg (always works), "
        f'.html, .dot, or .png or .pdf (these need Graphviz), such as circuit.draw("circuit.svg").'
    )
