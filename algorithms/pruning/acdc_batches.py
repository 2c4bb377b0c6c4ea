"""How many trials ACDC tries at once: as many as surprises leave worth while, and as a budget of bytes allows."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...circuits.baseline import constants
from ...circuits.graph import Graph
from ...circuits.memory import chunk_size, note_room, require_memory, width_of
from ...circuits.run import masks_sizes
from ...circuits.tasks.task import Task
from ...models.devices import Pace

LEARNING = 0.1  # weight of the latest decision in the rate of surprises
SCRATCH = 16  # tensors of one variant that a trial holds beside the changes of sources
TENSOR_SHARE = 0.7  # of the budget; the rest is the allocator's


class AdaptiveBatch:
    """How many trials a batch should hold, from how often decisions came as a surprise.

    With a surprise every 1/p decisions, a batch of K trials wastes about p K^2 / 2 of them and costs c trials beside,
    so the cost for each decision is least near K = sqrt(2 c / p). Of c it is only known that it is large where a trial
    is small: at the readout's tokens, or in a small model.
    """

    def __init__(self, pace: Pace) -> None:
        self._rate, self._pace = 0.1, pace

    def size(self, work: float) -> int:
        """Trials in the next batch, if a trial takes so many operations."""
        cost = min(self._pace.batch_cost, max(0.15, self._pace.batch_work / max(work, 1.0)))
        return math.ceil(math.sqrt(2 * cost / self._rate))

    def learn(self, n_decided: int, *, surprised: bool) -> None:
        """Takes in a batch's decisions, of which the last may have been a surprise."""
        self._rate *= (1 - LEARNING) ** n_decided
        self._rate = max(self._rate + LEARNING * surprised, 1e-4)


@dataclass(frozen=True)
class BatchSizes:
    """How much is held at once. Beside these, all pairs' writes and shadows are held: 4 tensors per layer, and 4.

    Args:
        pairs: Pairs of one state, a chunk.
        trials: Bytes of a batch of trials.
        cache: Bytes of everything else.
        place: Bytes of one (pair, token, model) tensor of one pair.
    """

    pairs: int
    trials: int
    cache: int
    place: int

    @classmethod
    def of(cls, graph: Graph, task: Task, memory: int) -> BatchSizes:
        """The sizes that a budget of bytes allows."""
        cfg, n_pairs = task.vit.cfg, len(task.searched)
        place = width_of(task.vit, cfg.d_model)
        memory -= constants(task.vit, task.ablation)
        carried = graph.n_sources * (task.ablation.kind == "noise")  # drawn for each pair
        state = n_pairs * place * (4 * cfg.n_layers + 4 + carried)
        trial = place * (SCRATCH + graph.n_sources // 2)
        pairs = chunk_size(task.vit, n_pairs, max(1, memory // 8 // trial))
        cache = int(memory * TENSOR_SHARE) - state - max(memory // 8, pairs * trial)
        note_room(cache >= 0)
        return cls(pairs, memory // 8, cache, place)

    def variants(self, n_sources: int) -> int:
        """Trials that fit into a batch if so many sources behind the destination may change."""
        return max(1, self.trials // (self.pairs * self.place * (SCRATCH + n_sources)))


def require_acdc_memory(graph: Graph, task: Task, memory: int, least: int = 0) -> None:
    """Does nothing if a budget holds a search and the runs that judge what is too close; `least` is its order's.

    Raises:
        MemoryTooSmallError: It does not.
    """
    asked = [lambda some, size=size: size(some // 2) for size in masks_sizes(task.vit, task.ablation)]
    n, sizes = len(task.searched), lambda some: BatchSizes.of(graph, task, some)
    what = f"acdc of {n} {'pair' if n == 1 else 'pairs'} on {graph.cfg.name}, all of which are held"
    require_memory(memory, what, sizes, *asked, least=least)
