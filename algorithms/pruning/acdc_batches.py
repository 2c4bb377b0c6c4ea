"""How large ACDC's batches are: by what a trial costs, by how often it surprises, by memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ...circuits.graph import Graph
from ...circuits.task import Task
from ...models.errors import TaskError

BATCH_WORK = 1e8  # what a batch costs once, in operations that could be done meanwhile
LEARNING = 0.1  # weight of the latest decision in the rate of surprises
SCRATCH = 16  # tensors of one variant that a trial holds beside the changes of sources
TENSOR_SHARE = 0.7  # of the budget; the rest is the allocator's


class Pace:
    """How many trials a batch should hold, from how often decisions came as a surprise.

    With a surprise every 1/p decisions, a batch of K trials wastes about p K^2 / 2 of them and costs c trials beside,
    so the cost for each decision is least near K = sqrt(2 c / p). Of c it is only known that it is large where a trial
    is small: at the readout's tokens, or in a small model.
    """

    def __init__(self) -> None:
        self._rate = 0.1

    def size(self, work: float) -> int:
        """Trials in the next batch, if a trial takes so many operations."""
        cost = min(2.0, max(0.15, BATCH_WORK / max(work, 1.0)))
        return math.ceil(math.sqrt(2 * cost / self._rate))

    def learn(self, n_decided: int, *, surprised: bool) -> None:
        """Takes in a batch's decisions, of which the last may have been a surprise."""
        self._rate *= (1 - LEARNING) ** n_decided
        self._rate = max(self._rate + LEARNING * surprised, 1e-4)


@dataclass(frozen=True)
class Sizes:
    """How much is held at once. Beside these, all pairs' writes and shadows are held: 4 tensors per layer, and 4.

    Args:
        pairs: Pairs of one state.
        trials: Bytes of a batch of trials.
        cache: Bytes of everything else.
        place: Bytes of one (pair, token, model) tensor of one pair.
    """

    pairs: int
    trials: int
    cache: int
    place: int

    @classmethod
    def of(cls, graph: Graph, task: Task, memory: int) -> Sizes:
        """The sizes that a budget of bytes allows.

        Raises:
            TaskError: What all pairs need does not fit.
        """
        cfg, n_pairs = task.vit.cfg, len(task.searched)
        place = cfg.tokens.n_tokens * torch.finfo(task.vit.dtype).bits // 8 * cfg.d_model
        carried = graph.n_sources if task.ablation.kind in ("mean", "zero", "noise", "optimal") else 0
        state = n_pairs * place * (4 * cfg.n_layers + 4 + carried)
        trial = place * (SCRATCH + graph.n_sources // 2)
        pairs = min(n_pairs, max(1, memory // 8 // trial))
        cache = int(memory * TENSOR_SHARE) - state - max(memory // 8, pairs * trial)
        if cache < 0:
            wanted = (state + max(memory // 8, pairs * trial)) / TENSOR_SHARE
            raise TaskError(
                f"the runs of {n_pairs} pairs of {cfg.name} don't fit into memory={memory:,} bytes: pass "
                f"memory={int(wanted) + 1:,} or more, or fewer pairs, such as "
                f"replace(task, discovery=task.discovery.select(slice({max(1, n_pairs // 2)})))."
            )
        return cls(pairs, memory // 8, cache, place)

    def variants(self, n_sources: int) -> int:
        """Trials that fit into a batch if so many sources behind the destination may change."""
        return max(1, self.trials // (self.pairs * self.place * (SCRATCH + n_sources)))
