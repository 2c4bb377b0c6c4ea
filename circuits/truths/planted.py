"""Tasks on models whose circuit is known, for checking algorithms.

Scores and circuits against a known truth.

ROC-AUC is the chance that a true edge scores higher than a false one, ties counting half; average precision is the mean
over true edges of the precision at each one's rank. Both look at all edges, after a noise floor: what is below 1e-5 of
the largest score counts as 0, so that rounding does not outrank exact zeros.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...models.data import ImageData, Split
from ...models.errors import GraphError, TaskError
from ...models.planted.vit import PlantedViT
from ..ablation import Ablation, as_ablation
from ..circuit import Circuit
from ..graph import Graph
from ..names import End, parse_edge
from ..scores import Scores
from ..tasks.contrast import class_contrast
from ..tasks.metrics import Metric, MetricKind
from ..tasks.task import Pairs, Task
from ..token_parts import groups_of


def planted_task(
    vit: PlantedViT,
    *,
    n: int = 64,
    seed: int = 0,
    ablation: Ablation | str = "partner",
    metric: MetricKind | str = "logit_difference",
    sides: Literal["both", "one"] = "one",
) -> Task:
    """A task that asks what tells a planted model's last class from the others.

    One-sided, clean images show the last class and partners any other; the two are independent otherwise. So there is
    something to explain in every pair and an exact effect is never negative: with clean images of all classes a true
    edge's effects can cancel to exactly 0 (measured: a ROC-AUC of .92 for exact effects on neighbour-xor). A truth is
    known here, and algorithms are held against it, so one-sided is the default. Crossed (`design.py`), clean images and
    partners show the last class or any other, n images of each.

    Args:
        vit: A planted model.
        n: Pairs for discovery, and as many for evaluation; of a crossed task images of each class. They share no image.
        seed: Draws them.
        ablation: What a removed edge carries.
        metric: Of the last class against the others.
        sides: `one` or `both`.

    Raises:
        TaskError: n is below 1, or a choice is not known.
    """
    if n < 1:
        raise TaskError(f"{n} pairs were asked for: pass n of at least 1, such as n=64.")
    *foil, target = range(vit.cfg.n_classes)
    data = vit.images(seed=seed)
    if sides == "both":
        return class_contrast(
            vit,
            data,
            target=target,
            foil=tuple(foil),
            metric=metric,
            ablation=ablation,
            n_discovery=n,
            n_evaluation=n,
            seed=seed,
        )
    generator = torch.Generator().manual_seed(seed)
    discovery, evaluation = (_pairs(split, target, n, generator) for split in (data.train, data.test))
    info = {"metric": metric, "sides": "one", "seed": seed, "n_discovery": n, "n_evaluation": n, **_info(vit, data)}
    return Task(vit, Metric(metric, (target,), tuple(foil)), discovery, evaluation, as_ablation(ablation), info)


def _info(vit: PlantedViT, data: ImageData) -> dict[str, Any]:
    *foil, target = range(vit.cfg.n_classes)
    return {
        "model": vit.cfg.name,
        "target": [target],
        "foil": foil,
        "target_name": vit.class_names[target],
        "foil_name": "any other",
        "data": data.name,
        "data_digest": data.digest,
        "corruption": "class_swap",
        "dropped": {name: {"clean_wrong": 0, "partner_not_lower": 0} for name in ("discovery", "evaluation")},
    }


def _pairs(split: Split, target: int, n: int, generator: torch.Generator) -> Pairs:
    clean = _draw(split.labels == target, n, generator)
    return Pairs(split.images[clean], split.images[_draw(split.labels != target, n, generator)], split.labels[clean])


def _draw(allowed: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """n rows of those allowed, each drawn by itself."""
    rows = torch.nonzero(allowed).flatten()
    return rows[torch.randint(0, len(rows), (n,), generator=generator, device="cpu")]


Bools = NDArray[np.bool_]

NOISE_FLOOR = 1e-5


def truth_mask(graph: Graph, names: Iterable[str]) -> Bools:
    """True edges as a mask, shape (edge,). Names of `qkv` ports are folded to those of the graph's.

    An edge of a coarser graph is true if one of the edges folded into it is: `a0.h1->a1.h0<q>` makes `a0.h1->a1.h0`
    true at `head` ports, and `a0.h1->a1` at `block` ports.

    Args:
        graph: A graph of the model, with the tokens that the names were made for.
        names: Edge names, such as `vit.truth()`.

    Raises:
        GraphError: A name is not an edge of the graph, also after folding.
    """
    mask = np.zeros(len(graph), dtype=bool)
    for name in names:
        mask[_index(graph, name, _fold(name, graph))] = True
    return mask


def planted_truth(graph: Graph, vit: PlantedViT, pairs: Pairs | None = None) -> Bools:
    """The true edges of a planted model under other images' values, at any token groups, as a mask, shape (edge,).

    Args:
        graph: A graph of the model.
        vit: The planted model.
        pairs: Over `tokens="mask"`, the pairs: an edge is true if it is so with the groups of one of them.

    Raises:
        ModelError: No truth is known with several token groups.
        TaskError: The groups are those of masks, and the pairs have none.
    """
    if graph.groups.per_pair and pairs is None:
        raise TaskError('over tokens="mask" the truth differs from pair to pair: pass the pairs.')
    partitions = np.array([graph.groups.of_token]) if pairs is None else groups_of(graph, pairs).unique(dim=0).numpy()
    found = np.zeros(len(graph), dtype=bool)
    for names in np.array(graph.groups.names)[partitions].tolist():
        found |= truth_mask(graph, vit.truth("partner", names))
    return found


def _index(graph: Graph, name: str, folded: str) -> int:
    try:
        return graph.index(folded)
    except GraphError as error:
        raise GraphError(
            f"the true edge {name!r} is not in {graph}: take the truth for its tokens, such as "
            f'vit.truth("partner", tokens={graph.groups.kind!r}), and the graph of the same model.'
        ) from error


def _fold(name: str, graph: Graph) -> str:
    """An edge's name at the graph's ports: what attention reads is folded, sources stay heads."""
    source, destination = parse_edge(name)
    inside = source.node == destination.node
    ends = (_reader(source, graph) if inside else source, _reader(destination, graph))
    return f"{ends[0]}->{ends[1]}" if graph.ports != "qkv" else name


def _reader(end: End, graph: Graph) -> End:
    """A head's port, or the head itself inside attention, as the graph's ports have it."""
    if end.kind != "head":
        return end
    return End("attention", end.layer, group=end.group) if graph.ports == "block" else replace(end, port="")


def roc_auc(values: NDArray[np.float64], truth: Bools) -> float:
    """The chance that a true edge scores higher than a false one, ties half; NaN where one of the two is missing.

    Args:
        values: What edges are ranked by, shape (edge,), such as `scores.ranking_values("mean_abs")`.
        truth: True edges, shape (edge,).
    """
    values = _floored(values)
    true, false = values[truth][:, None], values[~truth][None, :]
    if not true.size or not false.size:
        return float("nan")
    return float(np.mean((true > false) + 0.5 * (true == false)))


def average_precision(values: NDArray[np.float64], truth: Bools) -> float:
    """Mean over true edges of the share of true ones among the edges that score at least as high; NaN without any."""
    values = _floored(values)
    above = values[None, :] >= values[truth][:, None]
    return float(np.mean(above[:, truth].sum(1) / above.sum(1))) if truth.any() else float("nan")


def precision_at_size(values: NDArray[np.float64], truth: Bools) -> float:
    """Share of true edges among the |truth| highest, which is the recall too; edges tied at the end count in part."""
    values, size = _floored(values), int(truth.sum())
    if size == 0:
        return float("nan")
    last = np.sort(values)[-size]
    above, tied = values > last, values == last
    share = (size - above.sum()) / tied.sum()
    return float(((above & truth).sum() + share * (tied & truth).sum()) / size)


@dataclass(frozen=True)
class Match:
    """How a set of edges compares with the true one.

    Args:
        precision: Share of the set that is true; 1 for an empty set.
        recall: Share of the truth that is in the set.
        size: Edges in the set.
    """

    precision: float
    recall: float
    size: int

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def match(mask: Bools, truths: Sequence[Bools]) -> Match:
    """A circuit's mask against the nearest of several true ones (majority has three), by F1."""
    found = [_match(mask, truth) for truth in truths]
    return max(found, key=lambda one: one.f1)


def _match(mask: Bools, truth: Bools) -> Match:
    both = int((mask & truth).sum())
    return Match(both / int(mask.sum()) if mask.any() else 1.0, both / int(truth.sum()), int(mask.sum()))


@dataclass(frozen=True)
class Judgement:
    """What an algorithm found, against the truth. For a circuit without a ranking the first three are None.

    Args:
        roc_auc: By the absolute value of the mean over pairs.
        roc_auc_per_pair: By the mean over pairs of absolute values.
        average_precision: By the better of the two.
        precision: At the true size for scores; of the set as it is for a circuit.
        recall: Likewise.
        size: Edges that precision and recall are taken over.
    """

    roc_auc: float | None
    roc_auc_per_pair: float | None
    average_precision: float | None
    precision: float
    recall: float
    size: int


def judge(found: Scores | Circuit, truths: Sequence[Iterable[str]]) -> Judgement:
    """What an algorithm found, against the truth.

    Args:
        found: Scores, ranked against the union of the truths; or a circuit, set against the nearest of them.
        truths: True edges by name: `vit.minimal_circuits(tokens)`.

    Raises:
        GraphError: A name is not an edge of the graph.
    """
    masks = [truth_mask(found.graph, names) for names in truths]
    if isinstance(found, Circuit):
        one = match(found.mask, masks)
        return Judgement(None, None, None, one.precision, one.recall, one.size)
    union = np.logical_or.reduce(masks)
    mean, per_pair = (found.ranking_values(by) for by in ("abs_mean", "mean_abs"))
    precise = max(precision_at_size(values, union) for values in (mean, per_pair))
    return Judgement(
        roc_auc(mean, union),
        roc_auc(per_pair, union),
        max(average_precision(values, union) for values in (mean, per_pair)),
        precise,
        precise,
        int(union.sum()),
    )


def _floored(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values with rounding errors put to exactly 0."""
    size = np.abs(values)
    return np.where(size < NOISE_FLOOR * size.max(initial=0.0), 0.0, values)
