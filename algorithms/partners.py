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
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..circuits.baseline import DEFAULT_MEMORY
from ..circuits.circuit import Circuit
from ..circuits.compare.similarity import rank_correlations
from ..circuits.figures import merit, told
from ..circuits.formats.plain import plain
from ..circuits.graph import Graph
from ..circuits.judging.bootstrap import NAMES
from ..circuits.judging.controls import random_masks
from ..circuits.judging.judgement import FAITHFULNESS, Shares, shares_kept
from ..circuits.nodes import overlap
from ..circuits.reach import prune
from ..circuits.report import Figure, Table, Tabular
from ..circuits.run import require_model
from ..circuits.scores import By
from ..circuits.shown import drawable
from ..circuits.sizes import Size, edge_count
from ..circuits.tasks.contrast import image_key
from ..circuits.tasks.design import one_partner_each
from ..circuits.tasks.task import Pairs, Task
from ..circuits.words import short
from ..models.errors import TaskError
from ..models.watching import progress_bar
from .discovery import Discovery
from .estimate import say_estimate

if TYPE_CHECKING:
    import pandas

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
        shares_kept(task, graph, [*masks, *own], label=name, n_told=len(masks), **how)
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
        figures=tuple(tuple(column.figures(place) for column in judged) for place in places),
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


SCHEMA = "vitcircuits.partners/1"
NO_INTERVAL = "one search per partner; its spread would need searches on resampled pairs"


@dataclass(frozen=True, eq=False, repr=False)
class PartnerComparison(Tabular):
    """Circuits of one behaviour, one for each kind of partner.

    Args:
        names: The partners.
        circuits: What was found with each.
        jaccard: Edges that two circuits share over edges that either has, shape (circuit, circuit).
        chance: The same between a circuit and random circuits of the other's size, made of whole paths and matched by
            layer and kind, shape (circuit, circuit).
        rank_correlation: Spearman's, between the scores of all edges, shape (circuit, circuit); NaN without scores.
        kept: What each circuit (outer) keeps of the behaviour under each partner (inner), on held-out pairs:
            transmission on crossed tasks, faithfulness on one-sided ones (`measure`).
        random_kept: Under each partner, of random circuits as large as the one found with it.
        figures: As `kept`: all that a report says of reading the image, by name (`leakage`, `offset`,
            `transmission_within`, `reproduced_variation`, `right`, ...); empty on one-sided tasks.
        empty: Under each partner, T0, the transmission of no edge: what partners show of the class themselves.
        dropped: Clean images that were left out under each partner, by split and reason.
        method: How everything was obtained, in plain values.
    """

    names: tuple[str, ...]
    circuits: tuple[Circuit, ...]
    jaccard: NDArray[np.float64]
    chance: NDArray[np.float64]
    rank_correlation: NDArray[np.float64]
    kept: tuple[tuple[Figure, ...], ...]
    random_kept: tuple[Figure, ...]
    figures: tuple[tuple[Mapping[str, Figure], ...], ...]
    empty: tuple[Figure, ...]
    dropped: Mapping[str, Mapping[str, Mapping[str, int]]]
    method: Mapping[str, Any] = field(default_factory=dict)

    @property
    def measured(self) -> tuple[str, ...]:
        """Names of `figures`, under any of the partners."""
        return tuple(dict.fromkeys(name for cell in self.figures[0] for name in cell))

    def grid(self, name: str) -> tuple[tuple[Figure, ...], ...]:
        """One of `figures`, of each circuit (outer) under each partner (inner); undefined where partners have none.

        Raises:
            TaskError: There is no such figure.
        """
        known = self.measured
        if name not in known:
            raise TaskError(
                f"{name!r} is not measured here: choose one of {', '.join(known)}."
                if known
                else f"{name!r} needs clean images of both classes: make the tasks without sides='one'."
            )
        lacking = Figure(None, reason="these partners have none")
        return tuple(tuple(cell.get(name, lacking) for cell in row) for row in self.figures)

    @property
    def headline(self) -> str:
        """What was searched, and on how many pairs."""
        method = self.method
        return (
            f"{method['algorithm']}, {len(self.circuits[0].graph):,} edges, {method['n_discovery']} discovery and "
            f"{method['n_evaluation']} evaluation pairs"
        )

    @property
    def verdict(self) -> str:
        """How much the circuits found with different partners share, beside chance, in one sentence."""
        places = list(zip(*np.triu_indices(len(self.names), 1), strict=True))
        if not places:
            return "one kind of partner alone: nothing to compare"
        least = min(places, key=lambda place: self.jaccard[place])
        first, second = (self.names[place] for place in least)
        return (
            f"the circuits of {first} and {second} have least in common, Jaccard {self.jaccard[least]:.2f} "
            f"({self.chance[least]:.2f} by chance)"
        )

    def table(self) -> Table:
        """What each circuit keeps under each partner: a row for the circuit found with each, and for random ones."""
        rows = [(name, str(size), *row) for (name, size), row in zip(self.sizes.items(), self.kept, strict=True)]
        rows.append(("random", "", *self.random_kept))
        said = f"{self.measure} under each kind of partner, on held-out pairs"
        return Table(("found with", "edges", *self.names), tuple(rows), said)

    def __str__(self) -> str:
        width = max(map(len, (*self.names, "random")))
        lines = [
            self.headline,
            f"{'found with':<{width}}  {'edges':>6}  held-out {self.measure} under {', '.join(self.names)}",
        ]
        for name, circuit, row in zip(self.names, self.circuits, self.kept, strict=True):
            lines.append(f"{name:<{width}}  {len(circuit):>6}  {'  '.join(map(str, row))}")
        lines.append(f"{'random':<{width}}  {'':>6}  {'  '.join(map(str, self.random_kept))}")
        if self.crossed:
            lines.append(f"{'T0':<{width}}  {'':>6}  {'  '.join(map(str, self.empty))}")
        for place, name in enumerate(self.names):
            said = [f"{merit(key).label} {short(figure)}" for key, figure in told(self.figures[place][place]).items()]
            if said:
                lines += [f"{name} under itself: {', '.join(said[:3])},", f"  {', '.join(said[3:])}"]
        for first, second in zip(*np.triu_indices(len(self.names), 1), strict=True):
            lines.append(
                f"{self.names[first]} and {self.names[second]}: Jaccard {self.jaccard[first, second]:.2f} (by chance "
                f"{self.chance[first, second]:.2f}), rank correlation {self.rank_correlation[first, second]:.2f}"
            )
        return "\n".join(lines)

    @property
    def crossed(self) -> bool:
        """Whether the tasks were crossed."""
        return self.method.get("sides", "one") == "both"

    @property
    def measure(self) -> str:
        """What the share that circuits keep is called."""
        return NAMES["both" if self.crossed else "one"]

    @property
    def sizes(self) -> dict[str, int]:
        """Edges of each circuit, all on paths from input to logits."""
        return {name: len(circuit) for name, circuit in zip(self.names, self.circuits, strict=True)}

    def frame(self) -> pandas.DataFrame:
        """One row per figure: `measure`, `circuit` (the partner it was found with), `partner`, `value`, `low`, `high`,
        `note`.

        `partner` is the one it was judged under for what it keeps and lets through, and the other circuit's for what
        two circuits share. Of no edge, `circuit` is `none`.
        """
        import pandas

        columns = ["measure", "circuit", "partner", "value", "low", "high", "note"]
        return pandas.DataFrame(list(self._rows()), columns=columns)

    def _rows(self) -> Iterator[tuple[Any, ...]]:
        for name, size in self.sizes.items():
            yield "edges", name, "", size, None, None, "counted"
        rows = [(self.measure, name, row) for name, row in zip(self.names, self.kept, strict=True)]
        rows.append((self.measure, "random", self.random_kept))
        if self.crossed:
            rows.append((self.measure, "none", self.empty))
            for measure in self.measured:
                if measure != self.measure:
                    rows += [(measure, name, row) for name, row in zip(self.names, self.grid(measure), strict=True)]
        for measure, name, figures in rows:
            for partner, figure in zip(self.names, figures, strict=True):
                yield measure, name, partner, figure.value, figure.low, figure.high, figure.reason
        for measure in ("jaccard", "chance", "rank_correlation"):
            for (place, other), value in np.ndenumerate(getattr(self, measure)):
                yield measure, self.names[place], self.names[other], float(value), None, None, NO_INTERVAL
        for name, splits in self.dropped.items():
            for split, counts in splits.items():
                for reason, count in counts.items():
                    yield f"dropped: {reason}", name, split, count, None, None, "counted"

    def save(self, folder: str | Path) -> list[Path]:  # type: ignore[override]
        """Writes `partners.csv`, `.json`, `.svg` and `.png`, each whole or not at all, and returns their paths.

        Raises:
            FormatError: The folder cannot be written.
        """
        return self.save_all(folder, "partners")

    def record(self) -> dict[str, Any]:
        """Everything but the circuits; what is undefined is null."""
        record = {
            "schema": SCHEMA,
            "names": self.names,
            "sizes": self.sizes,
            self.measure: self.kept,
            f"random_{self.measure}": self.random_kept,
            **{name: self.grid(name) for name in self.measured},
            **({"empty_transmission": self.empty} if self.crossed else {}),
            "jaccard": self.jaccard,
            "chance": self.chance,
            "rank_correlation": self.rank_correlation,
            "no_interval": dict.fromkeys(("jaccard", "chance", "rank_correlation"), NO_INTERVAL),
            "dropped": self.dropped,
            "method": self.method,
        }
        return plain(record, non_finite="null")

    @drawable
    def draw(self, path: str | Path, *, title: str = "") -> Path:
        """Draws grids of what is kept, Jaccard and rank correlation to an .svg, .pdf or .png, and returns the path.

        Raises:
            FormatError: The ending is not known, or the file cannot be written.
        """
        from ..circuits.draw.heatmap import draw_grids

        every = [*self.kept, self.random_kept]
        kept = np.array(
            [[(cell.value, cell.low, cell.high) for cell in row] for row in every], dtype=float
        )  # None: NaN
        empty = np.full((1, len(self.names)), np.nan)
        panels = {
            f"held-out {self.measure}": kept[..., 0],
            "Jaccard of edges": np.concatenate([self.jaccard, self.chance.mean(0, keepdims=True)]),
            "rank correlation": np.concatenate([self.rank_correlation, empty]),
        }
        rows = [*(f"found with {name}, {size} edges" for name, size in self.sizes.items()), "random circuits"]
        return draw_grids(panels, rows, list(self.names), path, intervals={f"held-out {self.measure}": kept[..., 1:]})
