"""Exact effects of single edges around a mask, or of some into one place: kept ones dropped, absent ones added.

A source without a kept path from the input carries its ablated value, so an edge that is added can bring its
destination to life, and one that is dropped can cut sources off. The run in front of the destination is shared,
candidates of one destination go through in batches, and behind it only nodes are computed that the change reaches and
that are needed. Edges whose source is not alive, or whose destination leads nowhere, change nothing and cost nothing.

`PartRun` is what `PrunedRun` is for a search, for the pairs of one partition where token groups differ from pair to
pair: the search prunes the whole graph, of which each partition has edges of its own. A partition's run is made anew
from what is kept of them whenever it is asked for, so a batch of trials costs one masked run more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ...circuits.ablation import Ablation
from ...circuits.baseline import DEFAULT_MEMORY, Baseline, constants, images_at_once
from ...circuits.edge_blocks import EdgeBlock
from ...circuits.graph import Graph
from ...circuits.memory import CHUNKS, chunk_size, pairs_within, width_of
from ...circuits.reach import reach
from ...circuits.tasks.metrics import Metric
from ...circuits.tasks.task import Pairs
from ...circuits.token_parts import Part, parts_of
from ...models import processes
from ...models.devices import pace
from ...models.hooked import HookedViT
from .edge_mask import Bools, Destination, EdgeMask
from .pruned_run import PrunedRun, Trial
from .source_deltas import Ends

DELTAS_BYTES = 64_000_000  # of sources' writes that are held between destinations
WORTH = 1000  # changes whose runs outweigh those that a job starts with, about three forward passes


@dataclass(frozen=True, eq=False)
class Flips:
    """The metric around a mask.

    Args:
        now: Under the mask, (pair,).
        flipped: With an edge (or a group) flipped, (edge, pair), in the order in which they were asked for.
        runs: Edges (groups) x pairs that were run; the others change nothing.
    """

    now: NDArray[np.float64]
    flipped: NDArray[np.float64]
    runs: int


def measure_flips(
    vit: HookedViT,
    graph: Graph,
    mask: Bools,
    edges: Sequence[int] | Sequence[NDArray[np.intp]] | NDArray[np.intp],
    metric: Metric,
    pairs: Pairs,
    baseline: Baseline,
    *,
    restore: bool = False,
    memory: int = DEFAULT_MEMORY,
    done: Callable[[int], object] = lambda count: None,
) -> Flips:
    """The metric under a mask, and with each of some edges flipped: dropped if it is kept, added if it is not.

    Edges of one edge block may flip together. Where an edge does not occur in a pair, its flip changes nothing there.

    Args:
        vit: The opened model.
        graph: The graph.
        mask: Kept edges, (edge,).
        edges: Which edges to flip, one at a time; or groups of edges, each of one edge block.
        metric: Logits -> one number per pair.
        pairs: Pairs of images.
        baseline: What removed edges carry.
        restore: Whether the run is that from the ablated input, and removed edges carry the clean run's values.
        memory: Bytes to hold at once.
        done: Called with edges x pairs as they are finished.
    """
    groups, whole = [np.atleast_1d(group) for group in edges], len(edges) * len(pairs)
    jobs = _jobs(vit, graph, mask, groups, pairs, baseline, memory)

    def one(job: _Job) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        ends = Ends.of(vit, job.pairs, baseline)
        run = make_run(vit, job.graph, job.mask, ends.swapped() if restore else ends, memory)
        reference = job.pairs.wanted(_clean_logits(run, job.pairs, restore))
        now, flipped = _numbers(metric(run.logits, reference)), np.zeros((len(job.changes), len(job.pairs)))
        for some, logits in measure_changes(run, job.changes, max(1, job.at_once // len(job.pairs))):
            flipped[some] = _numbers(metric(logits, reference.expand_as(logits)))
            done(len(some) * len(job.pairs))
        return now, flipped

    with torch.no_grad(), vit.borrowed():
        found = list(processes.in_order(one, jobs))
    runs = sum(len(job.changes) * len(job.pairs) for job in jobs)
    done((whole - runs) // processes.count())
    now = np.empty(len(pairs))
    for job, (own, _) in zip(jobs, found, strict=True):
        now[job.rows] = own
    flipped = np.repeat(now[None], len(groups), 0)
    for job, (_, own) in zip(jobs, found, strict=True):
        flipped[np.ix_(job.flips, job.rows)] = own
    return Flips(now, flipped, runs)


@dataclass(frozen=True, eq=False)
class _Job:
    """Some flips on some pairs of one part, which one process measures.

    Args:
        graph: The part's graph.
        mask: Its kept edges.
        pairs: The pairs.
        rows: Which pairs they are.
        changes: Edges that flip together, and change something.
        flips: Which flips they are.
        at_once: Changes x pairs that are computed at once.
    """

    graph: Graph
    mask: Bools
    pairs: Pairs
    rows: NDArray[np.intp]
    changes: list[tuple[int, ...]]
    flips: NDArray[np.intp]
    at_once: int


def _jobs(
    vit: HookedViT,
    graph: Graph,
    mask: Bools,
    groups: Sequence[NDArray[np.intp]],
    pairs: Pairs,
    baseline: Baseline,
    memory: int,
) -> list[_Job]:
    """Chunks of pairs; where they are few, the flips of each are cut as well, as long as each cut has many."""
    shares, every = [], np.arange(len(pairs))
    for part in parts_of(graph, pairs):
        kept, own = mask[part.edges], [part.own(group) for group in groups]
        able = changeable(part.graph, kept)
        flips = np.flatnonzero([able[group].any() for group in own])
        at_once, most = trial_sizes(vit, part.graph, kept, baseline, len(part.pairs), memory)
        size, rows = chunk_size(vit, len(pairs), most), every[part.rows]
        changes = [tuple(own[flip].tolist()) for flip in flips]
        for start in range(0, len(rows), size):
            at = slice(start, start + size)
            shares.append(_Job(part.graph, kept, part.pairs.select(at), rows[at], changes, flips, at_once))
    return [cut for job in shares for cut in _cuts(job, -(-CHUNKS // len(shares)))]


def _cuts(job: _Job, n: int) -> Iterator[_Job]:
    """A job in up to n cuts, which cost about the same: destinations are dealt out in turn."""
    dealt = _by_destination(job.graph, job.changes)
    for cut in range(n := max(1, min(n, len(job.changes) // WORTH))):
        some = sorted(change for alike in dealt[cut::n] for change in alike)
        yield replace(job, changes=[job.changes[change] for change in some], flips=job.flips[some])


def _clean_logits(run: PrunedRun, batch: Pairs, restored: bool) -> Float[Tensor, "pair class"]:
    """Of the clean run, which is one of both ends where all edges are kept."""
    if restored:
        return run.vit.readout.logits(run.deltas.shadows[-1])
    return run.logits if run.edges.whole else run.vit(batch.clean)


def make_run(vit: HookedViT, graph: Graph, mask: Bools, ends: Ends, memory: int) -> PrunedRun:
    """The run of a mask that stays, all of whose places are gone through once, from the logits back."""
    room = min(memory // 4, 2 * DELTAS_BYTES) if mask.all() else memory // 2
    return PrunedRun(vit, EdgeMask(graph, mask), ends, room)


def measure_changes(
    run: PrunedRun, changes: Sequence[tuple[int, ...]], at_once: int
) -> Iterator[tuple[list[int], Float[Tensor, "change pair class"]]]:
    """Logits of changes, each of some edges into one place that flip together, with their places among all changes.

    From the logits back, in batches that change the same rows.

    Args:
        run: The state, at no place yet.
        changes: Edges, all of them in one edge block.
        at_once: Changes in a batch.
    """
    graph = run.graph
    reached = graph.n_places
    for alike in _by_destination(graph, changes):
        block = next(block for block in graph.blocks if block.start <= changes[alike[0]][0] < block.stop)
        place = graph.place_of(block)
        for passed in range(reached - 1, place - 1, -1):
            run.begin(passed)
        reached = place
        for start in range(0, len(alike), at_once):
            some = alike[start : start + at_once]
            yield some, run.measure(block, [Trial(changes[change]) for change in some])


def _by_destination(graph: Graph, changes: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """Places among the changes of those into the same rows, from the logits back."""
    starts = np.array([block.start for block in graph.blocks])

    def destination(change: int) -> tuple[int, int, tuple[int, ...]]:
        edges = changes[change]
        found = int(np.searchsorted(starts, edges[0], side="right")) - 1
        block = graph.blocks[found]
        return -graph.place_of(block), found, tuple(sorted({block.locate(edge)[0] for edge in edges}))

    return [list(alike) for _, alike in groupby(sorted(range(len(changes)), key=destination), key=destination)]


def changeable(graph: Graph, mask: Bools) -> Bools:
    """Edges whose flip can change something: the source is alive, the destination leads to the logits. (edge,)"""
    found, out = reach(graph, mask), np.zeros(len(graph), dtype=bool)
    _pack(graph.logits, found.alive.T[None], out)
    for layer, blocks in enumerate(graph.layers):
        first, mlp = graph.first_head(layer), graph.mlp_source(layer)
        _pack(blocks.mlp, found.alive[: blocks.mlp.width].T[None] & found.needed[mlp][None, :, None], out)
        alive, needed = found.alive[:first].T[None], found.needed[graph.head_sources(layer)]
        _pack(blocks.attention, _rows_needed(graph, layer, mask, needed)[:, :, None] & alive, out)
        if blocks.inside is not None:
            fed = np.logical_or.reduce(blocks.attention.unpack(mask) & alive, axis=-1)  # (row, group)
            leads = np.zeros(blocks.inside.dense_shape, dtype=bool)
            for part in range(2):
                sources = fed[graph.port_rows[:, part + 1]]
                np.logical_or.at(leads, graph.inside_rows[:, part], needed[:, :, None] & sources[:, None, :])
            _pack(blocks.inside, leads, out)
    return out


def _pack(block: EdgeBlock, dense: Bools, out: Bools) -> None:
    block.pack(np.broadcast_to(dense, block.dense_shape), out)


def _rows_needed(graph: Graph, layer: int, mask: Bools, needed: Bools) -> Bools:
    """(row, group) of the attention block: does it lead to a needed head, given (head, target group)?"""
    blocks = graph.layers[layer]
    found = np.zeros(blocks.attention.present.shape, dtype=bool)
    np.logical_or.at(found, graph.port_rows[:, 0], needed)
    for part in range(2):
        seen = needed
        if blocks.inside is not None:
            kept = blocks.inside.unpack(mask)[graph.inside_rows[:, part]]  # head, target group, source group
            seen = (kept & needed[:, :, None]).any(1)
        np.logical_or.at(found, graph.port_rows[:, part + 1], seen)
    return found


def trial_sizes(
    vit: HookedViT, graph: Graph, mask: Bools, baseline: Baseline, n_pairs: int, memory: int
) -> tuple[int, int]:
    """Changes x pairs that are computed at once, and pairs whose runs are held."""
    layers, whole, memory = vit.cfg.n_layers, bool(mask.all()), memory - constants(vit, baseline.ablation)
    # a change: z and the MLP of each layer, their sum, and a layer at work; of a sparse mask every source's write
    writes = 2 * layers if whole else graph.n_sources
    at_once = pairs_within(vit, memory // 2, residuals=writes + 12, hidden=3, patterns=2)
    at_once = min(at_once, pace(vit.device).hidden_bytes // width_of(vit, vit.cfg.d_mlp))
    # a pair: at each layer z, the MLP's difference and two shadows; where they are let go of q, k, v, z, the MLP's
    # write and two inputs. Of a sparse mask all of these, and what is held between calls: writes and inputs
    rows = sum(len(block.present) for block in graph.blocks if block.kind != "inside")
    held = 7 * layers + 4 if whole else 11 * layers + 4 + graph.n_sources + rows
    drawn = 3 * graph.n_sources * (baseline.ablation.kind == "noise") + 2 * layers * baseline.ablation.needs_reference
    inside = 2 * layers * (len(graph.groups) > 1)
    size = pairs_within(vit, memory // 4 if whole else memory // 2, residuals=held + drawn + inside)
    return max(1, at_once), max(1, min(n_pairs, size, at_once))


def flips_sizes(
    vit: HookedViT, graph: Graph, ablation: Ablation, n_pairs: int, *, whole: bool = True
) -> list[Callable[[int], object]]:
    """What flips around the whole graph, or around any mask, ask of a budget; see `require_memory`."""
    mask, baseline = np.full(len(graph), whole), Baseline(vit, ablation)
    return [
        partial(images_at_once, vit, ablation),
        lambda memory: trial_sizes(vit, graph, mask, baseline, n_pairs, memory),
    ]


def _numbers(values: Tensor) -> NDArray[np.float64]:
    return values.double().cpu().numpy()


class PartRun:
    """The run of a part's pairs under the kept edges of the whole graph; call everything under `vit.borrowed()`.

    Args:
        vit: The opened model.
        edges: The kept edges of the whole graph; whoever prunes changes them, this class only reads them.
        part: Its graph is run.
        ends: Where the run starts, and what removed edges carry.
        cache: Bytes for what is held while a batch of trials is measured.
    """

    def __init__(self, vit: HookedViT, edges: EdgeMask, part: Part, ends: Ends, cache: int) -> None:
        self.vit, self.edges, self.part, self.ends, self.cache = vit, edges, part, ends, cache

    @property
    def logits(self) -> Float[Tensor, "pair class"]:
        """Logits of the kept edges."""
        return self._run().logits

    def _run(self) -> PrunedRun:
        kept = self.edges.mask[self.part.edges]
        return PrunedRun(self.vit, EdgeMask(self.part.graph, kept), self.ends, self.cache)

    def measure(self, block: EdgeBlock, trials: Sequence[Trial]) -> Float[Tensor, "variant pair class"]:
        """Logits of every trial, all of them changes at destinations of one edge block."""
        changes, before = [], ()
        for trial in trials:
            edges = (*before, *trial.edges)
            before = edges if trial.lasts else before
            changes.append(self.part.own(np.array(edges)))
        run = self._run()
        able, found = changeable(self.part.graph, run.edges.mask), run.logits.repeat(len(trials), 1, 1)
        matter = [place for place, edges in enumerate(changes) if able[edges].any()]
        for some, logits in measure_changes(run, [tuple(changes[place].tolist()) for place in matter], len(trials)):
            found[[matter[place] for place in some]] = logits
        return found

    def commit(self, destination: Destination) -> Float[Tensor, "pair class"]:
        """Logits of the kept edges."""
        return self.logits

    def begin(self, place: int) -> None:
        """Nothing is held from place to place."""

    def open(self, destination: Destination) -> None:
        """Nothing is held at a destination."""

    def drop(self, destination: Destination, columns: Sequence[int]) -> None:
        """What is kept is read when it is needed."""

    settle = open
