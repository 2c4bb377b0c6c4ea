"""The number that says how much of a behaviour is there: logits -> one number per pair, higher is better.

A target or foil that is a set of classes means the log-sum-exp of their logits.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from ...models.errors import TaskError

MetricKind = Literal["logit_difference", "logit", "probability", "kl", "distance", "accuracy"]
UNITS = {
    "logit_difference": "logits",
    "logit": "logits",
    "probability": "share",
    "kl": "nats",
    "distance": "logits",
    "accuracy": "share",
}
RELATIVE = ("kl", "distance")
"""Kinds that compare with the full model on the clean image: 0 at best, on images of any class."""


@dataclass(frozen=True)
class Metric:
    """A metric on logits.

    - `logit_difference`: logit of the target minus logit of the foil.
    - `logit`: of the target.
    - `probability`: of the target.
    - `kl`: minus KL(p of the full model on the clean image || p), so that 0 is best.
    - `distance`: minus how far the logit difference (without a foil, the logit) is from the full model's there.
    - `accuracy`: 1 where a target class has the highest logit; not differentiable.

    Args:
        kind: One of the above.
        target: Class indices.
        foil: Class indices; only the logit difference uses them.

    Raises:
        TaskError: The kind is not known, or the classes don't make sense.
    """

    kind: MetricKind | str
    target: tuple[int, ...]
    foil: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in get_args(MetricKind):
            raise TaskError(
                f"metric {self.kind!r} is not known: pass one of {', '.join(map(repr, get_args(MetricKind)))}."
            )
        if not self.target:
            raise TaskError("the target holds no class: pass at least one, such as target=3.")
        if self.kind == "logit_difference" and not self.foil:
            raise TaskError("a logit difference needs a foil: pass foil=, or metric='logit'.")
        both = sorted(set(self.target) & set(self.foil))
        if both:
            raise TaskError(
                f"class {both[0]} is both target and foil: pass two different classes, such as target=3, foil=8."
            )

    def __repr__(self) -> str:
        return f"Metric({self.kind!r}, target={reprlib.repr(self.target)}, foil={reprlib.repr(self.foil)})"

    @property
    def unit(self) -> str:
        """`logits`, `nats` or `share`."""
        return UNITS[self.kind]

    @property
    def differentiable(self) -> bool:
        """Whether gradients can be taken."""
        return self.kind not in ("accuracy", "distance")

    @property
    def relative(self) -> bool:
        """Whether it compares with the full model on the clean image, so that higher is better on images of any class.

        The others speak for the target: on a clean image of the foil, lower is better.
        """
        return self.kind in RELATIVE

    @property
    def response(self) -> Metric:
        """What speaks for the target: the metric itself, or behind a relative one the logit difference (the logit)."""
        if not self.relative:
            return self
        return replace(self, kind="logit_difference" if self.foil else "logit")

    def __call__(
        self, logits: Float[Tensor, "*batch class"], reference: Float[Tensor, "*#batch class"] | None = None
    ) -> Float[Tensor, "*batch"]:
        """One number per row of logits.

        Args:
            logits: What is judged.
            reference: The full model's logits on the clean images, once for all or for each row; only `kl` and
                `distance` need them.

        Raises:
            TaskError: A kind that needs a reference has none.
        """
        return _KINDS[self.kind](self, logits, reference)

    def correct(self, logits: Float[Tensor, "*batch class"]) -> Tensor:
        """Where a target class has the highest logit, booleans of shape (*batch)."""
        return torch.isin(logits.argmax(-1), torch.tensor(self.target, device=logits.device))

    def prefers_target(self, logits: Float[Tensor, "*batch class"]) -> Tensor:
        """Where the highest logit among target and foil is a target's, booleans of shape (*batch).

        Without a foil, where it is the highest of all.
        """
        if not self.foil:
            return self.correct(logits)
        return logits[..., list(self.target)].amax(-1) > logits[..., list(self.foil)].amax(-1)


def _lse(logits: Tensor, classes: tuple[int, ...]) -> Tensor:
    return logits[..., classes[0]] if len(classes) == 1 else logits[..., list(classes)].logsumexp(-1)


def _kl(metric: Metric, logits: Tensor, reference: Tensor | None) -> Tensor:
    if reference is None:
        raise TaskError("the metric kl compares with the full model: pass reference=, its logits on the clean images.")
    return -kl_divergence(reference, logits)


def _distance(metric: Metric, logits: Tensor, reference: Tensor | None) -> Tensor:
    if reference is None:
        raise TaskError("the metric distance compares with the full model: pass reference=, its logits.")
    return -(metric.response(logits) - metric.response(reference)).abs()


def kl_divergence(reference: Float[Tensor, "*#batch class"], logits: Float[Tensor, "*batch class"]) -> Tensor:
    """KL(p of reference || p of logits) in nats, shape (*batch)."""
    log_p, log_q = reference.log_softmax(-1), logits.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


_KINDS: dict[str, Callable[[Metric, Tensor, Tensor | None], Any]] = {
    "logit_difference": lambda metric, logits, _: _lse(logits, metric.target) - _lse(logits, metric.foil),
    "logit": lambda metric, logits, _: _lse(logits, metric.target),
    "probability": lambda metric, logits, _: (_lse(logits, metric.target) - logits.logsumexp(-1)).exp(),
    "kl": _kl,
    "distance": _distance,
    "accuracy": lambda metric, logits, _: metric.correct(logits).to(logits.dtype),
}
