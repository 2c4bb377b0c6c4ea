"""The model run under gates between 0 and 1, and the gradient of a loss at every gate.

    x_r = x'_r + sum over u of gate[u, r] (a_u - a'_u)            dL/dgate[u, r] = (a_u - a'_u) . dL/dx_r

Left to autograd, every destination would keep a copy of all the differences that it reads: 2 layers + 1 copies of every
source's write. Here all differences stand in one buffer and their gradients in another. The forward pass records each
destination's own computation (x_r -> what it writes) and nothing between destinations; the backward pass visits
destinations from the logits back, and reads and adds to the two buffers. What no open gate connects with the input and
the logits is not computed, and the last block is computed for the tokens that the readout reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ...circuits.edge_blocks import EdgeBlock
from ...circuits.graph import Graph
from ...circuits.reach import Reach, reach
from ...circuits.run import rows_of_heads
from ...models.hooked import HookedViT

Loss = Callable[[Tensor], Tensor]
"""Logits (pair, class) -> one number."""


@dataclass(frozen=True, eq=False)
class SoftResult:
    """One batch under gates.

    Args:
        logits: Shape (pair, class).
        loss: What the loss said.
        gradient: dL/dgate, shape (edge,); 0 where no open gate leads from the input or on to the logits.
    """

    logits: Float[Tensor, "pair class"]
    loss: Float[Tensor, ""]
    gradient: Float[Tensor, " edge"]


@dataclass(frozen=True, eq=False)
class _Recorded:
    """A destination's own computation: its inputs are leaves of an autograd graph of their own."""

    rows: Tensor  # of the block's mask, that read `x`
    x: Float[Tensor, "row pair token model"]
    writes: Tensor
    sources: list[int]  # that wrote them
    tokens: slice
    inside: Tensor | None = None


class SoftRunner:
    """Runs a model under gates; it holds the two buffers, so that many batches of one size share them.

    Args:
        vit: The opened model.
        graph: The graph of the gates.
    """

    def __init__(self, vit: HookedViT, graph: Graph) -> None:
        vit.require_separate_heads("runs under gates")
        self.vit, self.graph = vit, graph
        self.of_token = torch.tensor(graph.groups.of_token, device=vit.device)
        self.member = torch.tensor(graph.groups.one_hot(), dtype=vit.dtype, device=vit.device)
        self.places = {
            block.key: torch.from_numpy(np.flatnonzero(block.exists)).to(vit.device) for block in graph.blocks
        }
        self._buffers: tuple[Tensor, Tensor] | None = None

    def buffers(self, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """Differences and their gradients, each (source, pair, token, model), all zero."""
        if self._buffers is None or self._buffers[0].shape[1:] != shape:
            self._buffers = None
            whole = (self.graph.n_sources, *shape)
            made = [torch.zeros(whole, dtype=self.vit.dtype, device=self.vit.device) for _ in range(2)]
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
    ) -> SoftResult:
        """One forward and one backward pass; call it under `vit.borrowed()`.

        Args:
            gates: What each edge lets through, in [0, 1].
            embedded: The residual in front of block 0.
            ablated: What each source carries on a closed edge.
            loss: Logits -> one number.
        """
        run = _SoftRun(self, gates.to(device=self.vit.device, dtype=self.vit.dtype), embedded, ablated)
        return run.both(loss)


class _SoftRun:
    """One batch on its way through the model and back."""

    def __init__(self, runner: SoftRunner, gates: Tensor, embedded: Tensor, ablated: Tensor) -> None:
        self.runner, self.vit, self.graph = runner, runner.vit, runner.graph
        self.gates, self.ablated = gates, ablated
        self.open: Reach = reach(self.graph, (gates > 0).cpu().numpy())
        self.differences, self.gradients = runner.buffers(embedded.shape)
        self.differences[0] = embedded - ablated[0]
        self.x_ablated = ablated[0]
        self.x_before: Tensor | None = None  # the same in front of the attention of a parallel block
        self.recorded: dict[tuple[str, int], _Recorded] = {}  # by edge block
        self.gradient = torch.zeros_like(gates)

    def both(self, loss: Loss) -> SoftResult:
        """Forward, then backward."""
        for layer in range(self.graph.cfg.n_layers):
            self._attention(layer)
            self._mlp(layer)
        logits, value = self._logits(loss)
        for layer in reversed(range(self.graph.cfg.n_layers)):
            for block in (self.graph.layers[layer].mlp, self.graph.layers[layer].attention):
                self._back(block, layer)
        return SoftResult(logits, value, self.gradient)

    def _tokens(self, layer: int) -> slice:
        """Tokens at which what a layer writes is read."""
        return self.vit.readout.read if layer == self.graph.cfg.n_layers - 1 else slice(None)

    def _live(self, sources: range) -> list[int]:
        """Those that open gates connect with the input and the logits."""
        span = slice(sources.start, sources.stop)
        connected = np.any(self.open.alive[span], axis=1) & np.any(self.open.needed[span], axis=1)
        return [sources.start + int(place) for place in np.flatnonzero(connected)]

    # Between destinations: reading the buffer of differences, and adding to the buffer of gradients.

    def _read(
        self, gates: Float[Tensor, "row group column"], tokens: slice, shadow: Tensor | None = None
    ) -> Float[Tensor, "row pair token model"]:
        """x_r of some rows, whose ablated residual is `shadow` where it is not the latest one."""
        differences = self.differences[: gates.shape[-1], :, tokens]
        if gates.shape[1] == 1:
            moved = torch.tensordot(gates[:, 0], differences, dims=1)
        else:
            moved = torch.einsum("rtu,ubtd->rbtd", gates[:, self.runner.of_token[tokens]], differences)
        return moved.add_((self.x_ablated if shadow is None else shadow)[:, tokens])

    def _spread(self, block: EdgeBlock, rows: Tensor, grad: Tensor, tokens: slice) -> None:
        """dL/dx_r of some rows, (row, pair, token, model), to the gates and to the sources."""
        dense = self.runner.dense(block, self.gates)[rows]
        differences = self.differences[: block.width, :, tokens]
        gradients = self.gradients[: block.width, :, tokens]
        found = grad.new_zeros(block.dense_shape)
        if dense.shape[1] == 1:
            found[rows, 0] = grad.flatten(1) @ differences.flatten(1).T
            if tokens == slice(None):  # the buffer in one piece: the sum needs no second one
                gradients.flatten(1).addmm_(dense[:, 0].T, grad.flatten(1))
            else:
                gradients += torch.tensordot(dense[:, 0].T, grad, dims=1)
        else:
            per_token = torch.einsum("rbtd,ubtd->rtu", grad, differences)
            found[rows] = torch.einsum("gt,rtu->rgu", self.runner.member[:, tokens], per_token)
            gradients += torch.einsum("rtu,rbtd->ubtd", dense[:, self.runner.of_token[tokens]], grad)
        self._note(block, found)

    def _note(self, block: EdgeBlock, found: Float[Tensor, "row group column"]) -> None:
        self.gradient[block.start : block.stop] = found.flatten()[self.runner.places[block.key]]

    def _record(self, block: EdgeBlock, recorded: _Recorded) -> None:
        """Keeps a computation, and the differences that it wrote."""
        self.recorded[block.key] = recorded
        for source, value in zip(recorded.sources, recorded.writes.detach(), strict=True):
            difference = self.differences[source, :, recorded.tokens]
            torch.sub(value, self.ablated[source, :, recorded.tokens], out=difference)
            if not self.open.alive[source].all():
                difference *= self._at(source, recorded.tokens)

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
        self.x_before = self.x_ablated if block.parallel else None
        sources = range(blocks.attention.width, self.graph.mlp_source(layer))
        live = self._live(sources)
        if live:
            heads = [source - sources.start for source in live]
            rows, places = np.unique(self.graph.port_rows[heads], return_inverse=True)
            places = places.reshape(len(heads), 3)
            index = torch.from_numpy(rows).to(self.gates.device)
            x = self._read(self.runner.dense(blocks.attention, self.gates)[index], slice(None))
            with torch.enable_grad():
                x.requires_grad_(True)
                normed = block.norm1(x)
                at = torch.tensor(heads, device=self.gates.device)
                ports = [block.read_port(normed[_evenly(places[:, port])], port, at) for port in range(3)]
                ports[0] = ports[0][..., self._tokens(layer), :]
                z, inside = self._attend(layer, ports, heads)
                writes = torch.matmul(z, block.out_weight[at][:, None])
            self._record(blocks.attention, _Recorded(index, x, writes, live, self._tokens(layer), inside))
        self._pass(sources, block.attn_bias)

    def _attend(self, layer: int, ports: list[Tensor], heads: list[int]) -> tuple[Tensor, Tensor | None]:
        """z of the heads, (head, pair, token, d_head), and with several token groups the gates inside them."""
        block, edges = self.vit.blocks[layer], self.graph.layers[layer].inside
        q, k, v = ports
        if edges is None:
            return block.attend(q, k, v, self._tokens(layer)), None
        inside = self.runner.dense(edges, self.gates).requires_grad_(True)
        governed = inside[torch.from_numpy(self.graph.inside_rows[heads]).to(q.device)]  # head, part, target, source
        of_token = self.runner.of_token
        seen = governed[:, :, of_token[self._tokens(layer)]][..., of_token]
        keys, values = seen[:, 0, None], seen[:, 1, None]
        normed, at = block.norm1(self.x_ablated)[None], torch.tensor(heads, device=q.device)
        k_ablated, v_ablated = (block.read_port(normed, port, at) for port in (1, 2))
        scores = block.scores(q, k) * keys + block.scores(q, k_ablated) * (1 - keys)
        pattern = block.masked(scores, self._tokens(layer)).softmax(-1)
        return block.close(q, (pattern * values) @ v + (pattern * (1 - values)) @ v_ablated), inside

    def _mlp(self, layer: int) -> None:
        edges, tokens = self.graph.layers[layer].mlp, self._tokens(layer)
        source = self.graph.mlp_source(layer)
        if self._live(range(source, source + 1)):
            x = self._read(self.runner.dense(edges, self.gates), tokens, self.x_before)
            with torch.enable_grad():
                x.requires_grad_(True)
                writes = self.vit.blocks[layer].mlp_write(x)
            self._record(edges, _Recorded(torch.zeros(1, dtype=torch.long), x, writes, [source], tokens))
        self._pass(range(source, source + 1))

    def _logits(self, loss: Loss) -> tuple[Tensor, Tensor]:
        """The logits and the loss; its gradient spread to what the logits read."""
        edges, tokens = self.graph.logits, self.vit.readout.read
        x = self._read(self.runner.dense(edges, self.gates), tokens)
        with torch.enable_grad():
            x.requires_grad_(True)
            logits = self.vit.readout(x[0])
            value = loss(logits)
            (grad,) = torch.autograd.grad(value, x)
        self._spread(edges, torch.zeros(1, dtype=torch.long), grad, tokens)
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
        self._spread(block, recorded.rows, grads[0], slice(None) if block.kind == "attention" else recorded.tokens)


def _evenly(places: NDArray[np.intp]) -> list[int] | slice:
    """The row that each head reads; as a slice where they are evenly spaced, whose gradient costs no scatter."""
    rows = rows_of_heads(places)
    steps = set(np.diff(rows).tolist())
    if len(steps) != 1 or min(steps) < 1:
        return rows
    return slice(rows[0], rows[-1] + 1, steps.pop())
