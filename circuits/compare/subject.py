"""One circuit under comparison: what was measured about it, by size and pair, and several as a batch for learning.

A curve holds what circuits of many sizes keep, pair by pair; size at an equal share, CPR and CMD are read off it.

    edges needed for s = the smallest measured size that keeps at least the share s of the behaviour

The share is transmission on a crossed task and normalised faithfulness on a one-sided one (`bootstrap.py`). Outputs
are held by pair, with the design of the pairs, so that every figure can be had on any resample, the same one for all
models. Sizes are those that were measured, without interpolation; the share need not rise with size, and the first
that reaches the level counts.

A batch holds the disjoint union of the circuits' graphs (`to_pyg`), whatever models they come from.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...models.errors import GraphError
from ..circuit import Circuit
from ..formats.pyg import to_pyg
from ..judging.bootstrap import NAMES, Resamples, normalised, percentiles
from ..judging.plan import area
from ..report import Curve, Figure
from .anatomy import Anatomy, describe

if TYPE_CHECKING:
    from torch_geometric.data import Batch

    from ..tasks.design import Design
    from .matching import HeadFeatures


Circuits = Sequence["Circuit | Subject"] | Mapping[str, "Circuit | Subject | Sequence[Circuit | Subject]"]
"""What `compare` takes: circuits, or kind -> the circuits of its seeds."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A circuit, and what was measured about it; `measure_subjects` in `algorithms/comparing` fills it in.

    Args:
        circuit: The circuit.
        name: What to call it.
        kind: The kind of model that it is one seed of.
        curves: Ranking -> what is kept by size, on each pair.
        heads: What the model's heads do, for matching.
        resampled: The circuits found on bootstrap resamples of the discovery pairs, for intervals.
        judged: Figures of its report, as `compared_figures` names them.
    """

    circuit: Circuit
    name: str = ""
    kind: str = ""
    curves: Mapping[str, PairCurve] = field(default_factory=dict)
    heads: HeadFeatures | None = None
    resampled: tuple[Circuit, ...] = ()
    judged: Mapping[str, Figure] = field(default_factory=dict)

    @property
    def by(self) -> str:
        """What the circuit's edges were ranked by."""
        return str(self.circuit.provenance.get("by", "signed"))

    @cached_property
    def anatomy(self) -> Anatomy:
        """How the circuit is built."""
        return describe(self.circuit)

    @cached_property
    def figures(self) -> dict[str, float]:
        """Every number that is known about the circuit by itself."""
        read = {name: float(value) for name, value in curve_figures(self.curves, self.by).items()}
        known = {name: np.nan if one.value is None else float(one.value) for name, one in self.judged.items()}
        return {**known, **self.anatomy.flat(), **read}

    def drawn(self, resamples: Resamples | None) -> dict[str, NDArray[np.float64]]:
        """The same on resamples of the pairs, (draw,): figures of the curve on the evaluation pairs given, figures of
        the anatomy on the circuits that were found again on resamples of the discovery pairs."""
        read = curve_figures(self.curves, self.by, resamples) if self.curves and resamples is not None else {}
        again = [describe(circuit).flat() for circuit in self.resampled]
        built = {name: np.array([one[name] for one in again]) for name in (again[0] if again else {})}
        return {**built, **read}


def as_subjects(circuits: Circuits) -> list[Subject]:
    """Subjects with names and kinds; circuits in a list are a kind each.

    Raises:
        GraphError: There is none, or two have one name.
    """
    if isinstance(circuits, Mapping):
        groups: dict[str, Any] = dict(circuits)
    else:
        groups = {_own_name(one) or _letter(place): one for place, one in enumerate(circuits)}
        if len(groups) < len(circuits):
            raise GraphError(
                "two subjects have one name: give each its own, such as Subject(circuit, 'clip 2', 'clip')."
            )
    found = []
    for kind, members in groups.items():
        every = [members] if isinstance(members, Circuit | Subject) else list(members)
        for place, one in enumerate(every):
            name = str(kind) if len(every) == 1 else f"{kind} {place + 1}"
            found.append(_named(one, name, str(kind)))
    if not found:
        raise GraphError("there are no circuits to compare: pass some, such as compare([first, second]).")
    return found


def _own_name(one: Circuit | Subject) -> str:
    return one.name if isinstance(one, Subject) else ""


def _letter(place: int) -> str:
    return chr(ord("A") + place) if place < 26 else f"circuit {place + 1}"


def _named(one: Circuit | Subject, name: str, kind: str) -> Subject:
    if isinstance(one, Circuit):
        return Subject(one, name, kind)
    return replace(one, name=one.name or name, kind=one.kind or kind)


Floats = NDArray[np.float64]

LEVELS = (0.5, 0.8, 0.9)


@dataclass(frozen=True, eq=False)
class PairCurve:
    """One ranking's curve on some pairs; `measure_curves` in `algorithms/comparing` makes it.

    Args:
        by: What edges were ranked by.
        n_graph: Edges of the graph.
        share: Nominal share of the edges, rising, shape (point,).
        n_edges: Edges left on paths, shape (point,).
        outputs: Metric per size and pair, shape (point, pair).
        none: Metric with no edge kept, shape (pair,).
        full: Metric with all edges, shape (pair,).
        on_grid: Points that areas are taken over, shape (point,); the others only refine sizes.
        grid: Which points these are, in words.
        ids: A number for each pair, the same for all models, shape (pair,).
        pictures: Where the pairs come from, in words: ids mean the same pictures only where these are equal.
        design: Classes and images of the pairs of a crossed task; None of a one-sided one.
    """

    by: str
    n_graph: int
    share: Floats
    n_edges: NDArray[np.int64]
    outputs: Floats
    none: Floats
    full: Floats
    on_grid: NDArray[np.bool_]
    grid: str
    ids: NDArray[np.int64]
    pictures: str = ""
    design: Design | None = None

    @property
    def n_pairs(self) -> int:
        """Number of pairs."""
        return self.outputs.shape[1]

    @property
    def name(self) -> str:
        """What the share is called: `transmission` or `faithfulness`."""
        return NAMES["one" if self.design is None else "both"]

    def resamples(self, n: int, *, seed: int) -> Resamples:
        """Bootstrap draws of its pairs, of a crossed task of its images."""
        return Resamples.of_design(self.design, self.n_pairs, n, seed=seed)

    def kept(self, resamples: Resamples | None = None) -> Floats:
        """The share kept at each size, shape (point,); or in each draw, (draw, point). NaN where it is undefined."""
        behaviour = self.resamples(0, seed=0).behaviour if resamples is None else resamples.behaviours
        none, full = (np.asarray(behaviour(values)) for values in (self.none, self.full))
        return normalised(np.asarray(behaviour(self.outputs)), none, full)

    def edges_needed(self, level: float, resamples: Resamples | None = None) -> Floats:
        """The smallest measured size that reaches a level: a number (), or one in each draw, (draw,); NaN for never."""
        reached = self.kept(resamples) >= level
        found = self.n_edges[reached.argmax(-1)].astype(np.float64)
        return np.where(reached.any(-1), found, np.nan)

    def cpr(self, resamples: Resamples | None = None) -> Floats:
        """Area under f over the nominal share: () or (draw,)."""
        return np.asarray(area(self.share[self.on_grid], self.kept(resamples)[..., self.on_grid]))

    def cmd(self, resamples: Resamples | None = None) -> Floats:
        """Area under |1 - f| over the nominal share: () or (draw,)."""
        distance = np.abs(1 - self.kept(resamples)[..., self.on_grid])
        return np.asarray(area(self.share[self.on_grid], distance))

    def at(self, rows: NDArray[np.integer]) -> PairCurve:
        """The curve on some of its pairs."""
        of_pair = {name: getattr(self, name)[rows] for name in ("none", "full", "ids")}
        design = None if self.design is None else self.design.select(rows.tolist())
        return replace(self, outputs=self.outputs[:, rows], design=design, **of_pair)

    def to_curve(self, label: str, resamples: Resamples) -> Curve:
        """For drawing, with a 95% interval over the pairs."""
        nominal = np.round(self.share * self.n_graph).astype(np.int64)
        drawn = self.kept(resamples)
        low, high = map(np.asarray, percentiles(drawn, resamples.tail)) if len(drawn) else (None, None)
        return Curve(label, nominal, self.n_edges, self.kept(), low, high)


def curve_figures(curves: Mapping[str, PairCurve], by: str, resamples: Resamples | None = None) -> dict[str, Floats]:
    """Everything that is read off a circuit's curves, each () or (draw,).

    Args:
        curves: Ranking -> curve; sizes are read off the circuit's own ranking, CPR off `signed`, CMD off `abs_mean`.
        by: The circuit's own ranking.
        resamples: Draws of the pairs.
    """
    found: dict[str, Floats] = {}
    if by in curves:
        for level in LEVELS:
            needed = curves[by].edges_needed(level, resamples)
            found[f"edges for {curves[by].name} {level:g}"] = needed
            found[f"share of edges for {curves[by].name} {level:g}"] = needed / curves[by].n_graph
    if "signed" in curves:
        found["CPR"] = curves["signed"].cpr(resamples)
    if "abs_mean" in curves:
        found["CMD"] = curves["abs_mean"].cmd(resamples)
    return found


def circuit_batch(circuits: Circuits, *, figures: Sequence[str] | None = None) -> Batch:
    """The circuits as one batch.

    Beside what `to_pyg` gives each graph, and `batch` and `ptr`:

    - `statistics` (circuit, figure): float64; NaN where a figure is not known of a circuit.
    - `kind` (circuit,): index into `kind_names`.
    - `circuit_name`, one per circuit; `figure_names` and `kind_names`, once for all.

    Args:
        circuits: As `compare` takes them.
        figures: Which figures; all by default.

    Raises:
        GraphError: There is no circuit.
    """
    with warnings.catch_warnings():  # torch-geometric's own use of torch warns on import
        warnings.simplefilter("ignore")
        import torch
        from torch_geometric.data import Batch

    subjects = as_subjects(circuits)
    names = list(figures or dict.fromkeys(name for subject in subjects for name in subject.figures))
    kinds = list(dict.fromkeys(subject.kind for subject in subjects))
    graphs = []
    for subject in subjects:
        data = to_pyg(subject.circuit)
        data.statistics = torch.tensor(
            [[_value(subject.figures, name) for name in names]], dtype=torch.float64, device="cpu"
        )
        data.kind = torch.tensor([kinds.index(subject.kind)], device="cpu")
        data.circuit_name = subject.name
        graphs.append(data)
    batch = Batch.from_data_list(graphs)
    for name, values in (("figure_names", names), ("kind_names", kinds)):
        setattr(batch, name, values)
    return batch


def _value(figures: Mapping[str, float], name: str) -> float:
    return figures.get(name, float("nan"))
