"""What a circuit is judged on: handed as one to whoever makes the report of a one-sided or of a crossed task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .baseline import Baseline
from .bootstrap import Resamples
from .circuit import Circuit
from .pairs import Pairs
from .plan import Plan
from .task import Task


@dataclass(frozen=True, eq=False)
class Judging:
    """A circuit, the masks that are run beside it, and the pairs.

    Args:
        circuit: The circuit.
        task: The model and the metric.
        plan: Masks to run.
        pairs: Pairs to judge on, as the ablation needs them.
        baseline: What removed edges carry.
        curve: Whether there is a curve.
        n_bootstrap: Draws for the intervals.
        seed: Of the draws.
        memory: Bytes to hold at once.
        progress: Show bars on stderr.
    """

    circuit: Circuit
    task: Task
    plan: Plan
    pairs: Pairs
    baseline: Baseline
    curve: bool
    n_bootstrap: int
    seed: int
    memory: int
    progress: bool

    @property
    def options(self) -> dict[str, Any]:
        """What every run is told."""
        return {"memory": self.memory, "progress": self.progress}

    def resamples(self, pairs: Pairs) -> Resamples:
        """Draws of some pairs, or of their images."""
        return Resamples.of(pairs, self.n_bootstrap, seed=self.seed)

    @property
    def size(self) -> int:
        """Edges of the circuit that are on a path."""
        return int(self.plan.masks[0].sum())

    @property
    def why_no_curve(self) -> str:
        """Why there is no curve; empty where there is one."""
        why = "" if self.circuit.scores is not None else "the circuit has no scores to rank edges by"
        return why if self.curve else "the curve was not asked for (curve=False)"
