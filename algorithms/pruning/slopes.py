"""First-order effects of all edges around a mask, pair by pair, from one forward and one backward pass.

    slope[e] = (a_u - a'_u) . d metric / d x_r      of an edge from u to r, summed over tokens and channels

is the derivative of the metric along the edge's mask: adding an absent edge raises the metric by about its slope, and
dropping a kept one lowers it by that. The gradient at each destination is taken in the masked run itself, so that what
is saturated, cut off or cancelled there counts as it stands. Sources and destinations that the masked run does not
compute have slope 0. It says nothing about steps; what hangs on it should be measured (`engines/flips`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ...circuits.baseline import DEFAULT_MEMORY, Baseline
from ...circuits.edge_blocks import EdgeBlock
from ...circuits.graph import Graph
from ...circuits.metrics import Metric
from ...circuits.pairs import Pairs
from ...models.hooked import HookedViT
from ..engines.flips import changeable
from .masked_state import Bools, MaskedState


def measure_slopes(
    vit: HookedViT,
    graph: Graph,
    mask: Bools,
    metric: Metric,
    pairs: Pairs,
    baseline: Baseline,
    *,
    memory: int = DEFAULT_MEMORY,
    done: Callable[[int], object] = lambda count: None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The metric under a mask, (pair,), and its slope along every edge's mask, (pair, edge).

    Args:
        vit: The opened model.
        graph: The graph.
        mask: Kept edges, (edge,).
        metric: Logits -> one number per pair, with a gradient.
        pairs: Pairs of images.
        baseline: What removed edges carry.
        memory: Bytes to hold at once.
        done: Called with pairs as they are finished.
    """
    now, slopes = [], []
    useful = changeable(graph, mask)
    with vit.borrowed():
        for batch in pairs.batches(_pairs_at_once(vit, graph, memory)):
            with torch.no_grad():
                reference = batch.wanted(vit(batch.clean))
            with torch.enable_grad():
                state = TapedState(vit, graph, mask, batch, baseline)
                values = metric(state.logits, reference)
            now.append(values.detach().double().cpu().numpy())
            slopes.append(np.where(useful, state.slopes(values), 0.0))
            done(len(batch))
    return np.concatenate(now), np.concatenate(slopes)


class TapedState(MaskedState):
    """A masked run that keeps apart what each destination reads, so that gradients can be taken there."""

    def __init__(self, vit: HookedViT, graph: Graph, mask: Bools, pairs: Pairs, baseline: Baseline) -> None:
        self.taps: dict[tuple[int, int], Tensor] = {}  # (place, row) -> its input
        self.seen: dict[tuple[int, int], Tensor] = {}  # (layer, head) -> kept edges inside, for each pair
        super().__init__(vit, graph, mask, pairs, baseline)

    def _tap(self, place: int, row: int) -> Tensor:
        x = self.inputs[place, self.kind_of[place][row]]
        if (place, row) not in self.taps:
            self.taps[place, row] = x.view_as(x) if x.requires_grad else x.detach().clone().requires_grad_()
        return self.taps[place, row]

    def normed(self, layer: int, row: int, made: dict[int, Tensor]) -> Tensor:
        """The normed input of a row of heads, made once for each row."""
        if row not in made:
            made[row] = self.vit.blocks[layer].norm1(self._tap(2 * layer, row))
        return made[row]

    def read_at(self, place: int) -> Tensor:
        """The input of an MLP or the logits."""
        return self._tap(place, 0)

    def attend(
        self, layer: int, head: int, ports: Sequence[Tensor], inside: NDArray[np.bool_] | None = None
    ) -> Float[Tensor, "*variant pair token d_head"]:
        """z of a head, with a gradient for each pair at the edges inside it."""
        block = self.graph.layers[layer].inside
        if block is None:
            return super().attend(layer, head, ports)
        q, k, v = ports
        kept = torch.from_numpy(block.unpack(self.mask)[self.graph.inside_rows[head]]).to(q)
        self.seen[layer, head] = kept[:, None].repeat(1, len(q), 1, 1).requires_grad_()
        return self.blend(layer, head, q, k, v, self.seen[layer, head])

    def slopes(self, values: Float[Tensor, " pair"]) -> NDArray[np.float64]:
        """Of the metric along every edge, (pair, edge)."""
        places = [*self.taps, *self.seen]
        tensors = [*self.taps.values(), *self.seen.values()]
        found = torch.autograd.grad(values.sum(), tensors, allow_unused=True)
        gradients = {place: g for place, g in zip(places[: len(self.taps)], found, strict=False) if g is not None}
        out = np.zeros((len(values), len(self.graph)))
        for place in {place for place, _ in gradients}:
            rows = {row: gradient for (at, row), gradient in gradients.items() if at == place}
            self._into(self.block_at(place), self._contract(place, rows), out)
        inside: dict[int, Tensor] = {}
        for (layer, head), gradient in zip(places[len(self.taps) :], found[len(self.taps) :], strict=True):
            if gradient is not None:
                self._fold(layer, head, gradient, inside)
        for layer, dense in inside.items():
            block = self.graph.layers[layer].inside
            assert block is not None
            self._into(block, dense, out)
        return out

    @torch.no_grad()
    def _contract(self, place: int, rows: dict[int, Tensor]) -> Float[Tensor, "pair row group column"]:
        block = self.block_at(place)
        sources = [source for source in self.differences if source < block.width]
        parts = torch.stack([self.at_place(source, self.differences[source], place) for source in sources], 1).detach()
        gradient = torch.stack(list(rows.values()), 1)  # pair, row, token, model
        n_groups = len(self.graph.groups)
        found = gradient.new_zeros(len(gradient), *block.dense_shape)
        at, columns = torch.tensor(list(rows)), torch.tensor(sources)
        if n_groups == 1:
            products = gradient.flatten(2) @ parts.flatten(2).mT  # pair, row, source
            found[:, at[:, None], 0, columns] = products
            return found
        products = torch.einsum("brtd,bstd->brst", gradient, parts)
        for group in range(n_groups):
            chosen = self.token_mask(np.arange(n_groups) == group, parts)[:, 0]
            found[:, at[:, None], group, columns] = products @ chosen
        return found

    def _fold(self, layer: int, head: int, gradient: Tensor, inside: dict[int, Tensor]) -> None:
        """Adds a head's gradients, (keys or values, pair, target, source), to the rows that govern them."""
        block = self.graph.layers[layer].inside
        assert block is not None
        dense = inside.setdefault(layer, gradient.new_zeros(gradient.shape[1], *block.dense_shape))
        for part, row in enumerate(self.graph.inside_rows[head].tolist()):
            dense[:, row] += gradient[part]

    @staticmethod
    def _into(block: EdgeBlock, dense: Tensor, out: NDArray[np.float64]) -> None:
        values = dense.double().cpu().numpy()
        out[:, block.start : block.stop] = values[:, block.exists]


def _pairs_at_once(vit: HookedViT, graph: Graph, memory: int) -> int:
    """Pairs whose runs with all their gradients fit into `memory` bytes; at least 1."""
    cfg, n_tokens = vit.cfg, vit.cfg.tokens.n_tokens
    element = torch.finfo(vit.dtype).bits // 8
    rows = sum(block.present.shape[0] for block in graph.blocks if block.kind != "inside")
    floats = n_tokens * cfg.d_model * (5 * graph.n_sources + 5 * rows + 9 * cfg.n_layers)
    floats += n_tokens * cfg.n_layers * 4 * cfg.d_mlp
    floats += cfg.n_layers * cfg.n_heads * n_tokens**2 * (6 if len(graph.groups) > 1 else 1)
    return int(max(1, min(8, memory // (floats * element))))
