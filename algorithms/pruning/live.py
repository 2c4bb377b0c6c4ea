"""The live part of a graph that is pruned from the logits back, run again and again as cheaply as exactness allows.

While a destination r is being pruned, everything upstream of it is the full model, whose values are known, and
everything downstream is final. So a trial needs r, what its change reaches along kept edges, and nothing else:

1. `begin` sets up a place (the logits, a layer's MLP, a layer's heads) from the full model's residual there.
2. `measure` tries many sets of dropped edges in one batch: r reads x_r - sum of (a_u - a'_u), and every node downstream
   adds to its input what its kept sources changed by. A node that is needed only at the readout's tokens is computed
   only there.
3. `commit` makes drops final. It computes what they reach anew from the kept edges, x' + sum of kept (a_u - a'_u),
   so that the state is a function of the kept edges and not of the way that led to them: no error adds up, and a run
   that is resumed has the same bits. Destinations that feed the same heads follow each other; until the last of them,
   `settle` is enough: the heads read anew, and all that they reach is told apart from the state before.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ...circuits.baseline import Baseline
from ...circuits.edge_blocks import EdgeBlock
from ...circuits.pairs import Pairs
from ...circuits.reach import reach
from ...models.hooked import HookedViT
from .kept import READ, Bools, Destination, Kept, Sources, Trials
from .passes import Commit, Wave
from .writes import Writes

ALL = slice(None)
HIDDEN_BYTES = 12_000_000  # more at once is slower, since memory is asked for anew each time


class Live:
    """The state of a pruned run on one batch of pairs; call everything under `vit.borrowed()`, without gradients.

    Args:
        vit: The opened model.
        kept: The kept edges; whoever prunes changes them, this class only reads them.
        pairs: The batch.
        baseline: What removed edges carry.
        cache: Bytes for what is held between calls beside the writes: what needed nodes read and write, and as far as
            they last, destinations' inputs.
    """

    def __init__(self, vit: HookedViT, kept: Kept, pairs: Pairs, baseline: Baseline, cache: int) -> None:
        vit.require_separate_heads("a live pruned run")
        self.vit, self.kept, self.graph = vit, kept, kept.graph
        self.writes = Writes(vit, kept.graph, pairs, baseline)
        self.read = vit.readout.read
        self.ports: dict[tuple[int, int, int], Tensor] = {}  # (layer, head, port) -> (pair, token, d_head)
        self.z: dict[tuple[int, int], Tensor] = {}  # (layer, head) -> (pair, token, d_head)
        self.z_other: dict[tuple[int, int], Tensor] = {}  # the same of the run that ablated values come from
        self.out: dict[int, Tensor] = {}  # layer -> what the MLP writes, (pair, token, model)
        self._rows: dict[tuple[int, int], Tensor] = {}  # (place, row) -> its input
        self._cache_left = cache
        self._clean = self._hold_clean()  # a_u - a'_u of the clean run
        self._deltas: dict[int, Tensor] = {}  # the same of sources that the pruning has passed, at their tokens
        self._tokens: dict[int, slice] = {}  # where those are followed
        self._base: Tensor | None = None  # input of the open destination, less what has been dropped from it
        self._unsettled: list[Destination] = []  # whose drops have not been committed
        self._masks: dict[tuple[int, ...], Tensor] = {}
        self._of_token = torch.tensor(kept.graph.groups.of_token, device=vit.device)
        self._gap = self.writes.last - self.writes.shadows[-1]  # x - x' at the place that is being pruned
        self._ablated_kv: dict[int, tuple[Tensor, Tensor]] = {}
        self._place = 2 * vit.cfg.n_layers
        self._out = [block.out_weight for block in vit.blocks]
        self._port_rows: list[list[int]] = kept.graph.port_rows.tolist()
        self._whole = reach(kept.graph, kept.mask).alive if self.writes.carried is not None else None

    # What is where.

    def block_at(self, place: int) -> EdgeBlock:
        """The edge block of what is read from the residual stream at a place."""
        if place == 2 * self.graph.cfg.n_layers:
            return self.graph.logits
        blocks = self.graph.layers[place // 2]
        return blocks.mlp if place % 2 else blocks.attention

    def heads(self, layer: int) -> list[int]:
        """Heads of a layer that something needs."""
        return [head for head in range(self.graph.cfg.n_heads) if (layer, head) in self.z]

    def source_tokens(self, source: int) -> slice:
        """Tokens at which the changes of a source that the pruning has passed are followed."""
        if source not in self._tokens:
            self._tokens[source] = self.read if self.kept.source_level(source) == READ else ALL
        return self._tokens[source]

    def row_tokens(self, place: int, row: int) -> slice:
        """Tokens at which a destination's input is held: keys and values need all."""
        if place == 2 * self.graph.cfg.n_layers:
            return self.read
        if place % 2:
            return self.source_tokens(self.graph.mlp_source(place // 2))
        if self.graph.ports == "qkv" and row % 3 == 0:
            return self.source_tokens(self.graph.first_head(place // 2) + row // 3)
        return ALL

    def at_groups(self, groups: Sequence[int], tokens: slice) -> Float[Tensor, "token 1"]:
        """1 at the tokens of some groups, 0 elsewhere."""
        key = tuple(groups)
        if key not in self._masks:
            chosen = torch.isin(self._of_token, torch.tensor(key, device=self._of_token.device))
            self._masks[key] = chosen.to(self.vit.dtype)[:, None]
        return self._masks[key][tokens]

    # What destinations read.

    def row(self, place: int, row: int) -> Float[Tensor, "pair token model"]:
        """The input of a destination, kept between calls as far as memory allows."""
        if (place, row) not in self._rows:
            found = self.fresh_row(place, row)
            if _bytes(found) > self._cache_left:
                return found
            self._cache_left -= _bytes(found)
            self._rows[place, row] = found
        return self._rows[place, row]

    def forget_row(self, place: int, row: int) -> None:
        """The row's input has changed."""
        held = self._rows.pop((place, row), None)
        if held is not None:
            self._cache_left += _bytes(held)

    def fresh_row(self, place: int, row: int) -> Float[Tensor, "pair token model"]:
        """x' + sum over kept, or at the place that is being pruned x - sum over dropped, whichever has fewer terms."""
        block, tokens = self.block_at(place), self.row_tokens(place, row)
        kept, dropped = self.kept.sources(block, row)
        if place == self._place and len(dropped) <= len(kept):
            x = self.writes.shadows[place][:, tokens] + self._gap[:, tokens]
            return self._add(x, dropped, tokens, sign=-1)
        return self._add(self.writes.shadows[place][:, tokens].clone(), kept, tokens, sign=1)

    def _add(self, x: Tensor, sources: Sources, tokens: slice, sign: int) -> Tensor:
        for source, groups in sources.items():
            delta, at = self.delta(source, tokens), tokens
            if delta.shape[1] != x.shape[1]:
                at = self.read
            if groups is not None:
                delta = delta * self.at_groups(groups, at)
            (x if at == tokens else x[:, at]).add_(delta, alpha=sign)
        return x

    def delta(self, source: int, tokens: slice) -> Float[Tensor, "pair token model"]:
        """a_u - a'_u of a source in this run, for a reader that is held at some tokens."""
        if source < self._n_upstream():
            return self._candidate(source, tokens)
        at, found = self.source_tokens(source), self._deltas.get(source)
        if found is None:
            found = self.writes.delta(source, at)
            if _bytes(found) <= self._cache_left:
                self._cache_left -= _bytes(found)
                self._deltas[source] = found
        return found[:, tokens] if at == ALL else found

    def _n_upstream(self) -> int:
        """Sources in front of the place that is being pruned."""
        return self.block_at(self._place).width

    def _candidate(self, source: int, tokens: slice) -> Float[Tensor, "pair token model"]:
        """a_u - a'_u of a source before the place that is being pruned."""
        return self.writes.delta(source, tokens) if self._clean is None else self._clean[source][:, tokens]

    def changed(self, source: int) -> None:
        """A source that the pruning has passed writes something else."""
        held = self._deltas.pop(source, None)
        if held is not None:
            self._cache_left += _bytes(held)

    def _hold_clean(self) -> Tensor | None:
        one = self.writes.embedded
        if self.graph.n_sources * one.numel() * one.element_size() > self._cache_left / 2:
            return None
        found = self.writes.deltas(range(self.graph.n_sources))
        self._cache_left -= _bytes(found)
        return found

    # What destinations make of it.

    def port_row(self, head: int, port: int) -> int:
        """Row of the attention block that feeds a head's port."""
        return self._port_rows[head][port]

    def out_weight(self, layer: int, head: int) -> Float[Tensor, "d_head model"]:
        """What a head's z is multiplied with."""
        return self._out[layer][head]

    def attend(
        self, layer: int, head: int, ports: Sequence[Tensor], inside: Tensor | None = None
    ) -> Float[Tensor, "*variant pair token d_head"]:
        """z of a head; some of its ports may have variants.

        Args:
            layer: The block.
            head: The head.
            ports: q, k and v, (pair, token, d_head), with variants in front or without.
            inside: Kept edges inside the head, (keys or values, target group, source group), with variants after the
                first axis or without; those of the state by default.
        """
        block = self.vit.blocks[layer]
        if inside is None:
            inside = self._inside_now(layer, head)
        if inside is not None:
            return self._blend(layer, head, ports, inside)
        tokens = self.source_tokens(self.graph.first_head(layer) + head)
        return block.attend_head(ports[0], ports[1], ports[2], tokens)

    def mlp_write(self, layer: int, x: Float[Tensor, "*variant pair token model"]) -> Tensor:
        """What an MLP writes, a piece at a time, so that its hidden neurons stay in memory that is at hand."""
        block, rows = self.vit.blocks[layer], x.flatten(0, -3)
        hidden = x.element_size() * self.graph.cfg.d_mlp * x.shape[-2]
        if len(rows) * hidden <= HIDDEN_BYTES:
            return block.mlp_write(x)
        found = [block.mlp_write(part) for part in rows.split(max(1, HIDDEN_BYTES // hidden))]
        return torch.cat(found).view_as(x)

    def _inside_now(self, layer: int, head: int) -> Tensor | None:
        block = self.graph.layers[layer].inside
        if block is None:
            return None
        rows = self.graph.inside_rows[head]
        kept = self.kept.dense(block)[rows]
        if kept[:, block.present[rows[0]]][..., block.columns].all():
            return None
        return torch.tensor(kept, dtype=self.vit.dtype, device=self.vit.device)

    def _blend(self, layer: int, head: int, ports: Sequence[Tensor], inside: Tensor) -> Tensor:
        block, (q, k, v) = self.vit.blocks[layer], ports
        k_ablated, v_ablated = (part[:, head] for part in self._keys_values(layer))
        tokens = self.source_tokens(self.graph.first_head(layer) + head)
        keys, values = inside[..., self._of_token[tokens], :][..., self._of_token].unsqueeze(
            -3
        )  # part, *variant, 1, ...
        scores = block.scores(q, k) * keys + block.scores(q, k_ablated) * (1 - keys)
        pattern = block.masked(scores, tokens).softmax(-1)
        return block.close(q, (pattern * values) @ v + (pattern * (1 - values)) @ v_ablated)

    def _keys_values(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values that a layer's heads read from the shadow, each (pair, head, token, d_head)."""
        if layer not in self._ablated_kv:
            block = self.vit.blocks[layer]
            self._ablated_kv[layer] = block.read(block.norm1(self.writes.shadows[2 * layer]))[1:]
        return self._ablated_kv[layer]

    # The three steps.

    def begin(self, place: int) -> None:
        """Goes back to a place, whose destinations all read the full model's residual there."""
        layer, self._place = place // 2, place
        if place < 2 * self.graph.cfg.n_layers:
            parallel = self.vit.blocks[layer].parallel  # its MLP stands in front of attention, beside it
            if place % 2:
                self._gap = self._gap - self.writes.delta(self.graph.mlp_source(layer))
            if bool(place % 2) == parallel:
                self._gap = self._gap - self.writes.layer_sum(layer)
        if place == 2 * self.graph.cfg.n_layers:
            return
        if place % 2:
            if self.kept.source_level(self.graph.mlp_source(layer)):
                self.out[layer] = self.mlp_write(layer, self.row(place, 0))
                self._cache_left -= _bytes(self.out[layer])
            return
        self._begin_heads(layer)

    def _begin_heads(self, layer: int) -> None:
        block, first = self.vit.blocks[layer], self.graph.first_head(layer)
        needed = [head for head in range(self.graph.cfg.n_heads) if self.kept.source_level(first + head)]
        if not needed:
            return
        shadow = self.writes.shadows[2 * layer]
        normed, normed_other = block.norm1(shadow + self._gap), block.norm1(shadow)
        for head in needed:
            tokens = self.source_tokens(first + head)
            for port in range(3):
                at = ALL if port else tokens
                self.ports[layer, head, port] = block.read_head(normed[:, at], port, head, at)
            if self.writes.carried is None:
                seen = (tokens, ALL, ALL)
                q, k, v = (block.read_head(normed_other[:, at], port, head, at) for port, at in enumerate(seen))
                self.z_other[layer, head] = block.attend_head(q, k, v, tokens)
            q, k, v = (self.ports[layer, head, port] for port in range(3))
            self.z[layer, head] = block.attend_head(q, k, v, tokens)
            self._cache_left -= 5 * _bytes(self.ports[layer, head, 1])  # q, k, v and both runs' z, at most

    def open(self, destination: Destination) -> None:
        """Starts on a destination: from here to `commit`, everything is told apart from the state as it is now."""
        block = destination.block
        self._base = None if block.kind == "inside" else self.row(self.kept.place(block), destination.row)

    def drop(self, destination: Destination, columns: Sequence[int]) -> None:
        """Edges into the open destination go for good; the state follows at `settle` or `commit`."""
        if self._base is not None:
            for column in columns:
                self._base = self._base - self._lost(destination, column)

    def measure(self, destination: Destination, trials: Trials) -> Float[Tensor, "variant pair class"]:
        """Logits of every trial: one column's edge dropped, and those before it that are expected to go."""
        wave = Wave(self, len(trials.columns), self._cut_off(destination, trials))
        if self._base is None:
            wave.drop_inside(destination, trials)
        else:
            wave.rows[destination.row] = self._tried(destination, trials, self._base)
        return wave.run(destination.block)

    def _tried(
        self, destination: Destination, trials: Trials, now: Tensor
    ) -> Float[Tensor, "variant pair token model"]:
        """A destination's input in each trial."""
        found = now.new_empty(len(trials.columns), *now.shape)
        for x, column, goes in zip(found, trials.columns, trials.expected, strict=True):
            torch.sub(now, self._lost(destination, column), out=x)
            now = x if goes else now
        return found

    def _lost(self, destination: Destination, column: int) -> Float[Tensor, "pair token model"]:
        """What a destination's input loses with an edge."""
        tokens = self.row_tokens(self.kept.place(destination.block), destination.row)
        delta = self._candidate(column, tokens)
        return delta if len(self.graph.groups) == 1 else delta * self.at_groups((destination.group,), tokens)

    def close(self, destination: Destination) -> None:
        """Lets go of the input of a destination that reads nothing of this run any more."""
        block = destination.block
        if block.kind == "attention" and not self.kept.sources(block, destination.row)[0]:
            self.forget_row(self.kept.place(block), destination.row)

    def settle(self, destination: Destination) -> None:
        """The heads behind a destination read anew what its drops left; `commit` must follow."""
        block, row = destination.block, destination.row
        place, layer = self.kept.place(block), block.layer
        self.forget_row(place, row)
        normed = self.vit.blocks[layer].norm1(self.row(place, row))
        for head in self.heads(layer):
            for port in (self.graph.port_rows[head] == row).nonzero()[0].tolist():
                narrow = port == 0 and self.graph.ports != "qkv"
                tokens = self.source_tokens(self.graph.first_head(layer) + head) if narrow else ALL
                found = self.vit.blocks[layer].read_head(normed[:, tokens], port, head, self.held(layer, head, port))
                self.ports[layer, head, port] = found
        self._unsettled.append(destination)

    def held(self, layer: int, head: int, port: int) -> slice:
        """Tokens at which a head's port is held."""
        return ALL if port else self.source_tokens(self.graph.first_head(layer) + head)

    def commit(self, destination: Destination) -> Float[Tensor, "pair class"]:
        """Logits of the kept edges, once what a destination's drops, and settled ones, reach has been computed anew."""
        if self._whole is not None:
            self.writes.alive = self._cut_sources(self.kept.mask)
            for source in list(self._deltas):
                self.changed(source)
        drops, self._unsettled = [*self._unsettled, destination], []
        return Commit(self, drops).run(destination.block)

    # Sources that are cut off from the input carry a' whatever they would compute; it only shows where a' is no run's.

    def _cut_sources(self, mask: Bools) -> dict[int, Tensor]:
        """Sources that a mask of kept edges cuts off at some groups, with 1 at the tokens where it does not."""
        assert self._whole is not None
        alive = reach(self.graph, mask).alive
        changed = (alive != self._whole).any(1).nonzero()[0].tolist()
        return {source: torch.from_numpy(alive[source]).to(self._gap)[self._of_token] for source in changed}

    def _cut_off(self, destination: Destination, trials: Trials) -> list[dict[int, Tensor]] | None:
        """For each trial the sources that it cuts off from the input; None if none has its last edge dropped."""
        kept = self.kept.dense(destination.block)[destination.row, destination.group]
        if self._whole is None or destination.block.kind == "logits" or kept.sum() > len(trials.columns):
            return None
        found = []
        for columns in trials.dropped():
            mask = self.kept.mask.copy()
            mask[[destination.edge(column) for column in columns]] = False
            found.append(self._cut_sources(mask))
        return found


def _bytes(held: Tensor) -> int:
    return held.numel() * held.element_size()
