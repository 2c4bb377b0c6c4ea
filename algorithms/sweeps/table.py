"""The table of a sweep: one row per cell, in the order of the cells, whatever order they ended in.

| column | meaning |
| --- | --- |
| model, task, algorithm, seed | the cell |
| status | `done`, `failed`, or `not run` |
| n_edges, n_graph, size | edges of the circuit, of the graph, and the first over the second |
| n_nodes | heads and MLPs kept whole; empty for circuits of edges |
| n_pairs | evaluation pairs |
| transmission, ..., faithfulness | figures of the report, each with `_low` and `_high` of its 95% interval |
| undefined | figures without a value, and why |
| error | why there are no figures |
| folder | the cell's run folder, below the sweep's |

What reads the image comes first, one-sided faithfulness last. A figure that a report does not have, since its task is
of the other kind or an older version wrote it, is empty and not among the undefined ones.

It holds no times, so that the same sweep gives the same bytes, killed and resumed or not. Those are in `seconds.csv`.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...circuits.figures import COLUMNS, figure_of
from ...circuits.formats.plain import write_bytes_atomic, write_text_atomic
from ...models.errors import TaskError
from .outcomes import Outcome

if TYPE_CHECKING:
    import pandas

_STAGES = ("task", "search", "evaluation", "files")
_COLUMNS: dict[Hashable, Any] = {
    **dict.fromkeys(("model", "task", "algorithm"), "str"),
    "seed": "int64",
    "status": "str",
    **dict.fromkeys(("n_edges", "n_graph"), "Int64"),
    "size": "float64",
    **dict.fromkeys(("n_nodes", "n_pairs"), "Int64"),
    **{f"{name}{end}": "float64" for name in COLUMNS for end in ("", "_low", "_high")},
    **dict.fromkeys(("undefined", "error", "folder"), "str"),
}


def sweep_table(outcomes: Sequence[Outcome]) -> pandas.DataFrame:
    """The table; the columns are described above."""
    import pandas

    table = pandas.DataFrame([_row(outcome) for outcome in outcomes], columns=list(_COLUMNS))
    return table.astype(_COLUMNS)


def save_table(outcomes: Sequence[Outcome], path: str | Path) -> Path:
    """Writes the table as .csv or .parquet, numbers to the last digit, and returns the path.

    Raises:
        TaskError: .parquet needs the extra `parquet`.
        FormatError: The file cannot be written.
    """
    table = sweep_table(outcomes)
    if Path(path).suffix != ".parquet":
        return write_text_atomic(path, table.to_csv(index=False, lineterminator="\n"))
    require_parquet()
    return write_bytes_atomic(path, table.to_parquet(index=False, engine="pyarrow"))


def require_parquet() -> None:
    """Does nothing if Parquet can be written.

    Raises:
        TaskError: It cannot.
    """
    from importlib.util import find_spec

    if find_spec("pyarrow") is None:
        raise TaskError("Parquet needs pyarrow: pip install 'vitcircuits[parquet]', or do with table.csv.")


def save_seconds(outcomes: Sequence[Outcome], path: str | Path) -> Path:
    """Writes how long each cell took, stage by stage, as .csv, and returns the path.

    What a killed run had done already is not in the seconds of the one that went on from it (`resumed`).
    """
    import pandas

    rows = [
        {"folder": outcome.cell.folder, **{stage: outcome.run["times"].get(stage) for stage in _STAGES}}
        | {"resumed": outcome.run["resumed"]}
        for outcome in outcomes
        if outcome.status == "done"
    ]
    table = pandas.DataFrame(rows, columns=["folder", *_STAGES, "resumed"])
    return write_text_atomic(path, table.to_csv(index=False, lineterminator="\n", float_format="%.3f"))


def _row(outcome: Outcome) -> dict[str, Any]:
    cell, report = outcome.cell, outcome.report
    row = {"model": cell.model, "task": cell.task, "algorithm": cell.algorithm, "seed": cell.seed}
    row |= {"status": outcome.status, "undefined": "", "error": outcome.error, "folder": cell.folder}
    if report is None:
        return row
    row |= {"n_edges": report.n_edges, "n_graph": report.n_graph, "size": report.n_edges / report.n_graph}
    row |= {"n_nodes": report.method.get("n_nodes"), "n_pairs": report.n_pairs}
    known = {name: figure for name in COLUMNS if (figure := figure_of(report, name)) is not None}
    for name, figure in known.items():
        row |= {name: figure.value, f"{name}_low": figure.low, f"{name}_high": figure.high}
    missing = {name: figure.reason for name, figure in known.items() if figure.value is None}
    return row | {"undefined": "; ".join(f"{name}: {reason}" for name, reason in missing.items())}
