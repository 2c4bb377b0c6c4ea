"""The search behind `acdc`: batches of speculative trials, decided up to the first surprise.

Pairs are held in chunks, each by one process (`models/processes`); a batch's figures are exchanged once, so that all
decide the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ...circuits.baseline import Baseline, make_baseline
from ...circuits.circuit import Circuit
from ...circuits.graph import Graph
from ...circuits.reach import prune
from ...circuits.run import run_masks
from ...circuits.scores import Scores
from ...circuits.tasks.metrics import Metric
from ...circuits.tasks.task import Task
from ...circuits.token_parts import Rows, occurring, parts_of, rows_of
from ...models import processes
from ...models.devices import pace
from ...models.errors import FormatError
from ...models.watching import progress_bar
from ..attribution.accumulate import EffectStatistics, scores_of
from ..engines.edge_mask import EVERYWHERE, Destination, EdgeMask
from ..engines.flips import PartRun
from ..engines.pruned_run import PrunedRun, Trial
from ..engines.source_deltas import Ends
from ..registry import Chosen
from .acdc_batches import AdaptiveBatch, BatchSizes
from .journal import Journal, scores_digest, search_identity

ROUNDING = 30  # machine epsilons, times the largest metric of a pair: 50 times the largest error that was measured


@dataclass
class _Decisions:
    """What has been decided, one entry per edge."""

    figures: NDArray[np.float64]  # mean, mean of absolute values and standard error
    measured: NDArray[np.bool_]
    runs: int = 0  # trials, each a run of the rest of the model on all pairs
    thrown_away: int = 0
    rounds: int = 0
    ties: int = 0


class AcdcSearch:
    """One run of ACDC: the state, and the loop over destinations."""

    def __init__(self, plan: AcdcPlan, journal: str | Path | None, progress: bool | None) -> None:
        self.plan, self.graph, self.task = plan, plan.graph, plan.task
        self.kept = EdgeMask(plan.graph)
        self.decisions = _Decisions(np.zeros((3, len(plan.graph))), np.zeros(len(plan.graph), dtype=bool))
        self.pace = AdaptiveBatch(pace(plan.task.vit.device))
        self.journal = Journal(journal, plan.config() if journal is not None else {})
        self._past = iter(self.journal.steps)
        self._progress, self._n_kept, self._n_done = progress, 0, 0
        self._behind = False  # whether drops have yet to be committed

    def circuit(self) -> Circuit:
        """The circuit, once every edge is decided."""
        plan, task = self.plan, self.task
        bar = progress_bar("acdc", len(self.graph), self._progress, "edge")
        with torch.no_grad(), task.vit.borrowed(), self.journal, bar as self._bar:
            self._open()
            for place in reversed(range(self.graph.n_places)):
                for run in self.runs.values():
                    run.begin(place)
                for destination, after in pairwise([*self._destinations(place), None]):
                    assert destination is not None
                    self._prune(destination, settle=after is not None and self.kept.feed_the_same(destination, after))
        mask = prune(self.graph, self.kept.mask)
        provenance = {"algorithm": "acdc", "options": plan.options, "selection": "acdc", "tau": plan.tau}
        return Circuit(self.graph, mask, self._scores(), task.ablation, dict(task.info), provenance)

    def _open(self) -> None:
        """The state of the full model, in chunks of pairs, of which this process holds its own."""
        task, vit = self.task, self.task.vit
        self.baseline: Baseline = make_baseline(vit, task.ablation, task.reference, memory=self.plan.memory)
        sizes = self.sizes = BatchSizes.of(self.graph, task, self.plan.memory)
        parts = parts_of(self.graph, task.searched)
        chunks = [(part, batch) for part in parts for batch in part.pairs.batches(sizes.pairs)]
        cache, self._rows, self._n_chunks = sizes.cache // len(chunks), rows_of(parts), len(chunks)
        self._occurs = occurring(self.graph, task.searched)
        self.runs: dict[int, PrunedRun | PartRun] = {}  # by chunk
        self._wanted: dict[int, Tensor] = {}

        def start(chunk: int) -> Tensor:
            part, batch = chunks[chunk]
            ends = Ends.of(vit, batch, self.baseline)
            self.runs[chunk] = run = (
                PartRun(vit, self.kept, part, ends, cache)
                if self.graph.groups.per_pair
                else PrunedRun(vit, self.kept, ends, cache, commits=True)
            )
            logits = run.logits
            self._wanted[chunk] = batch.wanted(logits).double()
            return logits

        self.now = self._metric(start).numpy()
        self.rounding = ROUNDING * torch.finfo(vit.sum_dtype).eps * max(1.0, float(np.abs(self.now).max()))

    def _metric(self, logits_of: Callable[[int], Tensor]) -> Float[Tensor, "*variant pair"]:
        """The watched metric per pair, in float64, from each chunk's logits."""

        def one(chunk: int) -> Tensor:
            logits = logits_of(chunk).double()
            return self.plan.judged(logits, self._wanted[chunk]).cpu()

        return torch.cat(processes.at_once(one, range(self._n_chunks)), -1)[..., self._rows]

    def _destinations(self, place: int) -> Iterator[Destination]:
        blocks = [self.graph.block_at(place)]
        if place % 2 == 0 and blocks != [self.graph.logits]:
            blocks = [self.graph.layers[place // 2].inside, *blocks]
        for block in blocks:
            if block is not None:
                for row, group in np.argwhere(block.present).tolist():
                    yield Destination(block, row, group)

    def _prune(self, destination: Destination, *, settle: bool) -> None:
        """Decides a destination's edges; the state follows now, or (`settle`) with the next destination's."""
        todo = self.plan.arrange(destination, self.kept.candidates(destination))
        stays: set[int] = set()  # columns that are expected to stay
        if todo:
            for run in self.runs.values():
                run.open(destination)
        n_dropped, work, most = 0, self._work(self.graph.place_of(destination.block)), self._most()
        while todo:
            tried = todo[: min(max(self.pace.size(work), self._foreseen(todo, stays)), most)]
            step = next(self._past, None)
            step = (
                self._try(destination, tried, [column not in stays for column in tried])
                if step is None
                else self._again(destination, tried, step)
            )
            n_dropped += self._apply(destination, tried, step)
            stays = set(step["stays"])
            todo = todo[len(step["edges"]) :]
        self._follow(destination, n_dropped > 0, settle=settle)
        self._show(destination)

    def _follow(self, destination: Destination, dropped: bool, *, settle: bool) -> None:
        """The state after a destination's decisions."""
        self._behind = self._behind or dropped
        if settle and dropped:
            for run in self.runs.values():
                run.settle(destination)
        elif self._behind and not settle:
            self.now = self._metric(lambda chunk: self.runs[chunk].commit(destination)).numpy()
            self._behind = False
        self.kept.finish(destination)

    def _work(self, place: int) -> float:
        """Operations of a trial's MLPs that are needed at all tokens, which is where most of the time goes."""
        cfg, later = self.graph.cfg, self.graph.layers[place // 2 :]
        full = sum(self.kept.source_level(self.graph.mlp_source(layer.mlp.layer)) == EVERYWHERE for layer in later)
        return full * 4.0 * cfg.d_model * cfg.d_mlp * cfg.tokens.n_tokens * len(self.task.searched)

    def _most(self) -> int:
        """Trials in a batch that memory and the caller allow."""
        changing = (self.kept.needed & ~self.kept.read).any(1).sum()  # at the readout's tokens alone they are small
        return min(self.plan.chosen.batch, self.sizes.variants(int(changing)))

    @staticmethod
    def _foreseen(todo: list[int], stays: set[int]) -> int:
        """How far ahead decisions are foreseen: up to the last that is expected to stay."""
        return max((place + 1 for place, column in enumerate(todo) if column in stays), default=0)

    def _try(self, destination: Destination, columns: list[int], goes: list[bool]) -> dict[str, Any]:
        """Measures a batch of trials, each without the earlier ones that are expected to go; up to the first surprise.

        Args:
            destination: Where edges are tried.
            columns: The edges, in the order in which they are decided.
            goes: Whether each is expected to go.
        """
        trials = [Trial((destination.edge(column),), lasts) for column, lasts in zip(columns, goes, strict=True)]
        values = self._metric(lambda chunk: self.runs[chunk].measure(destination.block, trials)).numpy()
        losses = _losses(self.now, values, goes)  # each on the expected state before it
        edges, dropped, ties, surprised = [], [], 0, False
        counts = [self._counted(destination, column) for column in columns]
        for figures, column, expected in zip(_figures(losses, counts), columns, goes, strict=True):
            kept, tie = self._keep(figures[0], destination, dropped, column)
            ties += tie
            edges.append([destination.edge(column), kept, *figures])
            if not kept:
                dropped.append(column)
            surprised = kept == expected
            if surprised:
                break
        ahead = _figures(losses[len(edges) :], counts[len(edges) :])
        stays = [
            column
            for column, (mean, *_) in zip(columns[len(edges) :], ahead, strict=True)
            if self._worsening(mean) >= self.plan.tau
        ]
        gone = [value for value, edge in zip(values, edges, strict=False) if not edge[1]]
        step: dict[str, Any] = {"metric": (gone[-1] if gone else self.now).tolist(), "edges": edges}
        step |= {"tried": len(values), "ties": ties, "surprised": surprised, "stays": stays}
        self.journal.append(step)
        return step

    def _again(self, destination: Destination, tried: list[int], step: dict[str, Any]) -> dict[str, Any]:
        """A step of the journal, if it is the one that comes next."""
        wanted = [destination.edge(column) for column in tried]
        if step["tried"] != len(wanted) or [edge[0] for edge in step["edges"]] != wanted[: len(step["edges"])]:
            raise FormatError(
                "the journal does not fit this search: it was edited, or written by another version. Remove it to "
                "start anew."
            )
        return step

    def _counted(self, destination: Destination, column: int) -> Rows:
        """The pairs over which an edge's loss is taken: those in which it occurs."""
        if not self.graph.groups.per_pair:
            return slice(None)
        return np.flatnonzero(self._occurs[:, destination.edge(column)])

    def _worsening(self, loss: float) -> float:
        return loss if self.plan.chosen.worsening == "signed" else abs(loss)

    def _keep(self, loss: float, destination: Destination, dropped: list[int], column: int) -> tuple[bool, bool]:
        """Whether an edge stays, and whether that was too close to tell from a batch."""
        worsening = self._worsening(loss)
        if abs(worsening - self.plan.tau) > self.rounding:
            return worsening >= self.plan.tau, False
        before = self.kept.mask.copy()
        before[[destination.edge(gone) for gone in dropped]] = False
        after = before.copy()
        after[destination.edge(column)] = False
        loss = self._canonical_loss(before, after, self._counted(destination, column))
        return self._worsening(loss) >= self.plan.tau, True

    def _canonical_loss(self, before: NDArray[np.bool_], after: NDArray[np.bool_], counted: Rows) -> float:
        """What the watched metric loses between two masks, each in one whole run: the judge of what is too close."""
        pairs, plan = self.task.searched, self.plan
        runs = run_masks(
            self.task.vit,
            self.graph,
            [before, after],
            plan.judged,
            pairs,
            self.baseline,
            n_logits=2,
            memory=plan.memory // 2,
            progress=False,
        )
        found = plan.judged(runs.logits, pairs.wanted(runs.clean_logits).expand_as(runs.logits))[:, counted].mean(1)
        return float(found[0] - found[1])

    def _apply(self, destination: Destination, tried: list[int], step: dict[str, Any]) -> int:
        """Takes a step's decisions over; how many edges were dropped."""
        decided = step["edges"]
        dropped = [column for column, edge in zip(tried, decided, strict=False) if not edge[1]]
        if dropped:
            self.kept.drop(destination, dropped)
            for run in self.runs.values():
                run.drop(destination, dropped)
        self.now = np.array(step["metric"])
        for edge, _, *figures in decided:
            self.decisions.figures[:, edge], self.decisions.measured[edge] = figures, True
        self.decisions.runs += step["tried"]
        self.decisions.thrown_away += step["tried"] - len(decided)
        self.decisions.ties += step["ties"]
        self.decisions.rounds += 1
        self.pace.learn(len(decided), surprised=step["surprised"])
        return len(dropped)

    def _show(self, destination: Destination) -> None:
        """The progress bar: decided edges, and what became of them."""
        block = destination.block
        self._n_kept += int(self.kept.dense(block)[destination.row, destination.group].sum())
        self._n_done += block.n_columns
        self._bar.set_postfix(
            kept=self._n_kept,
            dropped=self._n_done - self._n_kept,
            left=len(self.graph) - self._n_done,
            metric=f"{self.now.mean():.4g}",
            refresh=False,
        )
        self._bar.update(block.n_columns)

    def _scores(self) -> Scores:
        found = self.decisions
        diagnostics = {
            "trials": float(found.runs),
            "thrown_away": float(found.thrown_away),
            "batches": float(found.rounds),
            "ties": float(found.ties),
            "metric": float(self.now.mean()),
        }
        told, how = EffectStatistics(*found.figures), {"exact": found.measured, "diagnostics": diagnostics}
        return scores_of(self.graph, self.task, "acdc", self.plan.options, told, **how)


def _losses(now: NDArray[np.float64], values: NDArray[np.float64], goes: list[bool]) -> NDArray[np.float64]:
    """What each trial loses against the one before it that is expected to go, (trial, pair)."""
    before, losses = now, []
    for value, expected in zip(values, goes, strict=True):
        losses.append(before - value)
        before = value if expected else before
    return np.array(losses)


def _figures(losses: NDArray[np.float64], counted: Sequence[Rows]) -> list[list[float]]:
    """Each trial's mean over the pairs that count, mean of absolute values, and the mean's standard error."""
    if all(isinstance(rows, slice) for rows in counted):  # all pairs, for every trial
        return _moments(losses).tolist() if len(losses) else []
    return [_moments(loss[rows][None])[0].tolist() for loss, rows in zip(losses, counted, strict=True)]


def _moments(own: NDArray[np.float64]) -> NDArray[np.float64]:
    """The three of each row, (trial, pair) -> (trial, 3)."""
    n = own.shape[1]
    if n == 0:
        return np.zeros((len(own), 3))
    spread = own.std(1, ddof=1) / n**0.5 if n > 1 else np.full(len(own), np.nan)
    return np.stack([own.mean(1), np.abs(own).mean(1), spread], 1)


@dataclass(frozen=True, eq=False)
class AcdcPlan:
    """What decides the result; see `acdc`.

    Raises:
        GraphError: The order's scores belong to another graph.
    """

    graph: Graph
    task: Task
    tau: float
    order: Scores | Literal["paper"]
    memory: int
    chosen: Chosen

    def __post_init__(self) -> None:
        if isinstance(self.order, Scores):
            self.graph.require_same(self.order.graph, "scores")

    @cached_property
    def judged(self) -> Metric:
        """The metric that is watched.

        On a crossed task the mean of a metric that speaks for the target says nothing: there the distance to the full
        model's on each clean image is watched in its place.
        """
        chosen = self.task.metric
        chosen = chosen if self.chosen.metric == "task" else dataclasses.replace(chosen, kind=self.chosen.metric)
        if self.task.sides == "both" and not chosen.relative:
            return dataclasses.replace(chosen, kind="distance")
        return chosen

    def arrange(self, destination: Destination, columns: list[int]) -> list[int]:
        """The order in which a destination's edges are tried."""
        if not isinstance(self.order, Scores):
            return columns[::-1]
        values = self.order.values
        return sorted(columns, key=lambda column: (values[destination.edge(column)], -column))

    @property
    def options(self) -> dict[str, Any]:
        """The options in plain values."""
        order = self.order.algorithm if isinstance(self.order, Scores) else self.order
        return self.chosen.record(tau=self.tau, order=order)

    def config(self) -> dict[str, Any]:
        """Everything that decides a decision or its last bit."""
        return {
            **self.options,
            **search_identity(self.graph, self.task, memory=self.memory),
            "order_digest": scores_digest(self.order),
            "judged": [self.judged.kind, list(self.judged.target), list(self.judged.foil)],
        }
