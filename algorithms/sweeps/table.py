"""The table of a sweep: one row per cell, in the order of the cells, whatever order they ended in.

| column | meaning |
| --- | --- |
| model, task, algorithm, seed | the cell |
| status | `done`, `failed`, `stale` (done with other weights or images), `running`, or `not run` |
| n_edges, n_graph, size | edges of the circuit, of the graph, and the first over the second |
| n_nodes | heads and MLPs kept whole; empty for circuits of edges |
| n_pairs | evaluation pairs |
| transmission, ..., faithfulness | figures of the report, each with `_low` and `_high` of its 95% interval |
| undefined | figures without a value, and why |
| error | why there are no figures, where it failed or is stale |
| folder | the cell's run folder, below the sweep's |

What reads the image comes first, one-sided faithfulness last. A figure that a report does not have, since its task is
of the other kind or an older version wrote it, is empty and not among the undefined ones.

It holds no times, so that the same sweep gives the same bytes, killed and resumed or not. Those are in `seconds.csv`.

The overview of a sweep is one page that opens from disk: the table to sort and to filter, curves, links to circuits.
Without its one script, the table stands in the order of the cells.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ...circuits.draw.curve import sparkline
from ...circuits.draw.pages import NONE, TEMPLATES, markup, render
from ...circuits.draw.style import legible
from ...circuits.figures import COLUMNS, figure_of
from ...circuits.formats.plain import write_csv, write_parquet
from ...circuits.report import Figure, Report
from ...models.files import write_text_atomic
from .outcomes import ERROR_FILE, Outcome

if TYPE_CHECKING:
    import pandas


_STAGES = ("task", "search", "evaluation", "files")
_COLUMNS: dict[Hashable, Any] = {
    **dict.fromkeys(("model", "task", "algorithm"), "str"),
    "seed": "int64",
    "status": "str",
    **dict.fromkeys(("n_edges", "n_graph"), "Int64"),
    "size": "float64",
    **dict.fromkeys(("n_nodes", "n_pairs"), "Int64"),
    **{f"{name}{end}": "float64" for name in COLUMNS for end in ("", "_low", "_high")},
    **dict.fromkeys(("undefined", "error", "folder"), "str"),
}


def sweep_table(outcomes: Sequence[Outcome]) -> pandas.DataFrame:
    """The table; the columns are described above."""
    import pandas

    table = pandas.DataFrame([_row(outcome) for outcome in outcomes], columns=list(_COLUMNS))
    return table.astype(_COLUMNS)


def save_table(outcomes: Sequence[Outcome], path: str | Path) -> Path:
    """Writes the table as .csv or .parquet, numbers to the last digit, and returns the path.

    Raises:
        FormatError: .parquet needs the extra `parquet`, or the file cannot be written.
    """
    table = sweep_table(outcomes)
    if Path(path).suffix != ".parquet":
        return write_csv(path, table)
    return write_parquet(path, table)


def save_seconds(outcomes: Sequence[Outcome], path: str | Path) -> Path:
    """Writes how long each cell took, stage by stage, as .csv, and returns the path.

    What a killed run had done already is not in the seconds of the one that went on from it (`resumed`).
    """
    import pandas

    rows = [
        {"folder": outcome.cell.folder, **{stage: outcome.run["times"].get(stage) for stage in _STAGES}}
        | {"resumed": outcome.run["resumed"]}
        for outcome in outcomes
        if outcome.status == "done"
    ]
    table = pandas.DataFrame(rows, columns=["folder", *_STAGES, "resumed"])
    return write_csv(path, table, float_format="%.3f")


def _row(outcome: Outcome) -> dict[str, Any]:
    cell, report = outcome.cell, outcome.report
    row = {"model": cell.model, "task": cell.task, "algorithm": cell.algorithm, "seed": cell.seed}
    row |= {"status": outcome.status, "undefined": "", "error": outcome.error, "folder": cell.folder}
    if report is None:
        return row
    row |= {"n_edges": report.n_edges, "n_graph": report.n_graph, "size": report.n_edges / report.n_graph}
    row |= {"n_nodes": report.method.get("n_nodes"), "n_pairs": report.n_pairs}
    known = {name: figure for name in COLUMNS if (figure := figure_of(report, name)) is not None}
    for name, figure in known.items():
        row |= {name: figure.value, f"{name}_low": figure.low, f"{name}_high": figure.high}
    missing = {name: figure.reason for name, figure in known.items() if figure.value is None}
    return row | {"undefined": "; ".join(f"{name}: {reason}" for name, reason in missing.items())}


class TableCell(NamedTuple):
    """A cell of a table: what it shows, what it is sorted by (empty values go to the end), and its class."""

    content: Any
    value: str
    kind: str = ""


def save_page(outcomes: Sequence[Outcome], path: str | Path) -> Path:
    """Writes the page and returns its path; links are to the cells' folders beside it.

    Raises:
        FormatError: The file cannot be written.
    """
    return write_text_atomic(path, sweep_page(outcomes))


def sweep_page(outcomes: Sequence[Outcome]) -> str:
    """The page as text."""
    names = _names(outcomes)
    figures = [("edges", "n"), *((COLUMNS[name], "n") for name in names)]
    search = [("model", ""), ("task", ""), ("algorithm", "")]
    return render(
        "sweep.html",
        title=_title(outcomes),
        counts=_counts(outcomes),
        columns=[*search, ("seed", "n"), ("status", ""), *figures, ("curve", "")],
        cells=[_page_row(outcome, names) for outcome in outcomes],
        seed_columns=[*search, ("seeds", "n"), *figures],
        seeds=_seeds(outcomes, names),
        script=markup((TEMPLATES / "sweep.js").read_text(encoding="utf-8")),
    )


def _title(outcomes: Sequence[Outcome]) -> str:
    parts = {"model": "model", "task": "task", "algorithm": "algorithm", "seed": "seed"}
    counts = {word: len({getattr(outcome.cell, part) for outcome in outcomes}) for part, word in parts.items()}
    return "Sweep: " + " \N{MULTIPLICATION SIGN} ".join(
        f"{count} {word}{'s' * (count != 1)}" for word, count in counts.items()
    )


def _counts(outcomes: Sequence[Outcome]) -> str:
    counts = Counter(outcome.status for outcome in outcomes)
    return f"{len(outcomes)} cells: " + ", ".join(f"{count} {status}" for status, count in counts.items()) + "."


def _names(outcomes: Sequence[Outcome]) -> list[str]:
    """Figures that some cell has; all where none is done."""
    reports = [outcome.report for outcome in outcomes if outcome.report is not None]
    return [name for name in COLUMNS if not reports or any(figure_of(report, name) for report in reports)]


def _seeds(outcomes: Sequence[Outcome], figures: Sequence[str]) -> list[list[TableCell]]:
    """Rows that put the seeds of each search together; none if there is one seed only."""
    together: dict[tuple[str, ...], list[Outcome]] = {}
    for outcome in outcomes:
        cell = outcome.cell
        together.setdefault((cell.model, cell.task, cell.algorithm), []).append(outcome)
    if max(map(len, together.values()), default=0) < 2:
        return []
    return [[*(TableCell(name, name) for name in names), *_spread(same, figures)] for names, same in together.items()]


def _spread(outcomes: Sequence[Outcome], names: Sequence[str]) -> list[TableCell]:
    reports = [outcome.report for outcome in outcomes if outcome.report is not None]
    cells = [TableCell(f"{len(reports)} of {len(outcomes)}", str(len(reports)), "n")]
    cells.append(_range([float(report.n_edges) for report in reports], ",.0f"))
    for name in names:
        figures = [figure for report in reports if (figure := figure_of(report, name)) is not None]
        cells.append(_range([figure.value for figure in figures if figure.value is not None], ".3f"))
    return cells


def _range(values: Sequence[float], form: str) -> TableCell:
    if not values:
        return TableCell(NONE, "", "n")
    mean = sum(values) / len(values)
    return _with_small(f"{mean:{form}}", f"{min(values):{form}} to {max(values):{form}}", repr(mean))


def _with_small(content: str, below: str, value: str) -> TableCell:
    """A number with something small below it."""
    return TableCell(markup("{}<small>{}</small>").format(content, below), value, "n")


def _page_row(outcome: Outcome, names: Sequence[str]) -> list[TableCell]:
    cell, report = outcome.cell, outcome.report
    named = [TableCell(name, name) for name in (cell.model, cell.task, cell.algorithm)]
    named += [TableCell(str(cell.seed), str(cell.seed), "n"), _status(outcome)]
    if report is None:
        return [*named, *[TableCell(NONE, "", "n")] * (1 + len(names)), TableCell("", "")]
    figures = [_figure(figure_of(report, name)) for name in names]
    return [*named, _size(report), *figures, TableCell(markup(sparkline(report)), "")]


def _size(report: Report) -> TableCell:
    nodes = report.method.get("n_nodes")
    kept = f"{report.n_edges:,}" if nodes is None else f"{nodes} nodes, {report.n_edges:,}"
    share = f"of {report.n_graph:,} ({report.n_edges / report.n_graph:.1%})"
    return _with_small(kept, share, str(report.n_edges))


def _figure(figure: Figure | None) -> TableCell:
    if figure is None or figure.value is None:
        said = (NONE, "the report has no such figure") if figure is None else ("undefined", figure.reason)
        return TableCell(markup('<span class="soft" title="{1}">{0}</span>').format(*said), "", "n")
    interval = figure.interval if figure.low is not None else "no interval"
    return _with_small(f"{figure.value:.3f}", interval, repr(figure.value))


def _status(outcome: Outcome) -> TableCell:
    folder = outcome.cell.folder
    if outcome.status == "done":
        return TableCell(markup('<a href="{}/circuit.html">circuit</a>').format(folder), "done")
    if outcome.status in ("not run", "running"):
        said = "not run yet" if outcome.status == "not run" else "running"
        return TableCell(markup('<span class="soft">{}</span>').format(said), outcome.status)
    file = ERROR_FILE if outcome.status == "failed" else "circuit.html"
    link = markup('<a href="{}/{}">{}</a>: {}').format(folder, file, outcome.status, legible(outcome.error))
    return TableCell(link, outcome.status, "error")
