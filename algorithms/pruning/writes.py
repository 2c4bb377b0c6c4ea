"""What every source writes in a run, less what it carries on a removed edge, held in little memory.

A head's write is its z (d_head numbers per token) times its columns of the output projection, so z is kept and the
write (d_model numbers) is made when somebody reads it: on ViT-B/16 a pair takes 30 MB instead of 95. Where the ablated
values come from images (`partner`, `another`), z is kept as the difference to the other image's z, and the write of the
difference is the difference of the writes.

Places are where the residual stream is read: 2 x layer by attention, 2 x layer + 1 by the MLP, 2 x n_layers by the
logits. The shadow x' at a place is the sum of all ablated values before it, with every bias that belongs to no source.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ...circuits.baseline import Baseline
from ...circuits.graph import Graph
from ...circuits.pairs import Pairs
from ...models.hooked import HookedViT


class Writes:
    """The writes of a batch of pairs, at first those of the clean run; call everything under `vit.borrowed()`.

    Args:
        vit: The opened model.
        graph: The graph.
        pairs: The batch.
        baseline: What removed edges carry.
    """

    def __init__(self, vit: HookedViT, graph: Graph, pairs: Pairs, baseline: Baseline) -> None:
        self._blocks, self._n_heads, self._n_sources = vit.blocks, vit.cfg.n_heads, graph.n_sources
        self._of_token = torch.tensor(graph.groups.of_token, device=vit.device)
        other = baseline.images(pairs)
        self.carried: Float[Tensor, "source pair token model"] | None = None if other is not None else baseline(pairs)
        self.alive: dict[int, Tensor] = {}  # sources cut off from the input at some tokens -> 1 where they are not
        residual = vit.embed(vit.check_images(pairs.clean))
        shadow = self.carried[0] if other is None else vit.embed(other)  # type: ignore[index]
        self.embedded = residual - shadow
        # what is kept lies in three pieces, since small ones between what is soon let go leave memory in tatters
        cfg, shape = vit.cfg, residual.shape
        heads = (shape[0], cfg.n_heads, shape[1])
        # per layer (pair, head, token, d_head)
        self.z = [residual.new_empty(*heads, block.d_head) for block in vit.blocks]
        self.mlp = list(residual.new_empty(cfg.n_layers, *shape))  # per layer (pair, token, model)
        self.shadows = list(residual.new_empty(2 * cfg.n_layers + 1, *shape))  # per place (pair, token, model)
        for layer in range(cfg.n_layers):
            residual, shadow = self._layer(layer, residual, shadow)
        self.shadows[-1].copy_(shadow)
        self.last = residual
        self.logits: Float[Tensor, "pair class"] = vit.readout.logits(residual)

    def _layer(self, layer: int, residual: Tensor, shadow: Tensor) -> tuple[Tensor, Tensor]:
        block, first = self._blocks[layer], self.head(layer, 0)
        z = block.attend(*block.read(block.norm1(residual)))
        middle = residual + block.attn_write(z)
        written = block.mlp_write(block.mlp_input(residual, middle))
        self.shadows[2 * layer].copy_(shadow)
        if self.carried is None:
            z_other = block.attend(*block.read(block.norm1(shadow)))
            after = shadow + block.attn_write(z_other)
            z.sub_(z_other)
            other = block.mlp_write(block.mlp_input(shadow, after))
        else:
            stop = first + self._n_heads
            after = shadow + self.carried[first:stop].sum(0) + block.attn_bias
            other = self.carried[stop]
        self.shadows[2 * layer + 1].copy_(block.mlp_input(shadow, after))
        self.z[layer].copy_(z)
        torch.sub(written, other, out=self.mlp[layer])
        return middle + written, after + other

    def head(self, layer: int, head: int) -> int:
        """Source index of a head; of the layer's MLP for `head` = n_heads."""
        return 1 + layer * (self._n_heads + 1) + head

    def carried_mlp(self, layer: int) -> Float[Tensor, "pair token model"]:
        """What a layer's MLP carries on removed edges."""
        if self._blocks[layer].parallel:  # its shadow stands in front of attention
            if self.carried is not None:
                return self.carried[self.head(layer, self._n_heads)]
            return self._blocks[layer].mlp_write(self.shadows[2 * layer + 1])
        return self.shadows[2 * layer + 2] - self.shadows[2 * layer + 1]

    def delta(
        self, source: int, tokens: slice = slice(None), *, raw: bool = False
    ) -> Float[Tensor, "pair token model"]:
        """a_u - a'_u of one source at some tokens; `raw`: as if no source were cut off from the input."""
        layer, place = divmod(source - 1, self._n_heads + 1)
        if source == 0:
            return self.embedded[:, tokens]
        if place == self._n_heads:
            found = self.mlp[layer][:, tokens]
        else:
            found = self.z[layer][:, place, tokens] @ self._blocks[layer].out_weight[place]
            if self.carried is not None:
                found = found - self.carried[source][:, tokens]
        return found * self.alive[source][tokens, None] if source in self.alive and not raw else found

    def deltas(self, sources: Sequence[int], tokens: slice = slice(None)) -> Float[Tensor, "source pair token model"]:
        """a_u - a'_u of several sources at some tokens."""
        return torch.stack([self.delta(source, tokens) for source in sources])

    def layer_sum(self, layer: int) -> Float[Tensor, "pair token model"]:
        """Sum of a layer's heads' a_u - a'_u, all heads being alive."""
        block, first = self._blocks[layer], self.head(layer, 0)
        total = block.heads_write(self.z[layer])
        return total if self.carried is None else total - self.carried[first : first + self._n_heads].sum(0)
