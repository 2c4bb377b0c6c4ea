"""Every kind of file that a circuit is written to, by its ending: adding one is a file with a writer and a row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...models.errors import FormatError

if TYPE_CHECKING:
    from ..circuit import Circuit
    from ..figure_data import Exhibit


@dataclass(frozen=True)
class Format:
    """How a circuit is written to files of one ending.

    Args:
        writer: Where the function stands below `circuits`: (circuit, path, **options) -> path.
        saved: Whether `Circuit.save` writes it, for programs to read.
        drawn: Whether `Circuit.draw` writes it, for people to look at.
        options: What the writer takes beside circuit and path.
        in_run: Its name in a run folder; empty for what runs don't leave.
    """

    writer: str
    saved: bool = False
    drawn: bool = False
    options: tuple[str, ...] = ()
    in_run: str = ""

    def write(self, circuit: Circuit, path: str | Path, **options: Any) -> Path:
        """Writes the file, with those of the options that it takes and that have a value, and returns the path."""
        chosen = {name: value for name, value in options.items() if name in self.options and value is not None}
        return found(self.writer)(circuit, path, **chosen)


def found(name: str) -> Callable[..., Any]:
    """A function below `circuits` by its dotted name: results find what writes and draws them when asked to."""
    module, _, function = name.rpartition(".")
    return getattr(import_module(f"..{module}", __name__), function)


FORMATS = {
    ".json": Format("formats.json.save_circuit_json", saved=True, in_run="circuit.json"),
    ".csv": Format("formats.tables.save_csv", saved=True, in_run="edges.csv"),
    ".graphml": Format("formats.graphs.save_graphml", saved=True, in_run="circuit.graphml"),
    ".dot": Format("draw.dot.save_dot", saved=True, drawn=True, options=("max_edges",), in_run="circuit.dot"),
    ".gv": Format("draw.dot.save_dot", drawn=True, options=("max_edges",)),
    ".svg": Format("draw.svg.save_svg", drawn=True, options=("exhibit", "max_edges"), in_run="circuit.svg"),
    ".png": Format("draw.dot.save_rendered", drawn=True, options=("max_edges",)),
    ".pdf": Format("draw.dot.save_rendered", drawn=True, options=("max_edges",)),
    ".html": Format(
        "draw.pages.write_html",
        drawn=True,
        options=("exhibit", "report", "curve_svg", "patch_effects", "max_edges"),
        in_run="circuit.html",
    ),
}
SAVED = tuple(ending for ending, one in FORMATS.items() if one.saved)
DRAWN = tuple(ending for ending, one in FORMATS.items() if one.drawn)
RUN_FILES = {one.in_run: one for one in FORMATS.values() if one.in_run}


def save_circuit(circuit: Circuit, path: str | Path) -> Path:
    """Writes the circuit and returns the path: .json (lossless), .csv, .graphml or .dot.

    Raises:
        FormatError: The ending is not known, or the file cannot be written.
    """
    ending = Path(path).suffix.lower()
    if ending not in SAVED:
        raise FormatError(
            f"cannot tell a format from the ending of {str(path)!r}: use one of {', '.join(SAVED)}, such as "
            f'circuit.save("circuit.json"). Pictures are drawn by circuit.draw("circuit.svg").'
        )
    return FORMATS[ending].write(circuit, path)


def draw_circuit(
    circuit: Circuit, path: str | Path, *, exhibit: Exhibit | None = None, max_edges: int | None = None
) -> Path:
    """Draws a circuit, and returns the path.

    Args:
        circuit: The circuit.
        path: Ends in .svg (needs no other program), .dot (text), .html (a page), or .png or .pdf (drawn by Graphviz'
            `dot`).
        exhibit: Images to show; in .svg and .html.
        max_edges: The most edges to draw, which the picture then says: 400 unless told otherwise, because more are a
            hairball, and in .dot all.

    Raises:
        FormatError: The ending is not known, `dot` is missing or fails, or the file cannot be written.
    """
    ending = Path(path).suffix.lower()
    if ending not in DRAWN:
        raise FormatError(
            f"cannot draw to {str(path)!r}: the ending {ending!r} is not known. End the name in .svg (always works), "
            f'.html, .dot, or .png or .pdf (these need Graphviz), such as circuit.draw("circuit.svg").'
        )
    return FORMATS[ending].write(circuit, path, exhibit=exhibit, max_edges=max_edges)
