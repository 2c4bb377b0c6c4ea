"""What the gradient methods share: discovery pairs in batches that fit into memory, and running sums over them.

Gradients at some points of the straight path from the ablated input to the clean one, and one sum over edges.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ...circuits.baseline import Baseline, constants, images_at_once, make_baseline
from ...circuits.graph import Graph
from ...circuits.memory import chunk_size, element_bytes, pairs_within, require_memory
from ...circuits.run import require_model
from ...circuits.tasks.task import Pairs, Task
from ...circuits.token_parts import Part, parts_of
from ...models import processes
from ...models.errors import TaskError
from ...models.watching import progress_bar
from .accumulate import ChunkSums, Moments
from .contraction import Contraction, Gradients, chunk_bytes
from .tape import PLAIN, Ablated, Rules, RunWrites, Tape, make_ablated, make_deltas, record_tape, record_writes
from .token_edges import Form, inside_scores

Rule = Literal["midpoint", "left"]

AT_CLEAN = (1.0,)
"""The path of methods that look at nothing but the clean image."""

TENSOR_SHARE = 0.7
"""Share of the budget that tensors may take; the rest is what the allocator keeps from those it has freed."""


@dataclass(frozen=True)
class GradientMethod(ABC):
    """A gradient method on all discovery pairs: a subclass says what one batch adds.

    Args:
        graph: The graph.
        task: Its discovery pairs are used.
        freeze_norm: Treat each norm's standard deviation as a constant in the backward pass.
        memory: Bytes to hold at once.
        progress: Show a bar on stderr; None where somebody watches.
        name: The algorithm's registered name.
    """

    graph: Graph
    task: Task
    freeze_norm: bool
    memory: int
    progress: bool | None
    name: str

    @property
    def inside(self) -> bool:
        """Whether the graph has edges inside heads."""
        return len(self.graph.groups) > 1

    def run(self, moments: Moments | None = None, pairs: Pairs | None = None) -> Moments:
        """The running sums over all discovery pairs.

        Args:
            moments: What takes the scores; by default their running sums.
            pairs: Other pairs.

        Raises:
            GraphError: The graph was compiled for another model.
            TaskError: The metric has no gradient, or the memory is too little.
        """
        vit, pairs = self.task.vit, pairs or self.task.searched
        require_model(vit, self.graph)
        if not self.task.metric.differentiable:
            raise TaskError(
                f"the metric {self.task.metric.kind} has no gradient: use exact_effects, or another metric such as "
                f"metric='logit_difference'."
            )
        methods = [(replace(self, graph=part.graph), part) for part in parts_of(self.graph, pairs)]
        asked = [lambda memory, method=method: replace(method, memory=memory).pairs_at_once() for method, _ in methods]
        statistics = partial(images_at_once, vit, self.task.ablation)
        require_memory(self.memory, f"{self.name} of {vit.cfg.name}", statistics, *asked)
        baseline = make_baseline(vit, self.task.ablation, self.task.reference, memory=self.memory)
        taken = moments or Moments(self.graph)
        sizes = [chunk_size(vit, len(pairs), method.pairs_at_once()) for method, _ in methods]
        chunks = [
            (*own, batch) for own, size in zip(methods, sizes, strict=True) for batch in own[1].pairs.batches(size)
        ]

        def one(chunk: tuple[GradientMethod, Part, Pairs]) -> ChunkSums:
            method, part, batch = chunk
            sums = taken.chunk(part, self.task.signs(batch))
            method.score(batch, baseline, contraction.over(part.graph), sums)
            bar.update(len(batch))
            return sums

        total = len(pairs) // processes.count()
        with vit.borrowed(), torch.no_grad(), progress_bar(self.name, total, self.progress) as bar:
            contraction = Contraction(vit, self.graph, chunk_bytes=chunk_bytes(vit, self.memory))
            for (_, part, batch), sums in zip(chunks, processes.in_order(one, chunks), strict=True):
                taken.take(part, len(batch), sums)
        return taken

    @abstractmethod
    def score(self, batch: Pairs, baseline: Baseline, contraction: Contraction, found: ChunkSums) -> None:
        """Adds a chunk's scores to its sums."""

    def pairs_at_once(self, *, points: int = 1, kept: float = 0.0) -> int:
        """Pairs whose tapes, deltas and gradients fit into memory above the model and the images; at least 1.

        Counted in arrays of one residual's size for each block. The factors cover what was measured at the worst
        moment: the end of the last point's forward pass (13.5 for EAP on ViT-B/16, 19.4 for EAP-IG).

        Args:
            points: Points on the path; 1 for EAP.
            kept: Further arrays of one residual's size that are held for each block.
        """
        cfg, graph, vit = self.graph.cfg, self.graph, self.task.vit
        arrays = kept + 10 + 6 * (points > 1) + (not self.freeze_norm) * points + 8 * self.inside
        drawn = 3 * graph.n_sources * (self.task.ablation.kind == "noise")
        weights = cfg.n_layers * 4 * cfg.d_model * cfg.n_heads * cfg.d_head * element_bytes(vit)
        return pairs_within(
            vit,
            TENSOR_SHARE * (self.memory - constants(vit, self.task.ablation)) - chunk_bytes(vit, self.memory) - weights,
            residuals=arrays * cfg.n_layers + drawn,
            hidden=cfg.n_layers,
            patterns=8 * self.inside,  # of one block
            numbers=2 * len(graph) * self.inside,  # scores, some of them in float64
        )

    def metric(self, batch: Pairs, last_residual: Tensor) -> Callable[[Tensor], Tensor]:
        """The metric, which for kl needs what is wanted, or the clean run's residual at the read tokens."""
        if not self.task.metric.relative:
            return self.task.metric
        return partial(self.task.metric, reference=batch.wanted(self.task.vit.readout(last_residual)))


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


def path_points(steps: int, rule: Rule) -> tuple[float, ...]:
    """Places on the path from ablated (0) to clean (1) where gradients are taken, equally weighted."""
    return tuple((step + (0.5 if rule == "midpoint" else 0.0)) / steps for step in range(steps))


@dataclass(frozen=True)
class PathGradients(GradientMethod):
    """Gradients at some points of the path, for all discovery pairs.

    Args:
        points: Where gradients are taken, equally weighted.
        form: How edges inside heads are scored.
        rules: How each point's pass is run and differentiated.
        kept: What a pass under these rules holds for each block beside a plain one's, in arrays of a residual's size.
    """

    points: Sequence[float] = AT_CLEAN
    form: Form = "linear"
    rules: Rules = PLAIN
    kept: float = 0.0

    def pairs_at_once(self, *, points: int = 1, kept: float = 0.0) -> int:
        """Pairs of one batch, whose gradients are held for all points."""
        return super().pairs_at_once(points=len(self.points), kept=kept + self.kept)

    def score(self, batch: Pairs, baseline: Baseline, contraction: Contraction, found: ChunkSums) -> None:
        """Adds a batch's scores, and where there is a path the metric's drop along it."""
        vit = self.task.vit
        ablated = make_ablated(vit, batch, baseline, inside=self.inside)
        embedded = vit.embed(vit.check_images(batch.clean))
        gradients = Gradients(vit, freeze_norm=self.freeze_norm)
        between = TokenEdgeScores(self.graph, self.task, ablated, self.form)
        if self.points == AT_CLEAN:
            clean = self._point(embedded, self.task.metric, gradients, between)
        else:
            clean = record_writes(vit, embedded, keys_values=self.inside)
            metric = self.metric(batch, clean.read)
            found.add_drop(self._drop(clean, ablated, metric))
            for point in self.points:
                self._point(torch.lerp(ablated.embedded, embedded, point), metric, gradients, between, clean)
        for block, scores in contraction(gradients, make_deltas(vit, clean, ablated)):
            found.add(block, scores)
        between.into(found)

    def _point(
        self,
        start: Tensor,
        metric: Callable[[Tensor], Tensor],
        gradients: Gradients,
        between: TokenEdgeScores,
        clean: RunWrites | None = None,
    ) -> RunWrites:
        """What the run from one point wrote, its gradients added; the rest of its tape is gone before the next."""
        tape = record_tape(
            self.task.vit, start, metric, freeze_norm=self.freeze_norm, inside=self.inside, rules=self.rules
        )
        gradients.add(tape, 1 / len(self.points))
        if self.inside:
            between.add(tape, clean or tape.writes, 1 / len(self.points))
        return tape.writes

    def _drop(self, clean: RunWrites, ablated: Ablated, metric: Callable[[Tensor], Tensor]) -> Float[Tensor, " pair"]:
        """m(clean) - m(the run from the ablated input)."""
        vit = self.task.vit
        if ablated.writes is not None:
            logits = vit.readout(ablated.writes.read)
        else:
            logits = vit.readout.logits(vit.run_blocks(ablated.embedded))
        return metric(vit.readout(clean.read)) - metric(logits)

    def completeness(self, found: Moments) -> dict[str, float]:
        """How far the scores of edges that leave the input are from the metric's drop (unfrozen norms only)."""
        mean = found.total / found.n_pairs
        total = sum(float(block.unpack(mean)[:, :, 0].sum()) for block in self.graph.blocks if block.kind != "inside")
        drop = found.drop / found.n_pairs
        diagnostics = {"input_total": total, "metric_drop": drop}
        if not self.freeze_norm:
            diagnostics["completeness_gap"] = abs(total - drop) / max(abs(drop), 1e-30)
        return diagnostics


class TokenEdgeScores:
    """Scores of the edges inside heads, summed over the points of the path."""

    def __init__(self, graph: Graph, task: Task, ablated: Ablated, form: Form) -> None:
        self._graph, self._blocks, self._ablated = graph, task.vit.blocks, ablated.keys_values
        self._form: Form = form
        self._sums: list[Tensor] = []

    def add(self, tape: Tape, clean: RunWrites, weight: float) -> None:
        """Adds one point with a weight."""
        for layer, (block, taped) in enumerate(zip(self._blocks, tape.layers, strict=True)):
            ablated, own = self._ablated[layer], clean.keys_values[layer]
            scores = weight * inside_scores(self._graph, block, taped, ablated, own, self._form)
            if layer < len(self._sums):
                self._sums[layer] += scores
            else:
                self._sums.append(scores)

    def into(self, sums: ChunkSums) -> None:
        """Hands the scores over."""
        for blocks, scores in zip(self._graph.layers, self._sums, strict=False):
            if blocks.inside is not None:
                sums.add(blocks.inside, scores)
