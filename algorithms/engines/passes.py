"""Walks through a masked run, along what changes: many variants at once, or the state itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ...circuits.edge_blocks import EdgeBlock
from .edge_mask import Bools, Destination, RowKind
from .source_deltas import ALL

if TYPE_CHECKING:
    from .pruned_run import PrunedRun

Ports = list[Tensor]
"""q, k and v of a head, each (pair, token, d_head), with variants in front or without."""

Changed = list[Tensor | None]
"""The same; None where nothing that the port reads changed."""


Key = int | RowKind
"""What tells the inputs of a place's rows apart: the row itself where the walk starts at it, else what it reads."""


class Pass:
    """One walk to the logits. Rows of one place that read alike share one input, `_x`, and its norm."""

    def __init__(self, run: PrunedRun) -> None:
        self.state, self.graph = run, run.graph
        self.rows: dict[tuple[int, int], Tensor] = {}  # (place, row) -> the changed input of a destination
        self.inside: dict[tuple[int, int], Tensor] = {}  # (layer, head) -> edges inside it, if not the state's
        self._x: dict[tuple[RowKind, bool], Tensor | None] = {}

    def run(self, block: EdgeBlock) -> Tensor:
        """Logits, from the destinations of an edge block on."""
        return self.finish() if block.kind == "logits" else self.run_behind(block.layer, block.kind, at=True)

    def run_behind(self, layer: int, kind: str, *, at: bool = False) -> Tensor:
        """Logits, from behind a layer's heads or its MLP on, or (`at`) from there on."""
        if kind != "mlp":
            self.layer(layer, heads=at)
        elif at:
            self.layer(layer, heads=False)
        for later in range(layer + 1, self.graph.cfg.n_layers):
            self.layer(later)
        return self.finish()

    def layer(self, layer: int, *, heads: bool = True) -> None:
        """Past a block; a parallel one's MLP does not read what its heads change."""
        parallel = self.state.vit.blocks[layer].parallel
        x = self._mlp_input(layer) if parallel else None
        if heads:
            self._heads(layer)
        x = x if parallel else self._mlp_input(layer)
        if x is not None:
            self.took_mlp(layer, self.state.mlp_write(layer, x))

    def finish(self) -> Tensor:
        """Logits, of what the readout reads."""
        x = self.input(self.graph.n_places - 1, 0)
        return self.unchanged() if x is None else self.state.vit.readout(x)

    def unchanged(self) -> Tensor:
        """Logits where nothing that the readout reads changed."""
        return self.state.vit.readout(self.state.row(self.graph.n_places - 1, 0))

    def _mlp_input(self, layer: int) -> Tensor | None:
        return self.input(2 * layer + 1, 0) if layer in self.state.out else None

    def input(self, place: int, row: int) -> Tensor | None:
        """The new input of a destination; None if nothing that it reads changed."""
        if self.is_own(place, row):
            return self.own_input(place, row)
        tokens = self.state.row_tokens(place, row)
        key = (self.state.edges.kind(self.graph.block_at(place), row), tokens == ALL)
        if key not in self._x:
            self._x[key] = self.changed_input(place, row, key[0], tokens)
        return self._x[key]

    def is_own(self, place: int, row: int) -> bool:
        """Whether the walk starts at a destination."""
        return (place, row) in self.rows

    def own_input(self, place: int, row: int) -> Tensor:
        """What a destination reads that the walk starts at."""
        return self.rows[place, row]

    def changed_input(self, place: int, row: int, kind: RowKind, tokens: slice) -> Tensor | None:
        """What rows of a kind read."""
        raise AssertionError

    def took_heads(self, layer: int, ports: dict[int, Changed], z: dict[int, Tensor]) -> None:
        """Heads have a new z, and new ports where they are given."""

    def took_mlp(self, layer: int, written: Tensor) -> None:
        """An MLP has a new write."""

    def heads(self, layer: int) -> list[int]:
        """Heads that are computed if what they read changes."""
        return self.state.heads(layer)

    def _heads(self, layer: int) -> None:
        state, heads = self.state, self.heads(layer)
        inputs = {head: [self._input_key(layer, state.port_row(head, port)) for port in range(3)] for head in heads}
        if self._read_alike(layer, heads, inputs):
            x = self.input(2 * layer, state.port_row(heads[0], 2))
            if x is not None:
                ports, z = state.run_heads(layer, heads, state.vit.blocks[layer].norm1(x))
                self.took_heads(layer, ports, z)  # type: ignore[arg-type]
        else:
            self._one_by_one(layer, inputs)
        self._x = {}

    def _input_key(self, layer: int, row: int) -> Key:
        return row if self.is_own(2 * layer, row) else self.state.edges.kind(self.graph.layers[layer].attention, row)

    def _read_alike(self, layer: int, heads: list[int], inputs: dict[int, list[Key]]) -> bool:
        one = len({key for keys in inputs.values() for key in keys}) == 1
        return one and not any((layer, head) in self.inside for head in heads) and self.state.alike(layer, heads)

    def _one_by_one(self, layer: int, inputs: dict[int, list[Key]]) -> None:
        state, normed = self.state, dict[tuple[Key, bool], Tensor | None]()
        readers = Counter(key for keys in inputs.values() for key in keys)
        changed: dict[int, Changed] = {}
        for head, keys in inputs.items():
            changed[head] = [self._port(layer, head, port, keys[port], normed) for port in range(3)]
            readers.subtract(keys)
            for key in [key for key in normed if readers[key[0]] == 0]:
                del normed[key]
        moved = [
            head
            for head, some in changed.items()
            if (layer, head) in self.inside or any(part is not None for part in some)
        ]
        if not moved:
            return
        if state.vit.blocks[layer].joint is not None:
            moved = list(inputs)
        now: dict[int, Ports] = {head: self._merged(state.ports.get((layer, head)), changed[head]) for head in moved}
        inside = {head: self.inside[layer, head] for head in moved if (layer, head) in self.inside}
        self.took_heads(layer, {head: changed[head] for head in moved}, state.attend(layer, now, inside))

    @staticmethod
    def _merged(held: Ports | None, new: Changed) -> Ports:
        if held is None:
            return [part for part in new if part is not None]
        return [before if part is None else part for part, before in zip(new, held, strict=True)]

    def _port(
        self,
        layer: int,
        head: int,
        port: int,
        key: Key,
        normed: dict[tuple[Key, bool], Tensor | None],
    ) -> Tensor | None:
        row = self.state.port_row(head, port)
        at = (key, self.state.row_tokens(2 * layer, row) == ALL)
        if at not in normed:
            x = self.input(2 * layer, row)
            normed[at] = None if x is None else self.state.vit.blocks[layer].norm1(x)
        found = normed[at]
        return None if found is None else self.state.read_port(layer, head, port, found)


def _some(ports: Changed) -> bool:
    return any(part is not None for part in ports)


class VariantPass(Pass):
    """Many variants at once: every node adds to its input what its kept sources changed by.

    Args:
        run: The state.
        n: Variants.
        alive: Where sources are alive in each, (variant, source, token); None: as in the state.
    """

    def __init__(self, run: PrunedRun, n: int, alive: Tensor | None) -> None:
        super().__init__(run)
        self.n, self.alive = n, alive
        self.sources: set[int] = set()  # that changed
        self._changes: dict[int, Tensor] = {}  # source -> (variant, pair, token, model) at its tokens
        self._moved: dict[int, dict[int, Tensor]] = {}  # layer -> head -> change of z, where all heads changed
        self._pending: list[int | tuple[int]] = []  # sources, and layers (in a tuple), that are not in the sum yet
        self._sum: Tensor | None = None

    def unchanged(self) -> Tensor:
        """The state's logits, once for each variant."""
        logits = super().unchanged()
        return logits.expand(self.n, *logits.shape)

    def silence(self, source: int) -> None:
        """A source writes what it carries on removed edges."""
        delta = self.state.deltas.delta(source, self.state.source_tokens(source))
        self._note(source, -delta.expand(self.n, *delta.shape))

    def changed_input(self, place: int, row: int, kind: RowKind, tokens: slice) -> Tensor | None:
        """x + sum over kept sources of what they changed by, or less the dropped ones' than all, if those are fewer."""
        state, width = self.state, self.graph.block_at(place).width
        some = [source for source in self.sources if source in kind.kept]
        if not some:
            return None
        whole = {source for source in some if kind.kept[source] is None}
        read = [source for source in self.sources if source < width]
        cut = [source for source in read if source not in whole]
        x = state.row(place, row)
        if len(cut) < len(some) and len(read) == len(self.sources):
            total = self._total(tokens)
            if total is not None:
                x = x + total
                for source in cut:
                    self._add(x, source, None if source not in kind.kept else kind.dropped[source], tokens, -1)
                return x
        first, *rest = some
        change, at = self._change(first, kind.kept[first], tokens)
        if at == tokens:
            x = x + change
        else:
            x, rest = x.repeat(self.n, 1, 1, 1), some
        for source in rest:
            self._add(x, source, kind.kept[source], tokens, 1)
        return x

    def _add(self, x: Tensor, source: int, groups: tuple[int, ...] | None, tokens: slice, sign: int) -> None:
        change, at = self._change(source, groups, tokens)
        (x if at == tokens else x[..., at, :]).add_(change, alpha=sign)

    def _change(self, source: int, groups: tuple[int, ...] | None, tokens: slice) -> tuple[Tensor, slice]:
        """What a source changed by at some groups, at the tokens that both it and its reader are held at."""
        change, at = self.change_of(source), self.state.source_tokens(source)
        if at == ALL and tokens != ALL:
            change, at = change[..., tokens, :], tokens
        return change if groups is None else change * self.state.at_groups(groups, at), at

    def change_of(self, source: int) -> Tensor:
        """What a source changed by, made of its z when somebody asks."""
        if source not in self._changes:
            layer, head = self.graph.layer_and_head(source)
            self._changes[source] = self._moved[layer][head] @ self.state.weights[layer][head]
        return self._changes[source]

    def _total(self, tokens: slice) -> Tensor | None:
        """The sum of all changes; None where some are held at fewer tokens than it is asked for."""
        held = {self.state.source_tokens(source) == ALL for source in self.sources}
        if tokens == ALL and held != {True}:
            return None
        for part in self._pending:
            change = self._layer_change(part[0]) if isinstance(part, tuple) else self.change_of(part)
            change = change.to(self.state.vit.sum_dtype)
            self._sum = change if self._sum is None else self._added(self._sum, change)
        self._pending = []
        return None if self._sum is None else self._at(self._sum, tokens)

    def _added(self, one: Tensor, other: Tensor) -> Tensor:
        """The sum at the tokens that both hold."""
        tokens = ALL if one.shape[-2] == other.shape[-2] == len(self.state.of_token) else self.state.read
        return self._at(one, tokens) + self._at(other, tokens)

    def _at(self, values: Tensor, tokens: slice) -> Tensor:
        """Values at some tokens, of an array that holds all or only those that the readout reads."""
        return values if values.shape[-2] == len(self.state.of_token[tokens]) else values[..., tokens, :]

    def _layer_change(self, layer: int) -> Tensor:
        z = torch.stack(list(self._moved[layer].values()), -3)
        return self.state.vit.blocks[layer].heads_write(z)

    def took_heads(self, layer: int, ports: dict[int, Changed], z: dict[int, Tensor]) -> None:
        """Notes what heads changed by."""
        state, first = self.state, self.graph.first_head(layer)
        moved = {head: found - state.z[layer, head] for head, found in z.items()}
        plain = self.alive is None and not any(first + head in state.deltas.alive for head in moved)
        alike = len(moved) == self.graph.cfg.n_heads and len({part.shape for part in moved.values()}) == 1
        if plain and alike and state.edges.whole:  # else most heads' changes are read one by one
            self._moved[layer] = moved
            self.sources |= {first + head for head in moved}
            self._pending.append((layer,))
            return
        for head, found in z.items():
            weight = state.weights[layer][head]
            self._record(first + head, moved[head] @ weight if self.alive is None else found @ weight)

    def took_mlp(self, layer: int, written: Tensor) -> None:
        """Notes what an MLP changed by."""
        self._record(self.graph.mlp_source(layer), written - self.state.out[layer] if self.alive is None else written)

    def _record(self, source: int, found: Tensor) -> None:
        """Notes a source's change, or where it may be cut off what it writes."""
        deltas, tokens = self.state.deltas, self.state.source_tokens(source)
        if self.alive is not None:
            assert deltas.carried is not None
            alive = self.alive[:, source, None, tokens, None]
            found = (found - deltas.carried[source][:, tokens]) * alive - self.state.delta(source, tokens)
        elif source in deltas.alive:
            found = found * deltas.alive[source][tokens, None]
        self._note(source, found)

    def _note(self, source: int, change: Tensor) -> None:
        self.sources.add(source)
        self._changes[source] = change
        self._pending.append(source)


class UpdatePass(Pass):
    """The state itself: every node that a drop reaches is computed anew from its kept edges.

    Args:
        run: The state.
        drops: Destinations that have lost edges.
    """

    def __init__(self, run: PrunedRun, drops: Sequence[Destination]) -> None:
        super().__init__(run)
        self._changed: set[int] = set()
        self._fresh: set[tuple[int, RowKind, bool]] = set()
        self._rows = {(run.graph.place_of(drop.block), drop.row) for drop in drops if drop.block.kind != "inside"}
        inside = {(drop.block.layer, drop.row): drop.block for drop in drops if drop.block.kind == "inside"}
        for (layer, row), block in inside.items():
            for head in run.heads(layer):
                rows = self.graph.inside_rows[head]
                if row in rows:
                    kept = run.edges.dense(block)[rows]
                    self.inside[layer, head] = torch.tensor(kept, dtype=run.vit.dtype, device=run.vit.device)

    def run(self, block: EdgeBlock) -> Tensor:
        """Logits; what was held of inputs that changed is gone."""
        logits = super().run(block)
        self.state.forget_stale(self._changed, self._fresh)
        return logits

    def changed_input(self, place: int, row: int, kind: RowKind, tokens: slice) -> Tensor | None:
        """Made anew from the kept edges."""
        return None if self._changed.isdisjoint(kind.kept) else self.own_input(place, row)

    def is_own(self, place: int, row: int) -> bool:
        """Whether a destination has lost edges."""
        return (place, row) in self._rows

    def own_input(self, place: int, row: int) -> Tensor:
        """Made anew."""
        kind, tokens = self.state.edges.kind(self.graph.block_at(place), row), self.state.row_tokens(place, row)
        self._fresh.add((place, kind, tokens == ALL))
        return self.state.row(place, row, anew=True)

    def took_heads(self, layer: int, ports: dict[int, Changed], z: dict[int, Tensor]) -> None:
        """Puts heads' values into the state."""
        state = self.state
        for head, some in ports.items():
            source = self.graph.first_head(layer) + head
            state.ports[layer, head] = self._merged(state.ports.get((layer, head)), some)
            state.z[layer, head] = z[head]
            other = state.z_other.get((layer, head))
            state.deltas.z[layer][:, head, state.source_tokens(source)] = z[head] if other is None else z[head] - other
            self._took(source)

    def took_mlp(self, layer: int, written: Tensor) -> None:
        """Puts an MLP's value into the state."""
        state, source = self.state, self.graph.mlp_source(layer)
        tokens = state.source_tokens(source)
        state.out[layer] = written
        state.deltas.mlp[layer][:, tokens] = written - state.deltas.carried_mlp(layer)[:, tokens]
        self._took(source)

    def _took(self, source: int) -> None:
        self.state.changed(source)
        self._changed.add(source)


class FirstPass(Pass):
    """A masked run as a whole: what is alive, or would be with an edge more, is computed."""

    def __init__(self, run: PrunedRun) -> None:
        super().__init__(run)
        alive: Bools = np.any(run.edges.alive, axis=1)
        needed: Bools = np.any(run.edges.needed, axis=1)
        self._computed: Bools = np.logical_or(alive, needed)
        self._needed = needed
        self._sum = run.deltas.embedded  # of a_u - a'_u of the first sources
        self._summed = 1

    def run(self, block: EdgeBlock | None = None) -> Tensor:
        """Logits."""
        for layer in range(self.graph.cfg.n_layers):
            self.layer(layer)
        return self.finish()

    def heads(self, layer: int) -> list[int]:
        """Heads that are computed."""
        first = self.graph.first_head(layer)
        heads = [head for head in range(self.graph.cfg.n_heads) if self._computed[first + head]]
        for head in set(range(self.graph.cfg.n_heads)) - set(heads):
            self.state.deltas.z[layer][:, head] = 0
        return heads

    def _mlp_input(self, layer: int) -> Tensor | None:
        if self._computed[self.graph.mlp_source(layer)]:
            return self.input(2 * layer + 1, 0)
        self.state.deltas.mlp[layer][:] = 0
        return None

    def changed_input(self, place: int, row: int, kind: RowKind, tokens: slice) -> Tensor:
        """Every input is made for the first time."""
        if len(kind.dropped) >= len(kind.kept):
            return self.state.row(place, row)
        for source in range(self._summed, self.graph.block_at(place).width):
            at = self.state.source_tokens(source)
            delta = self.state.delta(source, at)
            self._sum = (self._sum if self._sum.shape[1] == delta.shape[1] else self._sum[:, at]) + delta
        self._summed = self.graph.block_at(place).width
        narrow = self._sum.shape[1] != len(self.state.of_token[tokens])
        return self.state.row(place, row, total=self._sum[:, tokens] if narrow else self._sum)

    def took_heads(self, layer: int, ports: dict[int, Changed], z: dict[int, Tensor]) -> None:
        """Puts heads' differences into the state, and what a change behind them would need."""
        state, deltas = self.state, self.state.deltas
        for head, some in ports.items():
            source = self.graph.first_head(layer) + head
            tokens = state.source_tokens(source)
            mine = deltas.z[layer][:, head, tokens]
            mine.copy_(z[head] if deltas.carried is not None else z[head] - mine)
            if self._needed[source]:
                state.ports[layer, head], state.z[layer, head] = some, z[head]  # type: ignore[assignment]

    def took_mlp(self, layer: int, written: Tensor) -> None:
        """Likewise for an MLP."""
        state, source = self.state, self.graph.mlp_source(layer)
        mine = state.deltas.mlp[layer][:, state.source_tokens(source)]
        mine.copy_(written - mine)
        if self._needed[source]:
            state.out[layer] = written
