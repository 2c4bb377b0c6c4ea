"""The computational graph of an opened ViT: every place where one node reads what another one wrote.

Edges are index arithmetic, not objects. They stand in at most four blocks per layer (what attention reads, what runs
between token groups inside heads, what the MLP reads, and at the end what the logits read). Each block is a dense
array [row, group, column]: a row is a destination, a group is the token group where it reads, a column is a source.
A destination that does not exist at a group (a patch query of the last block under a CLS readout) leaves a gap, and so
does a source that does not exist (the MLP of an attention-only block) or that the block cannot read (under attention
pooling the logits read nothing but what the pooling wrote).

    edge index = block.start + (place of (row, group) among those present) * block.n_columns + place of the column

Every destination reads a prefix of the sources, which stand in the order in which they write:
input, a0.h0, a0.h1, ..., m0, a1.h0, ...
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..models.config import VitConfig
from ..models.errors import GraphError, MissingEdgeError
from .edge_blocks import EdgeBlock, LayerBlocks
from .names import Edge, End, halves, parse_edge
from .tokens import TokenGroups, Tokens, group_tokens

if TYPE_CHECKING:
    from ..models.hooked import HookedViT

Ports = Literal["qkv", "head", "block"]
"""How finely attention reads: three ports per head, one per head, or one per layer."""


def first_head(cfg: VitConfig, layer: int) -> int:
    """Source index of a layer's head 0: the input and all earlier layers' heads and MLPs write before it."""
    return 1 + layer * (cfg.n_heads + 1)


@dataclass(frozen=True)
class Graph:
    """A compiled graph. Two graphs are equal if they were compiled from the same sizes with the same choices.

    Args:
        cfg: Sizes of the model.
        groups: The token groups.
        ports: `qkv`, `head` or `block`.
    """

    cfg: VitConfig
    groups: TokenGroups
    ports: Ports

    def __len__(self) -> int:
        return self.logits.stop

    def __str__(self) -> str:
        return f"Graph of {self.cfg.name}: {len(self):,} edges, tokens={self.groups.kind!r}, ports={self.ports!r}"

    __repr__ = __str__

    def __contains__(self, name: object) -> bool:
        return self._place(str(name)) is not None

    @property
    def n_sources(self) -> int:
        """Places for what writes: the input, `n_heads` heads and an MLP for each block, whether they exist or not."""
        return first_head(self.cfg, self.cfg.n_layers)

    def first_head(self, layer: int) -> int:
        """Source index of a layer's head 0; equally, the number of sources that its attention reads."""
        return first_head(self.cfg, layer)

    def layer_and_head(self, source: int) -> tuple[int, int]:
        """Where a source behind the input stands; the layer's MLP after its last head, as head `n_heads`."""
        return divmod(source - 1, self.cfg.n_heads + 1)

    def head_sources(self, layer: int) -> slice:
        """Source indices of a layer's heads."""
        first = self.first_head(layer)
        return slice(first, first + self.cfg.n_heads)

    def mlp_source(self, layer: int) -> int:
        """Source index of a layer's MLP."""
        return self.first_head(layer) + self.cfg.n_heads

    @cached_property
    def source_exists(self) -> NDArray[np.bool_]:
        """Which sources there are, shape (source,): a block may have fewer heads than another, or no MLP."""
        found = np.zeros(self.n_sources, dtype=bool)
        found[0] = True
        for layer in range(self.cfg.n_layers):
            first = self.first_head(layer)
            found[first : first + self.cfg.heads_of(layer)] = True
            found[self.mlp_source(layer)] = self.cfg.has_mlp(layer)
        return found

    @cached_property
    def port_rows(self) -> NDArray[np.intp]:
        """Row of the attention block that feeds each head's q, k and v, shape (head, 3)."""
        heads = np.arange(self.cfg.n_heads)[:, None]
        port = np.arange(3)[None, :]
        return {"qkv": 3 * heads + port, "head": heads + 0 * port, "block": 0 * (heads + port)}[self.ports]

    @cached_property
    def inside_rows(self) -> NDArray[np.intp]:
        """Row of the inside block that governs each head's keys and values, shape (head, 2)."""
        heads = np.arange(self.cfg.n_heads)[:, None]
        kind = np.arange(2)[None, :]
        return {"qkv": 2 * heads + kind, "head": heads + 0 * kind, "block": 0 * (heads + kind)}[self.ports]

    @cached_property
    def read_groups(self) -> NDArray[np.bool_]:
        """Groups that the readout looks at, shape (group,)."""
        return self.groups.containing(self.cfg.read_tokens)

    @cached_property
    def stream_groups(self) -> NDArray[np.bool_]:
        """Groups that hold any other token, shape (group,)."""
        return self.groups.containing(tuple(range(self.cfg.tokens.n_tokens - int(self.cfg.pools))))

    def live_targets(self, layer: int) -> NDArray[np.bool_]:
        """Groups at which this layer's writes can reach the logits, shape (group,)."""
        return self.read_groups if layer == self.cfg.n_layers - 1 else self.stream_groups

    @cached_property
    def layers(self) -> tuple[LayerBlocks, ...]:
        """The edge blocks, layer by layer."""
        layers, start = [], 0
        for layer in range(self.cfg.n_layers):
            layers.append(self._layer_blocks(layer, start))
            start = layers[-1].mlp.stop
        return tuple(layers)

    def _layer_blocks(self, layer: int, start: int) -> LayerBlocks:
        n_groups, live, pooling = len(self.groups), self.live_targets(layer), self.cfg.is_pool(layer)
        before, exists = self.first_head(layer), self.source_exists
        attention = EdgeBlock("attention", layer, start, before, self._attention_rows(layer), exists[:before])
        inside, stop = None, attention.stop
        if n_groups > 1:
            rows = np.zeros((int(self.inside_rows.max()) + 1, n_groups), dtype=bool)
            rows[self.inside_rows[: self.cfg.heads_of(layer)]] = live
            inside = EdgeBlock("inside", layer, stop, n_groups, rows, self.stream_groups)
            stop = inside.stop
        read = before if self.cfg.is_parallel(layer) else before + self.cfg.n_heads
        columns = exists[:read].copy()
        if pooling:
            columns[:before] = False
        row = live[None, :] & self.cfg.has_mlp(layer)
        return LayerBlocks(attention, inside, EdgeBlock("mlp", layer, stop, read, row, columns))

    def _attention_rows(self, layer: int) -> NDArray[np.bool_]:
        """Which rows of a layer's attention block exist at which groups.

        Under `qkv` ports queries exist where what the head writes can be read, and the constant query of attention
        pooling nowhere.
        """
        ports = self.port_rows[: self.cfg.heads_of(layer)]
        present = np.zeros((int(self.port_rows.max()) + 1, len(self.groups)), dtype=bool)
        present[ports] = self.stream_groups
        if self.ports == "qkv":
            present[ports[:, 0]] = self.live_targets(layer) & (not self.cfg.is_pool(layer))
        return present

    @cached_property
    def logits(self) -> EdgeBlock:
        """What the logits read."""
        columns = self.source_exists.copy()
        if self.cfg.pools:
            columns[: self.first_head(self.cfg.n_layers - 1)] = False
        rows = self.read_groups[None, :].copy()
        return EdgeBlock("logits", -1, self.layers[-1].mlp.stop, self.n_sources, rows, columns)

    @cached_property
    def blocks(self) -> tuple[EdgeBlock, ...]:
        """All edge blocks in the graph's order."""
        found: list[EdgeBlock] = []
        for layer in self.layers:
            found += [block for block in (layer.attention, layer.inside, layer.mlp) if block is not None]
        return (*found, self.logits)

    @cached_property
    def part_ends(self) -> NDArray[np.intp]:
        """Indices after the last edge into, and the last source of, a layer's heads and its MLP, shape (part, 2)."""
        ends = []
        for layer, blocks in enumerate(self.layers):
            heads = self.head_sources(layer)
            ends += [(blocks.mlp.start, heads.stop), (blocks.mlp.stop, heads.stop + 1)]
        return np.array(ends, dtype=np.intp)

    @property
    def n_places(self) -> int:
        """Places where the residual stream is read: a layer's attention, then its MLP, layer by layer; the logits."""
        return 2 * self.cfg.n_layers + 1

    def block_at(self, place: int) -> EdgeBlock:
        """The edge block of what is read at a place: 2 x layer by attention, + 1 by the MLP, at the end the logits."""
        if place == 2 * self.cfg.n_layers:
            return self.logits
        return self.layers[place // 2].mlp if place % 2 else self.layers[place // 2].attention

    def place_of(self, block: EdgeBlock) -> int:
        """Where a block's destinations stand; of edges inside heads, where the heads read."""
        return 2 * self.cfg.n_layers if block.kind == "logits" else 2 * block.layer + (block.kind == "mlp")

    @cached_property
    def _starts(self) -> NDArray[np.intp]:
        return np.array([block.start for block in self.blocks])

    @cached_property
    def signature(self) -> str:
        """A short hash of everything that decides which edges there are, equal for graphs of one shape."""
        cfg = self.cfg
        shape = (
            cfg.n_layers,
            cfg.n_heads,
            self.groups.names,
            self.groups.of_token,
            self.ports,
            tuple(self.read_groups.tolist()),
        )
        if cfg.heads or cfg.mlps or cfg.parallel or cfg.pools or cfg.joint:
            shape += (cfg.heads, cfg.mlps, cfg.parallel, cfg.pools, cfg.joint)
        return hashlib.sha256(repr(shape).encode()).hexdigest()[:16]

    def require_same(self, other: Graph, what: str) -> None:
        """Does nothing if `other` has the same edges as this graph.

        Raises:
            GraphError: It has not; the message says where they differ, `what` being the thing that has the wrong one.
        """
        if self.signature == other.signature:
            return
        raise GraphError(
            f"the {what} belong to another graph: they have {other}, {other.cfg.n_layers} layers of "
            f"{other.cfg.n_heads} heads; wanted {self}, {self.cfg.n_layers} layers of {self.cfg.n_heads} heads. "
            f"Compile the graph with tokens={other.groups.kind!r}, ports={other.ports!r} for the model they came from."
        )

    def source_end(self, source: int, group: int) -> End:
        """The source with this index at a token group."""
        where = self.groups.names[group]
        if source == 0:
            return End("input", group=where)
        layer, place = self.layer_and_head(source)
        if place == self.cfg.n_heads:
            return End("mlp", layer, group=where)
        return End("head", layer, place, group=where)

    def source_names(self) -> tuple[str, ...]:
        """Names of the sources in order, without groups."""
        return tuple(self.source_end(source, 0).node for source in range(self.n_sources))

    def _attention_end(self, layer: int, row: int, ports: str, group: int) -> End:
        where = self.groups.names[group]
        if self.ports == "block":
            return End("attention", layer, group=where)
        if self.ports == "head":
            return End("head", layer, row, group=where)
        return End("head", layer, row // len(ports), ports[row % len(ports)], where)

    def edge(self, index: int) -> Edge:
        """The edge with this index, as an object.

        Raises:
            GraphError: The index is out of range.
        """
        if not 0 <= index < len(self):
            raise GraphError(f"edge {index} does not exist: {self} has the edges 0 to {len(self) - 1}.")
        block = self.blocks[int(np.searchsorted(self._starts, index, side="right")) - 1]
        row, group, column = block.locate(index)
        if block.kind == "inside":
            source = self._attention_end(block.layer, row, "kv", column)
            target = self._attention_end(block.layer, row, "kv", group)
            return Edge(index, source, End(target.kind, target.layer, target.head, "", target.group))
        source, where = self.source_end(column, group), self.groups.names[group]
        if block.kind == "attention":
            return Edge(index, source, self._attention_end(block.layer, row, "qkv", group))
        return Edge(index, source, End(block.kind, block.layer, group=where))

    def edge_names(self) -> EdgeNames:
        """All names in the graph's order, made when they are looked at."""
        return EdgeNames(self)

    def index(self, name: str) -> int:
        """The index of the edge with this name.

        Raises:
            MissingEdgeError: The name does not parse, or this graph has no such edge. It is a GraphError and a
                KeyError, and names the nearest edges.
        """
        index = self._place(name)
        if index is not None:
            return index
        near, said = self._near(name), f"{name!r} is not an edge of {self}."
        try:
            parse_edge(name)
        except GraphError as error:
            said = str(error)
        examples = [str(self.edge(place)) for place in (0, len(self) // 2, len(self) - 1)]
        hint = f"The nearest edges are {', '.join(near)}." if near else f"Edges are spelled like {', '.join(examples)}."
        raise MissingEdgeError(f"{said} {hint}")

    def _place(self, name: str) -> int | None:
        """The index of the edge with this name; None where there is none."""
        try:
            index = self._find(*parse_edge(name))
        except GraphError:
            return None
        return index if index is not None and self.edge(index).name == name.replace(" ", "") else None

    def _near(self, name: str) -> list[str]:
        """Up to three edges whose ends are spelled most like those of a name."""
        ends = halves(name)
        if len(ends) < 2:
            return []
        groups, written = range(len(self.groups)), np.flatnonzero(self.source_exists).tolist()
        sources = [str(self.source_end(source, group)) for source in written for group in groups]
        read = (
            self.edge(index).destination
            for block in self.blocks
            for index in range(block.start, block.stop, max(block.n_columns, 1))
        )
        known = (sources, list(dict.fromkeys(map(str, read))))
        first, second = (difflib.get_close_matches(*pair, n=3, cutoff=0.5) for pair in zip(ends, known, strict=True))
        return [edge for source in first for target in second if (edge := f"{source}->{target}") in self][:3]

    def _find(self, source: End, destination: End) -> int | None:
        names = self.groups.names
        if source.group not in names or destination.group not in names:
            return None
        group, column = names.index(destination.group), self._source_index(source)
        if destination.kind == "logits":
            return self.logits.index(0, group, column)
        if not 0 <= destination.layer < self.cfg.n_layers:
            return None
        blocks = self.layers[destination.layer]
        if destination.kind == "mlp":
            return blocks.mlp.index(0, group, column)
        if source.node == destination.node:
            row = self._row(source, "kv")
            return None if blocks.inside is None else blocks.inside.index(row, group, names.index(source.group))
        return blocks.attention.index(self._row(destination, "qkv"), group, column)

    def _source_index(self, source: End) -> int:
        if source.kind == "input":
            return 0
        if source.kind not in ("head", "mlp") or source.head >= self.cfg.n_heads:
            return -1
        return self.first_head(source.layer) + (self.cfg.n_heads if source.kind == "mlp" else source.head)

    def _row(self, end: End, ports: str) -> int:
        if self.ports == "block":
            return 0 if end.kind == "attention" else -1
        if self.ports == "head":
            return end.head
        return -1 if end.port not in ports or not end.port else len(ports) * end.head + ports.index(end.port)


class EdgeNames(Sequence[str]):
    """The names of a graph's edges, each made when it is looked at."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def __repr__(self) -> str:
        return f"EdgeNames({self[0]!r}, ..., {self[-1]!r}: {len(self):,})"

    def __len__(self) -> int:
        return len(self._graph)

    def __getitem__(self, index):  # type: ignore[override]
        if isinstance(index, slice):
            return [self._graph.edge(i).name for i in range(*index.indices(len(self)))]
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(index)
        return self._graph.edge(position).name

    def __iter__(self) -> Iterator[str]:
        return (self._graph.edge(i).name for i in range(len(self)))


def compile_graph(vit: HookedViT | VitConfig, *, tokens: Tokens | str = "all", ports: Ports | str = "qkv") -> Graph:
    """The graph of a model over a choice of token groups and ports.

    Args:
        vit: An opened model, or only its sizes.
        tokens: `all` (one group), `role` (CLS / distillation token / registers / patches / pool), `frame` (likewise,
            patches apart by their frame of a video), `grid:RxC` (by R x C cells of patches, as equal as the patches
            allow: `cell0_0`, ...), `mask` (object and background, as each pair's masks say) or `each` (every token).
        ports: `qkv` (three destinations per head), `head` (one per head) or `block` (one per layer).

    Raises:
        GraphError: A choice is not known, or the model has no such groups.
    """
    cfg = vit if isinstance(vit, VitConfig) else vit.cfg
    if ports not in get_args(Ports):
        raise GraphError(
            f"ports={ports!r} is not known: pass one of {', '.join(map(repr, get_args(Ports)))}, "
            f'such as compile_graph(vit, ports="qkv").'
        )
    return Graph(cfg, group_tokens(cfg.tokens, tokens), ports)  # type: ignore[arg-type]
