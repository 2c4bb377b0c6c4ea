"""What the gradient methods share: discovery pairs in batches that fit into memory, and running sums over them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from ...circuits.baseline import Baseline, make_baseline
from ...circuits.graph import Graph
from ...circuits.pairs import Pairs
from ...circuits.run import require_model
from ...circuits.task import Task
from ...models.errors import TaskError
from ..progress import progress_bar
from .budget import pairs_at_once
from .contraction import Contraction
from .moments import Moments


@dataclass
class Found:
    """Scores, and the sum over pairs of m(clean) - m(the run from the ablated input) where it was measured."""

    moments: Moments
    drop: float = 0.0

    def add_drop(self, drops: Float[Tensor, " pair"]) -> None:
        """Adds a batch's drops of the metric, each with its pair's sign as its scores have it."""
        signs = self.moments.signs
        self.drop += float((drops.double() if signs is None else drops.double() * signs.to(drops.device)).sum())


@dataclass(frozen=True)
class Plan(ABC):
    """A gradient method on all discovery pairs: a subclass says what one batch adds.

    Args:
        graph: The graph.
        task: Its discovery pairs are used.
        freeze_norm: Treat each norm's standard deviation as a constant in the backward pass.
        memory: Bytes to hold at once.
        progress: Show a bar on stderr.
        name: The algorithm's registered name.
    """

    graph: Graph
    task: Task
    freeze_norm: bool
    memory: int
    progress: bool
    name: str

    @property
    def inside(self) -> bool:
        """Whether the graph has edges inside heads."""
        return len(self.graph.groups) > 1

    def run(self) -> Found:
        """The running sums over all discovery pairs.

        Raises:
            GraphError: The graph was compiled for another model.
            TaskError: The metric has no gradient.
        """
        vit, pairs = self.task.vit, self.task.searched
        require_model(vit, self.graph)
        if not self.task.metric.differentiable:
            raise TaskError(
                f"the metric {self.task.metric.kind} has no gradient: use exact_effects, or another metric such as "
                f"metric='logit_difference'."
            )
        baseline = make_baseline(vit, self.task.ablation, self.task.reference, memory=self.memory)
        found = Found(Moments(self.graph))
        size = self.pairs_at_once()
        with vit.borrowed(), torch.no_grad(), progress_bar(self.name, len(pairs), self.progress) as bar:
            contraction = Contraction(vit, self.graph)
            for batch in pairs.batches(size):
                found.moments.begin(self.task.signs(batch))
                self.score(batch, baseline, contraction, found)
                found.moments.n_pairs += len(batch)
                bar.update(len(batch))
        return found

    @abstractmethod
    def score(self, batch: Pairs, baseline: Baseline, contraction: Contraction, found: Found) -> None:
        """Adds a batch's scores to what was found."""

    def pairs_at_once(self, *, points: int = 1, kept: float = 0.0) -> int:
        """Pairs of one batch (see `budget.pairs_at_once`)."""
        return pairs_at_once(
            self.graph,
            self.task.vit,
            self.memory,
            points=points,
            freeze_norm=self.freeze_norm,
            ablation=self.task.ablation,
            kept=kept,
        )

    def metric(self, last_residual: Tensor) -> Callable[[Tensor], Tensor]:
        """The metric, which for kl needs the clean run's residual at the read tokens."""
        if not self.task.metric.relative:
            return self.task.metric
        return partial(self.task.metric, reference=self.task.vit.readout(last_residual))


def require_slope_at_clean(task: Task, name: str) -> None:
    """Does nothing if the metric has a gradient at the clean image.

    Raises:
        TaskError: It is kl, whose gradient vanishes there.
    """
    if task.metric.kind == "kl":
        raise TaskError(
            f"the metric kl has zero gradient at the clean image, where the model agrees with itself, so {name} would "
            f"score every edge 0: use eap_ig, exact_effects, or another metric such as metric='logit_difference'."
        )
