"""All edges from one named place to another: the cells of a table of paths.

A place is a node or a port, at one token group or at all of them: `input`, `a5.h3`, `m2@cls`, `a7.h1<q>`, `logits`. A
node as destination means all its ports. Inside heads, edges between token groups start and end at the same node.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..models.errors import GraphError
from .edge_blocks import EdgeBlock
from .graph import Graph
from .names import End


@dataclass(frozen=True, eq=False)
class EdgeSet:
    """The edges from one place to another; they stand in one edge block.

    Args:
        block: The block.
        rows: Its rows that are meant.
        groups: Its groups.
        columns: Its columns.
    """

    block: EdgeBlock
    rows: tuple[int, ...]
    groups: tuple[int, ...]
    columns: tuple[int, ...]

    def __len__(self) -> int:
        n_columns = int(self.block.columns[list(self.columns)].sum())
        return int(self.block.present[np.ix_(self.rows, self.groups)].sum()) * n_columns

    def mark(self, mask: NDArray[np.bool_], value: bool) -> None:
        """Sets these edges in a mask of shape (edge,)."""
        dense = self.block.unpack(mask)
        dense[np.ix_(self.rows, self.groups, self.columns)] = value
        self.block.pack(dense, mask)


def edge_set(graph: Graph, source: End, destination: End) -> EdgeSet | None:
    """The edges of a graph from a source to a destination; None where there are none."""
    if source.node == destination.node:
        found = _inside(graph, source, destination)
    else:
        found = _between(graph, source, destination)
    return found if found is not None and len(found) else None


def _between(graph: Graph, source: End, destination: End) -> EdgeSet | None:
    if source.port or source.kind == "attention":
        return None
    if destination.kind == "logits":
        block, rows = graph.logits, (0,)
    elif destination.kind == "mlp":
        block, rows = graph.layers[destination.layer].mlp, (0,)
    else:
        block = graph.layers[destination.layer].attention
        ports = [port for port in range(3) if destination.port in ("", "qkv"[port])]
        row = graph.port_rows[:, ports] if destination.kind == "attention" else graph.port_rows[destination.head, ports]
        rows = tuple(sorted(set(row.ravel().tolist())))
    column = graph.source_names().index(source.node)
    groups = tuple(group for group in _groups(graph, source) if group in _groups(graph, destination))
    return EdgeSet(block, rows, groups, (column,)) if column < block.width else None


def _inside(graph: Graph, source: End, destination: End) -> EdgeSet | None:
    block = graph.layers[source.layer].inside if source.kind in ("head", "attention") else None
    if block is None or destination.port:
        return None
    kinds = [kind for kind in range(2) if source.port in ("", "kv"[kind])]
    row = graph.inside_rows[:, kinds] if source.kind == "attention" else graph.inside_rows[source.head, kinds]
    rows = tuple(sorted(set(row.ravel().tolist())))
    return EdgeSet(block, rows, _groups(graph, destination), _groups(graph, source))


def _groups(graph: Graph, end: End) -> tuple[int, ...]:
    """The groups that an end means."""
    return (graph.groups.names.index(end.group),) if end.group else tuple(range(len(graph.groups)))


def find_ends(graph: Graph, names: str | Sequence[str], what: Literal["sources", "destinations"]) -> tuple[End, ...]:
    """The places that names mean, each once.

    Args:
        graph: The graph.
        names: A name, several, or `all` (every node). A pattern such as "a*.h*" means all names of its own form that
            it matches: without port and group, with a port ("a7.h*<q>"), with a group ("m*@cls"), or with both.
        what: Which of them: what is written, or what is read.

    Raises:
        GraphError: A name is not known, a pattern matches nothing, or there is no name.
    """
    known = _sources(graph) if what == "sources" else _destinations(graph)
    forms = {str(end): end for end in (*known, *_with_groups(graph, known))}
    found: dict[str, End] = {}
    for name in [names] if isinstance(names, str) else names:
        text = name.replace(" ", "")
        chosen = {key: end for key, end in forms.items() if _fits(key, "*" if text == "all" else text)}
        if not chosen:
            near = difflib.get_close_matches(text, forms, 3, 0.3) or list(forms)[:3]
            raise GraphError(
                f"{name!r} is not among the {what} of {graph}. The nearest names are {', '.join(near)}: pass "
                f"{what}={near[0]!r}, a pattern such as {what}='m*', or {what}='all'."
            )
        found |= chosen
    if not found:
        raise GraphError(f"{what}=[] names nothing: pass at least one, such as {what}={next(iter(forms))!r}.")
    return tuple(found.values())


def _fits(name: str, pattern: str) -> bool:
    same_form = all((sign in name) == (sign in pattern) for sign in "<@")
    return same_form and fnmatchcase(name, pattern)


def _sources(graph: Graph) -> list[End]:
    """What is written, and where there are edges inside heads, the keys and values that they start from."""
    ends = [graph.source_end(source, 0) for source in np.flatnonzero(graph.source_exists).tolist()]
    if len(graph.groups) > 1 and graph.ports == "block":
        ends += [End("attention", layer) for layer in range(graph.cfg.n_layers)]
    if len(graph.groups) > 1 and graph.ports == "qkv":
        ends += [End("head", end.layer, end.head, port) for end in ends if end.kind == "head" for port in "kv"]
    return [End(end.kind, end.layer, end.head, end.port) for end in ends]


def _destinations(graph: Graph) -> list[End]:
    ends = []
    for layer in range(graph.cfg.n_layers):
        heads = [End("head", layer, head) for head in range(graph.cfg.heads_of(layer))]
        ends += [End("attention", layer)] if graph.ports == "block" else heads
        if graph.ports == "qkv":
            ends += [End("head", layer, end.head, port) for end in heads for port in "qkv"]
        ends += [End("mlp", layer)] * graph.cfg.has_mlp(layer)
    return [*ends, End("logits")]


def _with_groups(graph: Graph, ends: list[End]) -> list[End]:
    if len(graph.groups) == 1:
        return []
    return [End(end.kind, end.layer, end.head, end.port, group) for end in ends for group in graph.groups.names]
