"""What a comparison found: printable, and written as JSON, CSV and one HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..report import Figure
from .agreement import Agreement
from .conditions import Difference
from .findings import Finding
from .null import beyond_by_chance
from .subject import Subject


@dataclass(frozen=True, eq=False)
class Comparison:
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

    def __str__(self) -> str:
        head = f"{len(self.subjects)} circuits: " + ", ".join(
            f"{subject.name} ({len(subject.circuit):,} of {len(subject.circuit.graph):,} edges)"
            for subject in self.subjects
        )
        lines = [head, self.pairs_words(), *map(str, self.differences)]
        lines += [*self._agreement_lines(), *self._figure_lines()]
        return "\n".join([*lines, "what may be said:", *(f"  {one}" for one in self.conclusions())])

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

    def save(self, folder: str | Path) -> list[Path]:
        """Writes `report.json`, tables as CSV and `comparison.html` into a folder, and returns their paths.

        Raises:
            FormatError: The folder cannot be written.
        """
        from .files import save_comparison

        return save_comparison(self, folder)
