"""What a comparison found: printable, and written as JSON, CSV and one HTML page.

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

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, combinations_with_replacement
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..formats import found
from ..formats.plain import plain, write_csv, write_json
from ..judging.bootstrap import NAMES
from ..report import Figure, Table, Tabular
from ..shown import drawable
from .agreement import Agreement
from .findings import FINDING, Finding
from .null import beyond_by_chance
from .subject import Subject

if TYPE_CHECKING:
    import pandas

COMPARISON_SCHEMA = "vitcircuits.comparison/1"


def _frame(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> pandas.DataFrame:
    import pandas

    return pandas.DataFrame([list(row) for row in rows], columns=list(columns), dtype=object)  # integers stay so


def _tables(comparison: Comparison) -> dict[str, pandas.DataFrame]:
    """File -> table."""
    names = {curve.name for one in comparison.subjects for curve in one.curves.values()} or {NAMES["one"]}
    return {
        "figures": comparison.frame(),
        "agreement": _frame(("first", "second", "measure", "value", "chance", "note"), _agreement(comparison)),
        "findings": _frame(FINDING, _findings(comparison)),
        "rank_overlap": _frame(("of", "between", "rank", "overlap"), _rank_overlap(comparison)),
        **{name: _frame(("circuit", "by", "edges", "share", name), _kept(comparison, name)) for name in sorted(names)},
    }


_FIGURES = ("circuit", "kind", "figure", "value", "low", "high", "random", "note")


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


def _findings(comparison: Comparison) -> Iterable[Sequence[Any]]:
    for one in comparison.findings:
        record = one.record()
        yield [record[column] for column in FINDING]


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


@dataclass(frozen=True)
class Difference:
    """A condition that is not the same for all.

    Args:
        condition: Such as `metric`.
        values: Of each circuit, in order.
        names: What the circuits are called.
        matters: Whether circuits are not comparable in size or score because of it, and why; empty where it only has to
            be known.
    """

    condition: str
    values: tuple[str, ...]
    names: tuple[str, ...]
    matters: str = ""

    def __str__(self) -> str:
        groups: dict[str, list[str]] = {}
        for name, value in zip(self.names, self.values, strict=True):
            groups.setdefault(value, []).append(name)
        said = "; ".join(f"{value} ({', '.join(names)})" for value, names in groups.items())
        return f"{self.condition} differs: {said}" + (f". {self.matters}" if self.matters else "")


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Tabular):
    """Circuits compared; everything by circuit is in the order of `subjects`.

    Args:
        subjects: The circuits, with what was measured about them.
        conditions: How each was found, in words.
        differences: The conditions that are not the same for all.
        agreement: What each two share.
        rank_curves: `edges` and `nodes` -> ranks, and overlap at each rank; empty where graphs differ in shape.
        figures: Of each circuit: name -> figure with its interval.
        chance: Of each circuit: name -> mean over random circuits like it.
        findings: What may be said about kinds of model.
        pairs: Which pairs were used, and how many were dropped because they were not valid for all.
        method: How everything was obtained, in plain values.
    """

    subjects: tuple[Subject, ...]
    conditions: tuple[Mapping[str, str], ...]
    differences: tuple[Difference, ...]
    agreement: Agreement
    rank_curves: Mapping[str, tuple[NDArray[np.int64], Mapping[str, NDArray[np.float64]]]]
    figures: tuple[Mapping[str, Figure], ...]
    chance: tuple[Mapping[str, float], ...]
    findings: tuple[Finding, ...]
    pairs: Mapping[str, Any]
    method: Mapping[str, Any]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the circuits."""
        return tuple(subject.name for subject in self.subjects)

    @property
    def kinds(self) -> dict[str, list[Subject]]:
        """Kind -> its circuits."""
        found: dict[str, list[Subject]] = {}
        for subject in self.subjects:
            found.setdefault(subject.kind, []).append(subject)
        return found

    def __getitem__(self, measure: str) -> NDArray[np.float64]:
        """A measure of agreement, such as `edges`, shape (circuit, circuit)."""
        return self.agreement.values[measure]

    def conclusions(self) -> list[str]:
        """What may be said, in sentences: first what limits it, then what was found, the strongest first."""
        found = [f"Not comparable without care: {one}" for one in self.differences if one.matters]
        order = ("differs", "beyond seeds", "within seeds", "same", "no second seed", "undefined")
        for verdict in order:
            found += [str(finding) for finding in self.findings if finding.verdict == verdict]
        return found + self._limits()

    def _limits(self) -> list[str]:
        """What so few seeds, and so many figures, do not allow."""
        tested = [finding.test for finding in self.findings if finding.test is not None]
        if not tested:
            return []
        said, level, smallest = [], self.method["level"], min(test.smallest for test in tested)
        if any(finding.verdict == "beyond seeds" for finding in self.findings):
            sizes = sorted({len(some) for some in self.kinds.values()})
            chance = beyond_by_chance(sizes[0], sizes[-1])
            said.append(
                f"With so few seeds ({' and '.join(map(str, sizes))} of a kind) any one figure lies beyond the seeds "
                f"by chance in about {100 * chance:.2g}% of comparisons of kinds that are alike; {len(tested)} were "
                f"compared."
            )
        if smallest == 1:
            said.append("With one seed of each kind nothing can be said about kinds, only about these circuits.")
        elif smallest * len(tested) > level:
            said.append(
                f"With so few seeds the smallest p-value is {smallest:.2g}, and {min(1.0, smallest * len(tested)):.2g} "
                f"after correction for {len(tested)} comparisons: at the level of {level:g} no difference between "
                f"kinds can be shown, only seen. More seeds, or fewer figures, would allow it."
            )
        return said

    def pairs_words(self) -> str:
        """How many pairs were compared on, and the share that was dropped."""
        said = []
        for split, counts in self.pairs.items():
            if "valid_for_all" in counts:
                each, what = ", ".join(map(str, counts["valid_for_each"])), counts.get("of", "pairs")
                said.append(
                    f"{split}: {counts['valid_for_all']} {what} valid for every model, "
                    f"{counts['share_dropped']:.0%} of the {counts['valid_for_any']} valid for any dropped "
                    f"(valid for each: {each})"
                )
            elif "pairs" in counts:
                said.append(
                    f"compared on {counts['pairs']} pairs, {counts['share_dropped']:.0%} of those measured dropped"
                )
            elif "each_on_its_own_pairs" in counts:
                said.append("each on its own pairs, because they show other pictures")
        return "; ".join(said) or "structure only: no pairs were run"

    @property
    def headline(self) -> str:
        """The circuits with their sizes."""
        return f"{len(self.subjects)} circuits: " + ", ".join(
            f"{subject.name} ({len(subject.circuit):,} of {len(subject.circuit.graph):,} edges)"
            for subject in self.subjects
        )

    @property
    def caveat(self) -> str:
        """What may be said."""
        return "\n".join(["what may be said:", *(f"  {one}" for one in self.conclusions())])

    def __str__(self) -> str:
        lines = [self.headline, self.pairs_words(), *map(str, self.differences)]
        return "\n".join([*lines, *self._agreement_lines(), *self._figure_lines(), self.caveat])

    def table(self) -> Table:
        """Each circuit in figures: a row per figure."""
        names = list(dict.fromkeys(name for figures in self.figures for name in figures))
        none = Figure(None, reason="not measured")
        rows = tuple((name, *(figures.get(name, none) for figures in self.figures)) for name in names)
        return Table(("figure", *self.names), rows, self.pairs_words())

    def frame(self) -> pandas.DataFrame:
        """A row per circuit and figure: value, interval, and what random circuits have."""
        return _frame(_FIGURES, _figures(self))

    @drawable
    def draw(self, path: str | Path, *, title: str = "") -> Path:
        """Draws what each two circuits share, measure by measure, to an .svg, .pdf or .png, and returns the path.

        Raises:
            FormatError: The ending is not known, or the file cannot be written.
        """
        shared = {name: one for name, one in self.agreement.values.items() if not np.isnan(one).all()}
        return found("draw.heatmap.draw_grids")(shared, self.names, self.names, path)

    def _agreement_lines(self) -> list[str]:
        lines, n = [], len(self.subjects)
        for i, j in combinations_with_replacement(range(n), 2):
            if i == j:
                continue
            said = [
                f"{name} {values[i, j]:.2f}" + (f" (chance {by_chance:.2f})" if not np.isnan(by_chance) else "")
                for name, values in self.agreement.values.items()
                if not np.isnan(values[i, j])
                for by_chance in [float(self.agreement.chance[name][i, j])]
            ]
            lines.append(f"{self.names[i]} and {self.names[j]}: {', '.join(said)}")
        return lines

    def _figure_lines(self) -> list[str]:
        names = list(dict.fromkeys(name for figures in self.figures for name in figures))
        width = max(map(len, (*names, "figure")))
        columns = [max(len(name), 9) for name in self.names]
        lines = ["  ".join(["figure".ljust(width), *(n.rjust(c) for n, c in zip(self.names, columns, strict=True))])]
        for name in names:
            values = [figures.get(name) for figures in self.figures]
            cells = ["-" if one is None or one.value is None else f"{one.value:.3g}" for one in values]
            lines.append("  ".join([name.ljust(width), *(c.rjust(w) for c, w in zip(cells, columns, strict=True))]))
        return lines

    def record(self) -> dict[str, Any]:
        """Everything in plain types; what is undefined is null."""
        agreement = self.agreement
        data = {
            "schema": COMPARISON_SCHEMA,
            "says": self.conclusions(),
            "circuits": [_circuit(self, place) for place in range(len(self.subjects))],
            "differences": [asdict(one) for one in self.differences],
            "pairs": self.pairs,
            "findings": [one.record() for one in self.findings],
            "agreement": {
                measure: {
                    "value": values,
                    "chance": agreement.chance[measure],
                    "why_not": agreement.why_not.get(measure, ""),
                }
                for measure, values in agreement.values.items()
            },
            "heads": [_heads(self, *places) for places in agreement.matchings if places[0] != places[1]],
            "figures": [
                {"name": subject.name, **{name: asdict(figure) for name, figure in figures.items()}}
                for subject, figures in zip(self.subjects, self.figures, strict=True)
            ],
            "random": [dict(chance) for chance in self.chance],
            "method": self.method,
        }
        return plain(data, non_finite="null")

    def save(self, folder: str | Path) -> list[Path]:  # type: ignore[override]
        """Writes `report.json`, tables as CSV and `comparison.html` into a folder, and returns their paths.

        Raises:
            FormatError: The folder cannot be written.
        """
        folder = Path(folder)
        written = [write_json(folder / "report.json", self.record())]
        for name, table in _tables(self).items():
            written.append(write_csv(folder / f"{name}.csv", table))
        return [*written, found("draw.comparison_page.write_comparison_page")(self, folder / "comparison.html")]
