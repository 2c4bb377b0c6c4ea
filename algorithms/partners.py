"""The same behaviour, the same images, other partners: what of a circuit is the behaviour's, and what the partner's.

1. One search for each partner, by one algorithm, on the same clean discovery images.
2. From each the circuit of one size: `scores.top(size)`.
3. Every circuit judged under every partner on the same clean evaluation images.

What a circuit keeps is transmission on crossed tasks, with what the partners show of the class themselves (T0) taken
off and T0 said beside it, and faithfulness on one-sided ones. A circuit that keeps the behaviour under its own partner
only explains how the model tells the image from that partner. Read a column, not a row: within a column the partner is
one and the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..circuits.baseline import DEFAULT_MEMORY
from ..circuits.circuit import Circuit
from ..circuits.compare.similarity import rank_correlations
from ..circuits.graph import Graph
from ..circuits.judging.controls import random_masks
from ..circuits.judging.shares import FAITHFULNESS, Shares, shares_kept
from ..circuits.nodes import overlap
from ..circuits.reach import prune
from ..circuits.run import require_model
from ..circuits.scores import By
from ..circuits.sizes import Size, edge_count
from ..circuits.tasks.contrasts import image_key
from ..circuits.tasks.design import one_partner_each
from ..circuits.tasks.pairs import Pairs
from ..circuits.tasks.task import Task
from ..models.errors import TaskError
from ..models.watching import progress_bar
from .discovery import Discovery
from .estimate import say_estimate
from .partner_comparison import PartnerComparison

if TYPE_CHECKING:
    from .discovery import Algorithm

SHARE = 0.1  # of the edges, where nothing is said

_ABOUT = ("model", "target", "foil", "target_name", "foil_name", "data", "data_digest", "seed")
Masks = list[NDArray[np.bool_]]
_METHOD = {
    "faithfulness": FAITHFULNESS,
    "transmission": "T over clean images of evaluation that the model gets right, (T - T0) / (1 - T0) where partners "
    "are made from or chosen for their image; T0 is that of no edge",
    "random": "mean over random circuits as large as the partner's own, of whole paths, matched by layer and kind; "
    "interval: the middle 95% of the draws",
    "chance": "mean Jaccard of one circuit with random circuits of the other's size, made as above, both ways",
}


def compare_partners(
    graph: Graph,
    tasks: Mapping[str, Task],
    *,
    algorithm: Discovery | Algorithm = "eap_ig",
    options: Mapping[str, Any] | None = None,
    size: Size | None = None,
    by: By | str = "auto",
    n_random: int = 10,
    n_bootstrap: int = 1000,
    seed: int = 0,
    memory: int = DEFAULT_MEMORY,
    progress: bool | None = None,
) -> PartnerComparison:
    """The circuits that several partners give, how much they share, and how each does under the others.

    Costs one search per partner, and per partner and evaluation pair one run for each circuit and each random one.

    Args:
        graph: The graph.
        tasks: Name -> task; the same clean images under other partners, as `partner_contrasts` makes them.
        algorithm: A registered algorithm, a function (graph, task, *, options) -> Scores or Circuit, or a `Discovery`,
            which has size, ranking and options of its own. Circuits of one that takes no size may differ in size.
        options: The algorithm's own.
        size: Edges of each circuit, on paths from input to logits: a count, or a share of the graph's edges below 1
            (.1 where the algorithm takes a size, or scores edges).
        by: How edges are ranked, also for the rank correlation.
        n_random: Random circuits beside each.
        n_bootstrap: Draws of the pairs (of crossed tasks, of the images) for the 95% intervals of what circuits keep.
        seed: Draws random circuits and bootstrap samples.
        memory: Bytes to hold at once.
        progress: Show bars on stderr; None where somebody watches.

    Raises:
        TaskError: The tasks differ in more than their partners, share images between discovery and evaluation, or
            don't take partners' values for removed edges; or there is no such algorithm or option.
        GraphError: The size is not possible, or the graph belongs to another model.
    """
    _require_comparable(graph, tasks)
    if n_random < 1:
        raise TaskError(f"n_random={n_random}: chance is what circuits are held against, so pass at least 1.")
    discovery = sized(Discovery.on(graph, algorithm, options or {}, by=by, size=size))
    say_estimate(next(iter(tasks.values())), discovery, searches=len(tasks), progress=progress)
    circuits = []
    with progress_bar("searches", len(tasks), progress, "partner") as bar:
        for name, task in tasks.items():
            bar.set_postfix_str(name)
            circuits.append(discovery.find(task, graph, memory=memory, progress=progress))
            bar.update()
    masks = [prune(graph, circuit.mask) for circuit in circuits]
    random = [random_masks(graph, mask, n_random, seed=seed + place) for place, mask in enumerate(masks)]
    how: dict[str, Any] = {"n_bootstrap": n_bootstrap, "seed": seed, "memory": memory, "progress": progress}
    judged = [
        shares_kept(task, graph, [*masks, *own], label=name, **how)
        for (name, task), own in zip(tasks.items(), random, strict=True)
    ]
    method = _method(discovery, graph, tasks) | {"n_random": n_random, "n_bootstrap": n_bootstrap, "seed": seed}
    return _compared(tasks, circuits, random, judged, {**method, **_METHOD})


def _compared(
    tasks: Mapping[str, Task],
    circuits: list[Circuit],
    random: list[Masks],
    judged: list[Shares],
    method: Mapping[str, Any],
) -> PartnerComparison:
    """What circuits share and keep; `judged` has a column for each partner: the circuits, then its random ones."""
    masks = [prune(circuit.graph, circuit.mask) for circuit in circuits]
    places, chosen = range(len(masks)), range(len(masks), len(masks) + len(random[0]))
    return PartnerComparison(
        names=tuple(tasks),
        circuits=tuple(circuits),
        jaccard=np.array([[overlap(first, second) for second in masks] for first in masks]),
        chance=_chance(masks, random),
        rank_correlation=_rank_correlation(circuits, method["by"]),
        kept=tuple(tuple(column.kept(place) for column in judged) for place in places),
        random_kept=tuple(column.spread(chosen, _METHOD["random"]) for column in judged),
        leakage=tuple(tuple(column.leakage(place) for column in judged) for place in places),
        empty=tuple(column.empty() for column in judged),
        dropped={name: task.info.get("dropped", {}) for name, task in tasks.items()},
        method=dict(method),
    )


def sized(discovery: Discovery) -> Discovery:
    """A discovery of circuits of one size: a tenth of the edges, where it takes a size and none is given."""
    given = discovery.size is not None or discovery.threshold is not None or discovery.level is not None
    decides = discovery.finds_circuits and not discovery.takes("size")
    return discovery if given or decides else dataclasses.replace(discovery, size=SHARE)


def _method(discovery: Discovery, graph: Graph, tasks: Mapping[str, Task]) -> dict[str, Any]:
    """What was done, in plain values."""
    task = next(iter(tasks.values()))
    return {
        "algorithm": discovery.name,
        "options": dict(discovery.options),
        "size": "the algorithm's own" if discovery.size is None else edge_count(discovery.size, graph),
        "by": discovery.by,
        "tokens": graph.groups.kind,
        "ports": graph.ports,
        "n_graph": len(graph),
        "metric": task.metric.kind,
        "sides": task.sides,
        "n_discovery": len(task.discovery),
        "n_evaluation": len(task.evaluation),
        "partners": {name: _described(task) for name, task in tasks.items()},
        "task": {key: value for key, value in task.info.items() if key in _ABOUT},
    }


def _chance(masks: Masks, random: list[Masks]) -> NDArray[np.float64]:
    """Mean Jaccard of each circuit with random ones of the other's size, both ways."""
    one_way = [[np.mean([overlap(mask, draw) for draw in draws]) for draws in random] for mask in masks]
    return (np.array(one_way) + np.array(one_way).T) / 2


def _rank_correlation(circuits: list[Circuit], by: Any) -> NDArray[np.float64]:
    """Spearman's correlation of the scores of all edges; NaN where there are none."""
    values = np.full((len(circuits), len(circuits[0].graph)), np.nan)
    for row, circuit in zip(values, circuits, strict=True):
        if circuit.scores is not None:
            row[:] = circuit.scores.ranking_values(by)
    return rank_correlations(values)


def _described(task: Task) -> dict[str, Any]:
    """What a task's record says about its partners."""
    about = ("corruption", "mask", "word")
    return {key: value for key, value in task.info.items() if key.startswith(about)}


def _require_comparable(graph: Graph, tasks: Mapping[str, Task]) -> None:
    """Does nothing if only the partners differ, and no image that circuits are found on is one they are judged on."""
    if not tasks:
        raise TaskError("there are no tasks to compare: make them by partner_contrasts.")
    first = next(iter(tasks.values()))
    for name, task in tasks.items():
        require_model(task.vit, graph)
        if task.ablation.kind != "partner":
            raise TaskError(
                f"under the ablation {task.ablation} of {name!r} removed edges don't carry the partner's values, so "
                f"partners cannot be compared: pass task.with_ablation('partner')."
            )
        same = task.metric == first.metric and all(
            torch.equal(_clean_images(getattr(task, split)), _clean_images(getattr(first, split)))
            for split in ("discovery", "evaluation")
        )
        if not same:
            raise TaskError(f"{name!r} has other clean images or another metric: make the tasks by partner_contrasts.")
    found, judged = ({image_key(image) for image in _images(tasks, split)} for split in ("discovery", "evaluation"))
    if found & judged:
        raise TaskError(
            f"{len(found & judged)} images stand in the discovery pairs of one partner and in the evaluation pairs of "
            f"another: a circuit must be judged on images that it was not found on. Leave them out of one of the two."
        )


def _clean_images(pairs: Pairs) -> Tensor:
    """Each clean image once."""
    return pairs.clean if pairs.design is None else pairs.clean[one_partner_each(pairs.design)]


def _images(tasks: Mapping[str, Task], split: str) -> Iterator[Tensor]:
    for task in tasks.values():
        pairs = getattr(task, split)
        shared = len(pairs) > 1 and bool((pairs.corrupt == pairs.corrupt[:1]).all())  # a mean image is nobody's
        yield from pairs.clean
        yield from [] if shared else pairs.corrupt
