"""A sceptical reader's checks by name, run one after the other on the same pairs and put into one report."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Literal

from ...models.errors import TaskError
from ..metrics import Metric
from ..report import Report
from . import CHECKS
from .mask_evaluator import Findings, MaskEvaluator

Checks = Sequence[str] | Literal["all"]
"""Names of `CHECKS`, or all of them."""
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


def add_checks(report: Report, evaluator: MaskEvaluator, names: Sequence[str]) -> Report:
    """The report with the figures, verdicts and tables of these checks."""
    figures, verdicts, tables = dict(report.figures), dict(report.verdicts), dict(report.tables)
    on_outputs = _on_outputs(evaluator)
    for name in names:
        found = _check(name)(on_outputs if name in ON_OUTPUTS else evaluator)
        figures |= found.figures
        verdicts |= found.verdicts
        tables |= found.tables
    method = {**report.method, "checks": dataclasses.asdict(evaluator.settings)} if names else report.method
    return dataclasses.replace(report, figures=figures, verdicts=verdicts, tables=tables, method=method)


def _check(name: str) -> Callable[[MaskEvaluator], Findings]:
    module, _, function = CHECKS[name].partition(".")
    return getattr(import_module(f".{module}", __package__), function)


def _on_outputs(evaluator: MaskEvaluator) -> MaskEvaluator:
    """The same evaluator under the logit difference; it shares what ran before if that is the metric already."""
    metric = Metric(
        "logit_difference" if evaluator.metric.foil else "logit", evaluator.metric.target, evaluator.metric.foil
    )
    return evaluator if metric == evaluator.metric else dataclasses.replace(evaluator, metric=metric, known={})
