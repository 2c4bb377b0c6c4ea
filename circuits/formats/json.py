"""Circuits, reports and scores as files without loss: what is saved and loaded is equal to the first.

A circuit's file (JSON, `vitcircuits.circuit/1`) holds, in this order:

- `graph`: the model's sizes, the token groups, the ports and the number of edges;
- `ablation`, `task`, `provenance`;
- `edges`: the kept edges, highest first, one per line, with index, name and scores: for reading, and checked against
  the graph and the scores on loading;
- `scores`: null, or the arrays over all edges in the graph's order (`exact` as the indices of the exact edges) with
  where they come from. Their `graph` is null where it is the circuit's.

Scores of all edges are safetensors. The file holds four arrays in the graph's order (`values`, `mean_abs`, `std_err` as
float64, `exact` as booleans) and one metadata entry, `vitcircuits`: a JSON table with the schema, the graph and where
the scores come from. One entry only, because safetensors writes several in a different order each time.

A report's file (JSON, `vitcircuits.report/1`) holds every figure with its unit, interval, reason and method. Verdicts
and tables are absent from files of reports that had none.
"""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from ...models.config import TokenLayout, VitConfig
from ...models.errors import FormatError
from ...models.files import is_folder, read_text, write_bytes_atomic, write_text_atomic
from ...models.settings import short
from ..ablation import Ablation
from ..circuit import Circuit
from ..graph import Graph, Ports
from ..report import Curve, Figure, Report, Table, Verdict
from ..scores import Scores
from ..tokens import TokenGroups
from . import FORMATS, found
from .plain import json_text, parse_json, plain, read_json, reading, require_schema, restore, write_json
from .tables import edge_rows

CIRCUIT_SCHEMA = "vitcircuits.circuit/1"

_MOST = 1000  # layers, and heads of one: far more than any ViT has, and few enough to count the edges of

_ARRAYS = ("values", "mean_abs", "std_err")


def save_circuit_json(circuit: Circuit, path: str | Path) -> Path:
    """Writes the circuit and returns the path.

    Raises:
        FormatError: The file cannot be written, or the task or the options hold something that is not plain.
    """
    return write_text_atomic(path, json_text(circuit_to_dict(circuit)))


def load_circuit(path: str | Path, graph: Graph | None = None) -> Circuit:
    """The circuit in a JSON file or a run folder, equal to the one that was saved.

    JSON of other tools is known by its entries (`entries` in `FORMATS`).

    Args:
        path: The file or the folder.
        graph: The graph, for files of other tools that don't hold it; another file's has to be the same.

    Raises:
        FormatError: There is no such file, it is not JSON, not a circuit, of a newer schema, or needs a graph.
        GraphError: An edge is not in the graph, or the file's graph is another.
    """
    path = circuit_file(path)
    what = repr(str(path))
    data = parse_json(read_text(path), what)
    for one in FORMATS.values():
        if one.reader and one.entries <= data.keys():
            return found(one.reader)(data, what, graph)
    require_schema(data, CIRCUIT_SCHEMA, what)
    circuit = _circuit(data, what)
    if graph is not None:
        graph.require_same(circuit.graph, f"edges in {what}")
    return circuit


def circuit_file(path: str | Path) -> Path:
    """The file of a circuit, whether that or its run folder is given.

    Raises:
        FormatError: The folder holds none.
    """
    path = Path(path)
    if not is_folder(path):
        return path
    if not (path / "circuit.json").is_file():
        unfinished = (path / "run.json").is_file()
        raise FormatError(
            f"{str(path)!r} holds no circuit.json: "
            + ("its run is not finished; give its command again." if unfinished else "pass a run folder, or a file.")
        )
    return path / "circuit.json"


def circuit_to_dict(circuit: Circuit) -> dict[str, Any]:
    """The circuit in plain types, which `circuit_from_dict` reads back; NaN and infinities are tagged."""
    edges = [{"index": row.edge.index, "name": row.edge.name, **row.measured()} for row in edge_rows(circuit)]
    data = {
        "schema": CIRCUIT_SCHEMA,
        "graph": graph_to_dict(circuit.graph),
        "ablation": circuit.ablation.as_dict(),
        "task": circuit.task,
        "provenance": circuit.provenance,
        "edges": edges,
        "scores": None if circuit.scores is None else _scores_to_dict(circuit.scores, circuit.graph),
    }
    return plain(data, non_finite="tag")


def circuit_from_dict(data: dict[str, Any]) -> Circuit:
    """The circuit that `circuit_to_dict` described.

    Raises:
        FormatError: It is not a circuit, or of a newer schema.
        GraphError: An edge is not in the graph.
    """
    require_schema(data, CIRCUIT_SCHEMA, "the table")
    return _circuit(restore(data), "the table")


def _circuit(data: dict[str, Any], what: str) -> Circuit:
    with reading(what):
        graph = graph_from_dict(data["graph"])
        scores = None if data["scores"] is None else _scores_from_dict(data["scores"], graph)
        mask = np.zeros(len(graph), dtype=bool)
        for entry in data["edges"]:
            index = _checked_index(entry, graph, scores)
            if mask[index]:
                raise FormatError(f"{what} lists the edge {entry['name']} twice: remove one of the two lines.")
            mask[index] = True
        ablation = Ablation.from_dict(data["ablation"])
        return Circuit(graph, mask, scores, ablation, dict(data["task"]), dict(data["provenance"]))


def _checked_index(entry: dict[str, Any], graph: Graph, scores: Scores | None) -> int:
    index = graph.index(entry["name"])
    if entry.get("index", index) != index:
        raise FormatError(f"the edge {entry['name']} has index {index} in {graph}, but the file says {entry['index']}.")
    if scores is not None and "score" in entry and not _same(entry["score"], float(scores.values[index])):
        raise FormatError(
            f"the edge {entry['name']} is listed with score {entry['score']}, but scores.values[{index}] is "
            f"{scores.values[index]}: change both, or take the file as it was written."
        )
    return index


def _same(a: float, b: float) -> bool:
    return a == b or (a != a and b != b)  # NaN is the one number that differs from itself


def graph_to_dict(graph: Graph) -> dict[str, Any]:
    """The graph in plain types: what it is compiled from, and its number of edges."""
    data = {"model": asdict(graph.cfg), "groups": asdict(graph.groups), "ports": graph.ports, "n_edges": len(graph)}
    return plain(data)


def graph_from_dict(data: dict[str, Any]) -> Graph:
    """The graph that `graph_to_dict` described.

    Raises:
        FormatError: The description contradicts itself.
    """
    with reading("the graph"):
        model, groups = _with_tuples(data["model"]), TokenGroups(**_with_tuples(data["groups"]))
        cfg = VitConfig(**{**model, "tokens": TokenLayout(**_with_tuples(model["tokens"]))})
        for name in ("n_layers", "n_heads"):
            if type(getattr(cfg, name)) is not int or not 0 < getattr(cfg, name) <= _MOST:
                raise FormatError(f"{name} is {short(getattr(cfg, name))}, but a number from 1 to {_MOST} was wanted.")
        known = {*range(len(groups)), *([None] if groups.kind == "mask" else [])}
        if len(groups.of_token) != cfg.tokens.n_tokens or set(groups.of_token) - known:
            raise FormatError(f"the token groups {groups} don't fit the {cfg.tokens.n_tokens} tokens of {cfg.name}.")
        if data["ports"] not in get_args(Ports):
            raise FormatError(f"ports={data['ports']!r} is not known: one of {get_args(Ports)} was wanted.")
        graph = Graph(cfg, groups, data["ports"])
        if len(graph) != data["n_edges"]:
            raise FormatError(f"the graph should have {data['n_edges']} edges but compiles to {len(graph)}.")
        return graph


def _with_tuples(data: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}


def scores_facts(scores: Scores) -> dict[str, Any]:
    """Everything about scores but their graph and arrays: where they come from and how far to trust them."""
    left_out = ("graph", "exact", *_ARRAYS)
    facts = {field.name: getattr(scores, field.name) for field in fields(scores) if field.name not in left_out}
    facts["ablation"] = scores.ablation.as_dict()
    return plain(facts, non_finite="tag")


def scores_from_parts(graph: Graph, arrays: dict[str, Any], facts: dict[str, Any]) -> Scores:
    """Scores put together from their graph, their arrays over all edges, and `scores_facts`."""
    with reading("the scores"):
        return Scores(graph, **arrays, **{**facts, "ablation": Ablation.from_dict(facts["ablation"])})


def _scores_to_dict(scores: Scores, graph: Graph) -> dict[str, Any]:
    arrays = {name: getattr(scores, name) for name in _ARRAYS}
    own = None if scores.graph == graph else graph_to_dict(scores.graph)
    return {"graph": own, **scores_facts(scores), **arrays, "exact": np.flatnonzero(scores.exact)}


def _scores_from_dict(data: dict[str, Any], graph: Graph) -> Scores:
    own = graph if data["graph"] is None else graph_from_dict(data["graph"])
    arrays = {name: np.array(data[name], dtype=np.float64) for name in _ARRAYS}
    arrays["exact"] = np.zeros(len(own), dtype=bool)
    arrays["exact"][np.array(data["exact"], dtype=np.intp)] = True
    facts = {key: value for key, value in data.items() if key not in ("graph", *arrays)}
    return scores_from_parts(own, arrays, facts)


SCORES_SCHEMA = "vitcircuits.scores/1"

_DTYPES = {"values": np.float64, "mean_abs": np.float64, "std_err": np.float64, "exact": np.bool_}


def save_scores(scores: Scores, path: str | Path) -> Path:
    """Writes the scores of all edges and returns the path.

    Raises:
        FormatError: The file cannot be written, or the task or the options hold something that is not plain.
    """
    from safetensors.numpy import save

    header = {"schema": SCORES_SCHEMA, "graph": graph_to_dict(scores.graph), "scores": scores_facts(scores)}
    arrays = {name: np.ascontiguousarray(getattr(scores, name), dtype=dtype) for name, dtype in _DTYPES.items()}
    return write_bytes_atomic(path, save(arrays, metadata={"vitcircuits": json_text(header)}))


def load_scores(path: str | Path) -> Scores:
    """The scores in a file, equal to those that were saved.

    Raises:
        FormatError: There is no such file, or it does not hold scores.
    """
    metadata, arrays = _read(Path(path))
    what = repr(str(path))
    if "vitcircuits" not in metadata:
        raise FormatError(f"{what} is a safetensors file, but not of scores: its metadata has no entry 'vitcircuits'.")
    header = parse_json(metadata["vitcircuits"], what)
    require_schema(header, SCORES_SCHEMA, what)
    with reading(what):
        chosen = {name: arrays[name] for name in _DTYPES}
        wrong = [name for name, dtype in _DTYPES.items() if chosen[name].dtype != dtype]
        if wrong:
            raise FormatError(f"{what} holds {wrong[0]} as {chosen[wrong[0]].dtype}; wanted {_DTYPES[wrong[0]]}.")
        return scores_from_parts(graph_from_dict(header["graph"]), chosen, header["scores"])


def _read(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FormatError(f"there is no file {str(path)!r}. Pass the path of scores that were saved before.")
    try:
        with safe_open(path, framework="np") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise FormatError(f"{str(path)!r} is not a safetensors file: {error}. Save the scores again.") from error


REPORT_SCHEMA = "vitcircuits.report/1"


def save_report(report: Report, path: str | Path) -> Path:
    """Writes the report and returns the path.

    Raises:
        FormatError: The file cannot be written, or the method holds something that is not plain.
    """
    return write_json(path, report_to_dict(report))


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
