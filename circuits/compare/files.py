"""A comparison as files: `report.json` with everything, tables as CSV, and one HTML page.

| file | content |
| --- | --- |
| report.json | conditions, what differs, agreement, figures, findings, what may be said (`vitcircuits.comparison/1`) |
| figures.csv | one row per circuit and figure: value, interval, what random circuits have |
| agreement.csv | one row per two circuits and measure: value, and by chance |
| findings.csv | one row per two kinds and figure: difference, what seeds, pairs and chance show, p-values, verdict |
| rank_overlap.csv | overlap at each rank |
| transmission.csv | of crossed tasks: transmission of each circuit's ranking at each size, where it was measured |
| faithfulness.csv | of one-sided tasks: faithfulness likewise |
| comparison.html | all of it, with the circuits side by side |
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from ...models.files import write_text_atomic
from ..bootstrap import NAMES
from ..formats.plain import plain
from ..formats.schema import json_text
from .findings import Finding
from .result import Comparison

COMPARISON_SCHEMA = "vitcircuits.comparison/1"


def save_comparison(comparison: Comparison, folder: str | Path) -> list[Path]:
    """Writes all files, each whole or not at all, and returns their paths.

    Raises:
        FormatError: The folder cannot be written.
    """
    from ..draw.comparison_page import write_comparison_page

    folder = Path(folder)
    tables = {
        "figures": (("circuit", "kind", "figure", "value", "low", "high", "random", "note"), _figures(comparison)),
        "agreement": (("first", "second", "measure", "value", "chance", "note"), _agreement(comparison)),
        "findings": (_FINDING, _findings(comparison)),
        "rank_overlap": (("of", "between", "rank", "overlap"), _rank_overlap(comparison)),
    }
    for name in dict.fromkeys(curve.name for one in comparison.subjects for curve in one.curves.values()) or [
        NAMES["one"]
    ]:
        tables[name] = (("circuit", "by", "edges", "share", name), _kept(comparison, name))
    written = [write_text_atomic(folder / "report.json", json_text(to_dict(comparison)))]
    for name, (columns, rows) in tables.items():
        written.append(write_text_atomic(folder / f"{name}.csv", _csv(columns, rows)))
    return [*written, write_comparison_page(comparison, folder / "comparison.html")]


def _csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow(["" if cell is None or cell != cell else cell for cell in row])  # NaN is not itself
    return buffer.getvalue()


def _figures(comparison: Comparison) -> Iterable[Sequence[Any]]:
    for subject, figures, chance in zip(comparison.subjects, comparison.figures, comparison.chance, strict=True):
        for name, figure in figures.items():
            random = chance.get(name)
            yield subject.name, subject.kind, name, figure.value, figure.low, figure.high, random, figure.reason


def _agreement(comparison: Comparison) -> Iterable[Sequence[Any]]:
    found = comparison.agreement
    for i, j in combinations(range(len(comparison.names)), 2):
        for measure, values in found.values.items():
            note = found.why_not.get(measure, "") if np.isnan(values[i, j]) else ""
            numbers = (float(values[i, j]), float(found.chance[measure][i, j]))
            yield comparison.names[i], comparison.names[j], measure, *numbers, note


_FINDING = (
    "figure",
    "first",
    "second",
    "mean_first",
    "mean_second",
    "difference",
    "between_seeds",
    "low",
    "high",
    "random_first",
    "random_second",
    "p",
    "smallest_p",
    "p_holm",
    "verdict",
    "words",
)


def _findings(comparison: Comparison) -> Iterable[Sequence[Any]]:
    for one in comparison.findings:
        yield [finding_record(one)[column] for column in _FINDING]


def finding_record(finding: Finding) -> dict[str, Any]:
    """A finding in plain values, with what it says in words."""
    chance, test = finding.chance or (None, None), finding.test
    return {
        "figure": finding.figure,
        "first": finding.kinds[0],
        "second": finding.kinds[1],
        "values": finding.values,
        "mean_first": finding.means[0],
        "mean_second": finding.means[1],
        "difference": finding.difference,
        "between_seeds": finding.seeds,
        "low": finding.low,
        "high": finding.high,
        "random_first": chance[0],
        "random_second": chance[1],
        "p": None if test is None else test.p_value,
        "smallest_p": None if test is None else test.smallest,
        "test": None if test is None else asdict(test),
        "p_holm": finding.p_holm,
        "verdict": finding.verdict,
        "words": str(finding),
    }


def _rank_overlap(comparison: Comparison) -> Iterable[Sequence[Any]]:
    for of, (ranks, curves) in comparison.rank_curves.items():
        for between, values in curves.items():
            for rank, value in zip(ranks.tolist(), values.tolist(), strict=True):
                yield of, between, rank, value


def _kept(comparison: Comparison, name: str) -> Iterable[Sequence[Any]]:
    for subject in comparison.subjects:
        for by, curve in subject.curves.items():
            if curve.name != name:
                continue
            for size, share, value in zip(curve.n_edges, curve.share, curve.kept(), strict=True):
                yield subject.name, by, int(size), float(share), float(value)


def to_dict(comparison: Comparison) -> dict[str, Any]:
    """Everything in plain types; what is undefined is null."""
    found = comparison.agreement
    data = {
        "schema": COMPARISON_SCHEMA,
        "says": comparison.conclusions(),
        "circuits": [_circuit(comparison, place) for place in range(len(comparison.subjects))],
        "differences": [asdict(one) for one in comparison.differences],
        "pairs": comparison.pairs,
        "findings": [finding_record(one) for one in comparison.findings],
        "agreement": {
            measure: {"value": values, "chance": found.chance[measure], "why_not": found.why_not.get(measure, "")}
            for measure, values in found.values.items()
        },
        "heads": [_heads(comparison, *places) for places in found.matchings if places[0] != places[1]],
        "figures": [
            {"name": subject.name, **{name: asdict(figure) for name, figure in figures.items()}}
            for subject, figures in zip(comparison.subjects, comparison.figures, strict=True)
        ],
        "random": [dict(chance) for chance in comparison.chance],
        "method": comparison.method,
    }
    return plain(data, non_finite="null")


def _circuit(comparison: Comparison, place: int) -> dict[str, Any]:
    subject = comparison.subjects[place]
    paths = {"paths_by_length": subject.anatomy.paths.counts, "walks_by_length": subject.anatomy.paths.weighted}
    sizes = {"name": subject.name, "kind": subject.kind, "n_edges": len(subject.circuit)}
    return {**sizes, **comparison.conditions[place], **paths}


def _heads(comparison: Comparison, i: int, j: int) -> dict[str, Any]:
    matching = comparison.agreement.matchings[i, j]
    return {
        "first": comparison.names[i],
        "second": comparison.names[j],
        "method": matching.method,
        "heads": [
            {"second": b, "first": a, "similarity": matching.similarity[b], "margin": matching.margin[b]}
            for b, a in matching.heads.items()
        ],
    }
