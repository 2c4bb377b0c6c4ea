"""A run under a mask of kept edges, with all that is needed to tell what another edge would change in it.

Places are where the residual stream is read: 2 x layer by attention, 2 x layer + 1 by the MLP, 2 x n_layers by the
logits. At each place rows (destinations) that keep the same edges read the same input, so inputs are held once for each
*kind* of row. What the last block writes is held at the tokens that the readout reads, and at no others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ...circuits.baseline import Baseline
from ...circuits.edge_blocks import EdgeBlock
from ...circuits.graph import Graph
from ...circuits.pairs import Pairs
from ...circuits.reach import Reach, reach
from ...models.hooked import HookedViT

Bools = NDArray[np.bool_]
ALL = slice(None)


@dataclass(frozen=True, eq=False)
class RowKind:
    """Rows of one place that keep the same edges.

    Args:
        kept: Kept edges, (group, source).
        present: Groups where the rows exist.
    """

    kept: Bools
    present: Bools

    @cached_property
    def whole(self) -> Bools:
        """Sources that are kept wherever the rows exist, (source,)."""
        return np.logical_and.reduce(self.kept | ~self.present[:, None], axis=0)

    @cached_property
    def some(self) -> Bools:
        """Sources that are kept somewhere, (source,)."""
        return np.logical_or.reduce(self.kept, axis=0)


class MaskedState:
    """The run of a batch of pairs under a mask; make it under `vit.borrowed()` and without gradients.

    Args:
        vit: The opened model.
        graph: The graph.
        mask: Kept edges, (edge,).
        pairs: The batch.
        baseline: What removed edges carry.
    """

    def __init__(self, vit: HookedViT, graph: Graph, mask: Bools, pairs: Pairs, baseline: Baseline) -> None:
        vit.require_separate_heads("a masked state")
        self.vit, self.graph, self.mask = vit, graph, mask
        self.reach: Reach = reach(graph, mask)
        self.cuts = baseline.images(pairs) is None  # else a source without inputs writes its ablated value anyway
        self.ablated = baseline(pairs)
        self.read = vit.readout.read
        self.of_token = torch.tensor(graph.groups.of_token, device=vit.device)
        self.differences: dict[int, Tensor] = {}  # a_u - a'_u of sources that are alive
        self.inputs: dict[tuple[int, int], Tensor] = {}  # (place, kind) -> (pair, token, model)
        self.ports: dict[tuple[int, int], list[Tensor]] = {}  # (layer, head) -> q, k, v, each (pair, token, d_head)
        self.z: dict[tuple[int, int], Tensor] = {}
        self.written: dict[int, Tensor] = {}  # layer -> what its MLP writes
        self.ablated_kv: dict[int, tuple[Tensor, Tensor]] = {}
        self.kinds: dict[int, list[RowKind]] = {}
        self.kind_of: dict[int, list[int]] = {}  # place -> kind of each row
        self._token_masks: dict[bytes, Tensor] = {}
        self._run(vit.embed(vit.check_images(pairs.clean)))

    # What is where.

    def block_at(self, place: int) -> EdgeBlock:
        """The edge block of what is read at a place."""
        if place == 2 * self.graph.cfg.n_layers:
            return self.graph.logits
        return self.graph.layers[place // 2].mlp if place % 2 else self.graph.layers[place // 2].attention

    def tokens(self, layer: int) -> slice:
        """Tokens at which a layer's writes are held."""
        return self.read if layer == self.graph.cfg.n_layers - 1 else ALL

    def at_place(self, source: int, tensor: Tensor, place: int) -> Tensor:
        """What a source wrote, at the tokens that are read at a place."""
        last = self.graph.cfg.n_layers - 1
        if place <= 2 * last or source >= self.graph.first_head(last):
            return tensor
        return tensor[..., self.read, :]

    def token_mask(self, groups: Bools, like: Tensor) -> Float[Tensor, "token 1"]:
        """1 at the tokens of some groups, at as many tokens as `like` has."""
        key = groups.tobytes()
        if key not in self._token_masks:
            self._token_masks[key] = torch.from_numpy(groups).to(self.of_token.device)[self.of_token].to(like)[:, None]
        found = self._token_masks[key]
        return found if like.shape[-2] == len(found) else found[self.read]

    def computed(self, source: int) -> bool:
        """Whether a source is computed: it differs from its ablated value, or an edge more could make it differ."""
        return bool(self.reach.alive[source].any() or self.reach.needed[source].any())

    # Sums.

    def add_kept(
        self,
        x: Tensor,
        kind: RowKind,
        parts: Mapping[int, Tensor],
        total: Tensor | None,
        place: int,
    ) -> Tensor | None:
        """x + sum over kept sources of their parts, or x + total - sum over dropped ones, whichever has fewer terms.

        None if no part is kept.
        """
        sources = [source for source in parts if source < kind.kept.shape[1]]
        some = [source for source in sources if kind.some[source]]
        if not some:
            return None
        cut = [source for source in sources if not kind.whole[source]]
        if total is not None and len(cut) < len(some):
            return self._add(x + total, cut, kind, parts, place, sign=-1)
        first = self._masked(some[0], kind, parts, place, sign=1)
        return self._add(x + first, some[1:], kind, parts, place, sign=1)

    def _add(
        self, x: Tensor, sources: Sequence[int], kind: RowKind, parts: Mapping[int, Tensor], place: int, sign: int
    ) -> Tensor:
        for source in sources:
            x.add_(self._masked(source, kind, parts, place, sign), alpha=sign)
        return x

    def _masked(self, source: int, kind: RowKind, parts: Mapping[int, Tensor], place: int, sign: int) -> Tensor:
        """A source's part at the groups where it is kept (sign 1) or dropped (-1)."""
        part = self.at_place(source, parts[source], place)
        kept = kind.kept[:, source]
        if sign == 1:
            return part if kind.whole[source] else part * self.token_mask(kept, part)
        return part if not kind.some[source] else part * self.token_mask(~kept, part)

    # The run.

    def _run(self, embedded: Tensor) -> None:
        graph, n_layers = self.graph, self.graph.cfg.n_layers
        shadow = self.ablated[0]
        self.differences[0] = embedded - shadow
        self._total = self.differences[0]
        for layer, block in enumerate(self.vit.blocks):
            first, mlp = graph.first_head(layer), graph.mlp_source(layer)
            heads = [head for head in range(graph.cfg.n_heads) if self.computed(first + head)]
            self._find_inputs(2 * layer, shadow)
            if graph.layers[layer].inside is not None and heads:
                self.ablated_kv[layer] = block.read(block.norm1(shadow))[1:]
            self._heads(layer, heads)
            tokens = self.tokens(layer)
            shadow, self._total = shadow[:, tokens], self._total[:, tokens]
            if block.parallel and self.computed(mlp):
                self._find_inputs(2 * layer + 1, shadow)
            shadow = shadow + self.ablated[first:mlp][:, :, tokens].sum(0) + block.bias_at(tokens)
            for head in heads:
                self._record(first + head, self.z[layer, head] @ block.out_weight[head])
            if self.computed(mlp):
                if not block.parallel:
                    self._find_inputs(2 * layer + 1, shadow)
                self.written[layer] = block.mlp_write(self.read_at(2 * layer + 1))
                self._record(mlp, self.written[layer])
            shadow = shadow + self.ablated[mlp][:, tokens]
        self._find_inputs(2 * n_layers, shadow)
        self.logits: Float[Tensor, "pair class"] = self.vit.readout(self.read_at(2 * n_layers))
        del self._total

    def _find_inputs(self, place: int, shadow: Tensor) -> None:
        block = self.block_at(place)
        dense = block.unpack(self.mask)
        rows = np.concatenate([dense, block.present[:, :, None]], -1).reshape(len(dense), -1)
        distinct, kind_of = np.unique(rows, axis=0, return_inverse=True)
        self.kind_of[place] = kind_of.reshape(-1).tolist()
        firsts = [self.kind_of[place].index(kind) for kind in range(len(distinct))]
        self.kinds[place] = [RowKind(dense[row], block.present[row]) for row in firsts]
        for kind, alike in enumerate(self.kinds[place]):
            x = self.add_kept(shadow, alike, self.differences, self._total, place)
            self.inputs[place, kind] = shadow if x is None else x

    def _heads(self, layer: int, heads: Sequence[int]) -> None:
        block, tokens = self.vit.blocks[layer], self.tokens(layer)
        normed: dict[int, Tensor] = {}
        for head in heads:
            ports = []
            for port, row in enumerate(self.graph.port_rows[head].tolist()):
                found = self.normed(layer, row, normed)
                at = ALL if port else tokens
                ports.append(block.read_head(found[:, at], port, head, at))
            self.ports[layer, head] = ports
            self.z[layer, head] = self.attend(layer, head, ports)

    def normed(self, layer: int, row: int, made: dict[int, Tensor]) -> Float[Tensor, "pair token model"]:
        """The normed input of a row of heads, made once for each kind."""
        kind = self.kind_of[2 * layer][row]
        if kind not in made:
            made[kind] = self.vit.blocks[layer].norm1(self.inputs[2 * layer, kind])
        return made[kind]

    def read_at(self, place: int) -> Float[Tensor, "pair token model"]:
        """The input of an MLP or the logits."""
        return self.inputs[place, 0]

    def inside(self, layer: int, head: int) -> Bools | None:
        """Kept edges inside a head, (keys or values, target group, source group); None if all are kept."""
        block = self.graph.layers[layer].inside
        if block is None:
            return None
        rows = self.graph.inside_rows[head]
        kept = block.unpack(self.mask)[rows]
        return None if kept[:, block.present[rows[0]]][..., block.columns].all() else kept

    def attend(
        self, layer: int, head: int, ports: Sequence[Tensor], inside: NDArray[np.bool_] | None = None
    ) -> Float[Tensor, "*variant pair token d_head"]:
        """z of a head; its ports and the edges inside it may have variants.

        Args:
            layer: The block.
            head: The head.
            ports: q, k, v, (pair, token, d_head), with variants in front or without.
            inside: Kept edges, (keys or values, *variant, target group, source group); the state's own by default.
        """
        block = self.vit.blocks[layer]
        kept = self.inside(layer, head) if inside is None else inside
        if kept is None:
            return block.attend_head(ports[0], ports[1], ports[2], self.tokens(layer))
        q, k, v = ports
        at = torch.from_numpy(kept).to(q).unsqueeze(-3)  # part, *variant, pair, target group, source group
        return self.blend(layer, head, q, k, v, at)

    def blend(
        self, layer: int, head: int, q: Tensor, k: Tensor, v: Tensor, kept: Float[Tensor, "2 *variant pair group group"]
    ) -> Tensor:
        """z of a head that sees this run's keys and values, or those of the ablated residual, as `kept` says."""
        block = self.vit.blocks[layer]
        k_ablated, v_ablated = (part[:, head] for part in self.ablated_kv[layer])
        tokens = self.tokens(layer)
        keys, values = kept[..., self.of_token[tokens], :][..., self.of_token]
        scores = block.scores(q, k) * keys + block.scores(q, k_ablated) * (1 - keys)
        pattern = block.masked(scores, tokens).softmax(-1)
        return block.close(q, (pattern * values) @ v + (pattern * (1 - values)) @ v_ablated)

    def _record(self, source: int, value: Tensor) -> None:
        """A source's difference to its ablated value, which is nothing where no kept path leads to it."""
        alive = self.reach.alive[source]
        if not alive.any():
            return
        ablated = self.ablated[source]
        difference = value - (ablated if value.shape[-2] == ablated.shape[-2] else ablated[:, self.read])
        if not alive.all():
            difference = difference * self.token_mask(alive, difference)
        self.differences[source] = difference
        self._total = self._total + difference
