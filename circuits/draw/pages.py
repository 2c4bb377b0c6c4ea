"""Pages that open from disk, and the one of a circuit: does it read the image, diagram, images, curve, tables.

Pages are made from the templates beside this file, which share one base and one style sheet. They load nothing, and run
nothing but what a page brings itself: pictures are inside them, and a Content-Security-Policy forbids the rest, with
the hash of each script. Everything that came from outside (class names, model names) is escaped.

The page of a circuit is whole without its script: the still diagram and a table of edges, which are printed, too. The
script (`page/*.js`, plain JavaScript in one scope, in the order of `SCRIPTS`) puts a diagram to explore in their place,
made of the data that `page_data` prepares. Edges are drawn on a canvas at the still picture's coordinates, moved by
d3-zoom. Measured headless on two busy cores, milliseconds until the first picture and for the longest step of the
slider, at 200, 1,000 and 10,000 edges of ViT-B:

| | first picture | step | file |
| --- | --- | --- | --- |
| d3 and canvas | 17, 98, 698 | 20, 79, 1207 | 55 kB (d3-zoom, d3-selection; all of d3: 281 kB) |
| cytoscape 3.35 | 190, 509, 4735 | 46, 139, 2175 | 443 kB |

The page itself, with 197 tokens, four pairs and full patterns: first picture after 0.5 to 0.7 s at 1,000 edges of
DeiT-Tiny's shape and 1.1 s at 10,000 of ViT-B's. A step of the slider at 1,000 edges is 2 ms of script; drawing the
curves is the rest, and dashes are half of it, so they wait until the slider does: median 33 ms, two frames of waiting
included, where it was 40 to 80, and 58 to 76 in the slowest tenth, where it was 99 to 120, with twelve processes on two
cores. d3-quadtree is left out: asking the canvas for the curve under the pointer takes 0.2, 1.2 and 29 ms, and the
tree 25, 68 and 1972 to build at each step.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...models.files import write_text_atomic
from ..advice import advice
from ..circuit import Circuit
from ..figures import grouped
from ..report import Figure, Report, Verdict
from ..words import facts, is_crossed, measure, selection_told, title, told
from .images import answers, attention, pairs
from .page_data import page_data, script_json
from .page_effects import effects_gallery
from .strokes import number, strokes
from .style import legible
from .svg import MAX_EDGES, to_svg

if TYPE_CHECKING:
    from jinja2 import Environment

    from ..figure_data import Exhibit
    from ..patch_effects import PatchEffects

MAX_ROWS = 2000
"""More rows than this make no readable table; the page says how many it left out."""

MAX_FRAMED = 1000
"""Edges of a circuit whose page a notebook holds, about a megabyte; larger ones are shown as a table."""

NONE = "\N{EN DASH}"
TEMPLATES = Path(__file__).parent / "templates"
PAGE = Path(__file__).parent / "page"
SCRIPTS = {
    "circuit": (
        "dom",
        "data",
        "pens",
        "view",
        "diagram",
        "pointer",
        "state",
        "slider",
        "curve",
        "images",
        "effects",
        "panel",
        "table",
        "main",
    ),
    "comparison": ("dom", "data", "pens", "view", "diagram", "pointer", "state", "slider", "compare"),
    "lens": ("dom", "lens"),
    "heads": ("dom", "data", "state", "images", "heads", "tour"),
}
_TABLES = {"images": "Every clean image", "controls": "What cheats and chance get"}
_WIDE = 2200  # pixels of a diagram that is not shrunk to the page


@cache
def _templates() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: legible(value) if type(value) is str else value,  # what is markup already is not
    )
    made.filters["number"] = lambda value, signed=False: NONE if value is None else number(value, signed=signed)
    made.filters["prose"] = _prose
    made.filters["base64"] = lambda text: base64.b64encode(text.encode()).decode("ascii")
    made.filters["sha256"] = lambda text: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
    return made


def render(template: str, **values: Any) -> str:
    """The page that a template makes of some values; text is escaped, `Markup` is not."""
    return _templates().get_template(template).render(glossary=glossary(), **values)


def _prose(text: str) -> Any:
    """Paragraphs of Markdown with nothing in them but bold words and code."""
    from markupsafe import escape

    said = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", str(escape(text)))
    said = re.sub(r"`(.+?)`", r"<samp>\1</samp>", said)
    return markup("".join(f"<p>{part}</p>" for part in said.partition("\n")[2].strip().split("\n\n")))


def glossary() -> str:
    """The words that reports and pages use, as Markdown."""
    return (TEMPLATES / "glossary.md").read_text(encoding="utf-8")


def markup(text: str) -> Any:
    """Text that is markup already, such as a drawing, for a template."""
    from markupsafe import Markup

    return Markup(text)


def write_html(
    circuit: Circuit,
    path: str | Path,
    *,
    report: Report | None = None,
    exhibit: Exhibit | None = None,
    curve_svg: str | None = None,
    patch_effects: PatchEffects | None = None,
    max_edges: int = MAX_EDGES,
) -> Path:
    """Writes the page, and returns the path.

    Args:
        report: Figures with their intervals and methods.
        exhibit: Images, the attention of the circuit's heads over the first one, and pictures of single images.
        curve_svg: The curve as SVG text, from `curve.curves_svg`.
        patch_effects: What each patch carries, laid over the images.
        max_edges: The most edges to draw; the table has all of them.

    Raises:
        FormatError: The file cannot be written.
    """
    given = {"report": report, "exhibit": exhibit, "curve_svg": curve_svg, "patch_effects": patch_effects}
    page = to_html(circuit, **given, max_edges=max_edges)
    return write_text_atomic(path, page)


def to_html(
    circuit: Circuit,
    *,
    report: Report | None = None,
    exhibit: Exhibit | None = None,
    curve_svg: str | None = None,
    patch_effects: PatchEffects | None = None,
    max_edges: int = MAX_EDGES,
) -> str:
    """The page as text."""
    drawing = to_svg(circuit, header=False, max_edges=max_edges)
    return render(
        "circuit.html",
        title=title(circuit),
        facts=[*facts(circuit), ("vitcircuits", _version())],
        diagram=markup(drawing),
        data=markup(script_json(page_data(circuit, report=report, exhibit=exhibit, patch_effects=patch_effects))),
        **explorer("circuit"),
        wide=float(drawing.split('width="', 1)[1].split('"', 1)[0]) > _WIDE,
        pairs=[]
        if exhibit is None
        else [[(markup(svg), said) for svg, said in one] for one in pairs(exhibit, circuit)],
        attention=None if exhibit is None else attention(exhibit, circuit),
        answers=[] if exhibit is None or report is None else answers(report, exhibit, circuit),
        curve_svg=curve_svg,
        effects=None if patch_effects is None else effects_gallery(patch_effects, exhibit),
        edges=strokes(circuit, limit=MAX_ROWS),
        n_edges=len(circuit),
        **_of_report(report, circuit),
    )


def framed(circuit: Circuit) -> str:
    """The page in a frame that reaches nothing outside itself, for a notebook; empty where it would be too large."""
    return "" if len(circuit) > MAX_FRAMED else in_frame(to_html(circuit))


def in_frame(page: str) -> str:
    """A page in a frame that reaches nothing outside itself, for a notebook."""
    from markupsafe import escape

    look = 'sandbox="allow-scripts allow-downloads" style="width:100%;height:760px;border:0"'
    return f'<iframe {look} srcdoc="{escape(page)}"></iframe>'


def _part(name: str) -> Any:
    """A file of the page as markup."""
    return markup((PAGE / name).read_text(encoding="utf-8").strip())


def explorer(kind: str) -> dict[str, Any]:
    """Style and scripts of a page of some kind, all files of its own in one scope; diagrams are moved by d3."""
    libraries = [_part("d3.min.js")] if "view" in SCRIPTS[kind] else []
    own = "\n".join(_part(f"{name}.js") for name in SCRIPTS[kind])
    return {
        "style": _part("page.css"),
        "scripts": [*libraries, markup(f'(() => {{\n"use strict";\n{own}\n}})();')],
    }


def _of_report(report: Report | None, circuit: Circuit) -> dict[str, Any]:
    """What a report says; without one, only that nothing is told."""
    if report is None:
        lists = dict.fromkeys(("told", "notes", "figures", "verdicts", "tables", "method"), ())
        return {**lists, "crossed": False, "measure": "faithfulness", "n_curve_pairs": None, "headline": ""}
    return {
        "crossed": is_crossed(report),
        "measure": measure(report),
        "told": _told(report, circuit),
        "notes": [f"{one.said[0].upper()}{one.said[1:]}." for one in advice(circuit, report)],
        "headline": report.headline[0].upper() + report.headline[1:],
        "n_curve_pairs": report.method.get("n_curve_pairs"),
        "figures": [
            (heading, [[name, *_cells(one)] for name, one in figures.items()])
            for heading, figures in grouped(report).items()
            if figures
        ],
        "verdicts": [_verdict_row(name, verdict) for name, verdict in report.verdicts.items()],
        "tables": [_table(name, table.columns, table.rows, table.method) for name, table in report.tables.items()],
        "method": [(spelled(name), str(value)) for name, value in report.method.items()],
    }


def _version() -> str:
    try:
        return version("vitcircuits")
    except PackageNotFoundError:
        return "not installed"


def _told(report: Report, circuit: Circuit) -> list[tuple[str, str]]:
    """What the report says first, line by line; nothing without its main figure."""
    if measure(report) not in report.figures:
        return []
    chosen = selection_told(circuit)
    return [*([("selection", chosen)] if chosen else []), *told(report)]


def _cells(figure: Figure) -> list[str]:
    """Value, interval or the reason that there is none, and method."""
    unit = f" {figure.unit}" if figure.unit not in ("", "share") else ""
    if figure.value is None:
        return ["undefined", figure.reason, figure.method]
    known = figure.low is not None and figure.high is not None
    interval = f"{figure.low:.3f} to {figure.high:.3f}" if known else figure.interval
    return [f"{figure.value:.3f}{unit}", interval, figure.method]


def _verdict_row(name: str, verdict: Verdict) -> list[str]:
    said = {True: "passed", False: "failed", None: "undecided"}[verdict.passed]
    return [
        spelled(name),
        f"{said}: {verdict.words}",
        str(verdict.statistic),
        NONE if verdict.p_value is None else f"{verdict.p_value:.3g}",
        f"{verdict.level:.3g}",
        str(verdict.n),
        f"null hypothesis: {verdict.null}; {verdict.method}",
    ]


def _table(
    name: str, columns: Iterable[str], rows: tuple[tuple[str | Figure, ...], ...], method: str
) -> dict[str, Any]:
    shown = rows[:MAX_ROWS]
    left_out = f" The first {len(shown):,} of {len(rows):,} rows." * (len(shown) < len(rows))
    return {
        "heading": _TABLES.get(name, spelled(name).capitalize()),
        "note": method + left_out,
        "columns": [(column, "") for column in columns],
        "rows": [list(map(str, row)) for row in shown],
    }


def spelled(name: object) -> str:
    """A name as words."""
    return str(name).replace("_", " ")
