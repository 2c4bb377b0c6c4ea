"""ACDC (Conmy et al. 2023, section 3): prune from the logits back every edge whose loss the metric hardly feels.

Destinations are visited from the logits to the input. At each, its edges are tried one after the other; with m the
metric of what is kept so far and m' that without the edge too, the edge is dropped for good if

    m - m' < tau        (worsening="signed")        |m - m'| < tau        (worsening="absolute")

The result here is that of this sequential algorithm, decision by decision, without its wait:

1. Upstream of the destination everything is still the full model, so it is never run again (`live`).
2. Trials are speculative: "drop the first", "drop the first two", ... are measured in one batch. All decisions up to
   the first edge that must stay are those of the sequential algorithm; what was measured after it is thrown away.
3. A worsening that is closer to tau than rounding is decided anew by running the two whole masks in one canonical
   way (`run_pairs`), which does not depend on batches.

How many trials go into a batch depends on the decisions so far alone, never on the clock.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ..circuits.baseline import DEFAULT_MEMORY, Baseline, make_baseline
from ..circuits.circuit import Circuit
from ..circuits.graph import Graph
from ..circuits.metrics import Metric
from ..circuits.pairs import Pairs
from ..circuits.reach import prune
from ..circuits.run import require_model, run_pairs
from ..circuits.run_folder import versions
from ..circuits.scores import Scores
from ..circuits.task import Task
from ..models.errors import FormatError, TaskError
from .journal import Journal
from .kept import Destination, Kept, Trials
from .live import Live
from .progress import progress_bar

MetricChoice = Literal["kl", "logit_difference", "task"]
Worsening = Literal["signed", "absolute"]
ROUND_COST = 1.0  # what a batch costs once, in trials
ROUNDING = 30  # machine epsilons, times the largest metric of a pair: 50 times the largest error that was measured
MEMORY = 0.1  # weight of the latest decision in the rate of surprises


@overload
def acdc(graph: Graph, task: Task, *, tau: float = ..., **options: Any) -> Circuit: ...
@overload
def acdc(graph: Graph, task: Task, *, tau: Sequence[float], **options: Any) -> list[Circuit]: ...
def acdc(
    graph: Graph,
    task: Task,
    *,
    tau: float | Sequence[float] = 0.01,
    metric: MetricChoice = "kl",
    order: Scores | Literal["paper"] = "paper",
    worsening: Worsening = "signed",
    batch: int = 64,
    journal: str | Path | None = None,
    memory: int = DEFAULT_MEMORY,
    progress: bool = False,
) -> Circuit | list[Circuit]:
    """The circuit that ACDC leaves, or one for each of several thresholds.

    Its scores are the worsenings that were measured when each edge was decided (mean over pairs, in the metric's unit);
    edges that nothing read any more were dropped without a run and score 0. Tau bounds each step, not their sum, and
    redundant edges are dropped one after the other until the last that counts.

    Args:
        graph: The graph.
        task: Its discovery pairs are used, all of them.
        tau: Above 0, in the metric's unit: nats for `kl`, logits for `logit_difference`. Several give several circuits.
        metric: `kl` to the full model's logits (the paper's), `logit_difference`, or the task's own.
        order: In which a destination's edges are tried: from the last source to the first as in the paper, or scores:
            the lowest first.
        worsening: Drop an edge if the metric falls by less than tau (`signed`, the paper's, lets the metric drift
            upwards), or if it moves by less than tau either way (`absolute`).
        batch: At most so many trials at once; 1 is the sequential algorithm with the runs before and after reused.
        journal: A file that every decision is written to. The same call goes on from what is there. With several
            thresholds each has a file of its own, named after it.
        memory: Bytes to hold at once.
        progress: Show a bar on stderr.

    Raises:
        TaskError: tau is not above 0, or another option makes no sense.
        GraphError: The graph or the scores belong to another model.
        FormatError: The journal is another search's, or cannot be written.
    """
    if isinstance(tau, Sequence | np.ndarray):
        several = [float(value) for value in tau]
        files = [_named(journal, value) for value in several]
    else:
        several, files = [float(tau)], [journal]
    require_model(task.vit, graph)
    found = []
    for value, file in zip(several, files, strict=True):
        plan = AcdcPlan(graph, task, value, metric, order, worsening, batch, memory)
        found.append(_Search(plan, file, progress).circuit())
    return found if isinstance(tau, Sequence | np.ndarray) else found[0]


def _named(journal: str | Path | None, tau: float) -> Path | None:
    return None if journal is None else Path(journal).with_stem(f"{Path(journal).stem}-{tau:g}")


@dataclass(frozen=True, eq=False)
class AcdcPlan:
    """What decides the result; see `acdc`."""

    graph: Graph
    task: Task
    tau: float
    metric: MetricChoice
    order: Scores | Literal["paper"]
    worsening: Worsening
    batch: int
    memory: int

    def __post_init__(self) -> None:
        if not 0 < self.tau < float("inf"):
            raise TaskError(f"tau={self.tau}: pass a threshold above 0, such as tau=0.01.")
        if self.batch < 1:
            raise TaskError(f"batch={self.batch}: pass at least 1.")
        for name, value, known in (
            ("metric", self.metric, ("kl", "logit_difference", "task")),
            ("worsening", self.worsening, ("signed", "absolute")),
        ):
            if value not in known:
                raise TaskError(f"{name}={value!r} is not known: pass one of {', '.join(map(repr, known))}.")
        if isinstance(self.order, Scores):
            self.graph.require_same(self.order.graph, "scores")
        elif self.order != "paper":
            raise TaskError(f'order={self.order!r} is not known: pass "paper", or scores such as eap(graph, task).')

    @property
    def judged(self) -> Metric:
        """The metric that is watched."""
        chosen = self.task.metric
        return chosen if self.metric == "task" else dataclasses.replace(chosen, kind=self.metric)

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
        return {
            "tau": self.tau,
            "metric": self.metric,
            "order": order,
            "worsening": self.worsening,
            "batch": self.batch,
        }

    def config(self) -> dict[str, Any]:
        """Everything that decides a decision or its last bit."""
        task, images = self.task, hashlib.sha256()
        for tensor in (task.discovery.clean, task.discovery.corrupt, task.discovery.pair_ids, task.reference):
            images.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        ranks = "" if not isinstance(self.order, Scores) else hashlib.sha256(self.order.values.tobytes()).hexdigest()
        return {
            **self.options,
            "order_digest": ranks,
            "graph": self.graph.signature,
            "model": task.vit.cfg.name,
            "weights": task.vit.digest(),
            "judged": [self.judged.kind, list(self.judged.target), list(self.judged.foil)],
            "ablation": task.ablation.as_dict(),
            "images": images.hexdigest(),
            "memory": self.memory,
            "device": str(task.vit.device),
            "threads": torch.get_num_threads(),
            "versions": versions(),
        }


@dataclass
class _Decisions:
    """What has been decided, one entry per edge."""

    mean: NDArray[np.float64]
    mean_abs: NDArray[np.float64]
    std_err: NDArray[np.float64]
    measured: NDArray[np.bool_]
    runs: int = 0  # trials, each a run of the rest of the model on all pairs
    thrown_away: int = 0
    rounds: int = 0
    ties: int = 0

    @classmethod
    def of(cls, n: int) -> _Decisions:
        return cls(np.zeros(n), np.zeros(n), np.zeros(n), np.zeros(n, dtype=bool))

    def note(self, edge: int, mean: float, mean_abs: float, std_err: float) -> None:
        self.mean[edge], self.mean_abs[edge], self.std_err[edge] = mean, mean_abs, std_err
        self.measured[edge] = True


class _Pace:
    """How many trials a batch should hold, from how often decisions came as a surprise.

    With a surprise every 1/p decisions, a batch of K trials wastes about p K^2 / 2 of them and costs c trials beside,
    so the cost for each decision is least near K = sqrt(2 c / p).
    """

    def __init__(self) -> None:
        self._rate = 0.1

    @property
    def size(self) -> int:
        """Trials in the next batch."""
        return math.ceil(math.sqrt(2 * ROUND_COST / self._rate))

    def learn(self, n_decided: int, *, surprised: bool) -> None:
        """Takes in a batch's decisions, of which the last may have been a surprise."""
        self._rate *= (1 - MEMORY) ** n_decided
        self._rate = max(self._rate + MEMORY * surprised, 1e-4)


class _Search:
    """One run of ACDC: the state, and the loop over destinations."""

    def __init__(self, plan: AcdcPlan, journal: str | Path | None, progress: bool) -> None:
        self.plan, self.graph, self.task = plan, plan.graph, plan.task
        self.kept = Kept(plan.graph)
        self.decisions = _Decisions.of(len(plan.graph))
        self.pace = _Pace()
        self.journal = Journal(journal, plan.config() if journal is not None else {})
        self._past = iter(self.journal.steps)
        self._progress, self._n_kept, self._n_done = progress, 0, 0

    def circuit(self) -> Circuit:
        """The circuit, once every edge is decided."""
        plan, task = self.plan, self.task
        with torch.no_grad(), task.vit.borrowed(), progress_bar("acdc", len(self.graph), self._progress, "edge") as bar:
            self._bar = bar
            self._open()
            for place in reversed(range(2 * self.graph.cfg.n_layers + 1)):
                for live in self.lives:
                    live.begin(place)
                for destination in self._destinations(place):
                    self._prune(destination)
        self.journal.close()
        mask = prune(self.graph, self.kept.mask)
        provenance = {"algorithm": "acdc", "options": plan.options, "selection": "acdc", "tau": plan.tau}
        return Circuit(self.graph, mask, self._scores(), task.ablation, dict(task.info), provenance)

    def _open(self) -> None:
        """The state of the full model, in batches of pairs."""
        task, vit = self.task, self.task.vit
        self.baseline: Baseline = make_baseline(vit, task.ablation, task.reference, memory=self.plan.memory)
        sizes = _Sizes.of(self.graph, task, self.plan.memory)
        self.most = max(1, min(self.plan.batch, sizes.variants))
        batches = list(task.discovery.batches(sizes.pairs))
        self.lives = [Live(vit, self.kept, batch, self.baseline, sizes.cache // len(batches)) for batch in batches]
        self.now = self._metric([live.writes.logits for live in self.lives]).numpy()
        self.rounding = ROUNDING * torch.finfo(vit.dtype).eps * max(1.0, float(np.abs(self.now).max()))

    def _metric(self, logits: list[Tensor]) -> Float[Tensor, "*variant pair"]:
        """The watched metric per pair, in float64."""
        parts = zip(logits, self.lives, strict=True)
        judged = self.plan.judged
        return torch.cat(
            [judged(part.double(), live.writes.logits.double().expand_as(part)) for part, live in parts], -1
        ).cpu()

    def _destinations(self, place: int) -> Iterator[Destination]:
        blocks = [self.graph.logits]
        if place < 2 * self.graph.cfg.n_layers:
            layer = self.graph.layers[place // 2]
            blocks = [layer.mlp] if place % 2 else [layer.inside, layer.attention]
        for block in blocks:
            if block is not None:
                for row, group in np.argwhere(block.present).tolist():
                    yield Destination(block, row, group)

    def _prune(self, destination: Destination) -> None:
        todo = self.plan.arrange(destination, self.kept.candidates(destination))
        stays: set[int] = set()  # columns that are expected to stay
        if todo:
            for live in self.lives:
                live.open(destination)
        n_dropped = 0
        while todo:
            tried = todo[: min(max(self.pace.size, self._foreseen(todo, stays)), self.most)]
            trials = Trials(tried, [column not in stays for column in tried])
            step = next(self._past, None)
            step = self._try(destination, trials) if step is None else self._again(destination, tried, step)
            n_dropped += self._apply(destination, tried, step)
            stays = set(step["stays"])
            todo = todo[len(step["edges"]) :]
        if n_dropped:
            self.now = self._metric([live.commit(destination) for live in self.lives]).numpy()
        self.kept.finish(destination)
        for live in self.lives:
            live.close(destination)
        self._show(destination)

    @staticmethod
    def _foreseen(todo: list[int], stays: set[int]) -> int:
        """How far ahead decisions are foreseen: up to the last that is expected to stay."""
        return max((place + 1 for place, column in enumerate(todo) if column in stays), default=0)

    def _try(self, destination: Destination, trials: Trials) -> dict[str, Any]:
        """Measures a batch of trials and decides all edges up to the first surprise."""
        values = self._metric([live.measure(destination, trials) for live in self.lives]).numpy()
        losses = _losses(self.now, values, trials)  # each on the expected state before it
        edges, dropped, ties, surprised = [], [], 0, False
        for loss, column, expected in zip(losses, trials.columns, trials.expected, strict=True):
            kept, tie = self._keep(float(loss.mean()), destination, dropped, column)
            ties += tie
            spread = float(loss.std(ddof=1) / len(loss) ** 0.5) if len(loss) > 1 else 0.0
            edges.append([destination.edge(column), kept, float(loss.mean()), float(np.abs(loss).mean()), spread])
            if not kept:
                dropped.append(column)
            surprised = kept == expected
            if surprised:
                break
        left = zip(trials.columns[len(edges) :], losses[len(edges) :], strict=True)
        stays = [column for column, loss in left if self._worsening(float(loss.mean())) >= self.plan.tau]
        now = self.now
        for value, edge in zip(values, edges, strict=False):
            now = now if edge[1] else value
        step = {
            "metric": now.tolist(),
            "edges": edges,
            "tried": len(values),
            "ties": ties,
            "surprised": surprised,
            "stays": stays,
        }
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

    def _worsening(self, loss: float) -> float:
        return loss if self.plan.worsening == "signed" else abs(loss)

    def _keep(self, loss: float, destination: Destination, dropped: list[int], column: int) -> tuple[bool, bool]:
        """Whether an edge stays, and whether that was too close to tell from a batch."""
        worsening = self._worsening(loss)
        if abs(worsening - self.plan.tau) > self.rounding:
            return worsening >= self.plan.tau, False
        mask = self.kept.mask.copy()
        mask[[destination.edge(gone) for gone in dropped]] = False
        before = self._canonical(mask)
        mask[destination.edge(column)] = False
        return self._worsening(before - self._canonical(mask)) >= self.plan.tau, True

    def _canonical(self, mask: NDArray[np.bool_]) -> float:
        return canonical_metric(self.plan, mask, self.task.discovery, self.baseline)

    def _apply(self, destination: Destination, tried: list[int], step: dict[str, Any]) -> int:
        """Takes a step's decisions over; how many edges were dropped."""
        decided = step["edges"]
        dropped = [column for column, edge in zip(tried, decided, strict=False) if not edge[1]]
        if dropped:
            self.kept.drop(destination, dropped)
            for live in self.lives:
                live.drop(destination, dropped)
        self.now = np.array(step["metric"])
        for edge, _, *figures in decided:
            self.decisions.note(edge, *figures)
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
        self._n_done += block.width
        self._bar.set_postfix(
            kept=self._n_kept,
            dropped=self._n_done - self._n_kept,
            left=len(self.graph) - self._n_done,
            metric=f"{self.now.mean():.4g}",
            refresh=False,
        )
        self._bar.update(block.width)

    def _scores(self) -> Scores:
        found, task = self.decisions, self.task
        return Scores(
            graph=self.graph,
            values=found.mean,
            mean_abs=found.mean_abs,
            std_err=found.std_err,
            exact=found.measured,
            n_pairs=len(task.discovery),
            algorithm="acdc",
            options=self.plan.options,
            ablation=task.ablation,
            task=dict(task.info),
            diagnostics={
                "trials": found.runs,
                "thrown_away": found.thrown_away,
                "batches": found.rounds,
                "ties": found.ties,
                "metric": float(self.now.mean()),
            },
        )


def _losses(now: NDArray[np.float64], values: NDArray[np.float64], trials: Trials) -> NDArray[np.float64]:
    """What each trial loses against the one before it that is expected to go, (trial, pair)."""
    before, losses = now, []
    for value, expected in zip(values, trials.expected, strict=True):
        losses.append(before - value)
        before = value if expected else before
    return np.array(losses)


def canonical_metric(plan: AcdcPlan, mask: NDArray[np.bool_], pairs: Pairs, baseline: Baseline) -> float:
    """The watched metric of a mask of kept edges, by one run of the whole mask: the judge of what is too close."""
    vit = plan.task.vit
    logits = run_pairs(vit, plan.graph, mask, pairs, baseline, memory=plan.memory).double()
    clean = torch.cat([vit(batch.clean) for batch in pairs.batches(64)]).double()
    return float(plan.judged(logits, clean).mean())


@dataclass(frozen=True)
class _Sizes:
    """How much is held at once."""

    pairs: int
    variants: int
    cache: int

    @classmethod
    def of(cls, graph: Graph, task: Task, memory: int) -> _Sizes:
        cfg = task.vit.cfg
        element = torch.finfo(task.vit.dtype).bits // 8
        token = cfg.tokens.n_tokens * element
        n_pairs = len(task.discovery)
        variant = (12 * cfg.d_model + 3 * cfg.d_mlp) * token
        pairs = min(n_pairs, max(1, int(memory // 4 // variant)))
        return cls(pairs, max(1, int(min(memory // 4, 400_000_000) // (variant * pairs))), memory // 2)
