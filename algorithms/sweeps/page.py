"""The overview of a sweep as one page that opens from disk: a table to sort and to filter, curves, links to circuits.

It loads nothing. Its one script is inside it, and a Content-Security-Policy lets no other run. Without the script, the
table stands in the order of the cells.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ...circuits.draw.curve import sparkline
from ...circuits.draw.pages import NONE, TEMPLATES, markup, render
from ...circuits.draw.style import legible
from ...circuits.figures import COLUMNS, figure_of
from ...circuits.formats.plain import write_text_atomic
from ...circuits.report import Figure, Report
from .outcomes import ERROR_FILE, Outcome


class Cell(NamedTuple):
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
        columns=[*search, ("seed", "n"), *figures, ("curve", ""), ("status", "")],
        cells=[_row(outcome, names) for outcome in outcomes],
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


def _seeds(outcomes: Sequence[Outcome], figures: Sequence[str]) -> list[list[Cell]]:
    """Rows that put the seeds of each search together; none if there is one seed only."""
    together: dict[tuple[str, ...], list[Outcome]] = {}
    for outcome in outcomes:
        cell = outcome.cell
        together.setdefault((cell.model, cell.task, cell.algorithm), []).append(outcome)
    if max(map(len, together.values()), default=0) < 2:
        return []
    return [[*(Cell(name, name) for name in names), *_spread(same, figures)] for names, same in together.items()]


def _spread(outcomes: Sequence[Outcome], names: Sequence[str]) -> list[Cell]:
    reports = [outcome.report for outcome in outcomes if outcome.report is not None]
    cells = [Cell(f"{len(reports)} of {len(outcomes)}", str(len(reports)), "n")]
    cells.append(_range([float(report.n_edges) for report in reports], ",.0f"))
    for name in names:
        figures = [figure for report in reports if (figure := figure_of(report, name)) is not None]
        cells.append(_range([figure.value for figure in figures if figure.value is not None], ".3f"))
    return cells


def _range(values: Sequence[float], form: str) -> Cell:
    if not values:
        return Cell(NONE, "", "n")
    mean = sum(values) / len(values)
    return _with_small(f"{mean:{form}}", f"{min(values):{form}} to {max(values):{form}}", repr(mean))


def _with_small(content: str, below: str, value: str) -> Cell:
    """A number with something small below it."""
    return Cell(markup("{}<small>{}</small>").format(content, below), value, "n")


def _row(outcome: Outcome, names: Sequence[str]) -> list[Cell]:
    cell, report = outcome.cell, outcome.report
    named = [Cell(name, name) for name in (cell.model, cell.task, cell.algorithm)]
    named.append(Cell(str(cell.seed), str(cell.seed), "n"))
    if report is None:
        return [*named, *[Cell(NONE, "", "n")] * (1 + len(names)), Cell("", ""), _status(outcome)]
    figures = [_figure(figure_of(report, name)) for name in names]
    return [*named, _size(report), *figures, Cell(markup(sparkline(report)), ""), _status(outcome)]


def _size(report: Report) -> Cell:
    nodes = report.method.get("n_nodes")
    kept = f"{report.n_edges:,}" if nodes is None else f"{nodes} nodes, {report.n_edges:,}"
    share = f"of {report.n_graph:,} ({report.n_edges / report.n_graph:.1%})"
    return _with_small(kept, share, str(report.n_edges))


def _figure(figure: Figure | None) -> Cell:
    if figure is None or figure.value is None:
        said = (NONE, "the report has no such figure") if figure is None else ("undefined", figure.reason)
        return Cell(markup('<span class="soft" title="{1}">{0}</span>').format(*said), "", "n")
    interval = figure.interval if figure.low is not None else "no interval"
    return _with_small(f"{figure.value:.3f}", interval, repr(figure.value))


def _status(outcome: Outcome) -> Cell:
    folder = outcome.cell.folder
    if outcome.status == "done":
        return Cell(markup('<a href="{}/circuit.html">circuit</a>').format(folder), "done")
    if outcome.status == "not run":
        return Cell(markup('<span class="soft">not run yet</span>'), "not run")
    link = markup('<a href="{}/{}">failed</a>: {}').format(folder, ERROR_FILE, legible(outcome.error))
    return Cell(link, "failed", "error")
