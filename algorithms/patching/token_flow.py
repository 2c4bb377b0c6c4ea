"""Token flow: how much of the metric heads carry from one group of tokens to another, layer by layer.

The residual stream never mixes tokens, so everything that reaches CLS from the patches is moved there by a head, along
the edges between token groups inside it. A flow is all of these edges of a layer (or of one head) from one group to
another together: what the other group's queries see of the one group's keys and values.

    exact       effect = m(run) - m(run in which the flow's keys and values are the ablated residual's)
    gradient    effect = sum of the scores of its edges (EAP-IG's, or EAP's where one step is asked for)

The run is the model's, or that of a circuit, whose flows are those of the edges that it keeps. Flows that stand in for
one another are blind to each other, and flows in a row carry the same twice: effects do not add up over layers. Where
groups differ from pair to pair (`tokens="mask"`), what a pair has no tokens for is 0 there.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ...circuits.baseline import DEFAULT_MEMORY, make_baseline
from ...circuits.circuit import Circuit
from ...circuits.edge_blocks import EdgeBlock
from ...circuits.effect_table import EffectTable
from ...circuits.graph import Graph, compile_graph
from ...circuits.memory import chunk_size
from ...circuits.run import require_model
from ...circuits.scores import Scores
from ...circuits.tasks.task import Pairs, Task
from ...circuits.token_parts import Part, parts_of, rows_of
from ...models import processes
from ...models.errors import GraphError, TaskError
from ...models.watching import progress_bar
from ..attribution.accumulate import ChunkSums, Moments
from ..attribution.gradient_method import PathGradients, path_points
from ..engines.flips import changeable, make_run, measure_changes, trial_sizes
from ..engines.pruned_run import PrunedRun
from ..engines.source_deltas import Ends
from .patch_points import RunContrast, contrasted

if TYPE_CHECKING:
    import pandas

    from ...circuits.draw.heatmap import Heatmap

FEW = 8
"""Token groups up to which flows into all of them, and of each head, are measured unless told otherwise."""
Reads = Literal["both", "keys", "values"]
"""What of a flow is ablated: keys (where to look), values (what is moved), or both."""


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class FlowTable(EffectTable):
    """Effects of flows; the places are (layer, head, from group, to group), NaN where there is no edge.

    Args:
        groups: Names of the token groups.
        into: Places of the groups that flows lead to.
        heads: Heads of a layer, -1 first for all of them together.
        by: `exact` or `gradient`.
        circuit: Edges of the circuit whose run it was; 0 for the model's.
        reads: `both`, `keys` or `values`.
    """

    groups: tuple[str, ...]
    into: tuple[int, ...]
    heads: tuple[int, ...]
    by: str
    circuit: int = 0
    reads: Reads | str = "both"

    def __str__(self) -> str:
        return f"token flow over {self.values.shape[1]} layers between {len(self.groups)} token groups, {self.method}"

    @property
    def method(self) -> str:
        """How it was measured, in a few words."""
        what = "" if self.reads == "both" else f", {self.reads} only"
        if np.isnan(self.clean).any():  # no pairs are known
            return f"{self.by}{what}, ablation {self.ablation}"
        whose = f"in a circuit of {self.circuit:,} edges" if self.circuit else "in the model"
        return f"{self.by}{what}, {whose}, {super().method.partition(', ')[2]}"

    def frame(self, *, n_bootstrap: int = 1000, seed: int = 0) -> pandas.DataFrame:
        """One row per flow: `layer`, `head` (-1: all together), `source`, `destination`, and what `measured` gives.

        Args:
            n_bootstrap: Bootstrap draws of the pairs, or images.
            seed: Draws them.
        """
        import pandas

        layer, head, source, target = (axis.ravel() for axis in np.indices(self.values.shape[1:]))
        groups = np.array(self.groups)
        places = {"layer": layer, "head": np.array(self.heads)[head], "source": groups[source]}
        places["destination"] = groups[np.array(self.into)][target]
        table = pandas.DataFrame({**places, **self.measured(n_bootstrap, seed)})
        return table.dropna(subset=["effect"]).reset_index(drop=True)

    def measured(self, n_bootstrap: int = 1000, seed: int = 0) -> dict[str, NDArray[np.float64]]:
        """The columns of a table; by gradient nothing is known of flips."""
        columns = super().measured(n_bootstrap, seed)
        unknown = [name for name in columns if name.startswith("flips") and self.by != "exact"]
        return {**columns, **{name: np.full_like(columns[name], np.nan) for name in unknown}}

    def of_layers(self) -> NDArray[np.float64]:
        """Mean effect of all heads of a layer together, shape (layer, from group, to group)."""
        return self.effect[:, 0]

    def _draw(self, path: str | Path, show: str, title: str) -> Path:
        """Few groups are lanes with bands between them; many are patches, drawn as maps; else a grid of cells."""
        from ...circuits.draw.heatmap import draw_heatmap
        from ...circuits.draw.image_maps import draw_flow, draw_token_maps, places_of

        names = [self.groups[group] for group in self.into]
        if len(self.groups) <= FEW and show == "effect":
            said = title or self.context, self.method
            return draw_flow(self.of_layers(), self.groups, names, self.unit_of(show), path, titles=said)
        places, values = places_of(self.groups), self.shown(show)[:, 0]  # layer, from group, to group
        heat = self._heatmap(values, self.groups, show, title)
        if not places or len(names) > 1:
            return draw_heatmap(heat, path)
        rest = [at for at in range(len(self.groups)) if at not in places]
        others = self._heatmap(values[:, rest], [self.groups[at] for at in rest], show, "") if rest else None
        return draw_token_maps(values.swapaxes(1, 2), places, heat, others, path, heads=False)

    def _heatmap(self, values: NDArray[np.float64], sources: Sequence[str], show: str, title: str) -> Heatmap:
        """Effects (layer, from group, to group) as a grid of cells for each group that flows lead to."""
        from ...circuits.draw.heatmap import Heatmap

        rows, panels = [str(layer) for layer in range(len(values))], [f"into {self.groups[to]}" for to in self.into]
        panels = panels if len(panels) > 1 else []
        words = title or self.context, f"token flow into {self.groups[self.into[0]]}, {self.method}"
        unit, grids = self.unit_of(show), np.moveaxis(values, 2, 0)
        return Heatmap(grids, rows, sources, "layer", "from", unit, tuple(panels), *words, show == "flips")


def token_flow(
    what: Task | Circuit | Scores,
    task: Task | None = None,
    *,
    tokens: str = "role",
    by: Literal["exact", "gradient"] | str = "exact",
    into: str | Sequence[str] | None = None,
    heads: bool | None = None,
    reads: Reads | str = "both",
    steps: int = 5,
    pairs: Pairs | None = None,
    memory: int = DEFAULT_MEMORY,
    progress: bool | None = None,
) -> FlowTable:
    """How much of the metric passes from each token group to each, in every layer, and through which heads.

    `token_flow(task)` asks the model, `token_flow(circuit, task)` a circuit, and `token_flow(scores)` adds up scores
    that were found before, which hold no single pairs, so that there are no intervals. `tokens="each"` says from which
    patches. Positive: the flow carries the behaviour; on a crossed task, what speaks for what the clean image shows.

    Costs a clean run, the ablation's, and for each flow a run of what comes behind its layer; by gradient `steps`
    passes forward and backward.

    Args:
        what: The task, or a circuit or scores on a graph with token groups.
        task: Beside a circuit: its model, metric, ablation and discovery pairs.
        tokens: The token groups, where `what` is a task.
        by: `exact` or `gradient`; of scores nothing is measured.
        into: Groups that flows lead to; by default all, or if there are more than 8 those that the readout looks at.
        heads: Whether each head is measured alone, too; by default if there are at most 8 groups.
        reads: `both`, `keys` or `values`.
        steps: By gradient: points on the path from the ablated input to the clean one (EAP-IG's midpoints).
        pairs: Other pairs than the discovery pairs; of crossed ones those of two classes are taken.
        memory: Bytes to hold at once.
        progress: Show a bar on stderr; None where somebody watches.

    Raises:
        GraphError: There is only one token group, a group is not known, or the graph belongs to another model.
        TaskError: A choice is not known, or the task is missing.
    """
    _require_known(by, reads)
    if isinstance(what, Scores):
        return _of_scores(what, _Flows.of(what.graph, None, into, heads, reads))
    if isinstance(what, Task):
        task, graph, mask = what, compile_graph(what.vit, tokens=tokens), None
    else:
        graph, mask = what.graph, np.array(what.mask)
    if task is None:
        raise TaskError("token_flow(circuit) needs images: pass the task, too, token_flow(circuit, task).")
    require_model(task.vit, graph)
    if by == "gradient" and mask is not None:
        raise TaskError("by='gradient' is of the whole model: pass by='exact' for a circuit, or its scores.")
    flows, pairs = _Flows.of(graph, mask, into, heads, reads), contrasted(task, pairs)
    if by == "gradient":
        values, flips, clean, corrupt = _by_gradient(flows, task, pairs, steps, memory, progress)
    else:
        values, flips, clean, corrupt = _exactly(flows, task, pairs, mask, memory, progress)
    shared = {"unit": task.metric.unit, "ablation": task.ablation, "task": task.info, "design": pairs.design}
    return flows.table(values, flips, clean, corrupt, by=by, circuit=0 if mask is None else int(mask.sum()), **shared)


def _require_known(by: str, reads: str) -> None:
    if by not in ("exact", "gradient") or reads not in ("both", "keys", "values"):
        raise TaskError(
            f"by={by!r}, reads={reads!r} is not known: pass by='exact' or 'gradient', and reads='both', 'keys' or "
            f"'values'."
        )


@dataclass(frozen=True, eq=False)
class _Flows:
    """The flows of a graph that have edges.

    Args:
        graph: The graph.
        into: Groups that they lead to.
        heads: -1 for all heads of a layer, and each of them where they are wanted.
        reads: `both`, `keys` or `values`.
        edges: (layer, place of the head, from group, place of the to group) -> the edges.
    """

    graph: Graph
    into: tuple[int, ...]
    heads: tuple[int, ...]
    reads: str
    edges: dict[tuple[int, int, int, int], NDArray[np.intp]]

    @classmethod
    def of(
        cls,
        graph: Graph,
        mask: NDArray[np.bool_] | None,
        into: str | Sequence[str] | None,
        heads: bool | None,
        reads: str,
    ) -> _Flows:
        """All of them, or of a mask those that it keeps."""
        if len(graph.groups) == 1:
            raise GraphError(
                f"{graph} has one token group, between which nothing flows: compile it with tokens='role' or 'each', "
                f"or pass the task alone."
            )
        if reads != "both" and graph.ports != "qkv":
            raise GraphError(f"reads={reads!r} needs keys and values apart: compile the graph with ports='qkv'.")
        few = len(graph.groups) <= FEW
        each = (few if heads is None else heads) and graph.ports != "block"
        places = (-1, *range(graph.cfg.n_heads)) if each else (-1,)
        parts = {"both": [0, 1], "keys": [0], "values": [1]}[reads]
        targets, edges = _targets(graph, into), {}
        for blocks in graph.layers:
            block = blocks.inside
            assert block is not None
            numbers = block.unpack(np.arange(1, len(graph) + 1)) - 1
            rows = graph.inside_rows[: graph.cfg.heads_of(block.layer), parts]
            for place, head in enumerate(places):
                of_head = rows if head < 0 else rows[head : head + 1]
                for target, source in np.ndindex(len(targets), len(graph.groups)):
                    found = numbers[np.unique(of_head), targets[target], source]
                    found = found[found >= 0] if mask is None else found[(found >= 0) & mask[found]]
                    if len(found):
                        edges[block.layer, place, source, target] = found
        return cls(graph, targets, places, reads, edges)

    def table(
        self,
        values: NDArray[np.float64],
        flips: NDArray[np.bool_],
        clean: NDArray[np.float64],
        corrupt: NDArray[np.float64],
        **about: object,
    ) -> FlowTable:
        """The table of values and flips (pair, flow)."""
        shape = len(values), self.graph.cfg.n_layers, len(self.heads), len(self.graph.groups), len(self.into)
        dense, turned = np.full(shape, np.nan), np.zeros(shape, dtype=bool)
        if self.edges:
            at = (slice(None), *(np.array(axis) for axis in zip(*self.edges, strict=True)))
            dense[at], turned[at] = values, flips
        return FlowTable(
            values=dense,
            flips=turned,
            clean=clean,
            corrupt=corrupt,
            direction="noising",
            groups=self.graph.groups.names,
            into=self.into,
            heads=self.heads,
            reads=self.reads,
            **about,  # type: ignore[arg-type]
        )


def _targets(graph: Graph, into: str | Sequence[str] | None) -> tuple[int, ...]:
    names = graph.groups.names
    if into is None:
        wanted = np.ones(len(names), dtype=bool) if len(names) <= FEW else graph.read_groups
        return tuple(np.flatnonzero(wanted).tolist())
    asked = (into,) if isinstance(into, str) else tuple(into)
    for name in asked:
        if name not in names:
            near = difflib.get_close_matches(str(name), names, 3, 0.3) or names[:3]
            raise GraphError(f"into={name!r} is no token group of {graph}: pass one such as {near[0]!r}.")
    return tuple(names.index(name) for name in asked)


def _of_scores(scores: Scores, flows: _Flows) -> FlowTable:
    """The sums of scores; a single row, with no interval."""
    values = np.array([[scores.values[edges].sum() for edges in flows.edges.values()]])
    unknown = np.full(1, np.nan)
    by = f"sums of {scores.algorithm} scores over {scores.n_pairs} pairs"
    about = {"by": by, "ablation": scores.ablation, "task": scores.task}
    return flows.table(values, np.zeros(values.shape, dtype=bool), unknown, unknown, **about)


def _exactly(
    flows: _Flows, task: Task, pairs: Pairs, mask: NDArray[np.bool_] | None, memory: int, progress: bool | None
) -> Iterator[np.ndarray]:
    """Effects and flips (pair, flow), and the metric of the run and of the corrupted one (pair,)."""
    vit, graph = task.vit, flows.graph
    kept = np.ones(len(graph), dtype=bool) if mask is None else mask
    parts, total = parts_of(graph, pairs), len(flows.edges) * len(pairs) // processes.count()
    baseline = make_baseline(vit, task.ablation, task.reference, memory=memory)
    chunks = []
    for part in parts:
        at_once, most = trial_sizes(vit, part.graph, kept[part.edges], baseline, len(part.pairs), memory)
        chunks += [(part, batch, at_once) for batch in part.pairs.batches(chunk_size(vit, len(pairs), most))]

    def one(chunk: tuple[Part, Pairs, int]) -> tuple[np.ndarray, ...]:
        part, batch, at_once = chunk
        ends = Ends.of(vit, batch, baseline)
        run = make_run(vit, part.graph, kept[part.edges], ends, memory)
        corrupt = vit.readout.logits(vit.run_blocks(ends.other))
        signs, shown = task.signs(batch).to(vit.device), (batch.sign < 0).to(vit.device)
        full = None if mask is None else vit(batch.clean)
        contrast = RunContrast(task.metric, run.logits, corrupt, "noising", signs, shown, full)
        changes = [tuple(part.own(edges).tolist()) for edges in flows.edges.values()]
        values, flips = contrast(_changed(run, changes, max(1, at_once // len(batch)), bar))
        return values.cpu().numpy(), flips.cpu().numpy(), *contrast.ends()

    with torch.no_grad(), vit.borrowed(), progress_bar("token_flow", total, progress, "run") as bar:
        found = list(processes.in_order(one, chunks))
    return (np.concatenate(columns)[rows_of(parts)] for columns in zip(*found, strict=True))


def _changed(
    run: PrunedRun, changes: Sequence[tuple[int, ...]], at_once: int, bar: Any
) -> Float[Tensor, "pair change class"]:
    """Logits of each change; those of the run where it changes nothing."""
    able, n_pairs = changeable(run.graph, run.edges.mask), len(run.logits)
    moving = [place for place, edges in enumerate(changes) if able[list(edges)].any()]
    out = run.logits[:, None].repeat(1, len(changes), 1)
    for some, logits in measure_changes(run, [changes[place] for place in moving], at_once):
        out[:, [moving[place] for place in some]] = logits.transpose(0, 1)
        bar.update(len(some) * n_pairs)
    bar.update((len(changes) - len(moving)) * n_pairs)
    return out


class _ChunkScores(ChunkSums):
    """Scores of the edges inside heads, pair by pair."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph, None)
        self.layers: dict[int, list[NDArray[np.float64]]] = {}

    def add(self, block: EdgeBlock, scores: Tensor) -> None:
        """Adds scores of one edge block, of all pairs or of the next few of them."""
        if block.kind == "inside":
            self.layers.setdefault(block.layer, []).append(scores.double().cpu().numpy()[:, block.exists])


class _PairScores(Moments):
    """The same summed over each flow."""

    def __init__(self, flows: _Flows) -> None:
        super().__init__(flows.graph)
        self._flows = flows
        self._found: list[tuple[Part, NDArray[np.float64]]] = []

    def chunk(self, part: Part, signs: Tensor) -> ChunkSums:
        """What takes the scores of some pairs of a part."""
        return _ChunkScores(part.graph)

    def take(self, part: Part, n_pairs: int, chunk: ChunkSums) -> None:
        """Adds those of some pairs of a part."""
        assert isinstance(chunk, _ChunkScores)
        layers = {layer: np.concatenate(some) for layer, some in chunk.layers.items()}
        start = {blocks.inside.layer: blocks.inside.start for blocks in part.graph.layers if blocks.inside}
        own = ((layer, part.own(edges) - start[layer]) for (layer, *_), edges in self._flows.edges.items())
        self._found.append((part, np.stack([layers[layer][:, edges].sum(1) for layer, edges in own], 1)))

    def values(self) -> NDArray[np.float64]:
        """Of each flow, unturned, (pair, flow)."""
        parts = list(dict.fromkeys(part for part, _ in self._found))
        return np.concatenate([found for _, found in self._found])[rows_of(parts)]


def _by_gradient(
    flows: _Flows, task: Task, pairs: Pairs, steps: int, memory: int, progress: bool | None
) -> tuple[np.ndarray, ...]:
    """The same as `_exactly`, first order: nothing is known of flips."""
    vit, scores = task.vit, _PairScores(flows)
    method = PathGradients(
        flows.graph, task, True, memory, progress, "token_flow", points=path_points(steps, "midpoint")
    )
    method.run(scores, pairs)
    signs = task.signs(pairs).numpy()
    values = signs[:, None] * scores.values()
    baseline = make_baseline(vit, task.ablation, task.reference, memory=memory)

    def ends_of(batch: Pairs) -> tuple[np.ndarray, ...]:
        given = Ends.of(vit, batch, baseline)
        return tuple(RunContrast.of(task, batch, given.embedded, given.other, "noising").ends())

    chunks = list(pairs.batches(chunk_size(vit, len(pairs), method.pairs_at_once())))
    with torch.no_grad(), vit.borrowed():
        ends = list(processes.in_order(ends_of, chunks))
    clean, corrupt = (np.concatenate(parts) for parts in zip(*ends, strict=True))
    return values, np.zeros(values.shape, dtype=bool), clean, corrupt
