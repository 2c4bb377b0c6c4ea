"""What control searches found: a circuit of each search, what it transmits, and the selectivity of the true one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..circuits.circuit import Circuit
from ..circuits.report import Figure, Table, Tabular

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


@dataclass(frozen=True, eq=False)
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
        return (
            f"{method['algorithm']}, {method['n_edges']:,} of {method['n_graph']:,} edges, judged on "
            f"{method['n_held_out_images']} images: selectivity {self.selectivity}"
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
