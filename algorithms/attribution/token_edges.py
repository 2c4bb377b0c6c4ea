"""Scores of the edges between token groups inside heads, at one attention's cost for all of them.

Pattern p, logit change d_ti = q_t . (k'_i - k_i) x scale, gradient g_t at the head's weighted values z of target token
t, source token i, source group G. A value edge scores sum over G of p_ti <g_t, v_i - v'_i>. A key edge scores, to
first order,

    - sum over G of p_ti d_ti (<g_t, v_i> - <g_t, z_t>)

which adds up over refinements of the groups. With the softmax exact instead, r_i = p_ti (exp(d_ti) - 1) and R its sum
over G,

    - (sum over G of r_i <g_t, v_i> - R <g_t, z_t>) / (1 + R)

and where keys and values are one edge, the head's change with both replaced. The exact form is exact in the pattern;
the gradient g is still first order.

A head's output where the keys (and values) of one token group are exchanged, the softmax exact, for each group.

With s the scores, s' those against the new keys, L_G = log of the sum of exp s over group G, V_G the mean of values in
G under its softmax, L_-G and V_-G the same over all other groups, and L'_G, V'_G of the new keys and values,

    z with G exchanged = V_-G + (V'_G - V_-G) sigmoid(L'_G - L_-G)

which stays exact where the softmax is saturated, and costs no more for all groups than for one. Values are numbers: an
upstream gradient times the value vector.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...circuits.graph import Graph
from ...models.blocks import OpenBlock
from .tape import LayerTape

Grouped = tuple[Tensor, Tensor]
"""Log-sums of scores and means of values, each (..., target, group)."""


Softmax = Literal["linear", "exact"]
Form = Literal["linear", "exact", "gradient", "pattern", "half"]
"""How edges inside heads are scored: by the forms above, or by the linear one under one of RelP's rules."""


def grouped(
    scores: Float[Tensor, "*#any target source"],
    values: Float[Tensor, "*#other target source"],
    member: Bool[Tensor, "group source"],
) -> Grouped:
    """L and V of each group."""
    if torch.equal(member, torch.eye(len(member), member.shape[1], dtype=torch.bool, device=member.device)):
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
    at_values, left = at.expand(*means.shape[:-1], 1), others.logsumexp(-1, keepdim=True)
    mean = (others.softmax(-1) * values).sum(-1, keepdim=True)
    mean = torch.where(left > -torch.inf, mean, 0.0)  # all others may be groups without a token
    return (largest + rest.log()).scatter(-1, at, left), means.scatter(-1, at_values, mean)


def exchanged(others: Grouped | None, new: Grouped) -> Float[Tensor, "*any target group"]:
    """z with each group exchanged.

    Args:
        others: What `without_each` gives for the old keys and values; None with one group.
        new: L and V of each group's new keys and values.
    """
    if others is None:
        return new[1]
    return others[1] + (new[1] - others[1]) * (new[0] - others[0]).sigmoid()


def inside_scores(
    graph: Graph,
    block: OpenBlock,
    taped: LayerTape,
    ablated: tuple[Tensor, Tensor],
    clean: tuple[Tensor, Tensor],
    form: Form,
    *,
    seen: tuple[Tensor, Tensor] | None = None,
) -> Float[Tensor, "pair row target source"]:
    """Scores of one layer's edges inside heads, per pair.

    Args:
        graph: The graph.
        block: The layer's block.
        taped: Activations and gradients at the point where the gradient is taken.
        ablated: Keys and values read from the ablated residual, each (pair, head, token, d_head).
        clean: Keys and values of the clean run, likewise.
        form: How; off the clean point (integrated gradients) only `linear` is meant.
        seen: Keys and values where the gradient is taken, where they are not those of the projection.
    """
    g = taped.grad_z
    assert g is not None and taped.fused is not None and taped.z is not None
    q, k, v = block.split(taped.fused)
    k, v = seen or (k, v)
    scores = block.masked(block.scores(q, k))  # pair, head, target, source
    g_v = g @ v.transpose(-1, -2)
    g_z = (g * taped.z).sum(-1, keepdim=True)
    logit_change = block.scores(q, ablated[0] - clean[0])
    return _FORMS[form](graph, scores, logit_change, g_v, g @ (clean[1] - ablated[1]).transpose(-1, -2), g_z)


def _linear(
    graph: Graph,
    scores: Tensor,
    change: Tensor,
    g_v: Tensor,
    g_dv: Tensor,
    g_z: Tensor,
    *,
    shares: tuple[float, float] = (1.0, 1.0),
) -> Tensor:
    """The linear form, of which keys and values are passed these shares."""
    pattern = scores.softmax(-1)
    keys = -pattern * change * (g_v - g_z) * shares[0]
    parts = torch.stack([keys, pattern * g_dv * shares[1]], 2)  # pair, head, keys or values, target, source
    return _fold(_over_targets(_over_sources(parts, graph), graph), graph)


def _exact(graph: Graph, scores: Tensor, change: Tensor, g_v: Tensor, g_dv: Tensor, g_z: Tensor) -> Tensor:
    """The form above as `exchanged` has it, so that nothing overflows or cancels behind a saturated softmax."""
    member = _member(graph, scores).bool()
    others = without_each(grouped(scores, g_v, member))

    def effect(values: Tensor) -> Tensor:
        return g_z - exchanged(others, grouped(scores + change, values, member))

    if graph.ports == "qkv":
        parts = torch.stack([effect(g_v), _over_sources(scores.softmax(-1) * g_dv, graph)], 2)
    else:
        parts = effect(g_v - g_dv)[:, :, None]
    return _fold(_over_targets(parts, graph), graph)


_FORMS: dict[str, Callable[..., Tensor]] = {
    "linear": _linear,
    "exact": _exact,
    "gradient": _linear,
    "pattern": partial(_linear, shares=(0.0, 1.0)),
    "half": partial(_linear, shares=(0.25, 0.5)),  # keys: half of q.k's half
}


def _member(graph: Graph, like: Tensor) -> Float[Tensor, "group token"]:
    return torch.tensor(graph.groups.one_hot(), dtype=like.dtype, device=like.device)


def _over_sources(values: Tensor, graph: Graph) -> Tensor:
    return values if graph.groups.apart else values @ _member(graph, values).T


def _over_targets(values: Tensor, graph: Graph) -> Tensor:
    return values if graph.groups.apart else _member(graph, values) @ values


def _fold(parts: Tensor, graph: Graph) -> Float[Tensor, "pair row target source"]:
    """(pair, head, part, target, source) -> the graph's inside rows, where parts and heads that share a row add up."""
    rows = torch.from_numpy(graph.inside_rows[:, : parts.shape[2]].reshape(-1).copy()).to(parts.device)
    flat = parts.flatten(1, 2)
    return flat.new_zeros(len(flat), int(rows.max()) + 1, *flat.shape[2:]).index_add(1, rows, flat)
