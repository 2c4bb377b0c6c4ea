"""Control searches judged: what each circuit transmits, and the selectivity of the true one.

Each circuit is held against the true model's answers on images that no search saw.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..circuits.baseline import make_baseline
from ..circuits.circuit import Circuit
from ..circuits.graph import Graph
from ..circuits.judging.bootstrap import Resamples, divide
from ..circuits.judging.transmission import Crossed
from ..circuits.report import Figure, Table, Tabular
from ..circuits.run import run_masks
from ..circuits.tasks.task import Pairs, Task
from ..circuits.tasks.taught import full_answers

if TYPE_CHECKING:
    import pandas


SCHEMA = "vitcircuits.control_searches/1"
TRUE = "true"
"""Name of the search that is controlled for."""
PERMUTED = "permuted_labels"

_METHOD = "T: of the true classes, on held-out images; taught: T towards what was taught, on discovery images"


@dataclass(frozen=True, eq=False)
class Searched:
    """The circuit of one search, judged.

    Args:
        name: `true`, or the control.
        circuit: What was found.
        transmission: T of the true classes on held-out images, over the true model's.
        taught: T towards the answers that the search was taught, on the discovery images.
        draws: Bootstrap draws of the one of the two that counts for selectivity, (draw,).
    """

    name: str
    circuit: Circuit
    transmission: Figure
    taught: Figure
    draws: NDArray[np.float64]

    @property
    def counted(self) -> Figure:
        """What counts for selectivity: T held out; of permuted labels, which have no truth there, what was taught."""
        return self.taught if self.name == PERMUTED else self.transmission


@dataclass(frozen=True, eq=False, repr=False)
class ControlSearches(Tabular):
    """A search and its controls.

    Args:
        searches: The true search, then the controls.
        selectivity: T of the true search less the largest of what counts of the controls.
        left_out: Controls that could not be made -> why.
        method: How everything was obtained, in plain values.
    """

    searches: tuple[Searched, ...]
    selectivity: Figure
    left_out: Mapping[str, str]
    method: Mapping[str, Any]

    def __getitem__(self, name: str) -> Searched:
        return {one.name: one for one in self.searches}[name]

    @property
    def headline(self) -> str:
        """What was searched, and the selectivity."""
        method = self.method
        edges = f"{method['n_edges'] or 0:,} of {method['n_graph']:,} edges"
        kept = f"{method['size']} heads and MLPs" if method["n_edges"] is None else edges
        return (
            f"{method['algorithm']}, {kept}, judged on {method['n_held_out_images']} images: "
            f"selectivity {self.selectivity}"
        )

    @property
    def caveat(self) -> str:
        """The controls that are not there."""
        return "\n".join(f"  {name}: left out, {why}" for name, why in self.left_out.items())

    def __str__(self) -> str:
        table = "\n".join(f"  {line}" for line in str(self.table()).split("\n"))
        return "\n".join(filter(None, (self.headline, table, self.caveat)))

    def table(self) -> Table:
        """A row for each search: edges, T held out, and T towards what was taught."""
        rows = tuple((one.name, str(len(one.circuit)), one.transmission, one.taught) for one in self.searches)
        return Table(("search", "edges", "T", "taught"), rows, _METHOD)

    def frame(self) -> pandas.DataFrame:
        """One row per figure: `search`, `measure` (`transmission`, `taught`, `selectivity`), `edges`, `value`, `low`,
        `high`, `note`.
        """
        import pandas

        columns = ["search", "measure", "edges", "value", "low", "high", "note"]
        return pandas.DataFrame(list(self._rows()), columns=columns)

    def _rows(self) -> Iterator[tuple[Any, ...]]:
        for one in self.searches:
            for measure, figure in (("transmission", one.transmission), ("taught", one.taught)):
                yield one.name, measure, len(one.circuit), figure.value, figure.low, figure.high, figure.reason
        figure = self.selectivity
        yield TRUE, "selectivity", len(self[TRUE].circuit), figure.value, figure.low, figure.high, figure.reason
        for name, why in self.left_out.items():
            yield name, "transmission", None, None, None, None, why

    def record(self) -> dict[str, Any]:
        """Every figure, and the edges of every circuit."""
        return {
            "schema": SCHEMA,
            "method": dict(self.method),
            "selectivity": self.selectivity,
            "searches": [
                {"name": one.name, "transmission": one.transmission, "taught": one.taught}
                | {"edges": one.circuit.edge_names()}
                for one in self.searches
            ],
            "left_out": dict(self.left_out),
        }


Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Yardstick:
    """What circuits are held against on some pairs.

    Args:
        pairs: The pairs, as the ablation needs them.
        full: The metric of the answers that count as right, (pair,).
        none: That of the true model with no edge kept, (pair,).
        resamples: Draws of the images.
        interchange: Whether removed edges carry the partner's values.
    """

    pairs: Pairs
    full: Floats
    none: Floats
    resamples: Resamples
    interchange: bool

    @property
    def shown(self) -> bool:
        """Whether partners may show the clean image's class themselves."""
        assert self.pairs.design is not None
        return self.pairs.design.follows and self.interchange

    def beyond(self, kept: Floats, none: Floats) -> Floats:
        """A circuit's metric, less the same model's with no edge where partners may show the class, (pair,)."""
        return kept - none if self.shown else kept

    def draws(self, beyond: Floats) -> Floats:
        """What that transmits of the classes over the true model's, in each draw of the images, (draw,)."""
        below = self.beyond(self.full, self.none)
        return divide(self.resamples.behaviours(beyond), self.resamples.behaviours(below))

    def share(self, beyond: Floats) -> Figure:
        """The same over all images, with its interval."""
        assert self.pairs.design is not None
        whole = Crossed(self.pairs.design, self.full, self.full, self.none, self.resamples, self.interchange)
        if (undefined := whole.headline()).value is None:
            return undefined
        wanted = self.beyond(self.full, self.none)
        return dataclasses.replace(whole, circuit=beyond, clean=wanted).transmission()


@dataclass(frozen=True, eq=False)
class ControlJudge:
    """Judges circuits of the true model and of control models.

    Args:
        task: The true task.
        graph: The graph.
        n_bootstrap: Draws of the images.
        seed: Of the draws.
        memory: Bytes to hold at once.
    """

    task: Task
    graph: Graph
    n_bootstrap: int
    seed: int
    memory: int

    @cached_property
    def held_out(self) -> Yardstick:
        """On the evaluation pairs whose clean image the true model gets right (all of them if it gets none right)."""
        pairs = self.task.evaluation.under(self.task.ablation)
        assert pairs.design is not None
        right = pairs.select(torch.nonzero(pairs.design.right).flatten()) if bool(pairs.design.right.any()) else pairs
        assert right.design is not None
        return self._yardstick(right if right.design.sided else pairs, self.seed)

    def _yardstick(self, pairs: Pairs, seed: int) -> Yardstick:
        task, metric = self.task, self.task.metric.response
        full = metric(full_answers(task.vit, pairs) if pairs.answers is None else pairs.answers).numpy()
        none = self._outputs(task, np.zeros(len(self.graph), dtype=bool), pairs)[0]
        resamples = Resamples.of(pairs, self.n_bootstrap, seed=seed)
        return Yardstick(pairs, full, none, resamples, task.ablation.kind == "partner")

    def _outputs(self, task: Task, mask: NDArray[np.bool_], pairs: Pairs) -> tuple[Floats, Floats]:
        """The metric under a mask and with no edge kept, each (pair,), in a task's own model."""
        baseline = make_baseline(task.vit, task.ablation, task.reference, memory=self.memory)
        masks = [mask, np.zeros_like(mask)]
        runs = run_masks(task.vit, self.graph, masks, task.metric.response, pairs, baseline, memory=self.memory)
        return runs.outputs[0], runs.outputs[1]

    def judge(self, name: str, taught: Task, circuit: Circuit) -> Searched:
        """The circuit that a search found on a task: what it transmits held out, and what it was taught.

        Args:
            name: Of the search.
            taught: The task that it was found on.
            circuit: The circuit.
        """
        learned = self._yardstick(taught.searched, self.seed + 1)  # other images: draws of their own
        sticks = (self.held_out, learned)
        answers = [stick.beyond(*self._outputs(taught, circuit.mask, stick.pairs)) for stick in sticks]
        figures = [stick.share(found) for stick, found in zip(sticks, answers, strict=True)]
        said = f"towards what was taught, on discovery images: {figures[1].method}"
        counted = int(name == PERMUTED)
        draws = sticks[counted].draws(answers[counted])
        return Searched(name, circuit, figures[0], dataclasses.replace(figures[1], method=said), draws)

    def selectivity(self, searches: Sequence[Searched]) -> Figure:
        """T of the true search less the largest of what counts of the controls, with the interval of the differences.

        A control below 0 counts as 0, which no edge at all transmits. The largest is taken at the point estimate and
        stays so in all draws, which are the same draws of images for all searches that are judged held out.
        """
        true = next(one for one in searches if one.name == TRUE)
        controls = {one.name: one for one in searches if one.name != TRUE and one.counted.value is not None}
        method, top = "T of the true search less the largest of the controls", true.transmission
        if top.value is None or not controls:
            why = top.reason if top.value is None else "no control search could be made and judged"
            return Figure(None, "share", reason=why, method=method)
        values = {name: float(one.counted.value or 0.0) for name, one in controls.items()}
        name = max(values, key=lambda one: values[one])
        draws, largest = true.draws, max(0.0, values[name])
        if largest > 0:
            same = len(draws) == len(controls[name].draws)
            draws = draws - controls[name].draws if same else draws[:0]
        method += f", {name} ({values[name]:.3f}{', counted as 0' * (largest == 0)}), which was chosen at the estimate"
        return self.held_out.resamples.figure(top.value - largest, draws, "share", method)

    def method(self) -> dict[str, Any]:
        """What circuits were judged on, in plain values."""
        design = self.held_out.pairs.design
        assert design is not None
        return {
            "n_discovery_pairs": len(self.task.searched),
            "n_held_out_pairs": len(self.held_out.pairs),
            "n_held_out_images": design.clean_image.unique().numel(),
            "n_bootstrap": self.n_bootstrap,
            "interval": "95%, percentile bootstrap over images; none over the chance of a search",
        }
