"""Walks from one destination to the logits, along what it changes: many variants at once, or the state itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...circuits.edge_blocks import EdgeBlock
from .kept import Destination, Trials

if TYPE_CHECKING:
    from .live import Live

ALL = slice(None)


class Pass:
    """One walk from a destination to the logits, along what it changes."""

    def __init__(self, live: Live) -> None:
        self.live, self.graph = live, live.graph
        self.rows: dict[int, Tensor] = {}  # of the layer's attention or MLP: row -> its changed input

    def run(self, block: EdgeBlock) -> Tensor:
        """Logits."""
        n_layers = self.graph.cfg.n_layers
        if block.kind != "logits":
            if block.kind != "mlp":
                self._heads(block.layer)
            self._mlp(block.layer)
            for layer in range(block.layer + 1, n_layers):
                self._heads(layer)
                self._mlp(layer)
        x = self.row(2 * n_layers, 0)
        return self.live.vit.readout(self.live.row(2 * n_layers, 0) if x is None else x)

    def row(self, place: int, row: int) -> Tensor | None:
        """The new input of a destination; None if nothing that it reads changed."""
        raise AssertionError

    def inside(self, layer: int, head: int) -> Tensor | None:
        """Edges inside a head, if they differ from the state's."""
        return None

    def took_head(self, layer: int, head: int, ports: list[Tensor | None], z: Tensor) -> None:
        """A head has a new z."""

    def took_mlp(self, layer: int, written: Tensor) -> None:
        """An MLP has a new write."""

    def _heads(self, layer: int) -> None:
        live, normed = self.live, {}
        for head in live.heads(layer):
            if self.graph.ports != "block":
                normed.clear()  # no other head reads these rows
            ports = [self._port(layer, head, port, normed) for port in range(3)]
            inside = self.inside(layer, head)
            if inside is None and all(port is None for port in ports):
                continue
            now = [live.ports[layer, head, i] if port is None else port for i, port in enumerate(ports)]
            self.took_head(layer, head, ports, live.attend(layer, head, now, inside))
        self.rows = {}

    def _port(self, layer: int, head: int, port: int, normed: dict[int, Tensor | None]) -> Tensor | None:
        row = self.live.port_row(head, port)
        if row not in normed:
            x = self.row(2 * layer, row)
            normed[row] = None if x is None else self.live.vit.blocks[layer].norm1(x)
        found = normed[row]
        if found is None:
            return None
        if port == 0 and self.graph.ports != "qkv":
            found = found[..., self.live.source_tokens(self.graph.first_head(layer) + head), :]
        return self.live.vit.blocks[layer].read_head(found, port, head, self.live.held(layer, head, port))

    def _mlp(self, layer: int) -> None:
        if layer in self.live.out:
            x = self.row(2 * layer + 1, 0)
            if x is not None:
                self.took_mlp(layer, self.live.mlp_write(layer, x))
        self.rows = {}


class Wave(Pass):
    """Many variants at once: every node adds to its input what its kept sources changed by."""

    def __init__(self, live: Live, n: int, cut: list[dict[int, Tensor]] | None) -> None:
        super().__init__(live)
        self.n, self.cut = n, cut
        self.changes: dict[int, Tensor] = {}  # source -> (variant, pair, token, model) at its tokens
        self._inside: dict[tuple[int, int], Tensor] = {}

    def drop_inside(self, destination: Destination, trials: Trials) -> None:
        """The trials' edges inside heads."""
        block, live = destination.block, self.live
        for head in live.heads(block.layer):
            rows = self.graph.inside_rows[head]
            if destination.row not in rows:
                continue
            kept = torch.tensor(live.kept.dense(block)[rows], dtype=live.vit.dtype, device=live.vit.device)
            kept = kept[:, None].repeat(1, self.n, 1, 1)
            for variant, columns in enumerate(trials.dropped()):
                for part in (rows == destination.row).nonzero()[0]:
                    kept[part, variant, destination.group, columns] = 0
            self._inside[block.layer, head] = kept

    def inside(self, layer: int, head: int) -> Tensor | None:
        return self._inside.get((layer, head))

    def row(self, place: int, row: int) -> Tensor | None:
        if row in self.rows:
            return self.rows[row]
        live, x = self.live, None
        tokens = live.row_tokens(place, row)
        for source, groups in live.kept.sources(live.block_at(place), row)[0].items():
            if source in self.changes:
                change, at = self._change(source, groups, tokens)
                if x is None and at == tokens:
                    x = live.row(place, row) + change
                    continue
                if x is None:
                    x = live.row(place, row).repeat(self.n, 1, 1, 1)
                (x if at == tokens else x[..., at, :]).add_(change)
        return x

    def _change(self, source: int, groups: tuple[int, ...] | None, tokens: slice) -> tuple[Tensor, slice]:
        """What a source changed by at some groups, at the tokens that both it and its reader are held at."""
        change, at = self.changes[source], self.live.source_tokens(source)
        if at == ALL and tokens != ALL:
            change, at = change[..., tokens, :], tokens
        return change if groups is None else change * self.live.at_groups(groups, at), at

    def took_head(self, layer: int, head: int, ports: list[Tensor | None], z: Tensor) -> None:
        moved = z - self.live.z[layer, head]
        self._record(self.graph.first_head(layer) + head, moved @ self.live.out_weight(layer, head))

    def took_mlp(self, layer: int, written: Tensor) -> None:
        self._record(self.graph.mlp_source(layer), written - self.live.out[layer])

    def _record(self, source: int, change: Tensor) -> None:
        writes, tokens = self.live.writes, self.live.source_tokens(source)
        if self.cut is not None:
            cut = [found.get(source) for found in self.cut]
            whole = torch.ones_like(self.live._of_token, dtype=change.dtype)
            alive = torch.stack([whole if part is None else part for part in cut])[:, None, tokens, None]
            change = (writes.delta(source, tokens, raw=True) + change) * alive - writes.delta(source, tokens)
        elif source in writes.alive:
            change = change * writes.alive[source][tokens, None]
        self.changes[source] = change


class Commit(Pass):
    """The state itself: every node that a drop reaches is computed anew from its kept edges."""

    def __init__(self, live: Live, drops: Sequence[Destination]) -> None:
        super().__init__(live)
        self._changed: set[int] = set()
        self._rows = {(live.kept.place(drop.block), drop.row) for drop in drops if drop.block.kind != "inside"}
        self._inside = [drop for drop in drops if drop.block.kind == "inside"]

    def row(self, place: int, row: int) -> Tensor | None:
        live, own = self.live, (place, row) in self._rows
        if not own and not (live.kept.sources(live.block_at(place), row)[0].keys() & self._changed):
            return None
        live.forget_row(place, row)
        return live.row(place, row)

    def inside(self, layer: int, head: int) -> Tensor | None:
        rows = self.graph.inside_rows[head]
        for drop in self._inside:
            if drop.block.layer == layer and drop.row in rows:
                kept = self.live.kept.dense(drop.block)[rows]
                return torch.tensor(kept, dtype=self.live.vit.dtype, device=self.live.vit.device)
        return None

    def took_head(self, layer: int, head: int, ports: list[Tensor | None], z: Tensor) -> None:
        live, source = self.live, self.graph.first_head(layer) + head
        for port, value in enumerate(ports):
            if value is not None:
                live.ports[layer, head, port] = value
        live.z[layer, head] = z
        other = live.z_other.get((layer, head))
        live.writes.z[layer][:, head, live.source_tokens(source)] = z if other is None else z - other
        live.changed(source)
        self._changed.add(source)

    def took_mlp(self, layer: int, written: Tensor) -> None:
        live, source = self.live, self.graph.mlp_source(layer)
        tokens = live.source_tokens(source)
        live.out[layer] = written
        live.writes.mlp[layer][:, tokens] = written - live.writes.carried_mlp(layer)[:, tokens]
        live.changed(source)
        self._changed.add(source)
