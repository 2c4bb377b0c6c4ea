"""Does one kind of model differ from another, and by more than a second seed would?

For each figure: the difference of the kinds' means over their seeds, beside

- what two seeds of one kind show: the largest difference between any two (`seeds`),
- what other pairs would show: a 95% bootstrap interval with the seeds held fixed, the same resamples for all models,
- what chance would show: the figure of random circuits of the same sizes,
- a permutation test over the seeds (`null.permutation_test`), corrected by Holm for all findings of the comparison.

What is said follows from these by rule, never by eye:

| verdict | when |
| --- | --- |
| same | the two means are equal |
| no second seed | neither kind has two seeds, so what a seed does is not known |
| within seeds | the difference is not larger than the largest between two seeds of one kind |
| beyond seeds | it is larger, but the corrected p-value is above the level: seen in these seeds only |
| differs | it is larger, and the corrected p-value is at most the level |

Only `differs` says that the kinds differ. With three seeds each no p-value is below .1, so at a level of .05 nothing
can be shown: five each allow .008, enough for six figures. Being beyond the seeds is weak evidence with few of them:
were the kinds alike, a figure would be there by chance with .22 for two seeds each, .05 for three, .01 for four
(`null.beyond_by_chance`), and one of six figures accordingly more often.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..judging.bootstrap import TAIL, percentiles
from .null import Permuted, distinctness_test, holm, permutation_test
from .subject import Subject

Floats = NDArray[np.float64]
Verdict = Literal["same", "no second seed", "within seeds", "beyond seeds", "differs", "undefined"]

OVERLAP = "overlap of circuits"
"""Findings of this figure compare overlap within kinds with overlap between them."""

_ROUNDING = 1e-9


FINDING = (
    "figure", "first", "second", "mean_first", "mean_second", "difference", "between_seeds", "low", "high",
    "random_first", "random_second", "p", "smallest_p", "p_holm", "verdict", "words",
)  # fmt: skip
"""Columns of a table of findings."""


@dataclass(frozen=True)
class Finding:
    """One figure of two kinds of model.

    Args:
        figure: What was compared.
        kinds: The two kinds.
        values: Their seeds' figures.
        seeds: Largest difference between two seeds of one kind; None where no kind has two.
        low: Lower end of the 95% interval of the difference over pairs; None where nothing was drawn again.
        high: Upper end.
        chance: Mean figure of random circuits like each kind's; None where none were drawn.
        test: The permutation test.
        p_holm: Its p-value, corrected for all findings of the comparison.
        verdict: See above.
        reason: Why it is undefined.
    """

    figure: str
    kinds: tuple[str, str]
    values: tuple[tuple[float, ...], tuple[float, ...]]
    seeds: float | None = None
    low: float | None = None
    high: float | None = None
    chance: tuple[float, float] | None = None
    test: Permuted | None = None
    p_holm: float | None = None
    verdict: Verdict = "undefined"
    reason: str = ""

    @property
    def means(self) -> tuple[float, float]:
        """Mean over the seeds of each kind."""
        first, second = (float(np.mean(values)) for values in self.values)
        return first, second

    @property
    def difference(self) -> float:
        """Mean of the first kind less that of the second."""
        return self.means[0] - self.means[1]

    def __str__(self) -> str:
        return words(self)

    def record(self) -> dict[str, Any]:
        """A finding in plain values, with what it says in words."""
        chance, test = self.chance or (None, None), self.test
        return {
            "figure": self.figure,
            "first": self.kinds[0],
            "second": self.kinds[1],
            "values": self.values,
            "mean_first": self.means[0],
            "mean_second": self.means[1],
            "difference": self.difference,
            "between_seeds": self.seeds,
            "low": self.low,
            "high": self.high,
            "random_first": chance[0],
            "random_second": chance[1],
            "p": None if test is None else test.p_value,
            "smallest_p": None if test is None else test.smallest,
            "test": None if test is None else asdict(test),
            "p_holm": self.p_holm,
            "verdict": self.verdict,
            "words": str(self),
        }


def words(finding: Finding) -> str:
    """A finding as a sentence that its numbers bear."""
    first, second = finding.kinds
    if finding.verdict == "undefined":
        return f"{finding.figure}: not compared between {first} and {second} ({finding.reason})."
    if finding.figure.startswith(OVERLAP):
        return f"{finding.figure}: {_overlap_words(finding)}{_beside(finding)}."
    means = " and ".join(f"{mean:.3g} for {kind}" for mean, kind in zip(finding.means, finding.kinds, strict=True))
    more = "more" if finding.difference > 0 else "less"
    size, seeds = f"{abs(finding.difference):.3g}", "-" if finding.seeds is None else f"{finding.seeds:.3g}"
    said = {
        "same": "no difference",
        "no second seed": f"{size} {more} for {first}; there is no second seed, so this may be the seed's doing",
        "within seeds": f"{size} {more} for {first}, and two seeds of one kind differ by as much (up to {seeds})",
        "beyond seeds": f"{size} {more} for {first} than for {second} in these seeds, beyond what two seeds of one "
        f"kind differ by ({seeds}), but not shown for the kinds",
        "differs": f"{first} differs from {second}: {size} {more}, beyond what two seeds of one kind differ by "
        f"({seeds})",
    }[finding.verdict]
    return f"{finding.figure}: {means}; {said}{_beside(finding)}."


def _overlap_words(finding: Finding) -> str:
    first, second = finding.kinds
    within, between = finding.means
    said = {
        "differs": f"circuits of {first} and {second} differ beyond their seeds",
        "beyond seeds": "apart in these seeds, not shown for the kinds",
    }.get(finding.verdict, "a second seed differs as much as the other kind")
    return f"two seeds of one kind share {within:.3g}, {first} and {second} share {between:.3g}; {said}"


def _beside(finding: Finding) -> str:
    """Interval, test and chance in a few words."""
    parts = []
    if finding.low is not None and finding.high is not None:
        parts.append(f"over pairs [{finding.low:.3g}, {finding.high:.3g}]")
    if finding.test is not None and finding.p_holm is not None and finding.test.n_divisions > 2:
        parts.append(f"{finding.test}, {finding.p_holm:.3g} after Holm's correction")
    if finding.chance is not None:
        parts.append(f"random circuits {finding.chance[0]:.3g} and {finding.chance[1]:.3g}")
    return f" ({'; '.join(parts)})" if parts else ""


def compare_figures(
    subjects: Sequence[Subject],
    names: Sequence[str],
    *,
    drawn: Sequence[Mapping[str, Floats]],
    chance: Sequence[Mapping[str, float]],
    seed: int,
    tail: float = TAIL,
) -> list[Finding]:
    """Findings, without correction and verdict, of each two kinds and each figure.

    Args:
        subjects: The circuits.
        names: Figures to compare.
        drawn: Of each subject: figure -> values on resamples of the pairs.
        chance: Of each subject: figure -> mean over random circuits.
        seed: Draws divisions where there are too many.
        tail: Share of the draws beyond each end of an interval.
    """
    kinds = list(dict.fromkeys(subject.kind for subject in subjects))
    found = []
    for pair in combinations(kinds, 2):
        rows = [[row for row, subject in enumerate(subjects) if subject.kind == kind] for kind in pair]
        for name in names:
            values = tuple(tuple(subjects[row].figures.get(name, np.nan) for row in group) for group in rows)
            finding = Finding(name, pair, values)  # type: ignore[arg-type]
            if any(np.isnan(value) for group in values for value in group):
                missing = [
                    subjects[r].name for group in rows for r in group if np.isnan(subjects[r].figures.get(name, np.nan))
                ]
                found.append(replace(finding, reason=f"it is not known of {', '.join(missing)}"))
                continue
            low, high = _interval([[drawn[row].get(name) for row in group] for group in rows], tail)
            by_chance = _means([[chance[row].get(name, np.nan) for row in group] for group in rows])
            test = permutation_test(*values, seed=seed)  # type: ignore[arg-type]
            spread = _between_seeds(values)
            found.append(replace(finding, seeds=spread, low=low, high=high, chance=by_chance, test=test))
    return found


def compare_overlap(subjects: Sequence[Subject], measure: str, similarity: Floats, *, seed: int) -> list[Finding]:
    """Findings of how much more circuits of one kind agree than circuits of two kinds.

    The first value is the mean similarity within kinds, the second that between them.
    """
    kinds, found = list(dict.fromkeys(subject.kind for subject in subjects)), []
    for pair in combinations(kinds, 2):
        rows = [row for kind in pair for row, subject in enumerate(subjects) if subject.kind == kind]
        n_first = sum(subjects[row].kind == pair[0] for row in rows)
        own = similarity[np.ix_(rows, rows)]
        name = f"{OVERLAP} ({measure})"
        if np.isnan(own).any():
            continue
        test = distinctness_test(own, n_first, seed=seed)
        if test is None:
            continue
        i, j = np.triu_indices(len(rows), 1)
        within = (i < n_first) == (j < n_first)
        values = (tuple(own[i, j][within].tolist()), tuple(own[i, j][~within].tolist()))
        found.append(Finding(name, pair, values, test=test))
    return found


def judged(findings: Sequence[Finding], level: float) -> tuple[Finding, ...]:
    """The findings with corrected p-values and verdicts."""
    tested = [finding.test.p_value for finding in findings if finding.test is not None]
    corrected = iter(holm(tested))
    found = []
    for finding in findings:
        if finding.test is None:
            found.append(finding)
            continue
        one = replace(finding, p_holm=next(corrected))
        found.append(replace(one, verdict=_verdict(one, level)))
    return tuple(found)


def _verdict(finding: Finding, level: float) -> Verdict:
    scale = max(abs(value) for group in finding.values for value in group)
    size = abs(finding.difference)
    assert finding.p_holm is not None
    if size <= _ROUNDING * max(scale, 1e-300):
        return "same"
    if finding.figure.startswith(OVERLAP):  # seeds are what the first group is
        apart = min(finding.values[0]) > max(finding.values[1])
        shown = finding.p_holm <= level and finding.difference > 0
        return "differs" if shown else "beyond seeds" if apart else "within seeds"
    if finding.seeds is None:
        return "no second seed"
    if size <= finding.seeds * (1 + _ROUNDING):
        return "within seeds"
    return "differs" if finding.p_holm <= level else "beyond seeds"


def _between_seeds(values: tuple[tuple[float, ...], ...]) -> float | None:
    spreads = [max(group) - min(group) for group in values if len(group) > 1]
    return max(spreads) if spreads else None


def _interval(drawn: Sequence[Sequence[Floats | None]], tail: float) -> tuple[float | None, float | None]:
    """Of the difference of means over seeds, draw by draw; None where a seed has no draws."""
    if any(one is None or not len(one) for group in drawn for one in group):
        return None, None
    n = min(len(one) for group in drawn for one in group if one is not None)
    first, second = (np.mean([one[:n] for one in group if one is not None], axis=0) for group in drawn)
    difference = first - second
    if np.isnan(difference).mean() > 0.5:
        return None, None
    low, high = percentiles(difference, tail)
    return float(low), float(high)


def _means(groups: Sequence[Sequence[float]]) -> tuple[float, float] | None:
    first, second = (float(np.mean(group)) for group in groups)
    return None if np.isnan(first + second) else (first, second)
