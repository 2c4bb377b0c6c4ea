"""AtP* (Kramar et al. 2024, arXiv 2403.00745): edge attribution with the softmax exact, and GradDrop.

Edges into MLPs, values and logits score as in EAP, (a_u(clean) - a'_u) . d metric / d x_v. An edge into queries or keys
scores

    gradient at z . (z - z of the head whose q or k reads the residual less a_u - a'_u)

with the head recomputed exactly (section 3.1.1): a saturated softmax, whose own gradient is zero, hides nothing. The
gradient at the head's output z is still first order. At `head` ports the whole head is recomputed, with q, k and v
reading the difference together; at `block` ports all heads of a layer are. Edges inside heads take the exact form of
`token_edges.py`.

GradDrop (section 3.1.2) guards against effects that cancel: a backward pass for each layer, in which nothing passes
back through what that layer writes, and the mean of absolute scores over the passes that leave the edge's own layer
alone.

Edges into a layer's heads, scored by the heads recomputed exactly and one gradient at what they put out.

    score = sum over target tokens of  gradient at z . (z - z of the head that reads the residual less a_u - a'_u)

through the layer's own norm, q and k norm, and softmax. At `qkv` ports the difference is taken off what q or what k
reads (v is linear and needs no recomputation); at `head` and `block` ports q, k and v of the edge's tokens read it
together, and at `block` the heads' scores add up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ...circuits.baseline import DEFAULT_MEMORY, Baseline
from ...circuits.edge_blocks import EdgeBlock
from ...circuits.graph import Graph
from ...circuits.memory import pairs_within
from ...circuits.scores import Scores
from ...circuits.tasks.task import Pairs, Task
from ...models.errors import ModelError, TaskError
from ...models.hooked import HookedViT
from ..registry import algorithm, chosen
from .accumulate import ChunkSums, Totals
from .contraction import Contraction, Gradients, slices
from .gradient_method import GradientMethod, require_slope_at_clean
from .tape import PLAIN, Deltas, LayerTape, Rules, Tape, make_ablated, make_deltas, record_tape
from .token_edges import Grouped, exchanged, grouped, inside_scores, without_each

CHUNK_BYTES = 64_000_000
"""What the heads recomputed at once may take: more is slower, since memory is asked for anew each time."""


def recomputed_scores(
    graph: Graph,
    vit: HookedViT,
    layer: int,
    taped: LayerTape,
    gradients: Float[Tensor, "pass pair head token d_head"],
    deltas: Deltas,
    *,
    chunk_bytes: int = CHUNK_BYTES,
) -> Iterator[tuple[slice, slice, Float[Tensor, "pass some_pair row group some_source"]]]:
    """Some pairs, some sources, and the scores of their edges into a layer's q and k (qkv) or heads.

    Args:
        graph: The graph.
        vit: The opened model.
        layer: Whose heads are recomputed.
        taped: The clean run there, with its residual.
        gradients: At z, from one or several backward passes.
        deltas: a_u - a'_u.
        chunk_bytes: What the heads recomputed at once may take.
    """
    n_pairs, n_sources = deltas.embedded.shape[0], graph.first_head(layer)
    at_once = pairs_within(  # sources x pairs
        vit, chunk_bytes, residuals=8, patterns=8 + 3 * len(gradients)
    )
    for pairs in slices(n_pairs, at_once):
        heads = _Heads.of(graph, vit, layer, taped, gradients, pairs)
        for sources in slices(n_sources, max(1, at_once // (pairs.stop - pairs.start))):
            gone = torch.stack([source_difference(graph, vit, deltas, u, pairs) for u in range(n_sources)[sources]])
            yield pairs, sources, heads.scores(gone)


def source_difference(
    graph: Graph, vit: HookedViT, deltas: Deltas, source: int, pairs: slice
) -> Float[Tensor, "pair token model"]:
    """a_u - a'_u of a source in front of the last block, for some pairs."""
    if source == 0:
        return deltas.embedded[pairs]
    layer, head = graph.layer_and_head(source)
    if head == graph.cfg.n_heads:
        return deltas.mlps[layer][pairs]
    written = deltas.z[layer][pairs, head] @ vit.blocks[layer].out_weight[head]
    return written if deltas.ablated is None else written - deltas.ablated[source, pairs]


@dataclass(frozen=True, eq=False)
class _Heads:
    """A layer's heads in the clean run of some pairs, and what of it recomputed heads share."""

    graph: Graph
    vit: HookedViT
    layer: int
    residual: Tensor  # pair, token, model
    q: Tensor  # pair, head, target, d_head
    k: Tensor  # pair, head, token, d_head
    gradients: Tensor  # pass, 1, pair, head, target, d_head
    g_v: Tensor  # pass, 1, pair, head, target, source
    g_z: Tensor  # pass, 1, pair, head, target
    member: Tensor  # group, token
    others: Grouped | None

    @classmethod
    def of(cls, graph: Graph, vit: HookedViT, layer: int, taped: LayerTape, gradients: Tensor, pairs: slice) -> _Heads:
        """Those of a layer, for some pairs."""
        assert taped.fused is not None and taped.z is not None and taped.residual is not None
        block, targets = vit.blocks[layer], _targets(vit, layer)
        q, k, v = block.split(taped.fused[pairs])
        q, g = q[..., targets, :], gradients[:, None, pairs, :, targets]
        g_v, g_z = g @ v.transpose(-1, -2), (g * taped.z[pairs, :, targets]).sum(-1)
        member = torch.tensor(graph.groups.one_hot(), device=q.device)
        old = grouped(block.masked(block.scores(q, k), targets), g_v, member)
        others = without_each(old) if len(member) > 1 else None
        return cls(graph, vit, layer, taped.residual[pairs], q, k, g, g_v, g_z, member, others)

    def scores(self, gone: Float[Tensor, "source pair token model"]) -> Float[Tensor, "pass pair row group source"]:
        """Scores of the edges from sources whose differences are given."""
        block, targets = self.vit.blocks[self.layer], _targets(self.vit, self.layer)
        normed = block.norm1(self.residual - gone)
        read = block.read_at(normed.flatten(0, 1), targets)
        q, k, v = (part.unflatten(0, gone.shape[:2]) for part in read)  # source, pair, head, ...
        return self._fold(self._apart(q, k) if self.graph.ports == "qkv" else self._together(q, k, v))

    def _scores(self, q: Tensor, k: Tensor) -> Tensor:
        block = self.vit.blocks[self.layer]
        return block.masked(block.scores(q, k), _targets(self.vit, self.layer))

    def _apart(self, q: Tensor, k: Tensor) -> Float[Tensor, "pass source pair head part group"]:
        """Queries replaced, and keys."""
        seen = (self._scores(q, self.k).softmax(-1) * self.g_v).sum(-1)
        queries = (self.g_z - seen) @ self.member[:, _targets(self.vit, self.layer)].T.to(seen)
        new = grouped(self._scores(self.q, k), self.g_v, self.member)
        keys = self.g_z.sum(-1, keepdim=True) - exchanged(self.others, new).sum(-2)
        return torch.stack([queries, keys], -2)

    def _together(self, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "pass source pair head part group"]:
        """Queries, keys and values of a group replaced: targets in it ask anew, all others see its new keys."""
        g_v = self.gradients @ v.transpose(-1, -2)
        at = self.member[:, _targets(self.vit, self.layer)].T  # target, group
        same = at.to(q) @ self.member.to(q) > 0  # target, source
        scores = torch.where(same, self._scores(q, k), self._scores(q, self.k))
        own = (scores.softmax(-1) * torch.where(same, g_v, self.g_v)).sum(-1, keepdim=True)
        if self.others is None:
            seen = own
        else:
            new = grouped(self._scores(self.q, k), g_v, self.member)
            seen = torch.where(at, own, exchanged(self.others, new))
        return (self.g_z.sum(-1, keepdim=True) - seen.sum(-2))[..., None, :]

    def _fold(self, parts: Tensor) -> Float[Tensor, "pass pair row group source"]:
        """Heads and parts into the graph's rows; at `qkv` ports v's rows stay 0."""
        rows = torch.from_numpy(self.graph.port_rows[:, : parts.shape[-2]].reshape(-1).copy()).to(parts.device)
        flat = parts.flatten(-3, -2).permute(0, 2, 3, 4, 1)  # pass, pair, head x part, group, source
        n_rows = int(self.graph.port_rows.max()) + 1
        return flat.new_zeros(*flat.shape[:2], n_rows, *flat.shape[3:]).index_add(2, rows, flat)


def _targets(vit: HookedViT, layer: int) -> slice:
    """Target tokens that anything behind the layer reads."""
    return vit.readout.read if layer == len(vit.blocks) - 1 else slice(None)


@algorithm
def atp_star(
    graph: Graph,
    task: Task,
    *,
    grad_drop: bool = False,
    freeze_norm: bool = True,
    memory: int = DEFAULT_MEMORY,
    progress: bool | None = None,
) -> Scores:
    """First-order estimate of how much of the metric each edge carries, with the softmax of its head exact.

    Costs two forward passes and one backward pass (GradDrop: a forward and a backward pass for each of L layers), and
    for every source in front of a layer that layer's norm, projection and patterns once, whatever the number of passes.

    Exact in one head, first order behind it: where a second saturated head lies between an edge and the logits, the
    gradient at z vanishes all the same. Measured on planted models: 1.0 on bright-column, where EAP has .75, but .92 on
    neighbour-xor (EAP .81), and majority's redundancy hides from it. On DeiT-Tiny, cats against dogs, its circuits kept
    .29 / .41 / .29 of the metric held out with 5 / 10 / 20% of the edges (EAP .25 / .38 / .26). GradDrop is meant for
    deep models: with two layers each pass leaves out half of the model, and neighbour-xor falls to .81.

    Args:
        graph: The graph.
        task: Its discovery pairs are used.
        grad_drop: Average absolute scores over backward passes that leave out one layer each; scores are then never
            negative.
        freeze_norm: Treat each norm's standard deviation as a constant in the backward pass; recomputed heads read
            through the norm as it is.
        memory: Bytes to hold at once, above the model and the images; at least one pair is held.
        progress: Show a bar on stderr; None where somebody watches.

    Raises:
        TaskError: The metric has no gradient at the clean image (kl) or none at all (accuracy), or GradDrop is asked
            for on a model of one layer.
        GraphError: The graph was compiled for another model.
    """
    require_slope_at_clean(task, "atp_star")
    if any(block.gated for block in task.vit.blocks):
        raise ModelError(
            f"the heads of {task.vit.cfg.name} are gated, and AtP* recomputes patterns only: use eap or eap_ig."
        )
    if grad_drop and graph.cfg.n_layers < 2:
        raise TaskError(
            "grad_drop=True leaves out one layer at a time, and a model of one layer has no other: pass "
            "grad_drop=False."
        )
    method = _Star(graph, task, freeze_norm, memory, progress, "atp_star", grad_drop)
    return method.run().scores(task, "atp_star", chosen("atp_star", locals()).record())


@dataclass(frozen=True)
class _Star(GradientMethod):
    grad_drop: bool = False

    @property
    def passes(self) -> list[Rules]:
        """The backward passes: the plain one, or one without each layer."""
        return [_Dropped(layer) for layer in range(self.graph.cfg.n_layers)] if self.grad_drop else [PLAIN]

    def pairs_at_once(self, *, points: int = 1, kept: float = 0.0) -> int:
        """Pairs of one batch: beside a tape with all that heads need, the gradient at z of every pass."""
        return super().pairs_at_once(points=points, kept=kept + 10 + len(self.passes))

    def score(self, batch: Pairs, baseline: Baseline, contraction: Contraction, found: ChunkSums) -> None:
        """Adds a batch's scores."""
        vit = self.task.vit
        ablated = make_ablated(vit, batch, baseline, inside=self.inside)
        embedded = vit.embed(vit.check_images(batch.clean))
        totals, at_z, tape, deltas = Totals(self.graph, vit, len(batch)), [], None, None
        for rules in self.passes:
            tape = record_tape(
                vit, embedded, self.task.metric, freeze_norm=self.freeze_norm, inside=True, residuals=True, rules=rules
            )
            at_z.append([taped.grad_z for taped in tape.layers])
            deltas = deltas or make_deltas(vit, tape.writes, ablated)
            totals.add(self._weighed(self._first_order(tape, contraction, deltas, ablated.keys_values)))
        assert tape is not None and deltas is not None
        if self.grad_drop:
            found.signs = None  # means of absolute values have no sign
        for layer in range(self.graph.cfg.n_layers):
            gradients = torch.stack([of_layer[layer] for of_layer in at_z])
            self._recompute(layer, tape, gradients, deltas, totals)
        totals.into(found)

    def _first_order(
        self, tape: Tape, contraction: Contraction, deltas: Deltas, ablated: list[tuple[Tensor, Tensor]]
    ) -> Iterator[tuple[EdgeBlock, Tensor]]:
        """Scores of all edges but those into recomputed heads, which are 0."""
        vit = self.task.vit
        for layer, blocks in enumerate(self.graph.layers):
            if blocks.inside is not None:
                taped, own = tape.layers[layer], tape.writes.keys_values[layer]
                yield blocks.inside, inside_scores(self.graph, vit.blocks[layer], taped, ablated[layer], own, "exact")
        gradients = Gradients(vit, freeze_norm=self.freeze_norm)
        gradients.add(tape)
        gradients.clear_ports(2 if self.graph.ports == "qkv" else 3)
        yield from contraction(gradients, deltas)

    def _recompute(self, layer: int, tape: Tape, gradients: Tensor, deltas: Deltas, totals: Totals) -> None:
        block, vit = self.graph.layers[layer].attention, self.task.vit
        chunk = min(CHUNK_BYTES, self.memory // 8)
        for pairs, sources, scores in recomputed_scores(
            self.graph, vit, layer, tape.layers[layer], gradients, deltas, chunk_bytes=chunk
        ):
            for one in scores:
                ((_, weighed),) = self._weighed(iter([(block, one)]))
                totals[block][pairs, ..., sources] += weighed

    def _weighed(self, found: Iterator[tuple[EdgeBlock, Tensor]]) -> Iterator[tuple[EdgeBlock, Tensor]]:
        """What one pass adds to the sum: its scores, or for GradDrop their share in the mean of absolute values."""
        for block, scores in found:
            others = len(self.passes) - (block.kind != "logits")  # in one pass the edge's own layer is left out
            yield block, scores.abs() / others if self.grad_drop else scores


@dataclass(frozen=True)
class _Dropped(Rules):
    """A pass that goes back through everything but what one layer writes."""

    dropped: int

    def attention_written(self, layer: int, written: Tensor) -> Tensor:
        """The same values; without a gradient in its layer."""
        return _still(written) if layer == self.dropped else written

    def mlp_written(self, layer: int, written: Tensor) -> Tensor:
        """The same values; without a gradient in its layer."""
        return _still(written) if layer == self.dropped else written


def _still(values: Tensor) -> Tensor:
    """The same values with gradient 0: detached, the destinations behind them would have none at all."""
    return torch.lerp(values.detach(), values, 0.0)
