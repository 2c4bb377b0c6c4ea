"""The kept edges of a circuit in rank order, as graphs and JSON list them, and as a table, one row per edge.

| column | meaning |
| --- | --- |
| rank | 1 for the highest |
| edge | the edge's name |
| source, destination | the nodes' names without port and group, such as `a0.h1`, `m3`, `logits` |
| source_group, destination_group | the token groups; empty in a graph of one group |
| port | `q`, `k`, `v`, or empty where the graph doesn't tell them apart |
| kind | where it ends: `attention`, `mlp`, `logits`; `inside` for an edge between token groups inside a head |
| layer, head | of the destination; -1 where there is none |
| score, std_err, mean_abs | NaN in a circuit without scores |
| exact | whether the score was measured by ablating the edge |

The table drops the graph, the task, the ablation, the provenance and every edge that was not kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from ...models.errors import FormatError
from ...models.files import read_text
from ..names import Edge
from ..scores import By
from .plain import write_csv, write_parquet

if TYPE_CHECKING:
    import pandas

    from ..circuit import Circuit


@dataclass(frozen=True)
class EdgeRow:
    """A kept edge with its place among the kept edges; the numbers are None in a circuit without scores.

    Args:
        rank: 1 for the edge that ranks highest among those kept.
        edge: The edge.
        score: Signed mean over pairs, in the metric's unit.
        std_err: Its standard error over pairs.
        mean_abs: Mean over pairs of the absolute value.
        exact: Whether it was measured by ablating the edge.
    """

    rank: int
    edge: Edge
    score: float | None = None
    std_err: float | None = None
    mean_abs: float | None = None
    exact: bool | None = None

    def measured(self) -> dict[str, Any]:
        """The numbers by name; empty in a circuit without scores."""
        if self.score is None:
            return {}
        return {"score": self.score, "std_err": self.std_err, "mean_abs": self.mean_abs, "exact": self.exact}


def finite(edge: Edge, score: float) -> float:
    """The score, for files that hold nothing but numbers.

    Raises:
        FormatError: It is NaN or infinite.
    """
    if math.isfinite(score):
        return score
    raise FormatError(f"the score of {edge} is {score}, and this format wants a number: save a .json instead.")


def ranked_indices(circuit: Circuit) -> NDArray[np.intp]:
    """Indices of the kept edges, highest first by what the circuit was selected by.

    That is `provenance["by"]`, or the signed mean; equal scores, and circuits without scores, in the graph's order.
    """
    if circuit.scores is None:
        return circuit.indices
    by = circuit.provenance.get("by", "signed")
    order = circuit.scores.ranking(by if by in get_args(By) else "signed")
    return order[circuit.mask[order]]


def edge_rows(circuit: Circuit, places: slice | NDArray[np.intp] = slice(None)) -> list[EdgeRow]:
    """The kept edges in rank order, or those at some places of it."""
    return rows_at(circuit, ranked_indices(circuit), places)


def rows_at(circuit: Circuit, order: NDArray[np.intp], places: slice | NDArray[np.intp]) -> list[EdgeRow]:
    """Edges of a circuit's graph, kept or not, at some places of an order of edge indices."""
    graph, scores = circuit.graph, circuit.scores
    ranks, indices = np.arange(1, len(order) + 1)[places].tolist(), order[places]
    edges = [graph.edge(index) for index in indices.tolist()]
    if scores is None:
        return [EdgeRow(*row) for row in zip(ranks, edges, strict=True)]
    arrays = (scores.values, scores.std_err, scores.mean_abs)
    numbers = [np.asarray(array, dtype=np.float64)[indices].tolist() for array in arrays]
    exact = scores.exact[indices].tolist()
    return [EdgeRow(*row) for row in zip(ranks, edges, *numbers, exact, strict=True)]


_COLUMNS: dict[Hashable, Any] = {
    "rank": "int64",
    "edge": str,
    "source": str,
    "destination": str,
    "source_group": str,
    "destination_group": str,
    "port": str,
    "kind": str,
    "layer": "int64",
    "head": "int64",
    "score": "float64",
    "std_err": "float64",
    "mean_abs": "float64",
    "exact": "bool",
}

_PARSERS: dict[Any, Callable[[str], Any]] = {
    str: str,
    "int64": int,
    "float64": lambda text: float(text or "nan"),
    "bool": {"True": True, "False": False}.__getitem__,
}


def edges_table(circuit: Circuit) -> pandas.DataFrame:
    """The kept edges in rank order; the columns are described above."""
    import pandas

    table = pandas.DataFrame([_record(row) for row in edge_rows(circuit)], columns=list(_COLUMNS))
    return table.astype(_COLUMNS)


def _record(row: EdgeRow) -> dict[str, Any]:
    edge = row.edge
    end = edge.destination
    kind = "inside" if edge.inside else {"head": "attention"}.get(end.kind, end.kind)
    where = {"source": edge.source.node, "destination": end.node, "port": edge.port, "kind": kind}
    groups = {"source_group": edge.source.group, "destination_group": end.group}
    numbers = row.measured() or {"exact": False}
    return {"rank": row.rank, "edge": edge.name, **where, **groups, "layer": end.layer, "head": end.head, **numbers}


def save_csv(circuit: Circuit, path: str | Path) -> Path:
    """Writes the table of kept edges as CSV and returns the path; numbers are written to the last digit.

    Raises:
        FormatError: The file cannot be written.
    """
    return write_csv(path, edges_table(circuit))


def save_parquet(circuit: Circuit, path: str | Path) -> Path:
    """Writes the table of kept edges as Parquet and returns the path; `pandas.read_parquet` gives it back equal.

    Raises:
        FormatError: pyarrow (the extra `parquet`) is missing, or the file cannot be written.
    """
    return write_parquet(path, edges_table(circuit))


def load_csv(path: str | Path) -> pandas.DataFrame:
    """The table in a CSV file, equal to the one that was saved.

    With pandas' defaults a group named "NA" or "None", and an empty one, would become missing values; read a file of
    your own with `keep_default_na=False` too.

    Raises:
        FormatError: There is no such file, or it is not such a table.
    """
    import io

    import pandas

    try:
        table = pandas.read_csv(io.StringIO(read_text(path)), dtype=str, keep_default_na=False)
        if list(table.columns) != list(_COLUMNS):
            raise FormatError(f"{str(path)!r} has the columns {list(table.columns)}; wanted {list(_COLUMNS)}.")
        # Parsed here, because pandas' own parser may be off by the last digit.
        columns = {name: [_PARSERS[dtype](text) for text in table[name]] for name, dtype in _COLUMNS.items()}
    except (ValueError, KeyError) as error:
        raise FormatError(f"{str(path)!r} is not a table of edges: {error}.") from error
    return pandas.DataFrame(columns).astype(_COLUMNS)
