"""The lesson: circuits found where clean images show one class alone, judged where they show both.

What each had on its own task is one-sided faithfulness; whether it reads the image says transmission.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FORMER = {"objective": "metric", "start": "none", "learning_rate": 0.15, "batch": 4}
"""Learned masks as they were when clean images showed one class alone."""


@dataclass(frozen=True)
class Fooled:
    """A search on a one-sided task.

    Args:
        title: What the table calls it.
        study: Whose contrast.
        method: The algorithm.
        sizes: Shares of the edges, or numbers from 1 on.
        options: The algorithm's.
        by: How edges are ranked, where they are.
    """

    title: str
    study: str
    method: str
    sizes: tuple[float, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    by: str = "signed"


LESSON = {
    "masks-5-a": Fooled("learned masks", "deit", "learned_masks", (0.05,), {**FORMER, "steps": 300}),
    "masks-5-b": Fooled("learned masks, another seed", "deit", "learned_masks", (0.05,),
                        {**FORMER, "steps": 300, "seed": 1}),
    "masks-20": Fooled("learned masks", "deit", "learned_masks", (0.2,), {**FORMER, "steps": 150}),
    "budget-5": Fooled("budgeted pruning", "deit", "budgeted_pruning", (0.05,),
                       {"share": 0.15, "regrow_rounds": 1, "swaps": 0}),
    "relp-20": Fooled("RelP, signed", "deit", "relp", (0.2,)),
    "eap_ig-20": Fooled("EAP-IG, signed", "deit", "eap_ig", (0.2,)),
    "eap_ig-80": Fooled("EAP-IG, absolute mean", "deit", "eap_ig", (0.8, 0.95), by="abs_mean"),
    "toy-masks": Fooled("learned masks", "3v8", "learned_masks", (6, 11, 22, 44), {**FORMER, "steps": 300}),
}  # fmt: skip
