"""What decides the result of learned masks: the options, the schedule of densities, and which pairs a step sees.

Photographs are changed a little in a descent, so that few of them do not come to be known by heart.

With forty photographs of each class the gates fit the discovery images far better than others (DeiT-Tiny, 20% of the
edges under means, 200 steps: a squared difference of .12 of the metric's variance on discovery images, .30 on held-out
ones). What is learned is to follow the full model, which needs no label: so each image is mirrored half of the time and
cropped to 80 to 100% of its area, in four ways that steps choose from, and the full model answers each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ...circuits.graph import Graph
from ...circuits.partners.partner import SWAPS
from ...circuits.scores import By, Scores
from ...circuits.tasks.task import Task
from ...models.errors import TaskError
from ..registry import Chosen, chosen
from .budget_loss import EXACT_UP_TO, BudgetPlan
from .gates import LARGEST, Edges, with_density
from .journal import scores_digest, search_identity

LEAST_AREA = 0.8
VIEWS = 4  # of each photograph
SHARED = 2  # photographs of a step, one of each class, that meet one partner, which is cropped and run anew for them
LEAST_SIDE = 64
"""Pixels of the shorter side from which images are taken for photographs, which may be mirrored."""


Objective = Literal["auto", "both", "metric", "kl"]
TIGHTENING = 0.6  # share of a size's steps in which the density goes down to it; in the rest it holds
WARM_DENSITY = 0.8  # where masks start from scores: higher than any size that is learned well from there
WARM_SPREAD = 3.0  # log_alpha of the best edge over that of the median
TRUSTED_SPREAD = 6.0  # the same, for a ranking that says much
TRUSTED_RATE, TRUSTED_STEPS = 2 / 3, 0.7  # of the learning rate and of the steps, near such a ranking
RESTING_RATE = 1 / 3
WARM_FACTOR, ONE_SIDED_SPREAD = 4, 4.0  # on one-sided tasks: times the largest size


def augmented(
    images: Float[Tensor, "image channel height width"], generator: torch.Generator
) -> Float[Tensor, "image channel height width"]:
    """Each image cropped to part of its area and brought back to its size, and mirrored half of the time."""
    height, width = images.shape[-2:]
    found = []
    for image in images:
        area, across, down, mirrored = torch.rand(4, generator=generator, dtype=torch.float64, device="cpu").tolist()
        side = math.sqrt(LEAST_AREA + (1 - LEAST_AREA) * area)
        rows, columns = max(1, round(side * height)), max(1, round(side * width))
        top, left = round(down * (height - rows)), round(across * (width - columns))
        crop = image[:, top : top + rows, left : left + columns][None]
        whole = F.interpolate(crop, size=(height, width), mode="bicubic", align_corners=False)[0]
        found.append(whole.flip(-1) if mirrored < 0.5 else whole)
    return torch.stack(found)


@dataclass(frozen=True, eq=False)
class MaskPlan:
    """See `learned_masks`.

    Raises:
        TaskError: An option makes no sense.
        GraphError: The scores belong to another graph.
    """

    graph: Graph
    task: Task
    sizes: list[int]
    start: Scores | Literal["none"]
    memory: int
    chosen: Chosen

    def __post_init__(self) -> None:
        if self.chosen.objective == "both" and self.measures:
            raise TaskError(
                'objective="both" is learned through the gates: pass derivative="pathwise", or objective="metric".'
            )
        if self.aim in ("metric", "both") and not self.measures and not self.task.metric.differentiable:
            raise TaskError(
                f'the metric {self.task.metric.kind} has no gradient: pass objective="kl", derivative="measured", or '
                f"another metric such as metric='logit_difference'."
            )
        if self.graph.groups.per_pair and self.chosen.augment == "yes":
            raise TaskError('augment="yes" moves images from under the masks of tokens="mask": pass augment="no".')
        if isinstance(self.start, Scores):
            self.graph.require_same(self.start.graph, "scores")

    @property
    def descending(self) -> list[int]:
        """The different sizes, largest first: the order in which they are reached."""
        return sorted(set(self.sizes), reverse=True)

    @property
    def steps(self) -> int:
        """For each size; fewer where scores are trusted."""
        return math.ceil(TRUSTED_STEPS * self.chosen.steps) if self.trusts else self.chosen.steps

    @property
    def total_steps(self) -> int:
        """Over all sizes."""
        return self.steps * len(self.descending)

    @property
    def shuffles(self) -> bool:
        """Whether a clean image meets another pair's ablated values at every step."""
        swapped = self.task.info.get("corruption") in SWAPS and self.task.ablation.kind == "partner"
        return self.chosen.partners == "shuffled" or (self.chosen.partners == "auto" and swapped)

    @property
    def crossed(self) -> bool:
        """Whether clean images show both classes."""
        return self.task.sides == "both"

    @property
    def aim(self) -> Objective:
        """What is learned, `auto` resolved."""
        if self.chosen.objective != "auto":
            return self.chosen.objective
        blends = self.crossed and not self.measures and not self.task.metric.relative
        return "both" if blends and self.task.metric.differentiable else "metric"

    @property
    def augments(self) -> bool:
        """Whether photographs are mirrored and cropped."""
        if self.chosen.augment != "auto":
            return self.chosen.augment == "yes"
        aligned = self.task.ablation.kind == "partner" and self.task.info.get("corruption") not in SWAPS
        photographs = min(self.task.vit.cfg.image_size) >= LEAST_SIDE and self.task.vit.cfg.clip_frames == 1
        return self.crossed and photographs and not (aligned or self.measures or self.graph.groups.per_pair)

    def rate(self, step: int) -> float:
        """The learning rate of a step: on a crossed task it falls to a third of itself while the density rests.

        From a ranking that is trusted it is lower: near it, fewer photographs are learned by heart.
        """
        rest = max(0.0, (step % self.steps + 1) / self.steps - TIGHTENING) / (1 - TIGHTENING)
        trusted = TRUSTED_RATE if self.trusts else 1.0
        return self.chosen.learning_rate * (trusted * RESTING_RATE**rest if self.crossed else 1.0)

    @property
    def trusts(self) -> bool:
        """Whether a descent from scores stays near them: on crossed tasks, where removed edges carry no other image.

        There a ranking says much: on DeiT-Tiny EAP-IG's first 40% of the edges transmit .46 under means, and 140 steps
        near it end at T = .90, R^2 = .74, where 200 from half the spread end at .86, .83. Under class swap 120 steps
        near it end at T = .63; from half the spread 140 at .65, 200 at .72 (one seed each; docs/faithfulness.md).
        """
        return self.crossed and isinstance(self.start, Scores) and self.task.ablation.kind != "partner"

    @property
    def measures(self) -> bool:
        """Whether every gate's derivative is measured by opening and shutting it."""
        return self.chosen.derivative == "measured" or (
            self.chosen.derivative == "auto" and len(self.graph) <= EXACT_UP_TO
        )

    @property
    def polishes(self) -> bool:
        """Whether circuits end with measured swaps."""
        return self.chosen.polish == "yes" or (self.chosen.polish == "auto" and len(self.graph) <= EXACT_UP_TO)

    def swaps(self, n: int) -> BudgetPlan:
        """How a circuit of n edges is polished."""
        kl = self.aim == "kl" or self.task.metric.kind == "kl"
        how = chosen("budgeted_pruning", objective="kl" if kl else "squared", regrow_rounds=0)
        return BudgetPlan(self.graph, self.task, [n], self.memory, how)

    @property
    def first_density(self) -> float:
        """Where the descent starts: with scores at WARM_DENSITY, on one-sided tasks at WARM_FACTOR times the size."""
        largest = self.descending[0] / len(self.graph)
        if not isinstance(self.start, Scores):
            return 1.0
        return min(1.0, max(WARM_DENSITY, largest) if self.crossed else WARM_FACTOR * largest)

    def density(self, step: int) -> float:
        """What the gates are held at: from size to size, linearly (on one-sided tasks geometrically), then level."""
        place, done = divmod(step, self.steps)
        shares = [self.first_density, *(size / len(self.graph) for size in self.descending)]
        way = min(1.0, (done + 1) / (TIGHTENING * self.steps))
        first, last = shares[place], shares[place + 1]
        if way == 1:
            return last
        return first + (last - first) * way if self.crossed else first * (last / first) ** way

    def first_log_alpha(self) -> Edges:
        """All edges alike, or by their rank among the scores."""
        found = torch.full((len(self.graph),), LARGEST / 3, dtype=torch.float64, device="cpu")
        if isinstance(self.start, Scores):
            rank = np.empty(len(self.graph))
            by: By = "mean_abs" if self.crossed else "signed"
            rank[self.start.ranking(by)[::-1]] = np.arange(len(self.graph))
            spread = TRUSTED_SPREAD if self.trusts else WARM_SPREAD if self.crossed else ONE_SIDED_SPREAD
            found = torch.from_numpy(spread * (2 * rank / len(self.graph) - 1))
        return with_density(found, self.first_density)

    def pairs_of(self, step: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Which pairs a step learns from, and whose ablated values they meet. Every pair comes once in an epoch."""
        n = len(self.task.searched)
        size = min(self.chosen.batch, n)
        places = np.arange(step * size, (step + 1) * size)
        signs = self.task.searched.sign.numpy() if self.crossed else np.ones(n, dtype=int)
        seed, epochs = self.chosen.seed, np.unique(places // n).tolist()
        orders = {epoch: order_in_turns(signs, [seed, 0, epoch]) for epoch in epochs}
        rows = np.array([orders[place // n][place % n] for place in places.tolist()])
        if not self.shuffles:
            return rows, rows
        drawn = np.random.default_rng([seed, 1, step]).permutation(n)[:size]
        return rows, drawn.repeat(SHARED)[:size] if self.augments else drawn

    def view_generator(self, row: int, view: int) -> torch.Generator:
        """Chance for one of the ways in which a pair's photograph is changed."""
        return torch.Generator().manual_seed((self.chosen.seed * 1_000_003 + row) * VIEWS + view)

    def generator(self, step: int) -> torch.Generator:
        """Chance for the gates of one step, whatever was drawn before."""
        return torch.Generator().manual_seed(self.chosen.seed * 1_000_003 + step)

    @property
    def options(self) -> dict[str, Any]:
        """The options in plain values."""
        start = self.start.algorithm if isinstance(self.start, Scores) else self.start
        size = self.sizes if len(self.sizes) > 1 else self.sizes[0]
        return self.chosen.record(size=size, objective=self.aim, start=start)

    def config(self) -> dict[str, Any]:
        """Everything that decides a step or its last bit."""
        same = search_identity(self.graph, self.task, memory=self.memory)
        return {**self.options, **same, "start_digest": scores_digest(self.start), "shuffles": self.shuffles}


def order_in_turns(signs: NDArray[np.integer], seed: list[int]) -> NDArray[np.intp]:
    """All pairs in an order by chance, in which the two sides of clean images take turns as long as both last."""
    order = np.random.default_rng(seed).permutation(len(signs))
    sides = [order[signs[order] == sign] for sign in (1, -1)]
    turns = min(map(len, sides))
    mixed = np.stack([side[:turns] for side in sides], 1).ravel()
    return np.concatenate([mixed, order[~np.isin(order, mixed)]])
