"""What flips of single edges into one destination change, many at once, from the destination to the logits.

A flip drops an edge that the state keeps or adds one that it lacks. The destination reads its input with one source's
difference to its ablated value less or more; every node downstream that is needed adds to its input what its kept
sources changed by, and nodes that nothing reaches are not computed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...circuits.edge_blocks import EdgeBlock
from ...circuits.reach import reach
from .masked_state import ALL, MaskedState


class Ripple:
    """Flips of edges into one row of an edge block; call everything under `vit.borrowed()`, without gradients.

    Args:
        state: The run that the edges are flipped in.
        block: The edges' block.
        row: Their row.
        edges: The edges, all in that row.
    """

    def __init__(self, state: MaskedState, block: EdgeBlock, row: int, edges: Sequence[int]) -> None:
        self.state, self.graph, self.block, self.row = state, state.graph, block, row
        self.edges = list(edges)
        self.places = [block.locate(edge)[1:] for edge in edges]  # group, column
        self.changes: dict[int, Tensor] = {}  # source -> (flip, pair, token, model)
        self.total: Tensor | None = None
        self.alive = self._alive() if state.cuts else None

    def _alive(self) -> Float[Tensor, "flip source token"]:
        """Where sources are alive after each flip."""
        found = []
        for edge in self.edges:
            mask = self.state.mask.copy()
            mask[edge] = not mask[edge]
            found.append(reach(self.graph, mask).alive)
        alive = torch.from_numpy(np.stack(found)).to(self.state.of_token.device)
        return alive[:, :, self.state.of_token].to(self.state.vit.dtype)

    def logits(self) -> Float[Tensor, "flip pair class"]:
        """Logits of every flip."""
        state, n_layers, block = self.state, self.graph.cfg.n_layers, self.block
        if block.kind == "logits":
            return state.vit.readout(self._own_input(2 * n_layers))
        start = block.layer
        if block.kind == "mlp":
            self._took_mlp(start, self._own_input(2 * start + 1))
        else:
            self._own_heads(start)
            self._mlp(start)
        for layer in range(start + 1, n_layers):
            self._heads(layer)
            self._mlp(layer)
        x = self._input(2 * n_layers, 0)
        return state.logits.expand(len(self.edges), -1, -1) if x is None else state.vit.readout(x)

    # The destination.

    def _own_input(self, place: int) -> Float[Tensor, "flip pair token model"]:
        state = self.state
        x = state.inputs[place, state.kind_of[place][self.row]]
        found = x.expand(len(self.edges), *x.shape).clone()
        for moved, edge, (group, column) in zip(found, self.edges, self.places, strict=True):
            difference = state.differences.get(column)
            if difference is None:
                continue
            difference = state.at_place(column, difference, place)
            if len(self.graph.groups) > 1:
                chosen = np.arange(len(self.graph.groups)) == group
                difference = difference * state.token_mask(chosen, difference)
            moved.add_(difference, alpha=-1 if state.mask[edge] else 1)
        return found

    def _own_heads(self, layer: int) -> None:
        state, inside = self.state, self.block.kind == "inside"
        rows = self.graph.inside_rows if inside else self.graph.port_rows
        heads = [head for head in self._needed_heads(layer) if self.row in rows[head]]
        normed = None if inside else state.vit.blocks[layer].norm1(self._own_input(2 * layer))
        for head in heads:
            now = list(state.ports[layer, head])
            if normed is None:
                z = state.attend(layer, head, now, self._flipped_inside(layer, head))
            else:
                for port in (rows[head] == self.row).nonzero()[0].tolist():
                    now[port] = self._port(layer, head, port, normed)
                z = state.attend(layer, head, now)
            self._took_head(layer, head, z)

    def _flipped_inside(self, layer: int, head: int) -> np.ndarray:
        """Kept edges inside a head after each flip, (keys or values, flip, target group, source group)."""
        rows = self.graph.inside_rows[head]
        kept = self.block.unpack(self.state.mask)[rows][:, None].repeat(len(self.edges), 1)
        for part in (rows == self.row).nonzero()[0]:
            for flip, (group, column) in enumerate(self.places):
                kept[part, flip, group, column] ^= True
        return kept

    # What is downstream.

    def _needed_heads(self, layer: int) -> list[int]:
        first = self.graph.first_head(layer)
        needed = self.state.reach.needed[first : first + self.graph.cfg.n_heads].any(1)
        return np.flatnonzero(needed).tolist()

    def _input(self, place: int, kind: int) -> Tensor | None:
        """The new input of a kind of row; None if nothing that it reads changed."""
        state, total = self.state, self.total
        if place % 2 and state.vit.blocks[place // 2].parallel:
            total = None  # the heads beside this MLP, which it does not read, are part of it
        if total is not None and place > 2 * (self.graph.cfg.n_layers - 1):
            held = state.inputs[place, kind].shape[-2]
            total = total if total.shape[-2] == held else total[..., state.read, :]
        return state.add_kept(state.inputs[place, kind], state.kinds[place][kind], self.changes, total, place)

    def _heads(self, layer: int) -> None:
        state, heads = self.state, self._needed_heads(layer)
        kinds = {head: [state.kind_of[2 * layer][row] for row in self.graph.port_rows[head]] for head in heads}
        normed: dict[int, Tensor] = {}  # all of them before the first head is recorded, which nothing here reads
        for kind in {kind for found in kinds.values() for kind in found}:
            x = self._input(2 * layer, kind)
            if x is not None:
                normed[kind] = state.vit.blocks[layer].norm1(x)
        for head, found in kinds.items():
            now = list(state.ports[layer, head])
            for port, kind in enumerate(found):
                if kind in normed:
                    now[port] = self._port(layer, head, port, normed[kind])
            if any(kind in normed for kind in found):
                self._took_head(layer, head, state.attend(layer, head, now))

    def _port(self, layer: int, head: int, port: int, normed: Tensor) -> Tensor:
        tokens = ALL if port else self.state.tokens(layer)
        return self.state.vit.blocks[layer].read_head(normed[..., tokens, :], port, head, tokens)

    def _mlp(self, layer: int) -> None:
        if self.state.reach.needed[self.graph.mlp_source(layer)].any():
            x = self._input(2 * layer + 1, 0)
            if x is not None:
                self._took_mlp(layer, x)

    def _took_head(self, layer: int, head: int, z: Tensor) -> None:
        source, weight = self.graph.first_head(layer) + head, self.state.vit.blocks[layer].out_weight[head]
        if self.alive is None and source in self.state.differences:
            self._record(source, (z - self.state.z[layer, head]) @ weight)
        else:
            self._record(source, self._from_ablated(source, z @ weight))

    def _took_mlp(self, layer: int, x: Tensor) -> None:
        source, block = self.graph.mlp_source(layer), self.state.vit.blocks[layer]
        written = block.mlp_write(x)
        if self.alive is None and source in self.state.differences:
            self._record(source, written - self.state.written[layer])
        else:
            self._record(source, self._from_ablated(source, written))

    def _from_ablated(self, source: int, value: Tensor) -> Tensor:
        """A source's difference to its ablated value after each flip, less the state's."""
        read, ablated = self.state.read, self.state.ablated[source]
        narrow = value.shape[-2] != ablated.shape[-2]
        change = value - (ablated[:, read] if narrow else ablated)
        if self.alive is not None:
            change = change * self.alive[:, source, None, read if narrow else ALL, None]
        now = self.state.differences.get(source)
        return change if now is None else change - now

    def _record(self, source: int, change: Tensor) -> None:
        self.changes[source] = change
        total = self.total
        if total is not None and total.shape[-2] != change.shape[-2]:
            total = total[..., self.state.read, :]
        self.total = change if total is None else total + change
