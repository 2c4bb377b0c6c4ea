"""Path patching: only the direct paths from some sources to some destinations carry another run's value.

    noising:   in the clean run they carry the ablated value      effect = m(clean) - m(patched)
    denoising: in the corrupted run they carry the clean value    effect = m(patched) - m(corrupted)

Everything behind a destination is computed again (Wang et al. 2022, section 3.1; Goldowsky-Dill et al. 2023). It is
the run of a circuit that lacks exactly these edges. A source and a destination with one edge between them give that
edge's exact effect.

1. The base run goes through the model block by block; what each source writes less what it is to carry is kept.
2. In front of a destination each candidate's residual loses one source's difference, what stands there is computed
   again, and the rest of the model runs on. Candidates share batches.
3. Paths of several steps at once (`together`), edges inside heads, and cuts that leave a head without any path from
   the input are runs with a mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...circuits.baseline import DEFAULT_MEMORY, make_baseline
from ...circuits.edge_sets import EdgeSet, edge_set, find_ends
from ...circuits.effect_table import Direction, PathTable, require_direction
from ...circuits.graph import Graph
from ...circuits.memory import batch_size_for
from ...circuits.pairs import Pairs
from ...circuits.reach import reach
from ...circuits.run import MaskWeights, masked_logits_from, require_model
from ...circuits.sources import values_from
from ...circuits.task import Task
from ...models.errors import GraphError
from ..progress import progress_bar
from .contrast import Contrast, contrasted
from .donors import ablated_embedded, clean_embedded
from .walk import Step, walk

MOST_RUNS = 64  # in one batch; more no longer runs faster on a CPU

Edges = tuple[EdgeSet, ...]


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
    progress: bool = False,
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
        progress: Show a bar on stderr.

    Raises:
        GraphError: A name is not known, no source has an edge to a destination, or the graph was compiled for another
            model.
        TaskError: The direction is not known.
    """
    require_model(task.vit, graph)
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
    graph: Graph, task: Task, cells: _Cells, pairs: Pairs, direction: str, memory: int, progress: bool
) -> Iterator[np.ndarray]:
    """Effects and flips (pair, cell), and the metric of both runs (pair,)."""
    vit, found = task.vit, []
    baseline = make_baseline(vit, task.ablation, task.reference, memory=memory)
    size = min(batch_size_for(vit, memory // 2, copies=4), MOST_RUNS // 2)
    at_once = max(1, min(batch_size_for(vit, memory // 2, copies=0.5), MOST_RUNS) // min(size, len(pairs)))
    plan = _Plan.make(graph, list(cells.edges.values()), at_once)
    total = len(cells.edges) * len(pairs)
    with torch.no_grad(), vit.borrowed(), progress_bar("path_patch", total, progress, "run") as bar:
        for batch in pairs.batches(size):
            clean, corrupt = clean_embedded(vit, batch), ablated_embedded(baseline, batch)
            contrast = Contrast.of(task, batch, clean, corrupt, direction)
            noising = direction == "noising"
            donated = baseline(batch) if noising else values_from(vit, clean)
            run = _Paths(task, graph, clean if noising else corrupt, donated)
            values, flips = contrast(run.logits(plan, bar.update))
            found.append((values.cpu().numpy(), flips.cpu().numpy(), *contrast.ends()))
    return (np.concatenate(parts) for parts in zip(*found, strict=True))


@dataclass(frozen=True, eq=False)
class _Plan:
    """How each cell is run.

    Args:
        n_cells: Number of cells.
        masks: Cell -> kept edges, for those that need a run with a mask.
        direct: Kind and layer of an edge block -> its cells, in groups that share a batch.
    """

    n_cells: int
    masks: dict[int, np.ndarray]
    direct: dict[tuple[str, int], list[dict[int, EdgeSet]]]

    @classmethod
    def make(cls, graph: Graph, cells: list[Edges], at_once: int) -> _Plan:
        masks: dict[int, np.ndarray] = {}
        blocks: dict[tuple[str, int], dict[int, EdgeSet]] = {}
        for cell, edges in enumerate(cells):
            kept = _needed_mask(graph, edges)
            if kept is None:
                blocks.setdefault((edges[0].block.kind, edges[0].block.layer), {})[cell] = edges[0]
            else:
                masks[cell] = kept
        return cls(len(cells), masks, {key: list(_grouped(some, at_once)) for key, some in blocks.items()})


def _grouped(cells: dict[int, EdgeSet], at_once: int) -> Iterator[dict[int, EdgeSet]]:
    items = list(cells.items())
    return (dict(items[start : start + at_once]) for start in range(0, len(items), at_once))


def _needed_mask(graph: Graph, edges: Edges) -> np.ndarray | None:
    """The edges that stay, where taking one source's difference away at one place would not be the same."""
    first = edges[0].block
    simple = len(edges) == 1 and first.kind != "inside"
    if simple and first.n_columns > 1:
        return None
    whole = np.ones(len(graph), dtype=bool)
    kept = whole.copy()
    for some in edges:
        some.mark(kept, False)
    cut_off = simple and not np.array_equal(reach(graph, kept).alive, reach(graph, whole).alive)
    return kept if cut_off or not simple else None


@dataclass(frozen=True, eq=False)
class _Paths:
    """The base run of a batch of pairs.

    Args:
        task: The task.
        graph: The graph.
        base: Its residual in front of block 0.
        donated: What each source carries on patched paths.
    """

    task: Task
    graph: Graph
    base: Float[Tensor, "pair token model"]
    donated: Float[Tensor, "source pair token model"]

    def logits(self, plan: _Plan, done: Callable[[int], object]) -> Float[Tensor, "pair cell class"]:
        """Of every cell."""
        vit, n_pairs = self.task.vit, len(self.base)
        out = self.base.new_empty(n_pairs, plan.n_cells, vit.cfg.n_classes)
        for cell, kept in plan.masks.items():
            out[:, cell] = masked_logits_from(
                vit, MaskWeights.from_mask(self.graph, kept, vit), self.base, self.donated
            )
            done(n_pairs)
        for place in self._places():
            for cells in plan.direct.get((place.kind, place.layer), ()):
                found = self._patched(place, list(cells.values()))
                out[:, list(cells)] = found.view(n_pairs, len(cells), -1)
                done(len(found))
        return out

    def _places(self) -> Iterator[_Place]:
        """Every place that reads, in the order in which they are reached."""
        graph, vit = self.graph, self.task.vit
        deltas, residual = [self.base - self.donated[0]], self.base
        for layer, (block, step) in enumerate(zip(vit.blocks, walk(vit, self.base), strict=True)):
            first = graph.first_head(layer)
            stop = first + graph.cfg.n_heads
            yield _Place("attention", layer, step.before, deltas, step)
            deltas += block.head_write(step.z).transpose(0, 1) - self.donated[first:stop]
            yield _Place("mlp", layer, block.mlp_input(step.before, step.middle), deltas, step)
            deltas.append(step.mlp_out - self.donated[stop])
            residual = step.after
        yield _Place("logits", -1, residual, deltas)

    def _patched(self, place: _Place, cells: list[EdgeSet]) -> Float[Tensor, "run class"]:
        """Logits of candidates at one place; pairs are the outer part of the runs, candidates the inner one."""
        vit, graph, layer = self.task.vit, self.graph, place.layer
        at = torch.from_numpy(np.stack([graph.groups.one_hot()[list(cell.groups)].any(0) for cell in cells]))
        lost = torch.stack([place.deltas[cell.columns[0]] for cell in cells], 1)  # pair, candidate, token, model
        read = place.residual[:, None] - lost * at.to(lost)[..., None]
        if place.kind == "logits":
            return vit.finish(read.flatten(0, 1), start=graph.cfg.n_layers)
        block, step = vit.blocks[layer], place.step
        assert step is not None
        if place.kind == "mlp":
            after = step.middle[:, None] + block.mlp_write(read)
            return vit.finish(after.flatten(0, 1), start=layer + 1)
        seen = torch.from_numpy(np.stack([np.isin(graph.port_rows, cell.rows) for cell in cells])).to(lost.device)
        mixed = [  # candidate, head, port: whether it reads the patched residual
            torch.where(seen[:, :, port, None, None], part, base[:, None])
            for port, (part, base) in enumerate(
                zip(block.read(block.norm1(read)), (step.q, step.k, step.v), strict=True)
            )
        ]
        written = block.attn_write(block.attend(mixed[0], mixed[1], mixed[2]).flatten(0, 1))
        middle = step.before[:, None] + written.view_as(read)
        if block.parallel:
            return vit.finish((middle + step.mlp_out[:, None]).flatten(0, 1), start=layer + 1)
        return vit.finish(middle.flatten(0, 1), start=layer, skip_attention=True)


@dataclass(frozen=True, eq=False)
class _Place:
    """A place that reads.

    Args:
        kind: `attention`, `mlp` or `logits`.
        layer: Its block; -1 for the logits.
        residual: What it reads in the base run, (pair, token, model).
        deltas: What each source before it writes, less what patched paths carry.
        step: The block's run.
    """

    kind: str
    layer: int
    residual: Tensor
    deltas: list[Tensor]
    step: Step | None = None
