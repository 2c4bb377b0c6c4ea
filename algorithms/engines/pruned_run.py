"""The run of a batch of pairs under a mask of kept edges, held so that changes of it are cheap and exact.

1. A run of all edges is plain and fused at first. `begin` goes back through it, from the logits to the input, and sets
   up one place (the logits, a layer's MLP, a layer's heads) from the residual there. Any other mask is computed whole.
2. `measure` tries many changes at one destination in one batch: the destination reads its input with the differences
   a_u - a'_u of some sources less or more, and every node downstream adds to its input what its kept sources changed
   by (`passes`). A node that is needed only at the readout's tokens is computed only there.
3. `commit` makes drops final. It computes what they reach anew from the kept edges, x' + sum of kept (a_u - a'_u),
   so that the state is a function of the kept edges and not of the way that led to them: no error adds up, and a run
   that is resumed has the same bits. Destinations that feed the same heads follow each other; until the last of them,
   `settle` is enough: the heads read anew, and all that they reach is told apart from the state before.

Sources that are cut off from the input carry a' whatever they would compute; it only shows where a' is no run's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...circuits.edge_blocks import EdgeBlock
from ...circuits.reach import reach
from ...models.devices import pace
from ...models.hooked import HookedViT
from .edge_mask import READ, Bools, Destination, EdgeMask, RowKind, Sources, blend
from .passes import FirstPass, Ports, UpdatePass, VariantPass
from .source_deltas import ALL, Ends, SourceDeltas


@dataclass(frozen=True)
class Trial:
    """One change of a batch.

    Args:
        edges: Which edges flip: kept ones are dropped, absent ones added. All into one place.
        lasts: Whether the trials after it start from this one.
    """

    edges: tuple[int, ...]
    lasts: bool = False


class PrunedRun:
    """The state of a masked run; call everything under `vit.borrowed()`, without gradients.

    Args:
        vit: The opened model.
        edges: The kept edges; whoever prunes changes them, this class only reads them.
        ends: Where the run starts, and what removed edges carry.
        cache: Bytes for what is held between calls beside the deltas: as far as they last, inputs and writes.
        commits: Whether drops will be made final; else what lies behind a place that is begun is let go of.
    """

    def __init__(self, vit: HookedViT, edges: EdgeMask, ends: Ends, cache: int, *, commits: bool = False) -> None:
        self.vit, self.edges, self.graph, self.commits = vit, edges, edges.graph, commits
        self.deltas = SourceDeltas(vit, self.graph, ends, plain=edges.whole)
        self.read = vit.readout.read
        self.ports: dict[tuple[int, int], Ports] = {}  # (layer, head) -> q, k, v
        self.z: dict[tuple[int, int], Tensor] = {}  # (layer, head) -> (pair, token, d_head)
        self.z_other: dict[tuple[int, int], Tensor] = {}  # the same of the run that ablated values come from
        self.out: dict[int, Tensor] = {}  # layer -> what the MLP writes, (pair, token, model)
        self.of_token = torch.tensor(self.graph.groups.of_token, device=vit.device)
        self.weights = [block.out_weight for block in vit.blocks]
        self._port_rows: list[list[int]] = self.graph.port_rows.tolist()
        self._inputs: dict[tuple[int, RowKind, bool], Tensor] = {}  # (place, kind of row, at all tokens)
        self._known: dict[int, Tensor] = {}  # source -> a_u - a'_u at its tokens
        self._tokens: dict[int, slice] = {}
        self._masks: dict[tuple[int, ...], Tensor] = {}
        self._ablated_kv: dict[int, tuple[Tensor, Tensor]] = {}
        self._left = {"inputs": cache // 2, "deltas": cache // 2}  # bytes that may still be held
        self._dead = set(np.flatnonzero(~edges.alive.any(1)).tolist())
        self._base: Tensor | None = None  # input of the open destination, less what has been dropped from it
        self._unsettled: list[Destination] = []  # whose drops have not been committed
        self._place = self.graph.n_places - 1
        self._total: Tensor | None = None  # x - x' at the place in front of which nothing has been pruned
        self._whole: Bools | None = None  # where sources are alive in the full graph, where that can be told from a'
        if self.deltas.carried is not None:
            self._whole = reach(self.graph, np.ones_like(edges.mask)).alive
        if self.deltas.last is not None:
            self._total = self.deltas.last - self.deltas.shadows[-1]
            self.logits: Float[Tensor, "pair class"] = vit.readout.logits(self.deltas.last)
            self.deltas.last = None
        else:
            if self._whole is not None:
                self.deltas.alive = self._cut_sources(edges.mask)
            self.logits = FirstPass(self).run()

    # What is where.

    def heads(self, layer: int) -> list[int]:
        """Heads of a layer that something needs."""
        return [head for head in range(self.graph.cfg.n_heads) if (layer, head) in self.z]

    def source_tokens(self, source: int) -> slice:
        """Tokens at which what a source writes is held, and its changes are followed."""
        if source not in self._tokens:
            last = source >= self.graph.first_head(self.graph.cfg.n_layers - 1)
            self._tokens[source] = self.read if last or self.edges.source_level(source) == READ else ALL
        return self._tokens[source]

    def row_tokens(self, place: int, row: int) -> slice:
        """Tokens at which a destination's input is held: keys and values need all."""
        if place == self.graph.n_places - 1:
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
            chosen = torch.isin(self.of_token, torch.tensor(key, device=self.of_token.device))
            self._masks[key] = chosen.to(self.vit.sum_dtype)[:, None]
        return self._masks[key][tokens]

    # What destinations read.

    def row(
        self, place: int, row: int, *, anew: bool = False, total: Tensor | None = None
    ) -> Float[Tensor, "pair token model"]:
        """The input of a destination, kept between calls as far as memory allows.

        Args:
            place: Where it stands.
            row: Its row there.
            anew: Whether it is made anew.
            total: x - x' of all sources before it, at its tokens, where that is known.
        """
        kind, tokens = self.edges.kind(self.graph.block_at(place), row), self.row_tokens(place, row)
        key = (place, kind, tokens == ALL)
        if anew:
            self._forget(key)
        if key not in self._inputs:
            found = self._read(place, kind, tokens, total)
            passed = self.edges.whole and not self.commits  # what it was made from is let go of
            if _bytes(found) > self._left["inputs"] and not passed:
                return found
            self._left["inputs"] -= _bytes(found)
            self._inputs[key] = found
        return self._inputs[key]

    def _forget(self, key: tuple[int, RowKind, bool]) -> None:
        held = self._inputs.pop(key, None)
        if held is not None:
            self._left["inputs"] += _bytes(held)

    def forget_stale(self, changed: set[int], fresh: set[tuple[int, RowKind, bool]]) -> None:
        """Lets go of inputs that hold what sources wrote before they changed."""
        for key in [key for key in self._inputs if key not in fresh and not changed.isdisjoint(key[1].kept)]:
            self._forget(key)

    def _read(
        self, place: int, kind: RowKind, tokens: slice, total: Tensor | None
    ) -> Float[Tensor, "pair token model"]:
        """x' + sum over kept, or where the total is known x - sum over dropped, whichever has fewer terms."""
        shadow = self.deltas.shadows[place][:, tokens]
        if total is None and place == self._place and self._total is not None:
            total = self._total[:, tokens]
        if total is not None and len(kind.dropped) <= len(kind.kept):
            return self._add(shadow + total, kind.dropped, tokens, sign=-1)
        return self._add(shadow.clone(), kind.kept, tokens, sign=1)

    def _add(self, x: Tensor, sources: Sources, tokens: slice, sign: int) -> Tensor:
        for source, groups in sources.items():
            if source in self._dead:
                continue
            delta, at = self.delta(source, tokens), tokens
            if delta.shape[1] != x.shape[1]:
                at = self.read
            if groups is not None:
                delta = delta * self.at_groups(groups, at)
            (x if at == tokens else x[:, at]).add_(delta, alpha=sign)
        return x

    def delta(self, source: int, tokens: slice) -> Float[Tensor, "pair token model"]:
        """a_u - a'_u of a source in this run, for a reader that is held at some tokens."""
        at = ALL if source < self._n_upstream() else self.source_tokens(source)
        found = self._known.get(source)
        if found is None:
            found = self.deltas.delta(source, at)
            if _bytes(found) <= self._left["deltas"]:
                self._left["deltas"] -= _bytes(found)
                self._known[source] = found
        return found[:, tokens] if at == ALL else found

    def _n_upstream(self) -> int:
        """Sources in front of the place that is being pruned, which are known at all tokens."""
        return 0 if self._total is None else self.graph.block_at(self._place).width

    def changed(self, source: int) -> None:
        """A source writes something else."""
        held = self._known.pop(source, None)
        if held is not None:
            self._left["deltas"] += _bytes(held)

    # What destinations make of it.

    def port_row(self, head: int, port: int) -> int:
        """Row of the attention block that feeds a head's port."""
        return self._port_rows[head][port]

    def run_heads(self, layer: int, heads: Sequence[int], normed: Tensor) -> tuple[dict[int, Ports], dict[int, Tensor]]:
        """q, k, v and z of some heads that all read one normed input, (*variant, pair, token, model)."""
        if not self.alike(layer, heads):
            ports = {head: [self.read_port(layer, head, port, normed) for port in range(3)] for head in heads}
            return ports, self.attend(layer, ports, {})
        block, tokens = self.vit.blocks[layer], self.source_tokens(self.graph.first_head(layer))
        flat, shape = normed.flatten(0, -3), normed.shape[:-2]
        q, k, v = block.read(flat) if tokens == ALL else block.read_at(flat, tokens)
        z = block.attend(q, k, v, tokens).unflatten(0, shape).unbind(-3)
        q, k, v = (part.unflatten(0, shape).unbind(-3) for part in (q, k, v))
        return {head: [q[head], k[head], v[head]] for head in heads}, {head: z[head] for head in heads}

    def alike(self, layer: int, heads: Sequence[int]) -> bool:
        """Whether these are all heads of a layer, needed at the same tokens, with all edges inside them."""
        first, inside = self.graph.first_head(layer), self.graph.layers[layer].inside
        return (
            len(heads) == self.vit.blocks[layer].n_heads
            and len({self.source_tokens(first + head) == ALL for head in heads}) == 1
            and (inside is None or bool((self.edges.dense(inside) | ~inside.exists).all()))
        )

    def read_port(self, layer: int, head: int, port: int, normed: Tensor) -> Float[Tensor, "*any token width"]:
        """q, k or v of a head from its normed input, which may be held at more tokens than a query is."""
        tokens = ALL if port else self.source_tokens(self.graph.first_head(layer) + head)
        if normed.shape[-2] != len(self.of_token[tokens]):
            normed = normed[..., tokens, :]
        return self.vit.blocks[layer].read_head(normed, port, head, tokens)

    def attend(self, layer: int, ports: Mapping[int, Ports], inside: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """z of some heads (all that are needed if they share a norm), (*variant, pair, token, d_head).

        Args:
            layer: The block.
            ports: Of each head; some may have variants.
            inside: Kept edges inside heads, (keys or values, *variant, target group, source group); those of the state
                for the others.
        """
        block, first = self.vit.blocks[layer], self.graph.first_head(layer)
        kept = {head: inside[head] if head in inside else self._inside_now(layer, head) for head in ports}
        if block.joint is None and all(part is None for part in kept.values()):
            at = {head: self.source_tokens(first + head) for head in ports}
            return {head: block.attend_head(q, k, v, at[head]) for head, (q, k, v) in ports.items()}
        weighed = [self._weighed(layer, head, some, kept[head]) for head, some in ports.items()]
        queries = [some[0] for some in ports.values()]
        if block.joint is None:
            return {head: block.close(q, z) for head, q, z in zip(ports, queries, weighed, strict=True)}
        q, z = (torch.stack(torch.broadcast_tensors(*parts), -3) for parts in (queries, weighed))
        return dict(zip(ports, block.close(q, z).unbind(-3), strict=True))

    def _weighed(self, layer: int, head: int, ports: Ports, kept: Tensor | None) -> Tensor:
        """A head's weighted values, before what `close` does to them."""
        tokens, block = self.source_tokens(self.graph.first_head(layer) + head), self.vit.blocks[layer]
        if kept is None:
            return block.pattern(ports[0], ports[1], tokens) @ ports[2]
        return self._blend(layer, head, ports, kept)

    def _blend(self, layer: int, head: int, ports: Ports, kept: Tensor) -> Tensor:
        tokens = self.source_tokens(self.graph.first_head(layer) + head)
        keys, values = kept[..., self.of_token[tokens], :][..., self.of_token].unsqueeze(-3)  # each *variant, 1, ...
        k_ablated, v_ablated = (part[:, head] for part in self._keys_values(layer))
        q, k, v = ports
        return blend(self.vit.blocks[layer], (q, k, v), (k_ablated, v_ablated), (keys, values), tokens)

    def mlp_write(self, layer: int, x: Float[Tensor, "*variant pair token model"]) -> Tensor:
        """What an MLP writes, a piece at a time, so that its hidden neurons stay in memory that is at hand."""
        block, rows = self.vit.blocks[layer], x.flatten(0, -3)
        hidden = x.element_size() * self.graph.cfg.d_mlp * x.shape[-2]
        most = pace(self.vit.device).piece_bytes
        if len(rows) * hidden <= most:
            return block.mlp_write(x)
        found = [block.mlp_write(part) for part in rows.split(max(1, most // hidden))]
        return torch.cat(found).view_as(x)

    def _inside_now(self, layer: int, head: int) -> Tensor | None:
        block = self.graph.layers[layer].inside
        if block is None:
            return None
        rows = self.graph.inside_rows[head]
        kept = self.edges.dense(block)[rows]
        if kept[:, block.present[rows[0]]][..., block.columns].all():
            return None
        return torch.tensor(kept, dtype=self.vit.dtype, device=self.vit.device)

    def _keys_values(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values that a layer's heads read from the shadow, each (pair, head, token, d_head)."""
        if layer not in self._ablated_kv:
            block = self.vit.blocks[layer]
            self._ablated_kv[layer] = block.read(block.norm1(self.deltas.shadows[2 * layer]))[1:]
        return self._ablated_kv[layer]

    # The three steps.

    def begin(self, place: int) -> None:
        """Goes back to a place, whose destinations all read the residual of all edges there."""
        if self._total is None:
            return  # everything was computed at once
        self._place = place
        if place < self.graph.n_places - 1:
            self._back_to(place)
        if not self.commits:
            self._let_go(place)

    def _back_to(self, place: int) -> None:
        assert self._total is not None
        layer = place // 2
        parallel = self.vit.blocks[layer].parallel  # its MLP stands in front of attention, beside it
        if place % 2:
            self._total = self._total - self.deltas.delta(self.graph.mlp_source(layer))
        if bool(place % 2) == parallel:
            self._total = self._total - self.deltas.layer_sum(layer)
        for source in range(self.graph.block_at(place).width, self.graph.n_sources):
            if source in self._known and self._known[source].shape[1] != len(self.of_token[self.source_tokens(source)]):
                self.changed(source)  # it is followed at the read tokens only
        if place % 2 == 0:
            self._begin_heads(layer)
        elif self.edges.source_level(self.graph.mlp_source(layer)):
            self.out[layer] = self._written(layer)
            self._left["inputs"] -= _bytes(self.out[layer])

    def _written(self, layer: int) -> Float[Tensor, "pair token model"]:
        """What an MLP writes that nothing has been pruned in front of."""
        tokens = self.source_tokens(self.graph.mlp_source(layer))
        if self.vit.blocks[layer].parallel and self.deltas.carried is None:
            return self.mlp_write(layer, self.row(2 * layer + 1, 0))
        return self.deltas.mlp[layer][:, tokens] + self.deltas.carried_mlp(layer)[:, tokens]

    def _let_go(self, place: int) -> None:
        """Nothing in front of a place reads what was written behind it."""
        layer, nothing = place // 2, self.deltas.embedded.new_empty(0)
        for row in range(len(self.graph.block_at(place).present)):
            self.row(place, row)  # while the shadow is there
        if place == self.graph.n_places - 1:
            return
        if place % 2 == 0 and len(self.graph.groups) > 1:
            self._keys_values(layer)
        self.deltas.shadows[place + 1] = nothing
        for source in range(self.graph.block_at(place).width, self.graph.n_sources):
            self.changed(source)
        if place % 2 == 0 and self._whole is None:  # else a change may cut what stands behind it off
            self.deltas.z[layer] = self.deltas.mlp[layer] = nothing

    def _begin_heads(self, layer: int) -> None:
        block, first = self.vit.blocks[layer], self.graph.first_head(layer)
        needed = [head for head in range(self.graph.cfg.n_heads) if self.edges.source_level(first + head)]
        if not needed:
            return
        assert self._total is not None
        normed = block.norm1(self.deltas.shadows[2 * layer] + self._total)
        ports, z = self.run_heads(layer, needed, normed)
        for head in needed:
            self.ports[layer, head], self.z[layer, head] = ports[head], z[head]
            if self.commits and self.deltas.carried is None:
                tokens = self.source_tokens(first + head)
                self.z_other[layer, head] = z[head] - self.deltas.z[layer][:, head, tokens]
            self._left["inputs"] -= 5 * _bytes(ports[head][1])  # q, k, v and both runs' z, at most

    def open(self, destination: Destination) -> None:
        """Starts on a destination: from here to `commit`, everything is told apart from the state as it is now."""
        block = destination.block
        self._base = None if block.kind == "inside" else self.row(self.graph.place_of(block), destination.row)

    def drop(self, destination: Destination, columns: Sequence[int]) -> None:
        """Edges into the open destination go for good; the state follows at `settle` or `commit`."""
        if self._base is not None:
            for column in columns:
                self._base = self._base - self._difference(
                    destination.block, destination.row, destination.group, column
                )

    def measure(self, block: EdgeBlock, trials: Sequence[Trial]) -> Float[Tensor, "variant pair class"]:
        """Logits of every trial, all of them changes at destinations of one edge block."""
        places = [[block.locate(edge) for edge in trial.edges] for trial in trials]
        variants = VariantPass(self, len(trials), self._alive_after(block, trials, places))
        for row in sorted({row for some in places for row, _, _ in some}):
            if block.kind == "inside":
                variants.inside = self._flipped_inside(block, trials, places)
            else:
                variants.rows[self.graph.place_of(block), row] = self._tried(block, row, trials, places)
        return variants.run(block)

    def without_each(self, sources: Sequence[int]) -> Iterator[tuple[int, Float[Tensor, "pair class"]]]:
        """Each of some heads and MLPs, from the last to the first, and logits where everything it writes is ablated."""
        for place in reversed(range(self.graph.n_places)):
            self.begin(place)
            layer = (place - 1) // 2
            behind = "mlp" if place % 2 == 0 else "attention"
            heads = self.graph.head_sources(layer)
            last = range(heads.start, heads.stop) if place % 2 else [self.graph.mlp_source(layer)]
            for source in [source for source in last if source in sources and place]:
                variants = VariantPass(self, 1, self._alive_without(source))
                variants.silence(source)
                yield source, variants.run_behind(layer, behind)[0]

    def _alive_without(self, source: int) -> Float[Tensor, "variant source token"] | None:
        """Where sources are alive if nothing reads one of them; None where that cannot be told."""
        if self._whole is None:
            return None
        mask = self.edges.mask.copy()
        for block in self.graph.blocks:
            if block.kind != "inside" and source < block.width:
                dense = block.unpack(mask)
                dense[..., source] = False
                block.pack(dense, mask)
        return self._at_tokens(reach(self.graph, mask).alive[None])

    def _at_tokens(self, alive: Bools) -> Float[Tensor, "variant source token"]:
        """1 where sources are alive, (variant, source, group); what never is counts as such."""
        found = torch.from_numpy(alive | ~self._whole).to(self.of_token.device)  # type: ignore[operator]
        return found[:, :, self.of_token].to(self.vit.sum_dtype)

    def _tried(
        self, block: EdgeBlock, row: int, trials: Sequence[Trial], places: Sequence[Sequence[tuple[int, int, int]]]
    ) -> Float[Tensor, "variant pair token model"]:
        """A destination's input in each trial."""
        now = self.row(self.graph.place_of(block), row) if self._base is None else self._base
        found = now.new_empty(len(trials), *now.shape)
        for x, trial, some in zip(found, trials, places, strict=True):
            before = now
            for edge, (at, group, column) in zip(trial.edges, some, strict=True):
                if at == row:
                    sign = -1 if self.edges.mask[edge] else 1
                    torch.add(before, self._difference(block, row, group, column), alpha=sign, out=x)
                    before = x
            if before is now:
                x.copy_(now)
            now = x if trial.lasts else now
        return found

    def _difference(self, block: EdgeBlock, row: int, group: int, column: int) -> Float[Tensor, "pair token model"]:
        """What a destination's input loses with an edge."""
        tokens = self.row_tokens(self.graph.place_of(block), row)
        delta = self.delta(column, tokens)
        return delta if len(self.graph.groups) == 1 else delta * self.at_groups((group,), tokens)

    def _flipped_inside(
        self, block: EdgeBlock, trials: Sequence[Trial], places: Sequence[Sequence[tuple[int, int, int]]]
    ) -> dict[tuple[int, int], Tensor]:
        """Kept edges inside the heads that trials change, (keys or values, variant, target group, source group)."""
        dense, now = self.edges.dense(block), self.edges.dense(block)
        variants = []
        for trial, some in zip(trials, places, strict=True):
            changed = now.copy()
            for row, group, column in some:
                changed[row, group, column] = not dense[row, group, column]
            variants.append(changed)
            now = changed if trial.lasts else now
        stacked, rows = np.stack(variants, 1), {row for some in places for row, _, _ in some}  # row, variant, ...
        return {
            (block.layer, head): torch.tensor(stacked[governing], dtype=self.vit.dtype, device=self.vit.device)
            for head in self.heads(block.layer)
            if rows & set((governing := self.graph.inside_rows[head]).tolist())
        }

    def settle(self, destination: Destination) -> None:
        """The heads behind a destination read anew what its drops left; `commit` must follow."""
        block, row = destination.block, destination.row
        layer = block.layer
        normed = self.vit.blocks[layer].norm1(self.row(2 * layer, row))
        for head in self.heads(layer):
            for port in (self.graph.port_rows[head] == row).nonzero()[0].tolist():
                self.ports[layer, head][port] = self.read_port(layer, head, port, normed)
        self._unsettled.append(destination)

    def commit(self, destination: Destination) -> Float[Tensor, "pair class"]:
        """Logits of the kept edges, once what a destination's drops, and settled ones, reach has been computed anew."""
        if self._whole is not None:
            self.deltas.alive = self._cut_sources(self.edges.mask)
            for source in [source for source in self._known if source >= self._n_upstream()]:
                self.changed(source)
        drops, self._unsettled = [*self._unsettled, destination], []
        self._base = None
        return UpdatePass(self, drops).run(destination.block)

    # Sources that are cut off from the input.

    def _cut_sources(self, mask: Bools) -> dict[int, Tensor]:
        """Sources that a mask of kept edges cuts off at some groups, with 1 at the tokens where it does not."""
        alive = reach(self.graph, mask).alive
        assert self._whole is not None
        changed = (alive != self._whole).any(1).nonzero()[0].tolist()
        return {source: torch.from_numpy(alive[source]).to(self.deltas.embedded)[self.of_token] for source in changed}

    def _alive_after(
        self, block: EdgeBlock, trials: Sequence[Trial], places: Sequence[Sequence[tuple[int, int, int]]]
    ) -> Float[Tensor, "variant source token"] | None:
        """Where sources are alive in each trial; None if that is as in the state."""
        if self._whole is None or block.kind == "logits" or not self._may_cut(block, places):
            return None
        now, found = self.edges.mask, []
        for trial in trials:
            mask = now.copy()
            mask[list(trial.edges)] = ~self.edges.mask[list(trial.edges)]
            found.append(reach(self.graph, mask).alive)
            now = mask if trial.lasts else now
        return self._at_tokens(np.stack(found))

    def _may_cut(self, block: EdgeBlock, places: Sequence[Sequence[tuple[int, int, int]]]) -> bool:
        """Whether trials could leave a destination without any kept edge, or give one its first."""
        if block.kind == "inside":
            return True
        touched = {(row, group) for some in places for row, group, _ in some}
        most = sum(len(some) for some in places)
        kept = self.edges.dense(block)
        return any((kept[row, group] & self.edges.alive[: block.width, group]).sum() <= most for row, group in touched)


def _bytes(held: Tensor) -> int:
    return held.numel() * held.element_size()
