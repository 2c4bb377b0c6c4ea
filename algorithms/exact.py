"""Exact effects: what the metric loses when one edge alone is ablated.

    effect[e] = m(clean) - m(clean run with edge e ablated)

Everything before the edge's destination is shared. The destination reads its residual without one source's difference
to its ablated value, the head or MLP behind it is recomputed, and the rest of the model runs on as usual, since all
other edges are kept. Candidates go through in batches. Costs one run of the rest of the model for every edge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..circuits.baseline import DEFAULT_MEMORY, Baseline, make_baseline
from ..circuits.graph import EdgeBlock, Graph
from ..circuits.pairs import Pairs
from ..circuits.run import require_model
from ..circuits.scores import Scores
from ..circuits.sources import batch_size_for, source_values
from ..circuits.task import Task
from ..models.hooked import HookedViT
from .moments import Moments
from .progress import progress_bar


def exact_effects(graph: Graph, task: Task, *, memory: int = DEFAULT_MEMORY, progress: bool = False) -> Scores:
    """The exact effect of every edge, ablated alone, on the discovery pairs.

    It is the ground truth that gradients estimate; blind only under redundancy, where no single edge matters.

    Args:
        graph: The graph.
        task: Its discovery pairs are used; any metric.
        memory: Bytes to hold at once.
        progress: Show a bar on stderr.

    Raises:
        GraphError: The graph was compiled for another model.
    """
    vit, pairs = task.vit, task.discovery
    require_model(vit, graph)
    baseline = make_baseline(vit, task.ablation, task.reference, memory=memory)
    moments = Moments(graph)
    batch_size = min(batch_size_for(vit, memory, copies=6), 32)
    with (
        torch.no_grad(),
        vit.borrowed(),
        progress_bar("exact_effects", len(graph) * len(pairs), progress, "run") as bar,
    ):
        for batch in pairs.batches(batch_size):
            at_once = max(1, batch_size_for(vit, memory // 2, copies=0.5) // len(batch))
            run = _SingleEdges(graph, task, batch, baseline, min(at_once, 64))
            for block in graph.blocks:
                moments.add(block, run.effects(block, bar.update))
            moments.n_pairs += len(batch)
    return moments.scores(task, "exact_effects", {}, exact=True)


@dataclass(frozen=True, eq=False)
class _Clean:
    """One layer of the clean run."""

    before: Tensor  # residual in front of attention, (pair, token, model)
    middle: Tensor  # residual in front of the MLP
    after: Tensor
    qkv: tuple[Tensor, Tensor, Tensor]  # each (pair, head, token, d_head)
    z: Tensor
    ablated_kv: tuple[Tensor, Tensor]  # what heads read from the ablated residual


class _SingleEdges:
    """The clean run of a batch of pairs, from which single edges are ablated."""

    def __init__(self, graph: Graph, task: Task, batch: Pairs, baseline: Baseline, at_once: int) -> None:
        self.vit: HookedViT = task.vit
        self.graph, self.at_once, self.n_pairs = graph, at_once, len(batch)
        images = self.vit.check_images(batch.clean)
        ablated = baseline(batch)
        self.deltas = source_values(self.vit, images) - ablated
        self.member = torch.tensor(graph.groups.one_hot(), dtype=self.vit.dtype, device=self.vit.device)
        self.layers = list(self._layers(images, ablated))
        logits = self.vit.readout.logits(self.layers[-1].after)
        self._metric: Callable[[Tensor], Tensor] = lambda found: task.metric(found, logits)
        self.clean_metric = self._metric(logits)

    def _layers(self, images: Tensor, ablated: Tensor) -> Iterator[_Clean]:
        residual, shadow = self.vit.embed(images), ablated[0]
        for layer, block in enumerate(self.vit.blocks):
            first, last = self.graph.first_head(layer), self.graph.layers[layer].mlp.width
            q, k, v = block.read(block.norm1(residual))
            shadow_kv = block.read(block.norm1(shadow))[1:]
            z = block.attend(q, k, v)
            middle = residual + block.attn_write(z)
            after = middle + block.mlp_write(middle)
            yield _Clean(residual, middle, after, (q, k, v), z, shadow_kv)
            residual, shadow = after, shadow + ablated[first : last + 1].sum(0) + block.attn_bias

    def effects(self, block: EdgeBlock, done: Callable[[int], object]) -> Float[Tensor, "pair row group column"]:
        """m(clean) - m(ablated) of every edge of a block; zero where there is no edge."""
        out = self.deltas.new_zeros(self.n_pairs, *block.dense_shape)
        places = [(row, group, column) for row, group in block._places.tolist() for column in range(block.width)]
        runner = {"attention": self._attention, "inside": self._inside, "mlp": self._mlp, "logits": self._logits}
        for start in range(0, len(places), self.at_once):
            chosen = places[start : start + self.at_once]
            metric = self._metric_of(runner[block.kind](block, chosen))
            rows, groups, columns = (torch.tensor(axis) for axis in zip(*chosen, strict=True))
            out[:, rows, groups, columns] = (self.clean_metric - metric).T
            done(len(chosen) * self.n_pairs)
        return out

    def _metric_of(self, logits: Float[Tensor, "candidate pair class"]) -> Float[Tensor, "candidate pair"]:
        return torch.stack([self._metric(found) for found in logits])

    def _without(self, residual: Tensor, chosen: list[tuple[int, int, int]]) -> Tensor:
        """The residual less each candidate's source difference at its group, (candidate, pair, token, model)."""
        groups, columns = [c[1] for c in chosen], [c[2] for c in chosen]
        return residual - self.deltas[columns] * self.member[groups][:, None, :, None]

    def _rest(self, residual: Tensor, layer: int, *, skip_attention: bool = False) -> Tensor:
        """Logits from residuals (candidate, pair, token, model) in front of a block, or of its MLP."""
        flat = residual.flatten(0, 1)
        last = self.vit.run_blocks(flat, start=layer, skip_attention=skip_attention)
        return self.vit.readout.logits(last).view(len(residual), self.n_pairs, -1)

    def _logits(self, block: EdgeBlock, chosen: list[tuple[int, int, int]]) -> Tensor:
        return self._rest(self._without(self.layers[-1].after, chosen), self.graph.cfg.n_layers)

    def _mlp(self, block: EdgeBlock, chosen: list[tuple[int, int, int]]) -> Tensor:
        clean = self.layers[block.layer]
        written = self.vit.blocks[block.layer].mlp_write(self._without(clean.middle, chosen))
        return self._rest(clean.middle + written, block.layer + 1)

    def _attention(self, edges: EdgeBlock, chosen: list[tuple[int, int, int]]) -> Tensor:
        """Candidates of one row share the heads that are recomputed."""
        layer, clean = edges.layer, self.layers[edges.layer]
        block = self.vit.blocks[layer]
        if layer == 0 and len(self.graph.groups) == 1 and self.graph.ports != "qkv":
            return self._rest(self._cut_off(chosen), layer, skip_attention=True)
        normed = block.norm1(self._without(clean.before, chosen))
        parts = block.read(normed)  # each (candidate, pair, head, token, d_head)
        seen = torch.tensor(self.graph.port_rows, device=normed.device)  # head, port
        rows = torch.tensor([c[0] for c in chosen], device=normed.device)
        mixed = [
            torch.where((seen[:, port] == rows[:, None])[:, None, :, None, None], parts[port], clean.qkv[port])
            for port in range(3)
        ]
        z = block.attend(*mixed)
        written = block.attn_write(z.flatten(0, 1)).view_as(normed)
        return self._rest(clean.before + written, layer, skip_attention=True)

    def _cut_off(self, chosen: list[tuple[int, int, int]]) -> Tensor:
        """A head of layer 0 whose one edge from the input goes has no path left, and carries its ablated value."""
        rows = [set((self.graph.port_rows[:, 0] == row).nonzero()[0].tolist()) for row, _, _ in chosen]
        lost = [sum(self.deltas[self.graph.first_head(0) + head] for head in heads) for heads in rows]
        return self.layers[0].middle - torch.stack(lost)  # type: ignore[arg-type]

    def _inside(self, edges: EdgeBlock, chosen: list[tuple[int, int, int]]) -> Tensor:
        clean, block = self.layers[edges.layer], self.vit.blocks[edges.layer]
        rows = torch.tensor([c[0] for c in chosen], device=self.member.device)
        governed = (
            torch.tensor(self.graph.inside_rows, device=rows.device) == rows[:, None, None]
        )  # candidate, head, part
        source = self.member[[c[2] for c in chosen]].bool()[:, None, None, :, None]
        target = self.member[[c[1] for c in chosen]].bool()[:, None, None, :, None]
        q, k, v = clean.qkv
        keys, values = (
            torch.where(governed[:, None, :, part, None, None] & source, clean.ablated_kv[part], (k, v)[part])
            for part in range(2)
        )
        z = torch.where(target, block.attend(q.expand(len(chosen), *q.shape), keys, values), clean.z)
        written = block.attn_write(z.flatten(0, 1)).view(len(chosen), *clean.before.shape)
        return self._rest(clean.before + written, edges.layer, skip_attention=True)
