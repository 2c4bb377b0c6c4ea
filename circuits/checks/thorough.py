"""A sceptical reader's checks by name, run one after the other on the same pairs and put into one report."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

from ...models.errors import TaskError
from ..metrics import Metric
from ..report import Report
from .bench import Bench, Findings
from .by_chance import check_partial_necessity, check_sufficiency
from .completeness import completeness
from .hypotheses import check_equivalence, check_independence, check_minimality
from .local_minimality import local_minimality
from .spread import evaluate_spread

Checks = Sequence[str] | Literal["all"]
"""Names of `CHECKS`, or all of them."""


def _spread(bench: Bench) -> Findings:
    settings, n = bench.settings, len(bench.resamples.weights)
    found = evaluate_spread(
        bench.circuit,
        bench.task,
        ablations=settings.ablations,
        metrics=settings.metrics,
        pairs=bench.every_partner or bench.pairs,
        n_bootstrap=n,
        seed=bench.seed,
        memory=bench.memory,
        progress=bench.progress,
    )
    figures = {f"lowest_{found.share}": found.lowest, f"highest_{found.share}": found.highest}
    tables = {"spread": found.table}
    return Findings(figures, tables=tables | ({"spread_distances": found.distance_table} if found.distances else {}))


CHECKS: dict[str, Callable[[Bench], Findings]] = {
    "completeness": completeness,
    "local_minimality": local_minimality,
    "equivalence": check_equivalence,
    "independence": check_independence,
    "minimality": check_minimality,
    "sufficiency": check_sufficiency,
    "partial_necessity": check_partial_necessity,
    "spread": _spread,
}
ON_OUTPUTS = ("equivalence", "independence", "minimality", "sufficiency", "partial_necessity")
"""Checks that look at the target's logit (less the foil's), whatever the task's metric."""


def check_names(checks: Checks) -> list[str]:
    """The checks that are meant, in the order in which they run.

    Raises:
        TaskError: A name is not known.
    """
    wanted = list(CHECKS) if checks == "all" else [checks] if isinstance(checks, str) else list(checks)
    unknown = [name for name in wanted if name not in CHECKS]
    if unknown:
        raise TaskError(f'there is no check {unknown[0]!r}: pass checks="all", or some of {", ".join(CHECKS)}.')
    return [name for name in CHECKS if name in wanted]


def add_checks(report: Report, bench: Bench, names: Sequence[str]) -> Report:
    """The report with the figures, verdicts and tables of these checks."""
    figures, verdicts, tables = dict(report.figures), dict(report.verdicts), dict(report.tables)
    on_outputs = _on_outputs(bench)
    for name in names:
        found = CHECKS[name](on_outputs if name in ON_OUTPUTS else bench)
        figures |= found.figures
        verdicts |= found.verdicts
        tables |= found.tables
    method = {**report.method, "checks": dataclasses.asdict(bench.settings)} if names else report.method
    return dataclasses.replace(report, figures=figures, verdicts=verdicts, tables=tables, method=method)


def _on_outputs(bench: Bench) -> Bench:
    """The same bench under the logit difference; it shares what ran before if that is the metric already."""
    metric = Metric("logit_difference" if bench.metric.foil else "logit", bench.metric.target, bench.metric.foil)
    return bench if metric == bench.metric else dataclasses.replace(bench, metric=metric, known={})
