"""Path patching: only the direct paths from some sources to some destinations carry another run's value.

    noising:   in the clean run they carry the ablated value      effect = m(clean) - m(patched)
    denoising: in the corrupted run they carry the clean value    effect = m(patched) - m(corrupted)

Everything behind a destination is computed again (Wang et al. 2022, section 3.1; Goldowsky-Dill et al. 2023). It is
the run of a circuit that lacks exactly these edges. A source and a destination with one edge between them give that
edge's exact effect.

The run behind a destination is told apart from the base run's (`engines/pruned_run`), and candidates share batches.
Paths of several steps at once (`together`) are one run with a mask.

A place is a node or a port, at one token group or at all of them: `input`, `a5.h3`, `m2@cls`, `a7.h1<q>`, `logits`. A
node as destination means all its ports. Inside heads, edges between token groups start and end at the same node.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ...circuits.baseline import DEFAULT_MEMORY, make_baseline, values_from
from ...circuits.edge_blocks import EdgeBlock
from ...circuits.effect_table import Direction, PathTable, require_direction
from ...circuits.graph import Graph
from ...circuits.masked_run import MaskWeights, masked_logits_from
from ...circuits.memory import chunk_size
from ...circuits.names import End
from ...circuits.run import require_model
from ...circuits.tasks.task import Pairs, Task
from ...models import processes
from ...models.errors import GraphError
from ...models.hooked import HookedViT
from ...models.watching import progress_bar
from ..engines.flips import make_run, measure_changes, trial_sizes
from ..engines.source_deltas import Ends
from .patch_points import RunContrast, contrasted


def path_patch(
    graph: Graph,
    task: Task,
    *,
    sources: str | Sequence[str] = "all",
    destinations: str | Sequence[str] = "all",
    direction: Direction | str = "noising",
    together: bool = False,
    pairs: Pairs | None = None,
    memory: int = DEFAULT_MEMORY,
    progress: bool | None = None,
) -> PathTable:
    """How much of the metric the direct paths from each source to each destination carry.

    Names are nodes or ports, with a token group or for all groups: `input`, `a5.h3`, `m2@cls`, `a7.h1<q>`, `logits`;
    `a7.h1` as a destination means all its ports. Patterns such as "a*.h*" and "all" (every node) stand for many.

    Costs two runs, and for each source and destination one run of what comes after.

    Args:
        graph: The graph.
        task: Its model, metric, ablation and discovery pairs.
        sources: Where paths start.
        destinations: Where they end.
        direction: `noising` or `denoising`; the latter restores into the model's run on the partner (or on another
            image), or run on from the ablated input.
        together: Patch all of them at once instead of each alone.
        pairs: Other pairs than the discovery pairs; of crossed ones those of two classes are taken.
        memory: Bytes to hold at once.
        progress: Show a bar on stderr; None where somebody watches.

    Raises:
        GraphError: A name is not known, no source has an edge to a destination, or the graph was compiled for another
            model.
        TaskError: The direction is not known.
    """
    require_model(task.vit, graph)
    if graph.groups.per_pair:
        raise GraphError(
            'path patching patches the same tokens in every pair, and those of tokens="mask" differ: compile the graph '
            'with tokens="role", "grid:2x2" or "each".'
        )
    require_direction(direction)
    cells = _find_cells(graph, sources, destinations, together)
    pairs = contrasted(task, pairs)
    values, flips, clean, corrupt = _measure(graph, task, cells, pairs, direction, memory, progress)
    return PathTable(
        sources=cells.sources,
        destinations=cells.destinations,
        n_edges=cells.n_edges,
        values=cells.spread(values, np.nan),
        flips=cells.spread(flips, False),
        clean=clean,
        corrupt=corrupt,
        direction=direction,
        unit=task.metric.unit,
        ablation=task.ablation,
        task=task.info,
        design=pairs.design,
    )


@dataclass(frozen=True, eq=False)
class _Cells:
    """The cells of the table that hold edges, by their places in it."""

    sources: tuple[str, ...]
    destinations: tuple[str, ...]
    edges: dict[tuple[int, int], Edges]

    @property
    def n_edges(self) -> np.ndarray:
        """Edges of each cell, (source, destination)."""
        return self.spread(np.array([[sum(map(len, found)) for found in self.edges.values()]]), 0)[0]

    def spread(self, values: np.ndarray, empty: int | float) -> np.ndarray:
        """(pair, cell with edges) -> (pair, source, destination)."""
        table = np.full((len(values), len(self.sources), len(self.destinations)), empty, dtype=values.dtype)
        rows, columns = zip(*self.edges, strict=True)
        table[:, rows, columns] = values
        return table


def _find_cells(
    graph: Graph, sources: str | Sequence[str], destinations: str | Sequence[str], together: bool
) -> _Cells:
    starts, ends = find_ends(graph, sources, "sources"), find_ends(graph, destinations, "destinations")
    names = tuple(map(str, starts)), tuple(map(str, ends))
    table = {(i, j): edge_set(graph, start, end) for i, start in enumerate(starts) for j, end in enumerate(ends)}
    edges = {place: (found,) for place, found in table.items() if found is not None}
    if not edges:
        raise GraphError(
            f"no edge of {graph} leads from {_short(names[0])} to {_short(names[1])}: a source must write before the "
            f"destination reads. sources='all' shows what the destinations read."
        )
    if together:
        every = tuple(found for cell in edges.values() for found in cell)
        return _Cells((_short(names[0]),), (_short(names[1]),), {(0, 0): every})
    return _Cells(*names, edges)


def _short(names: tuple[str, ...]) -> str:
    return " + ".join(names) if len(names) <= 3 else f"{names[0]} + {len(names) - 1} more"


def _measure(
    graph: Graph, task: Task, cells: _Cells, pairs: Pairs, direction: str, memory: int, progress: bool | None
) -> Iterator[np.ndarray]:
    """Effects and flips (pair, cell), and the metric of both runs (pair,)."""
    vit, whole = task.vit, np.ones(len(graph), dtype=bool)
    baseline = make_baseline(vit, task.ablation, task.reference, memory=memory)
    at_once, size = trial_sizes(vit, graph, whole, baseline, len(pairs), memory)
    total = len(cells.edges) * len(pairs) // processes.count()

    def one(batch: Pairs) -> tuple[np.ndarray, ...]:
        ends = Ends.of(vit, batch, baseline)
        contrast = RunContrast.of(task, batch, ends.embedded, ends.other, direction)
        logits = _logits(vit, graph, cells, ends if direction == "noising" else ends.swapped(), memory, at_once)
        bar.update(len(cells.edges) * len(batch))
        values, flips = contrast(logits)
        return values.cpu().numpy(), flips.cpu().numpy(), *contrast.ends()

    with torch.no_grad(), vit.borrowed(), progress_bar("path_patch", total, progress, "run") as bar:
        found = list(processes.in_order(one, list(pairs.batches(chunk_size(vit, len(pairs), size)))))
    return (np.concatenate(parts) for parts in zip(*found, strict=True))


def _logits(
    vit: HookedViT, graph: Graph, cells: _Cells, ends: Ends, memory: int, at_once: int
) -> Float[Tensor, "pair cell class"]:
    """Of every cell."""
    n_pairs, several = len(ends.embedded), list(cells.edges.values())
    out = ends.embedded.new_empty(n_pairs, len(several), vit.cfg.n_classes)
    gone = np.zeros((len(several), len(graph)), dtype=bool)
    for mask, some in zip(gone, several, strict=True):
        for edges in some:
            edges.mark(mask, True)
    single = [cell for cell, some in enumerate(several) if len(some) == 1]
    changes = [tuple(np.flatnonzero(gone[cell]).tolist()) for cell in single]
    run = make_run(vit, graph, np.ones(len(graph), dtype=bool), ends, memory)
    for some, logits in measure_changes(run, changes, max(1, at_once // n_pairs)):
        out[:, [single[place] for place in some]] = logits.transpose(0, 1)
    for cell in set(range(len(several))) - set(single):
        carried = values_from(vit, ends.other) if ends.carried is None else ends.carried
        out[:, cell] = masked_logits_from(vit, MaskWeights.from_mask(graph, ~gone[cell], vit), ends.embedded, carried)
    return out


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


Edges = tuple[EdgeSet, ...]


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
