"""Whether the model and the images behind a finished cell are still those that it was run with.

A run folder records digests of the weights, the readout, the masks and the images; here they are taken again, once for
each model and task. Changed settings need no such look: they are another cell, in another folder.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ...circuits.formats.plain import plain
from ..run_config import identity
from .outcomes import Outcome


def with_stale(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The same, but for what is done and has become stale; a model or images that are gone tell nothing."""
    known: dict[str, Mapping[str, Any] | None] = {}
    return [_looked_at(outcome, known) if outcome.status == "done" else outcome for outcome in outcomes]


def _looked_at(outcome: Outcome, known: dict[str, Mapping[str, Any] | None]) -> Outcome:
    config = outcome.cell.config
    key = repr((config.model, config.task))
    if key not in known:
        try:
            task = config.task.make(config.load_model())
        except Exception:  # gone, or not readable here: what was found with them stands
            known[key] = None
        else:
            known[key] = plain({"images": task.info.get("data_digest"), **identity(task)}, non_finite="keep")
    now = known[key]
    then = {"images": outcome.run.get("data_hash"), **outcome.run["config"].get("identity", {})}
    if now is None or now == then:
        return outcome
    changed = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    reason = f"since this was run, {' and '.join(changed)} changed: --retry-stale runs it again"
    return dataclasses.replace(outcome, status="stale", report=None, error=reason)
