"""EAP-IG's and MIB's JSON, both ways.

    {"cfg": {"n_layers": 2, "n_heads": 2, "parallel_attn_mlp": false, "d_model": 8},
     "nodes": {"input": {"in_graph": true}, "a0.h0": {"in_graph": false}, ..., "logits": {"in_graph": true}},
     "edges": {"input->a0.h0<q>": {"score": 0.5, "in_graph": true}, ..., "m1->logits": {"score": -2.0, ...}}}

Every edge of the graph is there, kept or not, with its signed score; names are those of `names.py` for one token group
and the ports q, k, v. A node is in the graph if a kept edge touches it, and `logits` always. A circuit without scores
has 0 everywhere, as EAP-IG's graphs do before attribution, and is read back without scores.

The file names no image, token or readout, so whoever reads it brings the graph. It has no standard errors (read as NaN)
and no means of absolute values (read as the absolute values of the scores). A ViT whose blocks are not alike (no MLP,
fewer heads, attention pooling) is a part of EAP-IG's graph of the same sizes; the rest of that is not in the file, and
EAP-IG reads it as not kept, with score 0, as this reader does with edges that a file leaves out.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...models.errors import FormatError
from ...models.files import write_text_atomic
from ..graph import Graph
from .plain import json_text, reading
from .tables import finite

if TYPE_CHECKING:
    from ..circuit import Circuit

_SIZES = ("n_layers", "n_heads", "d_model")


def save_mib(circuit: Circuit, path: str | Path) -> Path:
    """Writes the circuit for EAP-IG's `Graph.from_json` and the MIB benchmark, and returns the path.

    Raises:
        FormatError: The graph has several token groups or other ports than q, k and v, which EAP-IG has no names for; a
            score is not finite; or the file cannot be written.
    """
    return write_text_atomic(path, json_text(mib_table(circuit)))


def mib_table(circuit: Circuit) -> dict[str, Any]:
    """The circuit as EAP-IG's JSON has it: `cfg`, `nodes`, `edges`.

    Raises:
        FormatError: As above.
    """
    graph, scores = circuit.graph, circuit.scores
    _require_plain(graph)
    values = [0.0] * len(graph) if scores is None else scores.values.tolist()
    edges, touched = {}, {"logits"}
    for index, (kept, score) in enumerate(zip(circuit.mask.tolist(), values, strict=True)):
        edge = graph.edge(index)
        edges[edge.name] = {"score": finite(edge, score), "in_graph": kept}
        touched |= {edge.source.node, edge.destination.node} if kept else set()
    sources = [name for name, exists in zip(graph.source_names(), graph.source_exists, strict=True) if exists]
    nodes = {name: {"in_graph": name in touched} for name in [*sources, "logits"]}
    sizes = {name: getattr(graph.cfg, name) for name in _SIZES}
    parallel = bool(graph.cfg.parallel) and all(graph.cfg.parallel)
    return {"cfg": {**sizes, "parallel_attn_mlp": parallel}, "nodes": nodes, "edges": edges}


def _require_plain(graph: Graph) -> None:
    """Does nothing if EAP-IG's names tell the graph's edges apart.

    Raises:
        FormatError: They don't.
    """
    if graph.groups.names == ("",) and graph.ports == "qkv":
        return
    raise FormatError(
        f"EAP-IG's and MIB's JSON names edges without token groups and with q, k and v, such as input->a0.h0<q>, but "
        f"this circuit has tokens={graph.groups.kind!r}, ports={graph.ports!r}: save a .json, which holds any circuit, "
        f'or search with tokens="all", ports="qkv".'
    )


def circuit_from_mib(data: dict[str, Any], what: str, graph: Graph | None) -> Circuit:
    """The circuit that such a table describes, over a graph of one token group with the ports q, k and v.

    What is kept is what its edges say; flags and scores of nodes follow from them and are not read. Of older files,
    scores of None are taken as 0. The ablation is EAP-IG's own, the partner's values.

    Raises:
        FormatError: There is no graph, or it is none of these; the file keeps single neurons, or lacks something.
        GraphError: The graph lacks an edge that the file names.
    """
    from ..circuit import Circuit

    if graph is None:
        raise FormatError(
            f"{what} is a circuit of EAP-IG or MIB, which says nothing of the ViT: pass its graph, "
            f"Circuit.load({what}, graph=compile_graph(vit)), or first make it a file of vitcircuits by "
            f"`vitcircuits export {what} circuit.json --model NAME`."
        )
    _require_plain(graph)
    with reading(what):
        for name in _SIZES:
            if data["cfg"].get(name, own := getattr(graph.cfg, name)) != own:
                raise FormatError(
                    f"{what} has {name} {data['cfg'][name]}, but {graph} has {own}: pass the graph of its own model."
                )
        if any("neurons" in node for node in data["nodes"].values() if isinstance(node, dict)):
            raise FormatError(f"{what} keeps single neurons of its nodes, but a circuit is made of whole edges.")
        mask, values = np.zeros(len(graph), dtype=bool), np.zeros(len(graph))
        for name, entry in data["edges"].items():
            index = graph.index(name)
            mask[index], values[index] = _flag(entry["in_graph"], name), float(entry["score"] or 0)
    return Circuit(graph, mask, _scores(graph, values), provenance={"algorithm": _ALGORITHM})


_ALGORITHM = "read from EAP-IG's JSON"


def _flag(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise FormatError(f"in_graph of {name} is {value!r}, but true or false was wanted.")
    return value


def _scores(graph: Graph, values: np.ndarray) -> Any:
    from ..scores import Scores

    if not values.any():
        return None
    unknown = {"std_err": np.full(len(graph), np.nan), "exact": np.zeros(len(graph), dtype=bool), "n_pairs": 0}
    return Scores(graph, values=values, mean_abs=np.abs(values), algorithm=_ALGORITHM, **unknown)
