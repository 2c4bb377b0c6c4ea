"""The model run under gates between 0 and 1, and the gradient of a loss at every gate.

    x_r = x'_r + sum over u of gate[u, r] (a_u - a'_u)            dL/dgate[u, r] = (a_u - a'_u) . dL/dx_r

Left to autograd, every destination would keep a copy of all the differences that it reads: 2 layers + 1 copies of every
source's write. Here all differences stand in one buffer and their gradients in another. The forward pass records each
destination's own computation (x_r -> what it writes) and nothing between destinations; the backward pass visits
destinations from the logits back, and reads and adds to the two buffers. What no open gate connects with the input and
the logits is not computed, and the last block is computed for the tokens that the readout reads.

Around a mask, whose gates are 0 or 1, the gradient is kept apart for each pair: the metric's slope along every edge.
Adding an absent edge raises the metric by about its slope, and dropping a kept one lowers it by that. It says nothing
about steps; what hangs on it should be measured (`flips`). There a source without a way to the logits is computed too,
and destinations read sums in place of products.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ...circuits.baseline import DEFAULT_MEMORY, Baseline, constants
from ...circuits.edge_blocks import EdgeBlock
from ...circuits.graph import Graph
from ...circuits.masked_run import ports_of
from ...circuits.memory import chunk_size, pairs_within
from ...circuits.reach import Reach, reach
from ...circuits.tasks.metrics import Metric
from ...circuits.tasks.task import Pairs
from ...circuits.token_parts import Part, parts_of, rows_of
from ...models import processes
from ...models.hooked import HookedViT
from .edge_mask import Bools, EdgeMask, RowKind, Sources, blend
from .flips import changeable
from .source_deltas import ALL

Loss = Callable[[Tensor], Tensor]
"""Logits (pair, class) -> one number; or, where pairs are kept apart, one for each."""


def measure_slopes(
    vit: HookedViT,
    graph: Graph,
    mask: Bools,
    metric: Metric,
    pairs: Pairs,
    baseline: Baseline,
    *,
    memory: int = DEFAULT_MEMORY,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The metric under a mask, (pair,), and its slope along every edge's mask, (pair, edge).

    Sources and destinations that the masked run does not compute have slope 0, and so have edges that don't occur.

    Args:
        vit: The opened model.
        graph: The graph.
        mask: Kept edges, (edge,).
        metric: Logits -> one number per pair, with a gradient.
        pairs: Pairs of images.
        baseline: What removed edges carry.
        memory: Bytes to hold at once.
    """
    parts = parts_of(graph, pairs)
    left = memory - constants(vit, baseline.ablation)
    sizes = [chunk_size(vit, len(pairs), min(8, GatedRunner.pairs_within(vit, part.graph, left))) for part in parts]
    chunks = [(part, batch) for part, size in zip(parts, sizes, strict=True) for batch in part.pairs.batches(size)]

    @lru_cache(maxsize=1)  # chunks of one part share the runner's buffers
    def on(part: Part) -> tuple[GatedRunner, Bools, Bools]:
        kept = mask[part.edges]
        return GatedRunner(vit, part.graph), kept, changeable(part.graph, kept)

    def one(chunk: tuple[Part, Pairs]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        part, batch = chunk
        runner, kept, useful = on(part)
        reference = batch.wanted(vit(batch.clean)) if metric.relative else None
        embedded = vit.embed(vit.check_images(batch.clean))
        found = runner.apart(kept, embedded, baseline(batch), lambda logits: metric(logits, reference))
        slopes = np.zeros((len(batch), len(graph)))
        slopes[:, part.edges] = np.where(useful, found.gradient.double().cpu().numpy(), 0.0)
        return found.loss.double().cpu().numpy(), slopes

    with vit.borrowed(), torch.no_grad():
        now, slopes = zip(*processes.in_order(one, chunks), strict=True)
    return np.concatenate(now)[rows_of(parts)], np.concatenate(slopes)[rows_of(parts)]


@dataclass(frozen=True, eq=False)
class GatedResult:
    """One batch under gates.

    Args:
        logits: Shape (pair, class).
        loss: What the loss said.
        gradient: dL/dgate, shape (edge,), or (pair, edge) where pairs are kept apart; 0 where no open gate leads from
            the input or on to the logits.
    """

    logits: Float[Tensor, "pair class"]
    loss: Float[Tensor, "*pair"]
    gradient: Float[Tensor, "*pair edge"]


@dataclass(frozen=True, eq=False)
class _Recorded:
    """A destination's own computation: its inputs are leaves of an autograd graph of their own."""

    rows: list[int]  # of the edge block, that read `x`
    x: Float[Tensor, "row pair token model"]
    writes: Tensor
    sources: list[int]  # that wrote them
    tokens: slice
    inside: Tensor | None = None


class GatedRunner:
    """Runs a model under gates; it holds the two buffers, so that many batches of one size share them.

    Args:
        vit: The opened model.
        graph: The graph of the gates.
    """

    def __init__(self, vit: HookedViT, graph: Graph) -> None:
        self.vit, self.graph = vit, graph
        self.of_token = torch.tensor(graph.groups.of_token, device=vit.device)
        self.member = torch.tensor(graph.groups.one_hot(), dtype=vit.sum_dtype, device=vit.device)
        self.places = {
            block.key: torch.from_numpy(np.flatnonzero(block.exists)).to(vit.device) for block in graph.blocks
        }
        self._buffers: tuple[Tensor, Tensor] | None = None

    @staticmethod
    def pairs_within(vit: HookedViT, graph: Graph, memory: int) -> int:
        """Pairs whose run fits: two buffers, the ablated values, and what blocks record and work with; at least 1."""
        layers, rows = graph.cfg.n_layers, int(graph.port_rows.max()) + 1
        return pairs_within(
            vit,
            memory,
            residuals=4 * graph.n_sources + layers * (rows + graph.cfg.n_heads + 12) + 3 * rows,
            hidden=2 * (layers + 3),
            patterns=(4 * layers + 8) * (len(graph.groups) > 1),  # they are recorded
        )

    def buffers(self, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """Differences and their gradients, each (source, pair, token, model), all zero."""
        if self._buffers is None or self._buffers[0].shape[1:] != shape:
            self._buffers = None
            whole = (self.graph.n_sources, *shape)
            made = [torch.zeros(whole, dtype=self.vit.sum_dtype, device=self.vit.device) for _ in range(2)]
            self._buffers = (made[0], made[1])
        else:
            for buffer in self._buffers:
                buffer.zero_()
        return self._buffers

    def dense(self, block: EdgeBlock, gates: Float[Tensor, " edge"]) -> Float[Tensor, "row group column"]:
        """The gates of one block; 0 where there is no edge."""
        rows, groups, width = block.dense_shape
        flat = gates.new_zeros(rows * groups * width)
        return flat.index_copy_(0, self.places[block.key], gates[block.start : block.stop]).view(rows, groups, width)

    def __call__(
        self,
        gates: Float[Tensor, " edge"],
        embedded: Float[Tensor, "pair token model"],
        ablated: Float[Tensor, "source pair token model"],
        loss: Loss,
    ) -> GatedResult:
        """One forward and one backward pass; call it under `vit.borrowed()`.

        Args:
            gates: What each edge lets through, in [0, 1].
            embedded: The residual in front of block 0.
            ablated: What each source carries on a closed edge.
            loss: Logits -> one number.
        """
        return _GatedRun(self, gates.to(device=self.vit.device, dtype=self.vit.sum_dtype), embedded, ablated).both(loss)

    def apart(
        self,
        mask: Bools,
        embedded: Float[Tensor, "pair token model"],
        ablated: Float[Tensor, "source pair token model"],
        loss: Loss,
    ) -> GatedResult:
        """The same around a mask, with a gradient for each pair; the loss gives one number per pair."""
        gates = torch.tensor(mask, device="cpu").to(device=self.vit.device, dtype=self.vit.sum_dtype)
        return _GatedRun(self, gates, embedded, ablated, EdgeMask(self.graph, mask)).both(loss)


class _GatedRun:
    """One batch on its way through the model and back."""

    def __init__(
        self, runner: GatedRunner, gates: Tensor, embedded: Tensor, ablated: Tensor, edges: EdgeMask | None = None
    ) -> None:
        self.runner, self.vit, self.graph = runner, runner.vit, runner.graph
        self.gates, self.ablated, self.edges = gates, ablated, edges
        self.open: Reach = reach(self.graph, (gates > 0).cpu().numpy())
        self.differences, self.gradients = runner.buffers(embedded.shape)
        self.differences[0] = embedded - ablated[0]
        self.x_ablated = ablated[0]
        self.total = self.differences[0]  # of all differences so far
        self.before = self.x_ablated, self.total  # both in front of a layer's attention, which a parallel MLP reads
        self.recorded: dict[tuple[str, int], _Recorded] = {}  # by edge block
        self.gradient = gates.new_zeros(1 if edges is None else len(embedded), len(gates))

    def both(self, loss: Loss) -> GatedResult:
        """Forward, then backward."""
        for layer in range(self.graph.cfg.n_layers):
            self._attention(layer)
            self._mlp(layer)
        logits, value = self._logits(loss)
        for layer in reversed(range(self.graph.cfg.n_layers)):
            for block in (self.graph.layers[layer].mlp, self.graph.layers[layer].attention):
                self._back(block, layer)
        return GatedResult(logits, value, self.gradient[0] if self.edges is None else self.gradient)

    def _tokens(self, layer: int) -> slice:
        """Tokens at which what a layer writes is read."""
        return self.vit.readout.read if layer == self.graph.cfg.n_layers - 1 else ALL

    def _computed(self, sources: range) -> tuple[list[int], list[int]]:
        """Those that open gates connect with the input and the logits, and those connected with the input alone.

        The latter differ from what they carry, which counts where edges are looked at that are not there.
        """
        alive = [source for source in sources if self.open.alive[source].any()]
        live = [source for source in alive if self.open.needed[source].any()]
        return live, [] if self.edges is None else [source for source in alive if source not in live]

    # Between destinations: reading the buffer of differences, and adding to the buffer of gradients.

    def _read(self, block: EdgeBlock, rows: list[int], tokens: slice) -> Float[Tensor, "row pair token model"]:
        """x_r of some rows."""
        parallel = block.kind == "mlp" and self.vit.blocks[block.layer].parallel
        shadow, total = self.before if parallel else (self.x_ablated, self.total)
        if self.edges is not None:
            kinds = [self.edges.kind(block, row) for row in rows]
            made = {kind: self._summed(kind, shadow[:, tokens], total[:, tokens], tokens) for kind in set(kinds)}
            return torch.stack([made[kind] for kind in kinds])
        gates = self.runner.dense(block, self.gates)[rows]
        differences = self.differences[: gates.shape[-1], :, tokens]
        if gates.shape[1] == 1:
            moved = torch.tensordot(gates[:, 0], differences, dims=1)
        else:
            moved = torch.einsum("rtu,ubtd->rbtd", gates[:, self.runner.of_token[tokens]], differences)
        return moved.add_(shadow[:, tokens])

    def _summed(self, kind: RowKind, shadow: Tensor, total: Tensor, tokens: slice) -> Float[Tensor, "pair token model"]:
        """x' + sum over kept, or + total - sum over dropped, whichever has fewer terms."""
        fewer = len(kind.dropped) < len(kind.kept)
        x, sources = (shadow + total, kind.dropped) if fewer else (shadow.clone(), kind.kept)
        for source, at in self._masked(sources, tokens):
            difference = self.differences[source, :, tokens]
            x.add_(difference if at is None else difference * at, alpha=-1 if fewer else 1)
        return x

    def _masked(self, sources: Sources, tokens: slice) -> list[tuple[int, Tensor | None]]:
        """Sources that are alive, and 1 at the tokens that are meant; None for all."""
        found = []
        for source, groups in sources.items():
            if self.open.alive[source].any():
                at = None if groups is None else self.runner.member[list(groups)].sum(0)[tokens, None]
                found.append((source, at))
        return found

    def _spread(self, block: EdgeBlock, rows: list[int], grad: Tensor, tokens: slice) -> None:
        """dL/dx_r of some rows, (row, pair, token, model), to the gates and to the sources."""
        if self.edges is None:
            self._spread_soft(block, rows, grad, tokens)
            return
        kinds: dict[RowKind, Tensor] = {}
        for row, part in zip(rows, grad, strict=True):
            kind = self.edges.kind(block, row)
            kinds[kind] = kinds[kind] + part if kind in kinds else part
        for kind, part in kinds.items():
            for source, at in self._masked(kind.kept, tokens):
                self.gradients[source, :, tokens] += part if at is None else part * at
        columns = [int(source) for source in np.flatnonzero(self.open.alive[: block.width].any(1))]
        found = grad.new_zeros(grad.shape[1], *block.dense_shape)
        place = torch.tensor(rows, device="cpu")[:, None], torch.tensor(columns, device="cpu")
        for pair, own in enumerate(grad.unbind(1)):  # one at a time, since sources' differences are copied
            differences = self.differences[:, pair, tokens][columns]
            if len(self.graph.groups) == 1:
                found[pair, place[0], 0, place[1]] = own.flatten(1) @ differences.flatten(1).T
                continue
            products = torch.einsum("rtd,utd->rut", own, differences)
            for group, member in enumerate(self.runner.member[:, tokens]):
                found[pair, place[0], group, place[1]] = products @ member
        self._note(block, found)

    def _spread_soft(self, block: EdgeBlock, rows: list[int], grad: Tensor, tokens: slice) -> None:
        dense = self.runner.dense(block, self.gates)[rows]
        differences = self.differences[: block.width, :, tokens]
        gradients = self.gradients[: block.width, :, tokens]
        found = grad.new_zeros(block.dense_shape)
        if dense.shape[1] == 1:
            found[rows, 0] = grad.flatten(1) @ differences.flatten(1).T
            if tokens == ALL:  # the buffer in one piece: the sum needs no second one
                gradients.flatten(1).addmm_(dense[:, 0].T, grad.flatten(1))
            else:
                gradients += torch.tensordot(dense[:, 0].T, grad, dims=1)
        else:
            per_token = torch.einsum("rbtd,ubtd->rtu", grad, differences)
            found[rows] = torch.einsum("gt,rtu->rgu", self.runner.member[:, tokens], per_token)
            gradients += torch.einsum("rtu,rbtd->ubtd", dense[:, self.runner.of_token[tokens]], grad)
        self._note(block, found[None])

    def _note(self, block: EdgeBlock, found: Float[Tensor, "some row group column"]) -> None:
        self.gradient[:, block.start : block.stop] = found.flatten(1)[:, self.runner.places[block.key]]

    def _put(self, sources: Sequence[int], writes: Tensor, tokens: slice) -> None:
        """Keeps the differences of what sources wrote."""
        for source, value in zip(sources, writes.detach(), strict=True):
            difference = self.differences[source, :, tokens]
            torch.sub(value, self.ablated[source, :, tokens], out=difference)
            if not self.open.alive[source].all():
                difference *= self._at(source, tokens)
            if self.edges is not None:
                self.total = self.total + self.differences[source]

    def _at(self, source: int, tokens: slice) -> Float[Tensor, "token 1"]:
        """1 at the tokens where a source has a path from the input, 0 where it carries its ablated value."""
        alive = torch.from_numpy(self.open.alive[source]).to(self.gates)
        return alive[self.runner.of_token[tokens]][:, None]

    def _pass(self, sources: range, bias: Tensor | None = None) -> None:
        """The ablated residual goes on."""
        moved = self.ablated[sources.start : sources.stop].sum(0)
        self.x_ablated = self.x_ablated + (moved if bias is None else moved + bias)

    # Destinations.

    def _attention(self, layer: int) -> None:
        blocks, block = self.graph.layers[layer], self.vit.blocks[layer]
        self.before = self.x_ablated, self.total
        sources = range(blocks.attention.width, self.graph.mlp_source(layer))
        live, others = self._computed(sources)
        written = [self._heads(layer, some, recorded=some is live) for some in (live, others) if some]
        for some, writes in written:
            self._put(some, writes, self._tokens(layer))
        self._pass(sources, block.attn_bias)

    def _heads(self, layer: int, sources: list[int], *, recorded: bool) -> tuple[list[int], Tensor]:
        """What heads write; recorded, if gradients are to come back through it."""
        edges, block, tokens = self.graph.layers[layer].attention, self.vit.blocks[layer], self._tokens(layer)
        heads = [source - edges.width for source in sources]
        rows, places = np.unique(self.graph.port_rows[heads], return_inverse=True)
        places = places.reshape(len(heads), 3)
        x = self._read(edges, rows.tolist(), ALL)
        with torch.set_grad_enabled(recorded):
            x.requires_grad_(recorded)
            normed = block.norm1(x)
            at = torch.tensor(heads, device=self.gates.device)
            normed_q, *normed_kv = ports_of(normed, places)
            if block.rope is None:  # else queries are turned by where they stand among all tokens
                normed_q = normed_q[..., tokens, :]
            q = block.read_port(normed_q, 0, at)
            k, v = (block.read_port(own, port, at) for port, own in enumerate(normed_kv, start=1))
            ports = [q if block.rope is None else q[..., tokens, :], k, v]
            z, inside = self._attend(layer, ports, heads, recorded=recorded)
            writes = torch.matmul(z, block.out_weight[at][:, None])
        if recorded:
            self.recorded[edges.key] = _Recorded(rows.tolist(), x, writes, sources, tokens, inside)
        return sources, writes

    def _attend(
        self, layer: int, ports: list[Tensor], heads: list[int], *, recorded: bool
    ) -> tuple[Tensor, Tensor | None]:
        """z of the heads, (head, pair, token, d_head), and with several token groups the gates inside them."""
        block, edges, tokens = self.vit.blocks[layer], self.graph.layers[layer].inside, self._tokens(layer)
        q, k, v = (part.expand(len(heads), *part.shape[1:]) for part in ports)
        if edges is None:
            z, inside = block.weigh(q, k, v, tokens), None
        else:
            dense = self.runner.dense(edges, self.gates)
            inside = dense.repeat(len(self.gradient), 1, 1, 1).requires_grad_(recorded)  # one, or one for each pair
            rows = torch.from_numpy(self.graph.inside_rows[heads]).to(q.device)
            of_token = self.runner.of_token
            seen = inside[:, rows].movedim(0, 2)[..., of_token[tokens], :][..., of_token]  # head, part, pair, ...
            normed, at = block.norm1(self.x_ablated)[None], torch.tensor(heads, device=q.device)
            ablated = block.read_port(normed, 1, at), block.read_port(normed, 2, at)
            z = blend(block, (q, k, v), ablated, (seen[:, 0], seen[:, 1]), tokens)
        return block.close(q.transpose(0, 1), z.transpose(0, 1)).transpose(0, 1), inside

    def _mlp(self, layer: int) -> None:
        edges, tokens = self.graph.layers[layer].mlp, self._tokens(layer)
        source = self.graph.mlp_source(layer)
        live, others = self._computed(range(source, source + 1))
        if live or others:
            x = self._read(edges, [0], tokens)
            with torch.set_grad_enabled(bool(live)):
                x.requires_grad_(bool(live))
                writes = self.vit.blocks[layer].mlp_write(x)
            if live:
                self.recorded[edges.key] = _Recorded([0], x, writes, [source], tokens)
            self._put([source], writes, tokens)
        self._pass(range(source, source + 1))

    def _logits(self, loss: Loss) -> tuple[Tensor, Tensor]:
        """The logits and the loss; its gradient spread to what the logits read."""
        edges, tokens = self.graph.logits, self.vit.readout.read
        x = self._read(edges, [0], tokens)
        with torch.enable_grad():
            x.requires_grad_(True)
            logits = self.vit.readout(x[0])
            value = loss(logits)
            (grad,) = torch.autograd.grad(value.sum(), x)
        self._spread(edges, [0], grad, tokens)
        return logits.detach(), value.detach()

    def _back(self, block: EdgeBlock, layer: int) -> None:
        """Carries the sources' gradients back through what they computed, and on to what that read."""
        recorded = self.recorded.pop(block.key, None)
        if recorded is None:
            return
        upstream = self.gradients[recorded.sources][:, :, recorded.tokens]
        for place, source in enumerate(recorded.sources):
            if not self.open.alive[source].all():
                upstream[place] *= self._at(source, recorded.tokens)
        inputs = [recorded.x] if recorded.inside is None else [recorded.x, recorded.inside]
        grads = torch.autograd.grad(recorded.writes, inputs, upstream)
        edges = self.graph.layers[layer].inside
        if edges is not None and recorded.inside is not None:
            self._note(edges, grads[1])
        self._spread(block, recorded.rows, grads[0], ALL if block.kind == "attention" else recorded.tokens)
