"""Every kind of file that a circuit is written to, by its ending: adding one is a file with a writer and a row."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable
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
        use: What it is for.
        lost: What of a circuit it cannot hold; empty where all is held.
        saved: Whether `Circuit.save` writes it, for programs to read.
        drawn: Whether `Circuit.draw` writes it, for people to look at.
        options: What the writer takes beside circuit and path.
        in_run: Its name in a run folder; empty for what runs don't leave.
        reader: Where the function stands that reads it back: (table, what, graph) -> circuit; empty for none. This is
            for the JSON of other tools: what vitcircuits writes says so in its `schema`.
        entries: What a JSON table holds that `reader` reads.
    """

    writer: str
    use: str
    lost: str = ""
    saved: bool = False
    drawn: bool = False
    options: tuple[str, ...] = ()
    in_run: str = ""
    reader: str = ""
    entries: frozenset[str] = frozenset()

    def write(self, circuit: Circuit, path: str | Path, **options: Any) -> Path:
        """Writes the file, with those of the options that it takes and that have a value, and returns the path."""
        chosen = {name: value for name, value in options.items() if name in self.options and value is not None}
        return found(self.writer)(circuit, path, **chosen)


def found(name: str) -> Callable[..., Any]:
    """A function below `circuits` by its dotted name: results find what writes and draws them when asked to."""
    module, _, function = name.rpartition(".")
    return getattr(import_module(f"..{module}", __name__), function)


_NOT_KEPT = "the edges that were not kept"
_EDGES_ONLY = f"{_NOT_KEPT}; the ViT, the task, the ablation, the provenance"
_SIZES = f"{_NOT_KEPT}; the ViT's sizes"
_PICTURE = "all that is not drawn"

FORMATS = {
    ".json": Format(
        "formats.json.save_circuit_json", "vitcircuits, all of a circuit", saved=True, in_run="circuit.json"
    ),
    ".csv": Format("formats.tables.save_csv", "pandas, spreadsheets", _EDGES_ONLY, saved=True, in_run="edges.csv"),
    ".parquet": Format(
        "formats.tables.save_parquet",
        "pandas, polars, DuckDB",
        _EDGES_ONLY,
        saved=True,
    ),
    ".graphml": Format(
        "formats.graphs.save_graphml",
        "networkx, yEd, Cytoscape",
        _SIZES,
        saved=True,
        in_run="circuit.graphml",
    ),
    ".gexf": Format("formats.graphs.save_gexf", "Gephi, networkx", _EDGES_ONLY, saved=True),
    ".mib.json": Format(
        "formats.mib.save_mib",
        "EAP-IG, the MIB benchmark; read back too",
        "standard errors, the task, the ablation, the provenance, the ViT but for four sizes (several token groups and "
        "ports other than q, k and v are refused)",
        saved=True,
        reader="formats.mib.circuit_from_mib",
        entries=frozenset({"cfg", "nodes", "edges"}),
    ),
    ".neuronpedia.json": Format(
        "formats.neuronpedia.save_neuronpedia",
        "circuit-tracer, Neuronpedia",
        f"{_SIZES}, standard errors, q, k and v edges apart (their scores are added up)",
        saved=True,
    ),
    ".dot": Format(
        "draw.dot.save_dot",
        "Graphviz",
        f"{_SIZES}, standard errors, whatever its title does not say",
        saved=True,
        drawn=True,
        options=("max_edges",),
        in_run="circuit.dot",
    ),
    ".gv": Format("draw.dot.save_dot", "Graphviz", "what .dot does not hold", drawn=True, options=("max_edges",)),
    ".svg": Format(
        "draw.svg.save_svg",
        "a picture; needs no other program",
        _PICTURE,
        drawn=True,
        options=("exhibit", "max_edges"),
        in_run="circuit.svg",
    ),
    ".png": Format("draw.dot.save_rendered", "a picture by Graphviz", _PICTURE, drawn=True, options=("max_edges",)),
    ".pdf": Format("draw.dot.save_rendered", "a picture by Graphviz", _PICTURE, drawn=True, options=("max_edges",)),
    ".html": Format(
        "draw.pages.write_html",
        "a page to explore, one file",
        _SIZES,
        drawn=True,
        options=("exhibit", "report", "curve_svg", "patch_effects", "max_edges"),
        in_run="circuit.html",
    ),
}
SAVED = tuple(ending for ending, one in FORMATS.items() if one.saved)
DRAWN = tuple(ending for ending, one in FORMATS.items() if one.drawn)
RUN_FILES = {one.in_run: one for one in FORMATS.values() if one.in_run}


def ending_of(path: str | Path) -> str:
    """The ending that says what a file holds: `.mib.json` of `a.mib.json`, and else what stands behind the last dot."""
    both = "".join(Path(path).suffixes[-2:]).lower()
    return both if both in FORMATS else Path(path).suffix.lower()


def told(endings: Iterable[str]) -> str:
    """What the endings are for and what they lose, a line or two each, for help."""
    width = max(map(len, FORMATS)) + 4
    lines = []
    for ending in endings:
        one = FORMATS[ending]
        lines.append(f"  {ending:<{width - 2}}{one.use}")
        margin, lost = " " * width, f"not held: {one.lost}" * bool(one.lost)
        lines += textwrap.wrap(lost, 110, initial_indent=margin, subsequent_indent=margin + "  ")
    return "\n".join(lines)


def save_circuit(circuit: Circuit, path: str | Path) -> Path:
    """Writes the circuit and returns the path; `FORMATS` says what each ending is for, and what it cannot hold.

    Raises:
        FormatError: The ending is not known, it cannot hold this circuit, or the file cannot be written.
    """
    ending = ending_of(path)
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
    ending = ending_of(path)
    if ending not in DRAWN:
        raise FormatError(
            f"cannot draw to {str(path)!r}: the ending {ending!r} is not known. End the name in .svg (always works), "
            f'.html, .dot, or .png or .pdf (these need Graphviz), such as circuit.draw("circuit.svg").'
        )
    return FORMATS[ending].write(circuit, path, exhibit=exhibit, max_edges=max_edges)
