"""Integrated gradients over activations, a level at a time (EAP-IG-activations of MIB, arXiv 2504.13151).

    score[u, v] = (a_u(clean) - a'_u) . mean over alpha of  d metric / d x_v  where all of u's level writes
                                                            a' + alpha (a - a')

summed over tokens and channels, for each pair. A level is the input, all heads of a layer, or an MLP: nodes that don't
read one another. Everything else runs on as the model computes it, so the path leaves from the clean run with one level
ablated rather than from the ablated image. For edges inside heads the level is the layer's keys and values.

With unfrozen norms every level is complete: the scores of all edges that leave it add up to m(clean) - m(clean run with
the level ablated).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from ...circuits.baseline import DEFAULT_MEMORY, Baseline
from ...circuits.graph import Graph
from ...circuits.scores import Scores
from ...circuits.tasks.task import Pairs, Task
from ...models.blocks import OpenBlock
from ...models.hooked import HookedViT
from ..registry import Range, algorithm, chosen
from .accumulate import ChunkSums, Totals
from .contraction import Contraction, Gradients
from .gradient_method import GradientMethod, path_points
from .tape import Deltas, Rules, Tape, make_ablated, make_deltas, record_tape, record_writes
from .token_edges import inside_scores


@algorithm
def eap_ig_activations(
    graph: Graph,
    task: Task,
    *,
    steps: Annotated[int, Range(least=1, most=10_000)] = 5,
    rule: Literal["midpoint", "left"] = "midpoint",
    freeze_norm: bool = True,
    memory: int = DEFAULT_MEMORY,
    progress: bool | None = None,
) -> Scores:
    """How much of the metric each edge carries, the gradient averaged while its source's level is ablated by degrees.

    Costs two forward passes, `steps` forward and backward passes for each of the 2 L + 1 levels of L layers (3 L + 1
    with several token groups), and a sum over edges for each level: about 2 L times as much as EAP-IG.

    On planted models it finds what EAP-IG finds and no more: .998 with trap and step, whose even functions and steps
    have no slope to integrate, and with 10 steps .75 on bright-column, whose attention turns between two points.

    Args:
        graph: The graph.
        task: Its discovery pairs are used.
        steps: Points on each level's path.
        rule: `midpoint`, or `left` (the path's ablated end is a point, its clean end is not).
        freeze_norm: Treat each norm's standard deviation as a constant in the backward pass.
        memory: Bytes to hold at once, above the model and the images; at least one pair is held.
        progress: Show a bar on stderr; None where somebody watches.

    Raises:
        TaskError: The metric has no gradient (accuracy), or the steps or the rule make no sense.
        GraphError: The graph was compiled for another model.
    """
    points, options = path_points(steps, rule), chosen("eap_ig_activations", locals()).record()
    method = _Levels(graph, task, freeze_norm, memory, progress, "eap_ig_activations", points)
    return method.run().scores(task, "eap_ig_activations", options)


@dataclass(frozen=True)
class _Levels(GradientMethod):
    points: tuple[float, ...] = ()

    def pairs_at_once(self, *, points: int = 1, kept: float = 0.0) -> int:
        """Pairs of one batch: gradients are summed over levels and points, beside the clean keys and values."""
        return super().pairs_at_once(points=max(2, len(self.points)), kept=kept + 2 * self.inside)

    def score(self, batch: Pairs, baseline: Baseline, contraction: Contraction, found: ChunkSums) -> None:
        """Adds a batch's scores, level by level."""
        vit = self.task.vit
        ablated = make_ablated(vit, batch, baseline, inside=self.inside)
        clean = record_writes(vit, vit.embed(vit.check_images(batch.clean)), keys_values=self.inside)
        run = _Run(self, clean.embedded, self.metric(batch, clean.read))
        deltas = make_deltas(vit, clean, ablated)
        totals = Totals(self.graph, vit, len(batch))
        for level in _levels(self.graph, vit, deltas):
            totals.add(contraction(run.gradients(level), deltas), columns=level.sources)
        for layer, blocks in enumerate(self.graph.layers):
            if blocks.inside is not None:
                scores = run.inside(layer, clean.keys_values[layer], ablated.keys_values[layer])
                totals.add([(blocks.inside, scores)])
        totals.into(found)


@dataclass(frozen=True, eq=False)
class _Level:
    """Sources that write side by side.

    Args:
        place: `input`, `heads` or `mlp`.
        layer: Of the heads or the MLP; -1 for the input.
        sources: Their indices.
        difference: The sum of their a_u - a'_u, (pair, token, model); in the last block (pair, read token, model).
    """

    place: str
    layer: int
    sources: slice
    difference: Tensor


def _levels(graph: Graph, vit: HookedViT, deltas: Deltas) -> Iterator[_Level]:
    yield _Level("input", -1, slice(0, 1), deltas.embedded)
    for layer, block in enumerate(vit.blocks):
        first = graph.first_head(layer)
        stop = first + graph.cfg.n_heads
        heads = block.heads_write(deltas.z[layer])
        if deltas.ablated is not None:
            gone = deltas.ablated[first:stop].sum(0)
            heads = heads - (vit.readout.select(gone) if block is vit.blocks[-1] else gone)
        yield _Level("heads", layer, slice(first, stop), heads)
        yield _Level("mlp", layer, slice(stop, stop + 1), deltas.mlps[layer])


@dataclass(frozen=True, eq=False)
class _Run:
    """Clean runs of a batch in which one level is ablated by degrees."""

    method: _Levels
    embedded: Tensor
    metric: Callable[[Tensor], Tensor]

    def gradients(self, level: _Level) -> Gradients:
        """Gradients averaged over a level's path."""
        found = Gradients(self.method.task.vit, freeze_norm=self.method.freeze_norm)
        for point in self.method.points:
            gone = (1 - point) * level.difference
            start = self.embedded - gone if level.place == "input" else self.embedded
            found.add(self._tape(start, _Without(level.place, level.layer, gone)), 1 / len(self.method.points))
        return found

    def inside(self, layer: int, clean: tuple[Tensor, Tensor], ablated: tuple[Tensor, Tensor]) -> Tensor:
        """Scores of a layer's edges inside heads, averaged over the path of its keys and values."""
        graph, block = self.method.graph, self.method.task.vit.blocks[layer]
        total = self.embedded.new_zeros(())
        for point in self.method.points:
            k, v = (torch.lerp(theirs, own, point) for theirs, own in zip(ablated, clean, strict=True))
            taped = self._tape(self.embedded, _Replaced(layer, (k, v)), inside=True).layers[layer]
            total = total + inside_scores(graph, block, taped, ablated, clean, "linear", seen=(k, v))
        return total / len(self.method.points)

    def _tape(self, start: Tensor, rules: Rules, *, inside: bool = False) -> Tape:
        freeze_norm = self.method.freeze_norm
        return record_tape(
            self.method.task.vit, start, self.metric, freeze_norm=freeze_norm, inside=inside, rules=rules
        )


@dataclass(frozen=True, eq=False)
class _Without(Rules):
    """A run in which the heads or the MLP of one layer write so much less."""

    place: str
    layer: int
    gone: Tensor

    def attention_written(self, layer: int, written: Tensor) -> Tensor:
        """Less what is gone, in its layer."""
        return written - self.gone if (self.place, self.layer) == ("heads", layer) else written

    def mlp_written(self, layer: int, written: Tensor) -> Tensor:
        """Less what is gone, in its layer."""
        return written - self.gone if (self.place, self.layer) == ("mlp", layer) else written


@dataclass(frozen=True, eq=False)
class _Replaced(Rules):
    """A run in which the heads of one layer see other keys and values."""

    layer: int
    keys_values: tuple[Tensor, Tensor]

    def attend(self, layer: int, block: OpenBlock, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Weighted values, in its layer of the other keys and values."""
        return block.weigh(q, *self.keys_values) if layer == self.layer else block.weigh(q, k, v)
