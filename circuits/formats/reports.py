"""Reports as JSON (`vitcircuits.report/1`): every figure with its unit, interval, reason and method.

Verdicts and tables are absent from files of reports that had none.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...models.files import write_text_atomic
from ..report import Curve, Figure, Report, Table, Verdict
from .plain import plain, restore
from .schema import json_text, read_json, reading, require_schema

REPORT_SCHEMA = "vitcircuits.report/1"


def save_report(report: Report, path: str | Path) -> Path:
    """Writes the report and returns the path.

    Raises:
        FormatError: The file cannot be written, or the method holds something that is not plain.
    """
    return write_text_atomic(path, json_text(report_to_dict(report)))


def load_report(path: str | Path) -> Report:
    """The report in a JSON file, with the figures and curves that were saved.

    Raises:
        FormatError: There is no such file, it is not JSON, not a report, or of a newer schema.
    """
    return _report(read_json(path, REPORT_SCHEMA), repr(str(path)))


def report_to_dict(report: Report) -> dict[str, Any]:
    """The report in plain types, which `report_from_dict` reads back; NaN and infinities are tagged."""
    data = {
        "schema": REPORT_SCHEMA,
        "n_edges": report.n_edges,
        "n_graph": report.n_graph,
        "n_pairs": report.n_pairs,
        "method": report.method,
        "figures": {name: asdict(figure) for name, figure in report.figures.items()},
        "curves": [asdict(curve) for curve in report.curves],
        "verdicts": {name: asdict(verdict) for name, verdict in report.verdicts.items()},
        "tables": {name: asdict(table) for name, table in report.tables.items()},
    }
    return plain(data, non_finite="tag")


def report_from_dict(data: dict[str, Any]) -> Report:
    """The report that `report_to_dict` described.

    Raises:
        FormatError: It is not a report, or of a newer schema.
    """
    require_schema(data, REPORT_SCHEMA, "the table")
    return _report(restore(data), "the table")


def _report(data: dict[str, Any], what: str) -> Report:
    with reading(what):
        figures = {name: Figure(**figure) for name, figure in data["figures"].items()}
        curves = tuple(_curve(curve) for curve in data["curves"])
        verdicts = {name: _verdict(verdict) for name, verdict in data.get("verdicts", {}).items()}
        tables = {name: _table(table) for name, table in data.get("tables", {}).items()}
        sizes = (data["n_edges"], data["n_graph"], data["n_pairs"])
        return Report(figures, curves, *sizes, dict(data["method"]), verdicts, tables)


def _verdict(data: dict[str, Any]) -> Verdict:
    return Verdict(**{**data, "statistic": Figure(**data["statistic"])})


def _table(data: dict[str, Any]) -> Table:
    rows = tuple(tuple(Figure(**cell) if isinstance(cell, dict) else cell for cell in row) for row in data["rows"])
    return Table(tuple(data["columns"]), rows, data["method"])


def _curve(data: dict[str, Any]) -> Curve:
    def floats(name: str) -> NDArray[np.float64] | None:
        return None if data[name] is None else np.array(data[name], dtype=np.float64)

    return Curve(
        label=data["label"],
        n_nominal=np.array(data["n_nominal"], dtype=np.int64),
        n_edges=np.array(data["n_edges"], dtype=np.int64),
        faithfulness=np.array(data["faithfulness"], dtype=np.float64),
        low=floats("low"),
        high=floats("high"),
    )
