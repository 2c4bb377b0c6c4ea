"""Exact effects: what one edge alone does to the metric.

    noising      effect[e] = m(clean run) - m(clean run with e ablated)
    denoising    effect[e] = m(corrupted run with e restored) - m(corrupted run)

The corrupted run is the model's own run from the ablated input (the partner's image; the mean, zero or noise in front
of block 0), and a restored edge carries what its source writes in the clean run. Either way one run is at hand and an
edge carries what its source writes in another, so the code below knows only "this run" and "the other".

Everything in front of the edge's destination is shared. The destination reads its residual without one source's
difference to the other run, the head or MLP behind it is computed anew, and the rest of the model runs on as usual,
since all other edges are kept; the last block only for the tokens that the readout looks at. Candidates of one
destination go through in batches. On average an edge costs a quarter of a forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ...circuits.baseline import DEFAULT_MEMORY, Baseline, make_baseline
from ...circuits.edge_blocks import EdgeBlock
from ...circuits.effect_table import require_direction
from ...circuits.graph import Graph
from ...circuits.pairs import Pairs
from ...circuits.run import MaskWeights, masked_logits_from, require_model
from ...circuits.scores import Scores
from ...circuits.sources import source_values, values_from
from ...circuits.task import Task
from ...models.hooked import HookedViT
from ..progress import progress_bar
from .moments import Moments

Direction = Literal["noising", "denoising"]
Place = tuple[int, int, int]  # row, group, column

HIDDEN_BYTES = (
    24_000_000  # of one MLP's hidden neurons: more at once is slower, since memory is asked for anew each time
)


def exact_effects(
    graph: Graph,
    task: Task,
    *,
    direction: Direction = "noising",
    memory: int = DEFAULT_MEMORY,
    progress: bool = False,
) -> Scores:
    """The exact effect of every edge alone, on the discovery pairs; positive: it carries the behaviour.

    Noising asks which edges the behaviour needs, denoising which suffice to bring it back. It is the ground truth that
    gradients estimate; noising is blind under redundancy, where no single edge matters, and denoising where several
    edges must come together.

    Args:
        graph: The graph.
        task: Its discovery pairs are used; any metric.
        direction: `noising` ablates each edge in the clean run, `denoising` restores it in the corrupted run.
        memory: Bytes to hold at once.
        progress: Show a bar on stderr.

    Raises:
        GraphError: The graph was compiled for another model.
        TaskError: The direction is not known.
    """
    require_direction(direction)
    vit, pairs = task.vit, task.searched
    require_model(vit, graph)
    baseline = make_baseline(vit, task.ablation, task.reference, memory=memory)
    sizes, moments = _Sizes.of(vit, graph, len(pairs), memory), Moments(graph)
    with (
        torch.no_grad(),
        vit.borrowed(),
        progress_bar("exact_effects", len(graph) * len(pairs), progress, "run") as bar,
    ):
        for batch in pairs.batches(sizes.pairs):
            run = _SingleEdges(graph, task, batch, baseline, direction, max(1, sizes.runs // len(batch)))
            moments.begin(task.signs(batch))
            for block in graph.blocks:
                moments.add(block, run.effects(block, bar.update))
            moments.n_pairs += len(batch)
    return moments.scores(task, "exact_effects", {"direction": direction}, exact=True)


def single_effects(
    graph: Graph, task: Task, wanted: NDArray[np.bool_], *, memory: int = DEFAULT_MEMORY
) -> NDArray[np.float64]:
    """The exact effects of some edges alone (noising), shape (pair, edge); 0 for the others.

    Args:
        graph: The graph.
        task: Its discovery pairs are used.
        wanted: Which edges, shape (edge,).
        memory: Bytes to hold at once.
    """
    vit, pairs = task.vit, task.searched
    baseline = make_baseline(vit, task.ablation, task.reference, memory=memory)
    sizes, found = _Sizes.of(vit, graph, len(pairs), memory), []
    with torch.no_grad(), vit.borrowed():
        for batch in pairs.batches(sizes.pairs):
            run = _SingleEdges(graph, task, batch, baseline, "noising", max(1, sizes.runs // len(batch)))
            out, signs = np.zeros((len(batch), len(graph))), task.signs(batch).numpy()[:, None]
            for block in graph.blocks:
                if wanted[block.start : block.stop].any():
                    dense = run.effects(block, lambda runs: None, wanted).double().cpu().numpy()
                    out[:, block.start : block.stop] = signs * dense[:, block.exists]
            found.append(out)
    return np.concatenate(found)


@dataclass(frozen=True)
class _Sizes:
    pairs: int  # whose runs are held
    runs: int  # candidates x pairs that are computed at once

    @classmethod
    def of(cls, vit: HookedViT, graph: Graph, n_pairs: int, memory: int) -> _Sizes:
        cfg, n_tokens = vit.cfg, vit.cfg.tokens.n_tokens
        element = torch.finfo(vit.dtype).bits // 8
        token = element * n_tokens
        # a pair: both runs' writes and their difference, each layer's residuals, q, k, v, z, and the other's k and v
        pair = token * cfg.d_model * (3 * graph.n_sources + 9 * cfg.n_layers)
        run = token * (8 * cfg.d_model + 3 * cfg.d_mlp) + 2 * element * cfg.n_heads * n_tokens**2
        at_once = int(max(1, min(HIDDEN_BYTES // (token * max(1, cfg.d_mlp)), memory // 2 // run)))
        return cls(int(max(1, min(n_pairs, memory // 2 // pair, at_once))), at_once)


@dataclass(frozen=True, eq=False)
class _Layer:
    """One layer of this run."""

    before: Tensor  # residual in front of attention, (pair, token, model)
    middle: Tensor  # residual behind attention
    read: Tensor  # residual that the MLP reads
    qkv: tuple[Tensor, Tensor, Tensor]  # each (pair, head, token, d_head)
    z: Tensor
    other_kv: tuple[Tensor, Tensor] | None  # what heads read from the other run's residual


class _SingleEdges:
    """This run of a batch of pairs, in which single edges carry the other run's values."""

    def __init__(
        self, graph: Graph, task: Task, batch: Pairs, baseline: Baseline, direction: Direction, at_once: int
    ) -> None:
        self.vit: HookedViT = task.vit
        self.vit.require_separate_heads("exact effects")
        self.graph, self.at_once, self.n_pairs = graph, at_once, len(batch)
        self.member = torch.tensor(graph.groups.one_hot(), dtype=self.vit.dtype, device=self.vit.device)
        images = self.vit.check_images(batch.clean)
        self.embedded, self.ablated = self.vit.embed(images), baseline(batch)
        clean, reference = source_values(self.vit, images), self.vit.finish(self.vit.embed(images))
        self._metric: Callable[[Tensor], Tensor] = lambda found: task.metric(found, reference)
        self.sign, self.restores = 1, direction == "denoising"
        now, other = clean, self.ablated
        if self.restores:
            partner = baseline.images(batch)
            now = values_from(self.vit, other[0] if partner is None else self.vit.embed(partner))
            self.sign, other = -1, clean
        self.layers = list(self._layers(now[0], other))
        self.deltas: Float[Tensor, "source pair token model"] = now - other
        self.last = self.vit.run_blocks(now[0])
        self.metric_now = self._metric(self.vit.readout.logits(self.last))

    def _layers(self, residual: Tensor, other: Tensor) -> Iterator[_Layer]:
        shadow, inside = other[0], len(self.graph.groups) > 1
        for layer, block in enumerate(self.vit.blocks):
            first, last = self.graph.first_head(layer), self.graph.mlp_source(layer)
            q, k, v = block.read(block.norm1(residual))
            other_kv = block.read(block.norm1(shadow))[1:] if inside else None
            z = block.attend(q, k, v)
            middle = residual + block.attn_write(z)
            read = block.mlp_input(residual, middle)
            yield _Layer(residual, middle, read, (q, k, v), z, other_kv)
            residual = middle + block.mlp_write(read)
            shadow = shadow + other[first : last + 1].sum(0) + block.attn_bias

    def effects(
        self, block: EdgeBlock, done: Callable[[int], object], wanted: NDArray[np.bool_] | None = None
    ) -> Float[Tensor, "pair row group column"]:
        """The effect of every edge of a block, or of those wanted, (edge,); zero where there is no edge."""
        out = self.deltas.new_zeros(self.n_pairs, *block.dense_shape)
        chosen = block.exists
        places = (
            (row, group, column)
            for row, group, column in np.argwhere(chosen if wanted is None else block.unpack(wanted)).tolist()
        )
        runner = {"attention": self._attention, "inside": self._inside, "mlp": self._mlp, "logits": self._logits}
        for row, found in groupby(places, key=lambda place: place[0]):
            candidates = list(found)
            for start in range(0, len(candidates), self.at_once):
                chosen = candidates[start : start + self.at_once]
                logits = runner[block.kind](block.layer, row, chosen)
                effect = self.sign * (self.metric_now - self._metric_of(logits))
                _, groups, columns = (torch.tensor(axis) for axis in zip(*chosen, strict=True))
                out[:, row, groups, columns] = effect.T
                done(len(chosen) * self.n_pairs)
        return out

    def _metric_of(self, logits: Float[Tensor, "candidate pair class"]) -> Float[Tensor, "candidate pair"]:
        return torch.stack([self._metric(found) for found in logits])

    def _tokens(self, layer: int) -> slice:
        """Tokens at which what a layer writes is read."""
        return self.vit.readout.read if layer >= self.graph.cfg.n_layers - 1 else slice(None)

    def _without(
        self, residual: Tensor, chosen: list[Place], tokens: slice
    ) -> Float[Tensor, "candidate pair token model"]:
        """The residual at some tokens, less each candidate's source difference at its group."""
        columns = [place[2] for place in chosen]
        gone = self.deltas[columns, :, tokens] if tokens != slice(None) else self.deltas[columns]
        if len(self.graph.groups) > 1:
            gone = gone * self.member[[place[1] for place in chosen]][:, None, tokens, None]
        return residual[:, tokens] - gone

    def _logits(self, layer: int, row: int, chosen: list[Place]) -> Tensor:
        return self.vit.readout(self._without(self.last, chosen, self.vit.readout.read))

    def _mlp(self, layer: int, row: int, chosen: list[Place]) -> Tensor:
        now, block, tokens = self.layers[layer], self.vit.blocks[layer], self._tokens(layer)
        edges = self.graph.layers[layer].mlp
        if edges.n_columns == 1 and not self.restores:
            return self._without_path(edges, chosen, row)
        x = self._without(now.read, chosen, tokens)
        return self._rest(now.middle[:, tokens] + block.mlp_write(x), layer)

    def _rest(self, after: Tensor, layer: int) -> Float[Tensor, "candidate pair class"]:
        """Logits from what stands after a layer's MLP, (candidate, pair, token, model); at the end, the read tokens."""
        if layer == self.graph.cfg.n_layers - 1:
            return self.vit.readout(after)
        return self.vit.finish(after.flatten(0, 1), start=layer + 1).unflatten(0, (len(after), self.n_pairs))

    def _after_attention(self, layer: int, change: Tensor) -> Float[Tensor, "candidate pair class"]:
        """Logits where attention writes something else at the tokens that are read."""
        now, block, tokens = self.layers[layer], self.vit.blocks[layer], self._tokens(layer)
        middle = now.middle[:, tokens] + change
        return self._rest(middle + block.mlp_write(block.mlp_input(now.read[:, tokens], middle)), layer)

    def _attention(self, layer: int, row: int, chosen: list[Place]) -> Tensor:
        heads = np.flatnonzero((self.graph.port_rows == row).any(1)).tolist()
        if layer == 0 and self.graph.stream_groups.sum() == 1 and self.graph.ports != "qkv" and not self.restores:
            return self._cut_off(heads)
        now, block, targets = self.layers[layer], self.vit.blocks[layer], self._tokens(layer)
        only_q = self.graph.ports == "qkv" and self.graph.port_rows[heads[0], 0] == row
        seen = targets if only_q else slice(None)
        normed = block.norm1(self._without(now.before, chosen, seen))
        change = normed.new_zeros(())
        for head in heads:
            parts = [now.qkv[port][:, head] for port in range(3)]
            for port in np.flatnonzero(self.graph.port_rows[head] == row).tolist():
                parts[port] = block.read_head(normed, port, head, seen)
            if not only_q or seen == slice(None):
                parts[0] = parts[0][..., targets, :]
            z = block.attend_head(parts[0], parts[1], parts[2], targets)
            change = change + (z - now.z[:, head, targets]) @ block.out_weight[head]
        return self._after_attention(layer, change)

    def _cut_off(self, heads: list[int]) -> Tensor:
        """Heads of layer 0 whose one edge from the input goes have no path left, and carry their ablated values."""
        first = self.graph.first_head(0)
        lost = self.deltas[[first + head for head in heads]][:, :, self._tokens(0)].sum(0, keepdim=True)
        return self._after_attention(0, -lost)

    def _without_path(self, edges: EdgeBlock, chosen: list[Place], row: int) -> Tensor:
        """Logits where the only edge into a node goes: it has no path left, and carries its ablated value."""
        found = []
        for _, group, column in chosen:
            mask = np.ones(len(self.graph), dtype=bool)
            mask[edges.index(row, group, column)] = False
            weights = MaskWeights.from_mask(self.graph, mask, self.vit)
            found.append(masked_logits_from(self.vit, weights, self.embedded, self.ablated))
        return torch.stack(found)

    def _inside(self, layer: int, row: int, chosen: list[Place]) -> Tensor:
        edges = self.graph.layers[layer].inside
        assert edges is not None
        # the pool's constant query reads nothing, so that keys and values from one group are all that a head has
        alone = self.graph.cfg.is_pool(layer) and edges.n_columns == 1 and self.graph.ports != "qkv"
        if alone and not self.restores:
            return self._without_path(edges, chosen, row)
        now, block, targets = self.layers[layer], self.vit.blocks[layer], self._tokens(layer)
        assert now.other_kv is not None
        source = self.member[[place[2] for place in chosen]].bool()[:, None, :, None]
        at = self.member[[place[1] for place in chosen]][:, None, targets, None]
        change = at.new_zeros(())
        for head, governed in enumerate(self.graph.inside_rows == row):
            if governed.any():
                parts = [now.qkv[port][:, head] for port in range(3)]
                parts[0] = parts[0][:, targets]
                for part in np.flatnonzero(governed).tolist():
                    parts[part + 1] = torch.where(source, now.other_kv[part][:, head], parts[part + 1])
                z = block.attend_head(parts[0], parts[1], parts[2], targets)
                change = change + (z - now.z[:, head, targets]) * at @ block.out_weight[head]
        return self._after_attention(layer, change)
