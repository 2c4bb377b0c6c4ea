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

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..circuits.baseline import DEFAULT_MEMORY
from ..circuits.circuit import Circuit
from ..circuits.compare.similarity import rank_correlations
from ..circuits.contrasts import image_key
from ..circuits.controls import random_masks
from ..circuits.design import one_partner_each
from ..circuits.graph import Graph
from ..circuits.nodes import overlap
from ..circuits.pairs import Pairs
from ..circuits.reach import prune
from ..circuits.run import require_model
from ..circuits.scores import By
from ..circuits.shares import FAITHFULNESS, shares_kept
from ..circuits.sizes import Size, edge_count
from ..circuits.task import Task
from ..models.errors import TaskError
from .partner_comparison import PartnerComparison
from .progress import progress_bar
from .registry import ALGORITHMS, run_algorithm

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
    algorithm: str = "eap_ig",
    options: Mapping[str, Any] | None = None,
    size: Size = 0.1,
    by: By = "auto",
    n_random: int = 10,
    n_bootstrap: int = 1000,
    seed: int = 0,
    memory: int = DEFAULT_MEMORY,
    progress: bool = False,
) -> PartnerComparison:
    """The circuits that several partners give, how much they share, and how each does under the others.

    Costs one search per partner, and per partner and evaluation pair one run for each circuit and each random one.

    Args:
        graph: The graph.
        tasks: Name -> task; the same clean images under other partners, as `partner_contrasts` makes them.
        algorithm: A registered algorithm. One that decides itself which edges stay is taken at its word: `size` and
            `by` then have no use, and circuits may differ in size.
        options: The algorithm's own.
        size: Edges of each circuit, on paths from input to logits: a count, or a share of the graph's edges below 1.
        by: How edges are ranked, also for the rank correlation.
        n_random: Random circuits beside each.
        n_bootstrap: Draws of the pairs (of crossed tasks, of the images) for the 95% intervals of what circuits keep.
        seed: Draws random circuits and bootstrap samples.
        memory: Bytes to hold at once.
        progress: Show bars on stderr.

    Raises:
        TaskError: The tasks differ in more than their partners, share images between discovery and evaluation, or
            don't take partners' values for removed edges; or there is no such algorithm or option.
        GraphError: The size is not possible, or the graph belongs to another model.
    """
    _require_comparable(graph, tasks)
    if n_random < 1:
        raise TaskError(f"n_random={n_random}: chance is what circuits are held against, so pass at least 1.")
    search = _Search(graph, algorithm, dict(options or {}), edge_count(size, graph), by, memory, progress)
    circuits = search.circuits(tasks)
    masks = [prune(graph, circuit.mask) for circuit in circuits]
    random = [random_masks(graph, mask, n_random, seed=seed + place) for place, mask in enumerate(masks)]
    judged = [
        shares_kept(
            task,
            graph,
            [*masks, *own],
            n_bootstrap=n_bootstrap,
            seed=seed,
            memory=memory,
            progress=progress,
            label=name,
        )
        for (name, task), own in zip(tasks.items(), random, strict=True)
    ]
    places, chosen = range(len(masks)), range(len(masks), len(masks) + n_random)
    return PartnerComparison(
        names=tuple(tasks),
        circuits=tuple(circuits),
        jaccard=np.array([[overlap(first, second) for second in masks] for first in masks]),
        chance=_chance(masks, random),
        rank_correlation=_rank_correlation(circuits, by),
        kept=tuple(tuple(column.kept(place) for column in judged) for place in places),
        random_kept=tuple(column.spread(chosen, _METHOD["random"]) for column in judged),
        leakage=tuple(tuple(column.leakage(place) for column in judged) for place in places),
        empty=tuple(column.empty() for column in judged),
        dropped={name: task.info.get("dropped", {}) for name, task in tasks.items()},
        method={**search.method(tasks), "n_random": n_random, "n_bootstrap": n_bootstrap, "seed": seed, **_METHOD},
    )


@dataclass(frozen=True, eq=False)
class _Search:
    """One way to find circuits, the same for all partners."""

    graph: Graph
    algorithm: str
    options: dict[str, Any]
    size: int
    by: By
    memory: int
    progress: bool

    def circuits(self, tasks: Mapping[str, Task]) -> list[Circuit]:
        """A circuit for each task."""
        found = []
        with progress_bar("searches", len(tasks), self.progress, "partner") as bar:
            for name, task in tasks.items():
                bar.set_postfix_str(name)
                shared = {"memory": self.memory, "progress": self.progress}
                result = run_algorithm(self.algorithm, self.graph, task, **shared, **self.options)
                found.append(result if isinstance(result, Circuit) else result.top(self.size, by=self.by))
                bar.update()
        return found

    def method(self, tasks: Mapping[str, Task]) -> dict[str, Any]:
        """What was done, in plain values."""
        entry, task = ALGORITHMS[self.algorithm], next(iter(tasks.values()))
        known = {name: option.default for name, option in entry.options.items()}
        return {
            "algorithm": self.algorithm,
            "options": known | self.options,
            "size": self.size if entry.finds == "scores" else "the algorithm's own",
            "by": self.by,
            "tokens": self.graph.groups.kind,
            "ports": self.graph.ports,
            "n_graph": len(self.graph),
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


def _rank_correlation(circuits: list[Circuit], by: By) -> NDArray[np.float64]:
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
