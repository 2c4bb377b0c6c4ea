"""What the tables of docs/faithfulness.md are about: contrasts, methods, and what removed edges carry."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, get_args

import numpy as np
import torch
from exact_engine import DATA, DEIT
from vitcircuits.algorithms import eap_ig, exact_effects
from vitcircuits.circuits import Graph, Scores, Task, class_contrast, compile_graph
from vitcircuits.circuits.ablation import Kind
from vitcircuits.circuits.partners.partner import Partner
from vitcircuits.circuits.tasks.classes import parse_classes
from vitcircuits.models import HookedViT, load_vit
from vitcircuits.models.data import ImageData, load_data

SCORED = ("eap", "eap_ig", "relp", "ceap", "atp_star", "rank_ensemble", "hybrid")
METHODS = ("eap", "eap_ig", "relp", "learned_masks", "budgeted_pruning", *SCORED[3:], "acdc")
FIRST = METHODS[:5]  # at all sizes
RANKINGS = ("signed", "mean_abs", "abs_mean")
N_PARTNERS = 4  # of each class that a clean image meets where circuits are judged
LEAST = 15  # held-out images of each class for a contrast of kinds

MASKS = DATA / "cats_dogs_masks"
REMOVED: dict[str, tuple[str, str]] = {  # name -> how partners are made, and the ablation
    "swap": ("class_swap", "partner"),
    "means": ("class_swap", "mean"),
    "nearest": ("nearest", "partner"),
    "object_fill": ("object_fill", "partner"),
    "object_blur": ("object_blur", "partner"),
    "optimal": ("class_swap", "mean"),
}
LEARNED = "optimal"  # searched under means, and judged under constants that are learned for each circuit
MASKED = ("object_fill", "object_blur")


def available(removed: str) -> bool:
    """Whether the library has this ablation."""
    return REMOVED[removed][1] in get_args(Kind)


@dataclass(frozen=True)
class Study:
    """A behaviour, the sizes at which circuits of it are judged, and what single methods need to know.

    Args:
        title: What the page calls it.
        shares: Of the edges, for the first methods under class swap and means.
        few_shares: For the others.
        taus: Of ACDC, whose size cannot be asked for.
        classes: Target and foil.
        toy: A toy model's name; DeiT-Tiny without.
        data: What a toy reads.
        kinds: Images are labelled by the full model's top-1, so that they can be told into kinds.
        few: Pairs of methods that would take hours on all of them.
        options: Of methods that would take hours without.
        methods: Those that are tried.
        removed: What removed edges carry.
        seeds: Of methods with chance in them, under class swap and means.
        sizes: Images of each class at most, `n_discovery` and `n_evaluation`.
        graph: Token groups and ports, where they are not the usual ones.
        start: What learned masks start from: a key of `STARTS`.
        idea: What it tries, for a study that tries an idea on another's behaviour.
        of: Whose, a key of `STUDIES`.
    """

    title: str
    classes: tuple[Any, Any]
    shares: tuple[float, ...]
    few_shares: tuple[float, ...]
    taus: tuple[float, ...]
    toy: str = ""
    data: str = "mnist"
    kinds: bool = False
    few: Mapping[str, int] = field(default_factory=dict)
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    methods: tuple[str, ...] = METHODS
    removed: tuple[str, ...] = tuple(REMOVED)
    seeds: int = 2
    sizes: Mapping[str, int] = field(default_factory=dict)
    graph: Mapping[str, str] = field(default_factory=dict)
    start: str = ""
    idea: str = ""
    of: str = "deit"

    def compiled(self, task: Task) -> Graph:
        """The graph of the task's model."""
        return compile_graph(task.vit, **self.graph)

    def task(self, removed: str = "swap", *, sides: str = "both") -> Task:
        """The task, on images that discovery and evaluation don't share.

        Args:
            removed: A key of `REMOVED`.
            sides: `one` for clean images of the target alone.
        """
        corruption, ablation = REMOVED[removed]
        partner = Partner(corruption, mask=str(MASKS)) if removed in MASKED else Partner(corruption)
        vit = load_vit(self.toy) if self.toy else deit()
        data: Any = self.data if self.toy else named_by_the_model() if self.kinds else str(DATA / "cats_dogs")
        more: dict[str, Any] = {"data_dir": DATA / "mnist"} if self.toy else {}
        if sides == "both":
            more |= {"n_partners": N_PARTNERS, **self.sizes}
        target, foil = self.classes
        return class_contrast(
            vit, data, target=target, foil=foil, corruption=partner, ablation=ablation, sides=sides, **more
        )


@cache
def deit() -> HookedViT:
    """DeiT-Tiny."""
    return load_vit(DEIT, checkpoint=DATA / DEIT / "model.safetensors")


_DEIT = {
    "taus": (0.044, 0.02, 0.008, 0.003),
    "few": {"acdc": 8, "hybrid": 8, "budgeted_pruning": 32},
    "options": {"budgeted_pruning": {"share": 0.15, "regrow_rounds": 1, "swaps": 0}, "hybrid": {"budget": 0.25}},
}
_TOY = {
    "shares": (0.05, 0.1, 0.2, 0.4),
    "few_shares": (0.05, 0.1, 0.2, 0.4),
    "taus": tuple(float(tau) for tau in np.geomspace(3, 1e-4, 16)),
    "toy": "toy/mnist-2l",
    "removed": ("swap", "means", "nearest", "optimal"),
    "sizes": {"n_discovery": 48, "n_evaluation": 64},
}
STUDIES: dict[str, Study] = {
    "deit": Study(
        "DeiT-Tiny, cats against dogs",
        ("cats=281-285", "dogs=151-268"),
        (0.05, 0.1, 0.2, 0.4, 0.6, 0.8),
        (0.2, 0.4),
        **_DEIT,
    ),
    "kinds": Study(
        "DeiT-Tiny, tabby and tiger cats against Persian, Siamese and Egyptian cats",
        ("striped=281-282", "other_cats=283-285"),
        (0.1, 0.2, 0.4),
        (0.2, 0.4),
        kinds=True,
        methods=FIRST,
        removed=("swap", "means"),
        seeds=1,
        **_DEIT,
    ),
    "3v8": Study("toy/mnist-2l, 3 against 8", (3, 8), **_TOY),
    "4v9": Study("toy/mnist-2l, 4 against 9", (4, 9), **_TOY),
    "7v1": Study("toy/mnist-2l, 7 against 1", (7, 1), **_TOY),
}


# Ideas for smaller circuits, each tried by learned masks with the other options as they are; some by a ranking, too.


def nodes_first(graph: Graph, task: Task) -> Scores:
    """EAP-IG's edges, in the order in which the lesser of their two ends comes among heads and MLPs.

    A head's or MLP's importance is the sum of its edges' mean absolute scores, so that all edges between the n best
    come before any edge of the next.
    """
    scores = eap_ig(graph, task)
    edges = [graph.edge(place) for place in range(len(graph))]
    ends = [(edge.source.node, edge.destination.node) for edge in edges]
    importance: dict[str, float] = dict.fromkeys(("input", "logits"), np.inf)
    for pair, value in zip(ends, scores.mean_abs, strict=True):
        for end in pair:
            importance[end] = importance.get(end, 0.0) + float(value)
    least = np.array([min(importance[end] for end in pair) for pair in ends])
    order = np.lexsort((scores.mean_abs, least)).argsort() + 1.0
    return dataclasses.replace(scores, values=order, mean_abs=order.copy(), algorithm="nodes_first")


def by_exact_effects(graph: Graph, task: Task) -> Scores:
    """Exact effects of single edges on four discovery images of each class, one partner each."""
    return exact_effects(graph, one_partner(task, 4))


def one_partner(task: Task, each: int) -> Task:
    """The task with the first images of each class alone, and one pair of each."""
    design = task.discovery.design
    assert design is not None
    rows = []
    for side in design.sides:
        images = design.clean_image[design.clean_side == side].unique_consecutive()[:each].tolist()
        rows += [int(torch.nonzero(design.clean_image == image)[0]) for image in images]
    return dataclasses.replace(task, discovery=task.discovery.select(torch.tensor(rows)))


STARTS = {"nodes_first": nodes_first, "exact": by_exact_effects}


def _idea(
    idea: str,
    shares: tuple[float, ...] = (0.2, 0.4),
    of: str = "deit",
    methods: tuple[str, ...] = ("learned_masks",),
    removed: tuple[str, ...] = ("means", "swap"),
    **changes: Any,
) -> Study:
    return dataclasses.replace(
        STUDIES[of],
        title=f"{STUDIES[of].title}: {idea}",
        idea=idea,
        of=of,
        methods=methods,
        removed=removed,
        shares=shares,
        few_shares=shares,
        **changes,
    )


STUDIES |= {
    "longer": _idea("900 steps from 80% down to the size", (0.2,), options={"learned_masks": {"steps": 900}}),
    "nodes": _idea("nodes first, then the edges between them", start="nodes_first"),
    "exact": _idea("gates opened by exact effects of single edges on both sides", start="exact"),
    "head": _idea('ports="head"', graph={"ports": "head"}),
    "block": _idea('ports="block"', graph={"ports": "block"}),
    "role": _idea(
        'tokens="role"',
        methods=("learned_masks", "eap_ig"),
        removed=("means", "swap", "object_fill"),
        graph={"tokens": "role"},
    ),
}
STUDIES |= {
    f"{of}-role": _idea('tokens="role"', (0.1, 0.2, 0.4), of, graph={"tokens": "role"}) for of in ("3v8", "4v9", "7v1")
}


# Kinds of cat and breeds of dog, which the photographs don't come with.

CANDIDATES = {
    "tabby and tiger cats against Persian, Siamese and Egyptian cats": ("281-282", "283-285"),
    "tabbies against Egyptian cats": ("281", "285"),
    "retrievers against terriers": ("205-209", "179-202"),
    "Labradors against other retrievers": ("208", "205-207,209"),
}


@cache
def photographs() -> ImageData:
    """The photographs of cats and dogs."""
    return load_data(str(DATA / "cats_dogs"), deit().preprocess)


@cache
def top_classes() -> dict[str, torch.Tensor]:
    """What the full model calls each photograph, by split."""
    found = {}
    for name in ("train", "test"):
        with torch.no_grad():
            images = getattr(photographs(), name).images.split(16)
            found[name] = torch.cat([deit()(some).argmax(-1).cpu() for some in images])
    return found


def named_by_the_model() -> ImageData:
    """The photographs in three classes by the names that the full model gives them: both kinds, and the rest."""
    kinds, splits = [part.split("=") for part in STUDIES["kinds"].classes], {}
    for name, top in top_classes().items():
        labels = torch.full_like(top, len(kinds))
        for label, (_, spec) in enumerate(kinds):
            labels[torch.isin(top, torch.tensor(parse_classes(spec, deit()).indices))] = label
        splits[name] = dataclasses.replace(getattr(photographs(), name), labels=labels)
    names = (*(folder for folder, _ in kinds), "rest")
    return dataclasses.replace(photographs(), name="cats_dogs, named by the model", class_names=names, **splits)


def count_kinds() -> dict[str, dict[str, list[int]]]:
    """How many images of each side of each candidate the full model's top-1 names, (target, foil), by split."""
    found = {}
    for name, sides in CANDIDATES.items():
        classes = [torch.tensor(parse_classes(spec, deit()).indices) for spec in sides]
        counts = {split: [int(torch.isin(top, own).sum()) for own in classes] for split, top in top_classes().items()}
        found[name] = {"discovery": counts["train"], "held_out": counts["test"]}
    return found
