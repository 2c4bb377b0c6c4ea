"""Hard-concrete gates (Louizos, Welling and Kingma 2018, section 2.2), and the update that holds their density.

A gate is a stretched and clipped binary concrete variable, so that it is often exactly 0 or exactly 1 and yet has a
derivative in between. With u uniform in (0, 1), temperature T = 2/3, and the stretch from l = -0.1 to h = 1.1,

    s = sigmoid((log u - log(1 - u) + a) / T)        gate = clip(l + s (h - l), 0, 1)
    P(gate > 0) = sigmoid(a - T log(-l / h))

The *density* is the mean of P(gate > 0) over edges. Edge Pruning holds it near a target with a Lagrange multiplier that
has to be tuned against the loss. Here it is held exactly: after each step along the loss's gradient all a are shifted
by one number, found by bisection, that brings the density to the target. That number is the price of an edge: whoever
gains less than it sinks, whoever gains more rises. (It is mirror descent on the gates' entropy; the shift is the
projection.) For the comparison to be fair, the step is scaled by one number for all edges, and not edge by edge as Adam
would.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

TEMPERATURE = 2 / 3
LOW, HIGH = -0.1, 1.1
LARGEST = 6.0  # |a|: P(gate > 0) within .001 of 0 and 1, and a way back in some tens of steps
_SHIFT = TEMPERATURE * math.log(-LOW / HIGH)

Edges = Float[Tensor, " edge"]
Bools = NDArray[np.bool_]


def draw_gates(log_alpha: Edges, generator: torch.Generator) -> tuple[Edges, Edges]:
    """Gates in [0, 1], and their derivatives by `log_alpha`; 0 where a gate is clipped."""
    noise = torch.rand(len(log_alpha), generator=generator, dtype=torch.float64, device="cpu").clamp(1e-6, 1 - 1e-6)
    s = torch.sigmoid((noise.logit() + log_alpha) / TEMPERATURE)
    stretched = s * (HIGH - LOW) + LOW
    inside = (stretched > 0) & (stretched < 1)
    return stretched.clamp(0, 1), inside * (HIGH - LOW) * s * (1 - s) / TEMPERATURE


def draw_masks(log_alpha: Edges, generator: torch.Generator) -> Bools:
    """The same gates, open or shut: each open with its P(gate > 0)."""
    noise = torch.rand(len(log_alpha), generator=generator, dtype=torch.float64, device="cpu")
    return (noise < open_probability(log_alpha)).numpy()


def open_probability(log_alpha: Edges) -> Edges:
    """P(gate > 0)."""
    return torch.sigmoid(log_alpha - _SHIFT)


def with_density(log_alpha: Edges, density: float) -> Edges:
    """All of them shifted by one number, so that P(gate > 0) is `density` on average; clipped to +-LARGEST."""
    low, high = -4 * LARGEST, 4 * LARGEST
    for _ in range(60):
        middle = (low + high) / 2
        if float(open_probability((log_alpha + middle).clamp(-LARGEST, LARGEST)).mean()) > density:
            high = middle
        else:
            low = middle
    return (log_alpha + low).clamp(-LARGEST, LARGEST)


@dataclass
class MirrorDescent:
    """Momentum over edges and one running scale for all of them.

    Args:
        momentum: Running mean of the gradient, shape (edge,).
        square: Running mean of the mean squared gradient.
        steps: Taken so far.
    """

    momentum: Edges
    square: float = 0.0
    steps: int = 0

    BETA = 0.9
    SQUARE_BETA = 0.99
    LARGEST_STEP = 5.0  # in units of the root mean square: one batch must not throw an edge from one end to the other

    def step(self, gradient: Edges, learning_rate: float) -> Edges:
        """What to subtract from `log_alpha`."""
        self.steps += 1
        self.momentum = self.BETA * self.momentum + (1 - self.BETA) * gradient
        self.square = self.SQUARE_BETA * self.square + (1 - self.SQUARE_BETA) * float(gradient.square().mean())
        scale = math.sqrt(self.square / (1 - self.SQUARE_BETA**self.steps))
        unbiased = self.momentum / (1 - self.BETA**self.steps)
        return learning_rate * (unbiased / max(scale, 1e-30)).clamp(-self.LARGEST_STEP, self.LARGEST_STEP)
