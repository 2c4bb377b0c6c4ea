"""How many pairs edge attribution holds at once under a budget of bytes."""

from __future__ import annotations

import torch

from ...circuits.ablation import Ablation
from ...circuits.graph import Graph
from ...models.hooked import HookedViT
from .contraction import CHUNK_BYTES

TENSOR_SHARE = 0.7
"""Share of the budget that tensors may take; the rest is what the allocator keeps from those it has freed."""


def pairs_at_once(
    graph: Graph,
    vit: HookedViT,
    memory: int,
    *,
    points: int,
    freeze_norm: bool,
    ablation: Ablation,
    kept: float = 0.0,
) -> int:
    """Pairs whose tapes, deltas and gradients fit into `memory` bytes above the model and the images; at least 1.

    Counted in arrays of one residual's size for each block. The factors cover what was measured at the worst moment:
    the end of the last point's forward pass (13.5 for EAP on ViT-B/16, 19.4 for EAP-IG).

    Args:
        graph: The graph.
        vit: The opened model.
        memory: Bytes.
        points: Points on the path; 1 for EAP.
        freeze_norm: Whether the norms' radial parts are left out.
        ablation: What removed edges carry.
        kept: Further arrays of one residual's size that are held for each block.
    """
    cfg, tokens = vit.cfg, vit.cfg.tokens.n_tokens
    inside = len(graph.groups) > 1
    arrays = kept + 10 + cfg.d_mlp / cfg.d_model + 6 * (points > 1) + (not freeze_norm) * points + 8 * inside
    floats = arrays * cfg.n_layers * tokens * cfg.d_model
    floats += inside * 8 * cfg.n_heads * tokens**2  # patterns of one block
    floats += 2 * len(graph) * (len(graph.groups) > 1)  # scores, some of them in float64
    if ablation.kind == "noise":
        floats += 3 * graph.n_sources * tokens * cfg.d_model  # drawn for every source
    element = torch.finfo(vit.dtype).bits // 8
    weights = cfg.n_layers * 4 * cfg.d_model * cfg.n_heads * cfg.d_head * element
    return max(1, int((TENSOR_SHARE * memory - CHUNK_BYTES - weights) // (floats * element)))
