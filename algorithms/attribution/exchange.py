"""A head's output where the keys (and values) of one token group are exchanged, the softmax exact, for each group.

With s the scores, s' those against the new keys, L_G = log of the sum of exp s over group G, V_G the mean of values in
G under its softmax, L_-G and V_-G the same over all other groups, and L'_G, V'_G of the new keys and values,

    z with G exchanged = V_-G + (V'_G - V_-G) sigmoid(L'_G - L_-G)

which stays exact where the softmax is saturated, and costs no more for all groups than for one. Values are numbers: an
upstream gradient times the value vector.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Grouped = tuple[Tensor, Tensor]
"""Log-sums of scores and means of values, each (..., target, group)."""


def grouped(
    scores: Float[Tensor, "*#any target source"],
    values: Float[Tensor, "*#other target source"],
    member: Bool[Tensor, "group source"],
) -> Grouped:
    """L and V of each group."""
    if len(member) == member.shape[1]:
        return scores, values
    parts = [(scores[..., tokens], values[..., tokens]) for tokens in member]
    sums = torch.stack([part.logsumexp(-1) for part, _ in parts], -1)
    return sums, torch.stack([(part.softmax(-1) * value).sum(-1) for part, value in parts], -1)


def without_each(of_groups: Grouped) -> Grouped:
    """L and V of all groups but one, for each one.

    The sum over the others is the sum over all less one, which is exact as long as the largest stays in it; where the
    largest itself is left out, the others are summed anew.
    """
    sums, values = of_groups
    largest, at = sums.max(-1, keepdim=True)
    weights = (sums - largest).exp()
    rest = weights.sum(-1, keepdim=True) - weights
    means = ((weights * values).sum(-1, keepdim=True) - weights * values) / rest
    others = sums.scatter(-1, at, -torch.inf)
    at_values = at.expand(*means.shape[:-1], 1)
    return (
        (largest + rest.log()).scatter(-1, at, others.logsumexp(-1, keepdim=True)),
        means.scatter(-1, at_values, (others.softmax(-1) * values).sum(-1, keepdim=True)),
    )


def exchanged(others: Grouped | None, new: Grouped) -> Float[Tensor, "*any target group"]:
    """z with each group exchanged.

    Args:
        others: What `without_each` gives for the old keys and values; None with one group.
        new: L and V of each group's new keys and values.
    """
    if others is None:
        return new[1]
    return others[1] + (new[1] - others[1]) * (new[0] - others[0]).sigmoid()
