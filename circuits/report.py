"""What was found: every figure with its interval or the reason that it has none, and how it was obtained.

A figure never appears alone. `str` of a figure, a verdict, a table or a report says the interval or why there is none.
Every result that is a table (`Tabular`) can be printed, framed, written, drawn and shown in a notebook, its caveat
beside it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..models.errors import FormatError
from .formats import found
from .formats.plain import write_csv, write_json
from .shown import Glance, Shown, aligned, drawable

if TYPE_CHECKING:
    import pandas

MOST_ROWS = 12
"""Rows of a table that a printed report shows."""


@dataclass(frozen=True)
class Figure:
    """One number of a report.

    Args:
        value: The number; None where it is not defined.
        unit: `nats`, `logits`, `share`, or empty.
        low: Lower end of the 95% interval.
        high: Upper end of the 95% interval.
        reason: Why there is no value or no interval; empty where there are both.
        method: How it was obtained, in a few words.
    """

    value: float | None
    unit: str = ""
    low: float | None = None
    high: float | None = None
    reason: str = ""
    method: str = ""

    def __str__(self) -> str:
        if self.value is None:
            return f"undefined ({self.reason})"
        unit = f" {self.unit}" * (self.unit not in ("", "share"))
        if self.low is not None and self.high is not None:
            return f"{self.value:.3f} {self.interval}{unit}"
        return f"{self.value:.3f}{unit} ({self.interval})"

    __repr__ = __str__

    @property
    def interval(self) -> str:
        """The interval, or the reason that there is none: never an empty text."""
        if self.value is not None and self.low is not None and self.high is not None:
            return f"[{self.low:.3f}, {self.high:.3f}]"
        return f"no interval: {self.reason or 'none was recorded'}"


@dataclass(frozen=True)
class Verdict:
    """What a test found.

    Args:
        passed: Whether the circuit passed; None where the test could not decide, and `words` says why.
        words: What was tested and what was found, as a sentence.
        statistic: What the test looked at, with its interval where it has one.
        p_value: Chance of a statistic at least as extreme if the null hypothesis holds; None where nothing was tested.
        n: Pairs or draws that the test rests on.
        level: Largest p-value that rejects the null hypothesis.
        null: The null hypothesis.
        method: How it was tested, in a few words.
    """

    passed: bool | None
    words: str
    statistic: Figure
    p_value: float | None
    n: int
    level: float
    null: str
    method: str = ""

    def __str__(self) -> str:
        said = {True: "passed", False: "failed", None: "undecided"}[self.passed]
        p_value = "not tested" if self.p_value is None else f"p = {self.p_value:.3g} against {self.level:.3g}"
        return f"{said}: {self.words} (statistic {self.statistic}; {p_value}; n = {self.n})"

    __repr__ = __str__


class Tabular(Shown):
    """A result that is a table, and what a table can do; a subclass gives `table`, and `frame` if it holds more.

    A dataclass among them is declared with `repr=False`, so that `repr` is the small table.
    """

    @property
    def headline(self) -> str:
        """What was looked at."""
        return ""

    @property
    def caveat(self) -> str:
        """What has to be known to read it; stands wherever the table stands."""
        return ""

    @abstractmethod
    def table(self) -> Table:
        """Rows of words and figures, for people: what is printed, drawn and shown in a notebook."""

    def frame(self) -> pandas.DataFrame:
        """The rows for programs: a column of figures with `_low` and `_high`, the ends of their 95% intervals."""
        import pandas

        table, columns = self.table(), {}
        for place, name in enumerate(table.columns):
            cells = [row[place] for row in table.rows]
            if not any(isinstance(cell, Figure) for cell in cells):
                columns[name] = cells
                continue
            figures = [cell if isinstance(cell, Figure) else Figure(None) for cell in cells]
            for end, part in (("", "value"), ("_low", "low"), ("_high", "high")):
                columns[name + end] = np.array([getattr(one, part) for one in figures], dtype=np.float64)
        return pandas.DataFrame(columns)

    def record(self) -> dict[str, Any] | None:
        """Everything with its schema, as a .json holds it; None for what is not written so."""
        return None

    def save(self, path: str | Path) -> Path:
        """Writes `frame()` to a .csv (or everything to a .json, where there is more), whole or not at all.

        Raises:
            FormatError: The ending is not known, or the file cannot be written.
        """
        ending, record = Path(path).suffix.lower(), self.record()
        if ending == ".json" and record is not None:
            return write_json(path, record)
        if ending == ".csv":
            return write_csv(path, self.frame())
        known = ".csv" if record is None else ".csv or .json"
        raise FormatError(
            f"cannot tell a format from the ending of {str(path)!r}: a table is written as {known}, such as "
            f'table.save("table.csv"). Pictures are drawn by table.draw("table.svg").'
        )

    def save_all(self, folder: str | Path, name: str) -> list[Path]:
        """Writes `name.csv`, `.json`, `.svg` and `.png` into a folder, and returns their paths.

        Raises:
            FormatError: The folder cannot be written.
        """
        files = [Tabular.save(self, Path(folder) / f"{name}.{ending}") for ending in ("csv", "json")]
        return [*files, *(self.draw(Path(folder) / f"{name}.{ending}") for ending in ("svg", "png"))]

    @drawable
    def draw(self, path: str | Path, *, title: str = "") -> Path:
        """Draws the figures with their intervals, a row each, to an .svg, .pdf or .png, and returns the path.

        Without a path returns a `Drawing`, which a notebook shows.

        Raises:
            FormatError: The ending is not known, or the file cannot be written.
        """
        return found("draw.intervals.draw_table")(self.table(), path, title=title or self.headline)

    def __str__(self) -> str:
        return "\n".join(filter(None, (self.headline, str(self.table()), self.caveat)))

    def glance(self, most: int) -> Glance:
        """The headline, the first rows of the table, and the caveat."""
        table = self.table()
        rows = [list(map(str, row)) for row in table.rows[:most]]
        return Glance(self.headline, table.columns, rows, len(table.rows), self.caveat)


@dataclass(frozen=True, repr=False)
class Table(Tabular):
    """Rows of words and figures, such as the effect of each edge.

    Args:
        columns: Headings.
        rows: Cells, one per heading: text, or a figure that brings its interval or the reason that it has none.
        method: How the figures were obtained.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str | Figure, ...], ...]
    method: str = ""

    @property
    def caveat(self) -> str:
        """How its figures were obtained."""
        return self.method

    def table(self) -> Table:
        """Itself."""
        return self

    def __str__(self) -> str:
        return "\n".join(aligned([self.columns, *(tuple(map(str, row)) for row in self.rows)]))


@dataclass(frozen=True, eq=False)
class Curve:
    """Faithfulness against size; all arrays have shape (point,).

    Args:
        label: What was ranked, such as `eap_ig` or `random`.
        n_nominal: Edges asked for.
        n_edges: Edges left after those on no path were dropped.
        faithfulness: Normalised faithfulness, 0 for no edge and 1 for all.
        low: Lower end of the 95% interval (over pairs, or for random circuits over draws).
        high: Upper end.
    """

    label: str
    n_nominal: NDArray[np.int64]
    n_edges: NDArray[np.int64]
    faithfulness: NDArray[np.float64]
    low: NDArray[np.float64] | None = None
    high: NDArray[np.float64] | None = None

    def __repr__(self) -> str:
        sizes = f"{len(self.n_edges)} sizes up to {max(self.n_edges, default=0):,} edges"
        return f"Curve of {self.label!r}: {sizes}"


@dataclass(frozen=True, eq=False, repr=False)
class Report(Tabular):
    """The judgement of one circuit on one set of pairs.

    Args:
        figures: Name -> figure, such as `faithfulness`, `kl`, `accuracy`, `cpr`, `cmd`, `random_faithfulness`.
        curves: Faithfulness curves: the circuit's ranking, and random circuits for comparison.
        n_edges: Edges of the circuit.
        n_graph: Edges of the graph.
        n_pairs: Pairs that were used.
        method: How every figure was obtained: granularity, ablation, metric, aggregation, pairs used.
        verdicts: Name -> what a test found, such as `equivalence`.
        tables: Name -> rows of figures, such as `local_minimality` and `spread`.
    """

    figures: Mapping[str, Figure]
    curves: tuple[Curve, ...]
    n_edges: int
    n_graph: int
    n_pairs: int
    method: Mapping[str, Any] = field(default_factory=dict)
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    tables: Mapping[str, Table] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Figure:
        return self.figures[name]

    @property
    def caveat(self) -> str:
        """What no figure of a one-sided task can tell."""
        return str(self.method.get("sides_in_words", ""))

    def table(self) -> Table:
        """A row for each figure."""
        return Table(("figure", "value"), tuple(self.figures.items()))

    def frame(self) -> pandas.DataFrame:
        """A row for each figure: `figure`, `value`, `unit`, `low`, `high`, `reason` and `method`."""
        import pandas

        rows = [{"figure": name, **vars(figure)} for name, figure in self.figures.items()]
        return pandas.DataFrame(rows, columns=["figure", "value", "unit", "low", "high", "reason", "method"])

    def record(self) -> dict[str, Any]:
        """Everything, as `load_report` reads it."""
        return found("formats.json.report_to_dict")(self)

    @drawable
    def draw(self, path: str | Path, *, title: str = "") -> Path:
        """Draws what circuits of every size keep, or the figures where no curve was measured, and returns the path.

        Raises:
            FormatError: The ending is not known, or the file cannot be written.
        """
        if not self.curves:
            return super().draw(path, title=title)
        return found("draw.curve.draw_report")(self, path, title=title)

    @property
    def headline(self) -> str:
        """What was judged: an edge circuit or a node circuit, its size, and on how many pairs."""
        edges = f"{self.n_edges:,} of {self.n_graph:,} edges"
        if self.method.get("granularity") == "node":
            kept = f"{self.method['n_nodes']} of {self.method['n_graph_nodes']} heads and MLPs kept whole"
            return f"node circuit: {kept} ({edges} run among them), {self._told}"
        return f"edge circuit: {edges}, {self._told}"

    @property
    def _told(self) -> str:
        """What the circuit was judged on, and whether it reads the image."""
        method = self.method
        if method.get("sides") != "both":
            return f"{self.n_pairs:,} one-sided pairs"
        names = ("n_target_images", "n_foil_images")
        n, right = (sum(method[name + end] for name in names) for end in ("", "_right"))
        transmission = self.figures["transmission"]
        value = "T undefined" if transmission.value is None else f"T = {transmission.value:.2f} {transmission.interval}"
        return f"{value}: {method['verdict']}; {n} images, of which the model gets {n - right} wrong"

    def __str__(self) -> str:
        named = {**self.figures, **self.verdicts}
        width = max(map(len, named), default=0)
        lines = [self.headline, *(f"  {name:<{width}}  {found}" for name, found in named.items())]
        for name, table in self.tables.items():
            left_out = len(table.rows) - MOST_ROWS
            shown = replace(table, rows=table.rows[:MOST_ROWS])
            lines += [f"{name.replace('_', ' ')}: {table.method}", *(f"  {row}" for row in str(shown).split("\n"))]
            lines += [f"  ... and {left_out} more rows in report.tables[{name!r}]"] * (left_out > 0)
        return "\n".join(lines)
