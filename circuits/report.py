"""What an evaluation found: every figure with its interval or the reason that it has none, and how it was obtained.

A figure never appears alone. `str` of a figure, a verdict, a table or a report says the interval or why there is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

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


@dataclass(frozen=True)
class Table:
    """Rows of words and figures, such as the effect of each edge.

    Args:
        columns: Headings.
        rows: Cells, one per heading: text, or a figure that brings its interval or the reason that it has none.
        method: How the figures were obtained.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str | Figure, ...], ...]
    method: str = ""

    def __str__(self) -> str:
        lines = [self.columns, *(tuple(map(str, row)) for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
        )


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


@dataclass(frozen=True, eq=False)
class Report:
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
