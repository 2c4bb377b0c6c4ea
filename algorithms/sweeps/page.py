"""The overview of a sweep as one page that opens from disk: a table to sort and to filter, curves, links to circuits.

It loads nothing. Its one script is inside it, and a Content-Security-Policy lets no other run. Without the script, the
table stands in the order of the cells.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from ...circuits.draw.curve import sparkline
from ...circuits.draw.style import tag, text
from ...circuits.figures import COLUMNS, figure_of
from ...circuits.formats.plain import write_text_atomic
from ...circuits.report import Figure, Report
from .outcomes import ERROR_FILE, Outcome

_NONE = "\N{EN DASH}"
_NOTE = (
    "Figures are on evaluation pairs, with their 95% interval below; random circuits are of the same size, and their "
    "interval is the spread of the draws. A circuit that does not read the image has transmission 0, and can have "
    "one-sided faithfulness 1; right is of the worst cell. CPR and CMD are areas under the curve; 1 and 0 are best. "
    "Curves: what is kept (transmission; on one-sided tasks faithfulness) by size, up to all edges on a logarithmic "
    "axis, random circuits in grey, the circuit as a dot. Columns that no cell has a figure for are left out."
)
_STYLE = """
:root{--ink:#111827;--soft:#4b5563;--line:#e5e7eb;--blue:#2b6cb0;--orange:#c2511d}
*{box-sizing:border-box}
body{margin:0;background:#f6f7f9;color:var(--ink);
font:15px/1.5 'Helvetica Neue',Helvetica,Arial,'Liberation Sans',sans-serif}
main{max-width:1480px;margin:0 auto;padding:28px 24px 64px}
h1{font-size:26px;line-height:1.25;margin:0 0 6px;letter-spacing:-.01em}h2{font-size:16px;margin:0 0 8px}
p{margin:6px 0 0;color:var(--soft);max-width:110ch}h2+p{margin:0 0 12px}
section{background:#fff;border:1px solid var(--line);border-radius:10px;padding:16px 20px;margin-top:18px;
overflow-x:auto}
input{font:inherit;padding:4px 9px;border:1px solid #cfd4da;border-radius:6px;width:280px;margin-top:18px}
table{border-collapse:collapse;width:100%;font-size:13.5px;font-variant-numeric:tabular-nums}
th{text-align:left;border-bottom:1px solid #cfd4da;padding:0 14px 4px 0;vertical-align:bottom;white-space:nowrap}
th button,th span{font:inherit;font-weight:600;color:var(--soft);background:none;border:0;padding:0}
th button{cursor:pointer}
th[aria-sort=ascending] button::after{content:" \\2191"}th[aria-sort=descending] button::after{content:" \\2193"}
td{border-bottom:1px solid #f0f1f4;padding:5px 14px 5px 0;vertical-align:middle}
.n{text-align:right;white-space:nowrap}.soft{color:var(--soft)}
td small{display:block;color:var(--soft);font-size:11.5px}
td.error{color:var(--orange);min-width:320px;max-width:520px;overflow-wrap:anywhere;white-space:pre-line}
td:first-child,td:nth-child(2){min-width:92px;overflow-wrap:anywhere}
svg{display:block}a{color:var(--blue)}
@media print{body{background:#fff}input{display:none}}
"""
_SCRIPT = """
const tables=[...document.querySelectorAll("table")];
const value=(row,at)=>row.cells[at].dataset.v;
for(const table of tables){
  const body=table.tBodies[0],heads=[...table.tHead.rows[0].cells];
  heads.forEach((head,at)=>head.querySelector("button")?.addEventListener("click",()=>{
    const down=head.getAttribute("aria-sort")==="ascending",sign=down?-1:1;
    heads.forEach(one=>one.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort",down?"descending":"ascending");
    const compare=(a,b)=>head.className==="n"?a-b:a.localeCompare(b,undefined,{numeric:true});
    [...body.rows].sort((a,b)=>{
      const [x,y]=[value(a,at),value(b,at)];
      return x===""||y===""?(x==="")-(y===""):sign*compare(x,y);
    }).forEach(row=>body.append(row));
  }));
}
const filter=document.querySelector("input");
filter.hidden=false;
filter.addEventListener("input",()=>{
  const words=filter.value.toLowerCase().split(/\\s+/);
  for(const row of tables.flatMap(table=>[...table.tBodies[0].rows])){
    const said=row.textContent.toLowerCase();
    row.hidden=!words.every(word=>said.includes(word));
  }
});
"""


def save_page(outcomes: Sequence[Outcome], path: str | Path) -> Path:
    """Writes the page and returns its path; links are to the cells' folders beside it.

    Raises:
        FormatError: The file cannot be written.
    """
    return write_text_atomic(path, sweep_page(outcomes))


def sweep_page(outcomes: Sequence[Outcome]) -> str:
    """The page as text."""
    script = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{script}'"
    head = (
        '<meta charset="utf-8">'
        + f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        + '<meta name="viewport" content="width=device-width,initial-scale=1">'
        + tag("title", "Sweep")
        + tag("style", _STYLE)
    )
    header = tag("header", tag("h1", text(_title(outcomes))), tag("p", text(_counts(outcomes))), tag("p", text(_NOTE)))
    filtering = '<input type="search" placeholder="show rows with these words" aria-label="Filter" hidden>'
    main = tag("main", header, filtering, tag("section", tag("h2", "Cells"), _cells(outcomes)), _seeds(outcomes))
    page = tag("html", tag("head", head), "\n", tag("body", main, tag("script", _SCRIPT)), lang="en")
    return f"<!DOCTYPE html>\n{page}\n"


def _title(outcomes: Sequence[Outcome]) -> str:
    parts = {"model": "model", "task": "task", "algorithm": "algorithm", "seed": "seed"}
    counts = {word: len({getattr(outcome.cell, part) for outcome in outcomes}) for part, word in parts.items()}
    return "Sweep: " + " \N{MULTIPLICATION SIGN} ".join(
        f"{count} {word}{'s' * (count != 1)}" for word, count in counts.items()
    )


def _counts(outcomes: Sequence[Outcome]) -> str:
    counts = Counter(outcome.status for outcome in outcomes)
    return f"{len(outcomes)} cells: " + ", ".join(f"{count} {status}" for status, count in counts.items()) + "."


def _cells(outcomes: Sequence[Outcome]) -> str:
    columns = [("model", ""), ("task", ""), ("algorithm", ""), ("seed", "n"), ("edges", "n")]
    names = _names(outcomes)
    columns += [(COLUMNS[name], "n") for name in names]
    rows = (_row(outcome, names) for outcome in outcomes)
    return _table([*columns, ("curve", ""), ("status", "")], rows)


def _names(outcomes: Sequence[Outcome]) -> list[str]:
    """Figures that some cell has; all where none is done."""
    reports = [outcome.report for outcome in outcomes if outcome.report is not None]
    return [name for name in COLUMNS if not reports or any(figure_of(report, name) for report in reports)]


def _seeds(outcomes: Sequence[Outcome]) -> str:
    """A table that puts the seeds of each search together; nothing if there is one seed only."""
    together: dict[tuple[str, ...], list[Outcome]] = {}
    for outcome in outcomes:
        cell = outcome.cell
        together.setdefault((cell.model, cell.task, cell.algorithm), []).append(outcome)
    if max(map(len, together.values()), default=0) < 2:
        return ""
    columns = [("model", ""), ("task", ""), ("algorithm", ""), ("seeds", "n"), ("edges", "n")]
    figures = _names(outcomes)
    columns += [(COLUMNS[name], "n") for name in figures]
    rows = ([*[_cell(text(name), name) for name in names], *_spread(same, figures)] for names, same in together.items())
    note = "Mean over the seeds that are done, and the lowest and the highest below: a range, not an interval."
    return tag("section", tag("h2", "Seeds together"), tag("p", note), _table(columns, rows))


def _spread(outcomes: Sequence[Outcome], names: Sequence[str]) -> list[str]:
    reports = [outcome.report for outcome in outcomes if outcome.report is not None]
    cells = [_cell(f"{len(reports)} of {len(outcomes)}", str(len(reports)), "n")]
    cells.append(_range([float(report.n_edges) for report in reports], ",.0f"))
    for name in names:
        figures = [figure for report in reports if (figure := figure_of(report, name)) is not None]
        cells.append(_range([figure.value for figure in figures if figure.value is not None], ".3f"))
    return cells


def _range(values: Sequence[float], form: str) -> str:
    if not values:
        return _cell(_NONE, "", "n")
    mean = sum(values) / len(values)
    ends = tag("small", f"{min(values):{form}} to {max(values):{form}}")
    return _cell(f"{mean:{form}}{ends}", repr(mean), "n")


def _table(columns: Sequence[tuple[str, str]], rows: Iterable[Sequence[str]]) -> str:
    """A table to sort; a column is (heading, class), a row its cells as markup."""
    head = (
        tag("th", tag("span" if name == "curve" else "button", text(name)), class_=kind or None)
        for name, kind in columns
    )
    lines = (tag("tr", *row) for row in rows)
    return tag("table", tag("thead", tag("tr", *head)), tag("tbody", "\n", "\n".join(lines)))


def _row(outcome: Outcome, names: Sequence[str]) -> list[str]:
    cell, report = outcome.cell, outcome.report
    named = [_cell(text(name), name) for name in (cell.model, cell.task, cell.algorithm)]
    named.append(_cell(str(cell.seed), str(cell.seed), "n"))
    if report is None:
        return [*named, *[_cell(_NONE, "", "n")] * (1 + len(names)), _cell("", ""), _status(outcome)]
    figures = [_figure(figure_of(report, name)) for name in names]
    return [*named, _size(report), *figures, _cell(sparkline(report), ""), _status(outcome)]


def _cell(content: str, value: str, kind: str = "") -> str:
    """A cell with what it is sorted by; empty values go to the end."""
    return f'<td class="{kind}" data-v="{text(value)}">{content}</td>'


def _size(report: Report) -> str:
    nodes = report.method.get("n_nodes")
    kept = f"{report.n_edges:,}" if nodes is None else f"{nodes} nodes, {report.n_edges:,}"
    share = tag("small", f"of {report.n_graph:,} ({report.n_edges / report.n_graph:.1%})")
    return _cell(kept + share, str(report.n_edges), "n")


def _figure(figure: Figure | None) -> str:
    if figure is None:
        return _cell(f'<span class="soft" title="the report has no such figure">{_NONE}</span>', "", "n")
    if figure.value is None:
        return _cell(f'<span class="soft" title="{text(figure.reason)}">undefined</span>', "", "n")
    interval = figure.interval if figure.low is not None else "no interval"
    return _cell(f"{figure.value:.3f}" + tag("small", text(interval)), repr(figure.value), "n")


def _status(outcome: Outcome) -> str:
    folder = outcome.cell.folder
    if outcome.status == "done":
        return _cell(tag("a", "circuit", href=f"{folder}/circuit.html"), "done")
    if outcome.status == "not run":
        return _cell(tag("span", "not run yet", class_="soft"), "not run")
    said = tag("a", "failed", href=f"{folder}/{ERROR_FILE}") + ": " + text(outcome.error)
    return _cell(said, "failed", "error")
