"""Optimal ablation: constants in place of removed edges' values, learned for one circuit (Li and Janson 2024).

Means over images are one choice of constants among many, and not the best one: a circuit run under them may fall short
because it lacks what matters, or because the means of what it lacks lie where the model never is. Constants that bring
the run as close to the full model as constants can leave the first reason alone ("Optimal ablation for
interpretability", arXiv 2409.09951, section 2):

    minimise over a'    E[ (m(run) - m(full))^2 / var(m(full)) + KL(full || run) ]

1. A source's constant is its mean at each token (`Ablation("mean")`) plus a shift, one vector for each token role, so
   that there are few numbers to learn. Shifts are counted in the source's standard deviations, and start at 0.
2. A step runs a few clean images of both classes under the circuit and moves all shifts along the loss's gradient
   (Adam, whose steps go down to 0).
3. The shifts stay with the circuit: they are saved with it, and `run_circuit` and `evaluate` use them by themselves.

The constants know the discovery images, so they are to be judged on others, and only beside circuits that were given
constants of their own: a random circuit under this circuit's constants is worse off.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..circuits.ablation import Ablation, Shifts
from ..circuits.baseline import DEFAULT_MEMORY, Baseline, make_baseline, shifts_of_tokens
from ..circuits.circuit import Circuit
from ..circuits.masked_run import MaskWeights, masked_logits_from
from ..circuits.memory import chunk_size, pairs_within
from ..circuits.run import require_model, run_pairs
from ..circuits.tasks.task import Task
from ..circuits.token_parts import Part, groups_of, parts_of
from ..circuits.tokens import group_tokens
from ..models import processes
from ..models.errors import TaskError
from ..models.watching import progress_bar
from .pruning.gate_gradients import Goal, Rows
from .pruning.mask_plan import order_in_turns

BETAS = (0.9, 0.99)  # a memory of 100 steps, as long as a run
STILL = 1e-3  # of the first gradient's root mean square: constants that nothing reads, whose gradient is rounding, stay


def optimal_ablation(
    circuit: Circuit,
    task: Task,
    *,
    steps: int = 100,
    batch: int = 8,
    learning_rate: float = 1.0,
    seed: int = 0,
    memory: int = DEFAULT_MEMORY,
    progress: bool | None = None,
) -> Circuit:
    """The same circuit with the constants under which its run comes closest to the full model's.

    Costs a forward and a backward pass of the circuit for each image in a step, and a few runs of all discovery
    images. Where nothing better than the means is found, the means stay. The loss before and after stands in
    `provenance["optimal_ablation"]`. It is a fit: compare with random circuits that learn constants of their own, which
    often come as close (docs/faithfulness.md).

    Args:
        circuit: The circuit, found under any ablation; `mean` is closest to this one.
        task: Its clean discovery images are used, and its reference images for means and standard deviations.
        steps: Of the descent.
        batch: Images in a step, as many of each class on a crossed task.
        learning_rate: The share of the loss that the first step would take away, were the loss as straight as its
            gradient says. Told so, one number suits small and large models: every step moves all numbers, and a large
            model has more of them (measured: .05 to .1 standard deviations on the digits' toy, .015 on DeiT-Tiny,
            where .1 ends above the means).
        seed: Draws the batches.
        memory: Bytes to hold at once; at least one image is held.
        progress: Show a bar on stderr, with the loss of the last batch.

    Raises:
        TaskError: An option makes no sense, the metric has no gradient, or there is nothing to explain.
        GraphError: The circuit belongs to a graph of another model.
    """
    require_model(task.vit, circuit.graph)
    options = {"steps": steps, "batch": batch, "learning_rate": learning_rate, "seed": seed}
    _require_sense(task, steps, batch, learning_rate)
    descent = ShiftDescent(circuit, task.with_ablation(Ablation("mean", over=task.ablation.over)), memory)
    means = descent.as_ablation(torch.zeros_like(descent.first))
    found = descent.as_ablation(descent.run(steps, batch, learning_rate, seed, progress))
    losses = {"loss_under_means": descent.loss(means), "loss": descent.loss(found)}
    if not losses["loss"] < losses["loss_under_means"]:
        found, losses["loss"] = means, losses["loss_under_means"]
    provenance = {**circuit.provenance, "optimal_ablation": {**options, **losses}}
    return dataclasses.replace(circuit, ablation=found, provenance=provenance)


def _require_sense(task: Task, steps: int, batch: int, learning_rate: float) -> None:
    for name, value in (("steps", steps), ("batch", batch)):
        if value < 1:
            raise TaskError(f"{name}={value}: pass at least 1.")
    if not 0 < learning_rate < float("inf"):
        raise TaskError(f"learning_rate={learning_rate}: pass a number above 0, such as learning_rate=1.0.")
    if not task.metric.differentiable:
        raise TaskError(
            f"the metric {task.metric.kind} has no gradient: pass a task with another, such as "
            f'replace(task, metric=replace(task.metric, kind="kl")).'
        )


@dataclass(frozen=True, eq=False)
class ShiftDescent:
    """What is held still while shifts move.

    Args:
        circuit: The circuit.
        task: The task under means.
        memory: Bytes to hold at once.
    """

    circuit: Circuit
    task: Task
    memory: int

    @cached_property
    def statistics(self) -> Baseline:
        """Means and standard deviations of all sources."""
        spread = Ablation("noise", over=self.task.ablation.over)
        return make_baseline(self.task.vit, spread, self.task.reference, memory=self.memory)

    @cached_property
    def goal(self) -> Goal:
        """The loss."""
        baseline = dataclasses.replace(self.statistics, ablation=self.task.ablation)
        return Goal.of(self.circuit.graph, self.task, "both", baseline, memory=self.memory)

    @cached_property
    def unit(self) -> Float[Tensor, "source role 1"]:
        """Each source's standard deviation, the root mean square of those of its numbers at the tokens of a role."""
        assert self.statistics.std is not None
        square = self.statistics.std[:, 0].square().mean(-1)  # source, token
        member = torch.tensor(group_tokens(self.task.vit.cfg.tokens, "role").one_hot(), device="cpu").to(square)
        return (square @ member.T / member.sum(1)).sqrt()[..., None]

    @property
    def first(self) -> Float[Tensor, "source role model"]:
        """No shift, with at least 32 bits to move in."""
        cfg = self.task.vit.cfg
        place = {"device": self.unit.device, "dtype": torch.promote_types(self.unit.dtype, torch.float32)}
        return torch.zeros(*self.unit.shape[:2], cfg.d_model, **place)

    def ablated(self, shifts: Float[Tensor, "source role model"]) -> Float[Tensor, "source 1 token model"]:
        """The constants of shifts in standard deviations."""
        assert self.statistics.mean is not None
        return self.statistics.mean + shifts_of_tokens(self.task.vit, shifts.to(self.unit) * self.unit)

    def as_ablation(self, shifts: Tensor) -> Ablation:
        """The description that gives the same constants again."""
        values = (shifts.to(self.unit) * self.unit).to(device="cpu", dtype=torch.float32)
        return Ablation("optimal", over=self.task.ablation.over, shifts=Shifts(values.numpy()))

    def loss(self, ablation: Ablation) -> float:
        """Over all discovery images, under constants as they are read back from a file."""
        task, graph = self.task, self.circuit.graph
        baseline = make_baseline(task.vit, ablation, task.reference, memory=self.memory)
        logits = run_pairs(task.vit, graph, self.circuit.mask, task.searched, baseline, memory=self.memory)
        return float(self.goal.distance(logits.double().cpu(), self.goal.full).mean())

    def run(self, steps: int, batch: int, learning_rate: float, seed: int, progress: bool | None) -> Tensor:
        """The shifts after the last step, in standard deviations."""
        shifts = self.first
        if self.circuit.mask.all():  # no constant is read anywhere
            return shifts
        optimizer, largest = torch.optim.Adam([shifts], betas=BETAS), 0.0
        bar = progress_bar("optimal_ablation", steps, progress, "step")
        with torch.no_grad(), self.task.vit.borrowed(), bar:
            for step in range(steps):
                loss, shifts.grad = self.gradient(shifts, self.images_of(step, batch, seed))
                if step == 0:
                    largest = learning_rate * min(loss / max(float(shifts.grad.abs().sum()), 1e-30), 1.0)
                    optimizer.param_groups[0]["eps"] = max(STILL * float(shifts.grad.square().mean().sqrt()), 1e-30)
                optimizer.param_groups[0]["lr"] = largest * (1 - step / steps)
                optimizer.step()
                bar.update()
                bar.set_postfix(loss=loss, refresh=False)
        return shifts

    def images_of(self, step: int, batch: int, seed: int) -> Rows:
        """Which clean images a step learns from. Every image comes once in an epoch."""
        signs = self.task.searched.sign.numpy()
        n, size = len(signs), min(batch, len(signs))
        places = np.arange(step * size, (step + 1) * size)
        orders = {int(epoch): order_in_turns(signs, [seed, 0, int(epoch)]) for epoch in np.unique(places // n)}
        return np.array([orders[int(place // n)][place % n] for place in places])

    def gradient(self, shifts: Float[Tensor, "source role model"], images: Rows) -> tuple[float, Tensor]:
        """The mean loss over some images and its gradient, as many images at a time as fit."""
        total, gradient = 0.0, torch.zeros_like(shifts)
        size, chunks = chunk_size(self.task.vit, len(images), self.at_once), []
        for part in parts_of(self.circuit.graph, self.task.searched.select(images.tolist()), alike=False):
            own = images[part.rows]
            chunks += [(own[start : start + size], part) for start in range(0, len(own), size)]
        for loss, slope in processes.in_order(
            lambda chunk: self._part(shifts, chunk[0], self.weights(chunk[1])), chunks
        ):
            total += loss / len(images)
            gradient += slope.to(gradient) / len(images)
        return total, gradient

    def weights(self, part: Part) -> MaskWeights:
        """The circuit, of a part's edges."""
        key = part.graph.groups.of_token
        if key not in self._weights:
            self._weights[key] = MaskWeights.from_mask(part.graph, self.circuit.mask[part.edges], self.task.vit)
        return self._weights[key]

    @cached_property
    def _weights(self) -> dict[tuple[int | None, ...], MaskWeights]:
        return {}

    def _part(self, shifts: Tensor, images: Rows, weights: MaskWeights) -> tuple[float, Tensor]:
        """The sum of a few images' losses and its gradient; call it under `vit.borrowed()`."""
        vit = self.task.vit
        full = self.goal.full[images].to(device=vit.device, dtype=vit.sum_dtype)
        embedded = vit.embed(vit.check_images(self.task.searched.clean[images]))
        with torch.enable_grad():
            moved = shifts.detach().requires_grad_()
            values = self.ablated(moved).expand(-1, len(images), -1, -1)
            of_token = groups_of(weights.graph, self.task.searched.select(images.tolist()))
            logits = masked_logits_from(vit, weights, embedded, values, of_token)
            loss = self.goal.distance(logits, full).sum()
            (gradient,) = torch.autograd.grad(loss, moved)
        return float(loss), gradient.cpu()

    @cached_property
    def at_once(self) -> int:
        """Images whose run and its record fit: residuals of all sources, and what blocks work with."""
        graph, layers = self.circuit.graph, self.circuit.graph.cfg.n_layers
        rows = int(graph.port_rows.max()) + 1
        return pairs_within(
            self.task.vit,
            self.memory,
            residuals=4 * graph.n_sources + layers * (5 * rows + 20),
            hidden=4 * layers,
            patterns=layers * (4 if len(graph.groups) == 1 else 8),
        )
