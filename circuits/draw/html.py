"""One static page that opens from disk: does it read the image, diagram, images, curve, tables.

It loads nothing and runs nothing: pictures are inside it, there is no script, and a Content-Security-Policy forbids
both. Everything that came from outside (class names, model names) is escaped.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from ..circuit import Circuit
from ..figures import grouped
from ..formats.plain import write_text_atomic
from ..report import Figure, Report, Table, Verdict
from ..words import facts, is_crossed, measure, selection_told, title, told
from .images import answers, attention, images
from .strokes import Stroke, number, strokes
from .style import tag, text
from .svg import to_svg

if TYPE_CHECKING:
    from ..figure_data import Exhibit

MAX_ROWS = 2000
"""More rows than this make no readable table; the page says how many it left out."""

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_NONE = "\N{EN DASH}"
STYLE = """
:root{--ink:#111827;--soft:#4b5563;--line:#e5e7eb;--blue:#2b6cb0;--orange:#c2511d}
*{box-sizing:border-box}
body{margin:0;background:#f6f7f9;color:var(--ink);
font:15px/1.55 'Helvetica Neue',Helvetica,Arial,'Liberation Sans',sans-serif}
main{max-width:1180px;margin:0 auto;padding:28px 24px 64px}
h1{font-size:26px;line-height:1.25;margin:0 0 6px;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{font-size:16px;margin:0 0 12px}h3{font-size:14px;margin:18px 0 8px}
p{margin:0 0 10px;color:var(--soft);max-width:75ch}
section{background:#fff;border:1px solid var(--line);border-radius:10px;padding:20px 22px;margin-top:20px}
dl.facts{display:flex;flex-wrap:wrap;gap:6px 26px;margin:10px 0 0}
dl.facts div{display:flex;gap:7px}dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
.diagram{overflow-x:auto;text-align:center}.diagram svg{height:auto;max-width:100%;min-width:min(100%,560px)}
.diagram.wide svg{max-width:none}
.told{display:grid;grid-template-columns:max-content 1fr;gap:3px 18px;margin:0}
.told .main{font-size:19px;font-weight:600;color:var(--ink)}
.told+p{margin-top:12px}.answers figure{width:196px}
.answers img{height:112px;display:block;border:3px solid transparent}
.answers .other img{border-color:var(--orange)}
.gallery{display:flex;flex-wrap:wrap;gap:18px}
figure{margin:0}figcaption{font-size:12.5px;color:var(--soft);margin-top:3px;max-width:330px;overflow-wrap:anywhere}
.pair{display:flex;gap:10px}.heads{gap:12px}.heads figcaption{max-width:88px}
.heads img{width:88px;height:88px;object-fit:contain;display:block;border:1px solid var(--line)}
.columns{display:grid;grid-template-columns:repeat(auto-fit,minmax(440px,1fr));gap:20px}
.columns section{min-width:0}.curve{width:100%;max-width:720px;height:auto}
.figures{table-layout:fixed}.figures th:nth-child(1){width:170px}.figures th:nth-child(2){width:110px}
.figures th:nth-child(3){width:170px}
table{border-collapse:collapse;width:100%;font-size:13.5px;font-variant-numeric:tabular-nums}
th{text-align:left;font-weight:600;color:var(--soft);border-bottom:1px solid #cfd4da;padding:5px 14px 5px 0;
position:sticky;top:0;background:#fff}
td{border-bottom:1px solid #f0f1f4;padding:4px 14px 4px 0;vertical-align:top}
.n{text-align:right}.name{font-family:ui-monospace,'DejaVu Sans Mono',Menlo,Consolas,monospace;font-size:12.5px}
.positive{color:var(--blue)}.negative{color:var(--orange)}.soft{color:var(--soft)}
.scroll{max-height:520px;overflow:auto}
@media print{body{background:#fff}section{break-inside:avoid}.scroll{max-height:none}}
"""


def write_html(
    circuit: Circuit,
    path: str | Path,
    *,
    report: Report | None = None,
    exhibit: Exhibit | None = None,
    curve_svg: str | None = None,
) -> Path:
    """Writes the page, and returns the path.

    Args:
        report: Figures with their intervals and methods.
        exhibit: Images, the attention of the circuit's heads over the first one, and pictures of single images.
        curve_svg: The curve as SVG text, from `curve.curves_svg`.

    Raises:
        FormatError: The file cannot be written.
    """
    return write_text_atomic(path, to_html(circuit, report=report, exhibit=exhibit, curve_svg=curve_svg))


def to_html(
    circuit: Circuit, *, report: Report | None = None, exhibit: Exhibit | None = None, curve_svg: str | None = None
) -> str:
    """The page as text."""
    body = [
        _header(circuit),
        _headline(circuit, report),
        _diagram(circuit),
        section("Images", images(exhibit, circuit)) if exhibit is not None else "",
        section("Where the circuit's heads look", attention(exhibit, circuit)) if exhibit is not None else "",
        section("Image by image", answers(report, exhibit, circuit)) if exhibit is not None and report else "",
        _curve(curve_svg, report),
        _figures(report),
        _verdicts(report),
        _tables(report),
        _edges(circuit),
        _method(report) if report is not None else "",
    ]
    return html_page(title(circuit), body)


def html_page(heading: str, body: Iterable[str], *, style: str = "") -> str:
    """A whole page that loads and runs nothing; the parts of the body are markup already, empty ones are left out."""
    head = (
        '<meta charset="utf-8">'
        + f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        + '<meta name="viewport" content="width=device-width,initial-scale=1">'
        + tag("title", text(heading))
        + tag("style", STYLE + style)
    )
    page = tag("html", tag("head", head), "\n", tag("body", tag("main", "\n".join(filter(None, body)))), lang="en")
    return f"<!DOCTYPE html>\n{page}\n"


def section(heading: str, *content: str) -> str:
    """A section with a heading; nothing without content. The content is markup already."""
    return tag("section", tag("h2", text(heading)), *content) if any(content) else ""


def _header(circuit: Circuit) -> str:
    known = [*facts(circuit), ("vitcircuits", _version())]
    terms = (tag("div", tag("dt", text(label)), tag("dd", text(value))) for label, value in known)
    return tag("header", tag("h1", text(title(circuit))), tag("dl", *terms, class_="facts"))


def _version() -> str:
    try:
        return version("vitcircuits")
    except PackageNotFoundError:
        return "not installed"


def _headline(circuit: Circuit, report: Report | None) -> str:
    """What the report says first; the line with the verdict stands out."""
    if report is None or measure(report) not in report.figures:
        return ""
    rows = told(report)
    if chosen := selection_told(circuit.provenance, len(circuit.graph)):
        rows.insert(0, ("selection", chosen))
    terms = (
        tag("dt", text(label)) + tag("dd", text(said), class_="main" if label == measure(report) else None)
        for label, said in rows
    )
    heading = "Does it read the image?" if is_crossed(report) else "Faithfulness, on one side"
    return section(heading, tag("dl", *terms, class_="told"), tag("p", text(_MEANING[measure(report)])))


_MEANING = {
    "transmission": "T, transmission: what the class of the clean image changes in the circuit's answer, over what it "
    "changes in the model's. The model has 1; a constant, whatever it says, has 0.",
    "faithfulness": "f, faithfulness: how far the circuit goes from the answer without edges to the model's, on images "
    "of the target. Whether it reads the image is told by a crossed task: vitcircuits evaluate CIRCUIT.json.",
}


def _diagram(circuit: Circuit) -> str:
    drawing = to_svg(circuit, header=False)
    wide = float(drawing.split('width="', 1)[1].split('"', 1)[0]) > 2200
    return section(
        "Circuit",
        tag("div", drawing, class_="diagram wide" if wide else "diagram"),
        tag("p", "Point at an edge for its name, score and rank."),
    )


def _curve(curve_svg: str | None, report: Report | None) -> str:
    if not curve_svg:
        return ""
    name = "Faithfulness" if report is None else measure(report).capitalize()
    some = None if report is None else report.method.get("n_curve_pairs")
    note = f"On {some} pairs that the model gets right, a part of those that the figures are taken on." if some else ""
    return section(f"{name} by size", svg_image(curve_svg, f"{name} against edges"), tag("p", note) if note else "")


def svg_image(svg: str, alt: str) -> str:
    """An SVG as an image inside the page, where its styles cannot reach the page."""
    data = base64.b64encode(svg.encode()).decode("ascii")
    return f'<img class="curve" alt="{text(alt)}" src="data:image/svg+xml;base64,{data}">'


def html_table(columns: Sequence[tuple[str, str]], rows: Iterable[Sequence[str]], kind: str | None = None) -> str:
    """A table; a column is (heading, class), a cell is markup already."""
    head = (tag("th", text(name), class_=of or None) for name, of in columns)
    lines = (
        tag("tr", *(f'<td class="{of}">{cell}</td>' for cell, (_, of) in zip(row, columns, strict=True)))
        for row in rows
    )
    top = tag("thead", tag("tr", *head)) if any(name for name, _ in columns) else ""
    return tag("table", top, tag("tbody", "\n", *lines), class_=kind)


def _figures(report: Report | None) -> str:
    if report is None or not report.figures:
        return ""
    columns = [("", ""), ("value", "n"), ("95% interval", "n"), ("how", "soft")]
    parts = [tag("p", text(f"{report.headline[0].upper()}{report.headline[1:]}."))]
    for heading, figures in grouped(report).items():
        parts.append(tag("h3", text(heading)) if heading else "")
        parts.append(html_table(columns, [[text(name), *_cells(one)] for name, one in figures.items()], "figures"))
    return section("Figures", *parts)


def _cells(figure: Figure) -> list[str]:
    """Value, interval or the reason that there is none, and method."""
    unit = f" {figure.unit}" if figure.unit not in ("", "share") else ""
    if figure.value is None:
        return ["undefined", text(figure.reason), text(figure.method)]
    known = figure.low is not None and figure.high is not None
    interval = f"{figure.low:.3f} to {figure.high:.3f}" if known else figure.interval
    return [text(f"{figure.value:.3f}{unit}"), text(interval), text(figure.method)]


def _verdicts(report: Report | None) -> str:
    if report is None or not report.verdicts:
        return ""
    columns = [
        ("test", ""),
        ("verdict", ""),
        ("statistic", "n"),
        ("p", "n"),
        ("level", "n"),
        ("n", "n"),
        ("how", "soft"),
    ]
    rows = [_verdict_row(name, verdict) for name, verdict in report.verdicts.items()]
    return section("Tests", html_table(columns, rows))


def _verdict_row(name: str, verdict: Verdict) -> list[str]:
    said = {True: "passed", False: "failed", None: "undecided"}[verdict.passed]
    p_value = _NONE if verdict.p_value is None else f"{verdict.p_value:.3g}"
    cells = (
        name.replace("_", " "),
        f"{said}: {verdict.words}",
        str(verdict.statistic),
        p_value,
        f"{verdict.level:.3g}",
        str(verdict.n),
        f"null hypothesis: {verdict.null}; {verdict.method}",
    )
    return [text(cell) for cell in cells]


def _tables(report: Report | None) -> str:
    return "" if report is None else "\n".join(_any_table(name, table) for name, table in report.tables.items())


_TABLES = {"images": "Every clean image", "controls": "What cheats and chance get"}


def _any_table(name: str, table: Table) -> str:
    shown = table.rows[:MAX_ROWS]
    left_out = f" The first {len(shown):,} of {len(table.rows):,} rows." * (len(shown) < len(table.rows))
    rows = ([text(str(cell)) for cell in row] for row in shown)
    content = tag("div", html_table([(column, "") for column in table.columns], rows), class_="scroll")
    return section(
        _TABLES.get(name, name.replace("_", " ").capitalize()), tag("p", text(table.method + left_out)), content
    )


def _edges(circuit: Circuit) -> str:
    if not len(circuit):
        return section("Edges", tag("p", "No edge is kept."))
    shown = strokes(circuit, limit=MAX_ROWS)
    columns = [
        ("rank", "n"),
        ("edge", "name"),
        ("score", "n"),
        ("std. error", "n"),
        ("mean |score|", "n"),
        ("", "soft"),
    ]
    note = "Positive scores help the metric, negative ones hurt it."
    if len(shown) < len(circuit):
        note += f" The {len(shown):,} strongest of {len(circuit):,} edges are listed."
    return section("Edges", tag("p", text(note)), tag("div", html_table(columns, map(_row, shown)), class_="scroll"))


def _row(stroke: Stroke) -> list[str]:
    def shown(value: float | None) -> str:
        return _NONE if value is None else text(number(value))

    score = _NONE if stroke.score is None else text(number(stroke.score, signed=True))
    kind = "" if stroke.exact is None else "exact" if stroke.exact else "estimated"
    return [
        str(stroke.rank),
        text(stroke.edge.name),
        tag("span", score, class_=stroke.sign),
        shown(stroke.std_err),
        shown(stroke.mean_abs),
        kind,
    ]


def _method(report: Report) -> str:
    if not report.method:
        return ""
    rows = ([text(str(name).replace("_", " ")), text(str(value))] for name, value in report.method.items())
    return section("How the figures were obtained", html_table([("", ""), ("", "")], rows))
