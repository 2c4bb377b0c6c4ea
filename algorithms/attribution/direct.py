"""Direct logit attribution: what each source adds to the logits by itself, with the readout's norms frozen.

With the final norm's standard deviation held at its clean value, the readout is an affine map of the residual. For a
logit difference (or a logit) with gradient g under that frozen norm,

    contribution[u, t] = a_u[t] . g[t]        sum over u and t + constant = the logit difference

where the constant holds what belongs to no source: the head's bias, the final norm's bias, attention's biases
(the direct paths of Elhage et al. 2021; TransformerLens' `logit_attrs`). For sets of classes the
log-sum-exp is linearised at the clean logits.

Under attention pooling the logits read nothing but what the pool's heads and MLP write, so the direct path of every
source before them is empty. With the pool's pattern p and the norm in front of it held at their clean values as well,
what the heads write is an affine map of the residual too, and each source reaches the logits through it:

    g[t] = J_t' sum over heads h of p_h[t] W_V,h' W_O,h g

(J: the frozen norm's Jacobian, g: the gradient at the pool's token). The sum over u and t of a_u[t] . g[t], the pool's
MLP and a constant (now with the value biases) are the logit difference again; the pool's heads are thereby shared out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ...circuits.ablation import Ablation
from ...circuits.baseline import DEFAULT_MEMORY, constants, images_at_once, make_baseline, source_values
from ...circuits.graph import Graph, compile_graph
from ...circuits.judging.bootstrap import Resamples
from ...circuits.memory import batch_size_for, chunk_size, require_memory
from ...circuits.nodes import node_names
from ...circuits.report import Table, Tabular
from ...circuits.run import require_model
from ...circuits.scores import Scores
from ...circuits.tasks.metrics import Metric
from ...circuits.tasks.task import Pairs, Task
from ...circuits.token_parts import Part, parts_of
from ...models import processes
from ...models.errors import TaskError
from ...models.hooked import HookedViT
from ...models.watching import progress_bar
from .accumulate import ChunkSums, Moments, sum_groups

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False, repr=False)
class LogitAttribution(Tabular):
    """Contributions to a logit or a logit difference, in logits.

    Args:
        values: Of each source at each token, (pair, source, token); 0 for a pool's heads where they are shared out.
        constant: What belongs to no source, (pair,).
        metric: The logit or logit difference itself, (pair,).
        source_names: Names of the sources.
        token_names: Names of the tokens.
    """

    values: NDArray[np.float64]
    constant: NDArray[np.float64]
    metric: NDArray[np.float64]
    source_names: tuple[str, ...]
    token_names: tuple[str, ...]

    @property
    def headline(self) -> str:
        """What was attributed, and on how many pairs."""
        pairs, sources, tokens = self.values.shape
        whole = self.metric.mean()
        return f"{whole:.3g} logits in the mean of {pairs} pairs, by {sources} sources at {tokens} tokens"

    def table(self) -> Table:
        """The sources, the strongest first: what each adds at all tokens, mean over the pairs; the constant last."""
        sums = self.values.sum(2)
        order = np.argsort(-np.abs(sums.mean(0)), kind="stable")
        parts = [(self.source_names[place], sums[:, place]) for place in order]
        draws = Resamples.draw(len(sums), 1000, seed=0)
        rows = [
            (name, draws.mean(own, "logits", "mean over pairs")) for name, own in [*parts, ("constant", self.constant)]
        ]
        return Table(("source", "contribution"), tuple(rows), "in logits, mean over pairs with its 95% interval")

    def frame(self) -> pandas.DataFrame:
        """A row for each source at each token: `contribution`, mean over the pairs in logits."""
        import pandas

        names = pandas.MultiIndex.from_product((self.source_names, self.token_names), names=("source", "token"))
        return pandas.DataFrame({"contribution": self.values.mean(0).ravel()}, names).reset_index()


def direct_logit_attribution(
    graph: Graph, task: Task, *, memory: int = DEFAULT_MEMORY, progress: bool | None = None
) -> Scores:
    """How much of the metric edges into the logits carry directly; edges elsewhere score 0.

    For an edge u -> logits at a token group, (a_u - a'_u) . g summed over the group's tokens, where g is the metric's
    gradient at the last residual with the readout's norms frozen. Under `Ablation("zero")` these are the plain
    contributions, which add up to the logit difference less its constant. Costs one forward pass each
    for clean and corrupted images.

    Under attention pooling only the pool's heads and MLP have such edges; `logit_attribution` looks through them.

    Args:
        graph: The graph; with tokens="each" contributions are per source and token.
        task: Its discovery pairs are used.
        memory: Bytes to hold at once.
        progress: Show a bar on stderr; None where somebody watches.

    Raises:
        TaskError: The metric is not a logit or a logit difference.
        GraphError: The graph was compiled for another model.
    """
    vit, pairs = task.vit, task.searched
    require_model(vit, graph)
    _require_linear(task.metric)
    asked = partial(images_at_once, vit, task.ablation), partial(direct_at_once, vit, task.ablation)
    require_memory(memory, f"direct_logit_attribution of {vit.cfg.name}", *asked)
    baseline = make_baseline(vit, task.ablation, task.reference, memory=memory)
    moments, size = Moments(graph), chunk_size(vit, len(pairs), direct_at_once(vit, task.ablation, memory))
    chunks = [(part, batch) for part in parts_of(graph, pairs) for batch in part.pairs.batches(size)]

    def one(chunk: tuple[Part, Pairs]) -> ChunkSums:
        part, batch = chunk
        values, sums = source_values(vit, vit.check_images(batch.clean)), moments.chunk(part, task.signs(batch))
        gradient, _ = _readout_gradient(vit, values, task.metric)
        products = torch.einsum("ubtd,btd->btu", values - baseline(batch), gradient)
        sums.add(part.graph.logits, sum_groups(products, part.graph)[:, None])
        bar.update(len(batch))
        return sums

    total = len(pairs) // processes.count()
    with vit.borrowed(), torch.no_grad(), progress_bar("direct_logit_attribution", total, progress) as bar:
        for (part, batch), sums in zip(chunks, processes.in_order(one, chunks), strict=True):
            moments.take(part, len(batch), sums)
    return moments.scores(task, "direct_logit_attribution", {})


def direct_at_once(vit: HookedViT, ablation: Ablation, memory: int) -> int:
    """Pairs whose sources are held in both runs, and their difference, beside an ablation's constants; at least 1."""
    return batch_size_for(vit, memory - constants(vit, ablation), copies=4)


def logit_attribution(
    vit: HookedViT,
    images: Float[Tensor, "pair channel height width"],
    metric: Metric,
    *,
    through_pool: bool = True,
    memory: int = DEFAULT_MEMORY,
) -> LogitAttribution:
    """Contribution of each source at each token to a logit or a logit difference.

    Args:
        vit: The opened model.
        images: Preprocessed images.
        metric: `Metric("logit", (3,))` or `Metric("logit_difference", (3,), (8,))`.
        through_pool: Under attention pooling, share out what its heads write among what they gather, with their
            pattern frozen; False leaves it with the heads, and 0 for every source before them. Elsewhere no difference.
        memory: Bytes to hold at once.

    Raises:
        TaskError: The metric is not a logit or a logit difference.
        DataError: The images don't fit the model.
    """
    _require_linear(metric)
    values, metrics = [], []
    with vit.borrowed(), torch.no_grad():
        for batch in vit.check_images(images).split(batch_size_for(vit, memory, copies=2)):
            sources = source_values(vit, batch)
            gradient, found = _readout_gradient(vit, sources, metric)
            attribute = _through_pool if vit.cfg.pools and through_pool else _direct
            values.append(attribute(vit, sources, gradient).double().cpu().numpy())
            metrics.append(found.double().cpu().numpy())
    graph = compile_graph(vit)
    table, total = np.concatenate(values)[:, graph.source_exists], np.concatenate(metrics)
    names = ("input", *node_names(graph))
    return LogitAttribution(table, total - table.sum((1, 2)), total, names, vit.cfg.tokens.token_names())


def _direct(
    vit: HookedViT, sources: Float[Tensor, "source pair token model"], gradient: Float[Tensor, "pair token model"]
) -> Float[Tensor, "pair source token"]:
    return torch.einsum("ubtd,btd->but", sources, gradient)


def _through_pool(
    vit: HookedViT, sources: Float[Tensor, "source pair token model"], gradient: Float[Tensor, "pair token model"]
) -> Float[Tensor, "pair source token"]:
    """Contributions where the pool's heads are shared out among what they gather, its MLP's being its own."""
    n_before = len(sources) - 1 - vit.cfg.n_heads
    block, before = vit.blocks[-1], sources[:n_before]
    residual = before.sum(0) + sum(earlier.attn_bias for earlier in vit.blocks[:-1])
    with torch.enable_grad():
        seen = residual.requires_grad_(True)
        q, k, v = block.read(block.norm1.frozen(seen))
        written = block.attn_write(block.close(q.detach(), block.pattern(q, k).detach() @ v))
        (gathered,) = torch.autograd.grad((written * gradient).sum(), seen)
    shared = torch.zeros_like(sources[n_before:-1, ..., 0]).movedim(0, 1)  # pair, head, token
    return torch.cat([_direct(vit, before, gathered), shared, _direct(vit, sources[-1:], gradient)], 1)


def _require_linear(metric: Metric) -> None:
    if metric.kind not in ("logit", "logit_difference"):
        raise TaskError(
            f"direct logit attribution explains logits, and {metric.kind} is not linear in them: use metric='logit' or "
            f"metric='logit_difference'."
        )


def _readout_gradient(vit: HookedViT, sources: Tensor, metric: Metric) -> tuple[Tensor, Tensor]:
    """Gradient at the last residual (pair, token, model) under frozen norms, and the metric (pair,)."""
    residual = sources.sum(0) + sum(block.attn_bias for block in vit.blocks)
    with torch.enable_grad():
        read = residual.requires_grad_(True)
        value = metric(vit.readout(vit.readout.select(read), freeze_norm=True))
        (gradient,) = torch.autograd.grad(value.sum(), read)
    return gradient.detach(), value.detach()
