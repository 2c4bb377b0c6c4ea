"""A head with several token groups sees its own keys and values of some, and of others the ablated residual's."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from ...models.blocks import OpenBlock


def blend(
    block: OpenBlock,
    ports: tuple[Tensor, Tensor, Tensor],
    ablated: tuple[Tensor, Tensor],
    kept: tuple[Tensor, Tensor],
    tokens: slice,
) -> Float[Tensor, "*any target d_head"]:
    """Weighted values under two masks (target token, source token), each between the ablated run's (0) and this one's.

    Args:
        block: The block.
        ports: This run's q (at some tokens), k and v.
        ablated: The keys and values that are read from the ablated residual.
        kept: The masks of keys and values.
        tokens: Where the queries stand.
    """
    (q, k, v), (k_ablated, v_ablated), (keys, values) = ports, ablated, kept
    scores = block.scores(q, k) * keys + block.scores(q, k_ablated) * (1 - keys)
    pattern = block.masked(scores, tokens).softmax(-1)
    return (pattern * values) @ v + (pattern * (1 - values)) @ v_ablated
