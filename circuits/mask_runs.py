"""Many circuits run on the same pairs, so that they can be compared.

The ablated values and the clean run are computed once per batch and shared by all masks: batches are the outer loop,
masks the inner one. Masks that occur twice run once, and the mask that keeps every edge is the clean run itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ..models.hooked import HookedViT
from ..models.watching import progress_bar
from .baseline import DEFAULT_MEMORY, Baseline
from .graph import Graph
from .memory import batch_size_for
from .run import MaskWeights, masked_logits
from .tasks.metrics import Metric
from .tasks.pairs import Pairs


@dataclass(frozen=True, eq=False)
class MaskRuns:
    """What the model said under each mask.

    Args:
        outputs: Metric of each mask on each pair, shape (mask, pair).
        clean_outputs: Metric of the clean run, shape (pair,).
        logits: Of the first masks, as many as were asked for, shape (mask, pair, class), float64 on the CPU.
        clean_logits: Of the clean run, shape (pair, class), likewise.
    """

    outputs: NDArray[np.float64]
    clean_outputs: NDArray[np.float64]
    logits: Float[Tensor, "mask pair class"]
    clean_logits: Float[Tensor, "pair class"]


def run_masks(
    vit: HookedViT,
    graph: Graph,
    masks: Sequence[NDArray[np.bool_]],
    metric: Metric,
    pairs: Pairs,
    baseline: Baseline,
    *,
    n_logits: int = 0,
    memory: int = DEFAULT_MEMORY,
    progress: bool | None = None,
    label: str = "circuits",
) -> MaskRuns:
    """The metric of every mask on every pair. Costs one clean run, the baseline's runs, and one run per mask.

    Args:
        vit: The opened model.
        graph: The graph of the masks.
        masks: Kept edges, each of shape (edge,).
        metric: Logits -> one number per pair.
        pairs: Pairs of images.
        baseline: What removed edges carry.
        n_logits: Keep the logits of the first so many masks.
        memory: Bytes to hold at once; pairs are run in batches that fit.
        progress: Show a bar on stderr; None where somebody watches.
        label: What the bar is called.
    """
    distinct, place = _distinct(masks)
    size = batch_size_for(vit, memory, copies=3.0)
    outputs, kept, clean_outputs, clean_logits = [], [], [], []
    bar = progress_bar(label, len(distinct) * -(-len(pairs) // size), progress, "run")
    with torch.no_grad(), vit.borrowed(), bar:
        for batch in pairs.batches(size):
            reference = vit(batch.clean)
            wanted = batch.wanted(reference)
            found = _one_batch(vit, graph, distinct, batch, baseline, reference, bar)
            outputs.append(_cpu(metric(found, wanted.expand_as(found)))[place])
            kept.append(_cpu(found[place[:n_logits]]))
            clean_outputs.append(_cpu(metric(reference, wanted)))
            clean_logits.append(_cpu(reference))
    return MaskRuns(
        torch.cat(outputs, 1).numpy(), torch.cat(clean_outputs).numpy(), torch.cat(kept, 1), torch.cat(clean_logits)
    )


def _one_batch(
    vit: HookedViT,
    graph: Graph,
    masks: Sequence[NDArray[np.bool_]],
    batch: Pairs,
    baseline: Baseline,
    reference: Tensor,
    bar: Any,
) -> Float[Tensor, "mask batch class"]:
    """Logits of each mask on one batch."""
    found = reference.new_empty(len(masks), *reference.shape)
    images, ablated = vit.check_images(batch.clean), baseline(batch)
    for row, mask in enumerate(masks):
        everything = bool(mask.all())
        found[row] = (
            reference if everything else masked_logits(vit, MaskWeights.from_mask(graph, mask, vit), images, ablated)
        )
        bar.update()
    return found


def _distinct(masks: Sequence[NDArray[np.bool_]]) -> tuple[list[NDArray[np.bool_]], list[int]]:
    """The different masks, and for each mask the place of its equal among them."""
    rows: dict[bytes, int] = {}
    distinct, place = [], []
    for mask in masks:
        key = hashlib.sha256(np.packbits(mask).tobytes()).digest()
        if key not in rows:
            rows[key] = len(distinct)
            distinct.append(mask)
        place.append(rows[key])
    return distinct, place


def _cpu(values: Tensor) -> Tensor:
    return values.double().cpu()
