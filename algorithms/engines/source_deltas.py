"""What every source writes in a run, less what it carries on a removed edge, held in little memory.

A head's write is its z (d_head numbers per token) times its columns of the output projection, so z is kept and the
write (d_model numbers) is made when somebody reads it: on ViT-B/16 a pair takes 30 MB instead of 95. Where the ablated
values are those of another run (`partner`, `another`), z is kept as the difference to the other run's z, and the write
of the difference is the difference of the writes.

Places are where the residual stream is read: 2 x layer by attention, 2 x layer + 1 by the MLP, 2 x n_layers by the
logits. The shadow x' at a place is the sum of all ablated values before it, with every bias that belongs to no source.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ...circuits.baseline import Baseline
from ...circuits.graph import Graph
from ...circuits.tasks.task import Pairs
from ...models.hooked import HookedViT

ALL = slice(None)


@dataclass(frozen=True, eq=False)
class Ends:
    """Where a run starts, and what its removed edges carry.

    Args:
        embedded: The residual in front of block 0, (pair, token, model).
        other: That of the other run whose values are carried.
        carried: The carried values of every source, where they are no run's, (source, pair, token, model).
    """

    embedded: Float[Tensor, "pair token model"]
    other: Float[Tensor, "pair token model"]
    carried: Float[Tensor, "source pair token model"] | None

    @classmethod
    def of(cls, vit: HookedViT, pairs: Pairs, baseline: Baseline) -> Ends:
        """The clean run, and what an ablation carries; call it under `vit.borrowed()`."""
        embedded, images = vit.embed(vit.check_images(pairs.clean)), baseline.images(pairs)
        if images is not None:
            return cls(embedded, vit.embed(images), None)
        carried = baseline(pairs)
        return cls(embedded, carried[0], carried)

    def swapped(self) -> Ends:
        """The run from the ablated input, whose removed edges carry the clean run's values."""
        return Ends(self.other, self.embedded, None)


class SourceDeltas:
    """The differences of a batch of pairs; call everything under `vit.borrowed()`.

    Args:
        vit: The opened model.
        graph: The graph.
        ends: Where the run starts, and what removed edges carry.
        plain: Whether the run's own values are filled in, as those of a plain run. Else z and the MLPs' writes are at
            first the other run's, to be taken off what whoever runs a mask puts in their place.
    """

    def __init__(self, vit: HookedViT, graph: Graph, ends: Ends, *, plain: bool) -> None:
        self._blocks, self._graph = vit.blocks, graph
        self.carried, self.embedded = ends.carried, ends.embedded - ends.other
        self.alive: dict[int, Tensor] = {}  # sources cut off from the input at some tokens -> 1 where they are not
        cfg, shape = vit.cfg, ends.embedded.shape
        # what is kept lies in three pieces, since small ones between what is soon let go leave memory in tatters
        heads = (shape[0], cfg.n_heads, shape[1])
        # per layer (pair, head, token, d_head), (pair, token, model); per place (pair, token, model)
        self.z: list[Tensor] = [ends.embedded.new_empty(*heads, block.d_head, dtype=vit.dtype) for block in vit.blocks]
        self.mlp: list[Tensor] = list(ends.embedded.new_empty(cfg.n_layers, *shape))
        self.shadows: list[Tensor] = list(ends.embedded.new_empty(2 * cfg.n_layers + 1, *shape))
        residual, shadow = ends.embedded if plain else None, ends.other
        for layer in range(cfg.n_layers):
            shadow = self._shadow(layer, shadow)
            residual = None if residual is None else self._plain(layer, residual)
        self.shadows[-1].copy_(shadow)
        self.last: Float[Tensor, "pair token model"] | None = residual

    def _shadow(self, layer: int, shadow: Tensor) -> Tensor:
        """Past a layer; what the other run computes there is put into z and mlp."""
        block = self._blocks[layer]
        self.shadows[2 * layer].copy_(shadow)
        if self.carried is None:
            z, after = block.attended(shadow)
            self.z[layer].copy_(z)
            written = block.mlp_write(block.mlp_input(shadow, after))
        else:
            after = shadow + self.carried[self._graph.head_sources(layer)].sum(0) + block.attn_bias
            written = self.carried[self._graph.mlp_source(layer)]
        self.shadows[2 * layer + 1].copy_(block.mlp_input(shadow, after))
        self.mlp[layer].copy_(written)
        return after + written

    def _plain(self, layer: int, residual: Tensor) -> Tensor:
        """Past a layer of the plain run, whose values go where the other run's were."""
        block = self._blocks[layer]
        z, middle = block.attended(residual)
        written = block.mlp_write(block.mlp_input(residual, middle))
        if self.carried is None:
            torch.sub(z, self.z[layer], out=self.z[layer])
        else:
            self.z[layer].copy_(z)
        torch.sub(written, self.mlp[layer], out=self.mlp[layer])
        return middle + written

    def carried_mlp(self, layer: int) -> Float[Tensor, "pair token model"]:
        """What a layer's MLP carries on removed edges."""
        if self._blocks[layer].parallel:  # its shadow stands in front of attention
            if self.carried is not None:
                return self.carried[self._graph.mlp_source(layer)]
            return self._blocks[layer].mlp_write(self.shadows[2 * layer + 1])
        return self.shadows[2 * layer + 2] - self.shadows[2 * layer + 1]

    def delta(self, source: int, tokens: slice = ALL) -> Float[Tensor, "pair token model"]:
        """a_u - a'_u of one source at some tokens."""
        if source == 0:
            return self.embedded[:, tokens]
        layer, place = self._graph.layer_and_head(source)
        if place == self._graph.cfg.n_heads:
            found = self.mlp[layer][:, tokens]
        else:
            found = self.z[layer][:, place, tokens] @ self._blocks[layer].out_weight[place]
            if self.carried is not None:
                found = found - self.carried[source][:, tokens]
        return found * self.alive[source][tokens, None] if source in self.alive else found

    def layer_sum(self, layer: int) -> Float[Tensor, "pair token model"]:
        """Sum of a layer's heads' a_u - a'_u."""
        heads = self._graph.head_sources(layer)
        if any(head in self.alive for head in range(heads.start, heads.stop)):
            return torch.stack([self.delta(head) for head in range(heads.start, heads.stop)]).sum(0)
        total = self._blocks[layer].heads_write(self.z[layer])
        return total if self.carried is None else total - self.carried[heads].sum(0)
