"""The kept edges as a networkx multigraph, as GraphML and as GEXF.

A node is a component at a token group: `input`, `a0.h1`, `m0`, `logits` with one group, `a0.h1@cls` with several. It
stands for what the component reads and for what it writes there. An edge between token groups inside a head runs from
the head at the source group to the head at the target group; where the two are the same group it is a self-loop. At
`block` ports attention reads at `a5` and its heads write as `a5.h0`, `a5.h1`, ...: no edge of the circuit joins them.

The edge's key is its name, so q, k and v edges stay apart. An attribute that would be empty (the port of an MLP's
edge, the group where there is one group, the scores of a circuit without scores) is not there: GraphML has no None,
and readers of GraphML drop empty text.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...models.files import write_bytes_atomic, write_text_atomic
from ..names import Edge, End
from . import found
from .plain import legible, plain
from .tables import EdgeRow, edge_rows

if TYPE_CHECKING:
    import networkx

    from ..circuit import Circuit


def to_networkx(circuit: Circuit) -> networkx.MultiDiGraph:
    """The kept edges in rank order, with the nodes that they touch.

    Nodes have kind (`input`, `head`, `attention`, `mlp`, `logits`), layer and head (-1 where there is none) and group.
    Edges have rank, inside (whether they run inside a head), port, score, std_err, mean_abs and exact. The graph has
    model, tokens, ports, n_graph (edges of the whole graph), ablation, and each entry of the task and the provenance
    as `task_...` and `provenance_...`, lists and tables as JSON text. Edges that were not kept are dropped.
    """
    import networkx

    graph = networkx.MultiDiGraph(**_graph_attributes(circuit))
    rows = edge_rows(circuit)
    for name, end in nodes_of(row.edge for row in rows).items():
        graph.add_node(name, **_node_attributes(end))
    for row in rows:
        graph.add_edge(*node_names(row.edge), key=row.edge.name, **_edge_attributes(row))
    return graph


def node_names(edge: Edge) -> tuple[str, str]:
    """Names of the two nodes that an edge joins: its ends without ports."""
    return str(edge.source.bare), str(edge.destination.bare)


def nodes_of(edges: Iterable[Edge]) -> dict[str, End]:
    """The nodes that edges touch, by name, in the order in which they are first met."""
    return {str(end.bare): end.bare for edge in edges for end in (edge.source, edge.destination)}


def _node_attributes(end: End) -> dict[str, Any]:
    return _present({"kind": end.kind, "layer": end.layer, "head": end.head, "group": end.group})


def _edge_attributes(row: EdgeRow) -> dict[str, Any]:
    return _present({"rank": row.rank, "inside": row.edge.inside, "port": row.edge.port, **row.measured()})


def _graph_attributes(circuit: Circuit) -> dict[str, Any]:
    graph = circuit.graph
    sizes = {"model": graph.cfg.name, "tokens": graph.groups.kind, "ports": graph.ports, "n_graph": len(graph)}
    task = {f"task_{key}": _flat(value) for key, value in circuit.task.items()}
    provenance = {f"provenance_{key}": _flat(value) for key, value in circuit.provenance.items()}
    return _present({**sizes, "ablation": str(circuit.ablation), **task, **provenance})


def _flat(value: Any) -> Any:
    if isinstance(value, (list, dict)):
        return json.dumps(plain(value, non_finite="tag"), ensure_ascii=False)
    return value


def _present(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None and value != ""}


def save_graphml(circuit: Circuit, path: str | Path) -> Path:
    """Writes `to_networkx(circuit)` as GraphML and returns the path.

    `networkx.read_graphml(path, force_multigraph=True)` gives it back with the same keys and attributes; without
    `force_multigraph`, networkx makes a graph without parallel edges a DiGraph. Characters that XML cannot hold
    (control characters) are written as U+FFFD.

    Raises:
        FormatError: The file cannot be written.
    """
    import networkx

    buffer = io.BytesIO()
    networkx.write_graphml_xml(_for_xml(to_networkx(circuit)), buffer)
    return write_bytes_atomic(path, buffer.getvalue())


def save_gexf(circuit: Circuit, path: str | Path) -> Path:
    """Writes `to_networkx(circuit)` as GEXF 1.2 and returns the path.

    `networkx.read_gexf(path)` gives nodes and edges back with the same attributes and their names as `label`; it makes
    a graph without parallel edges a DiGraph. Of the graph's attributes GEXF holds a title only. Characters that XML
    cannot hold are written as U+FFFD. The day of writing is left out: a circuit's file is always the same.

    Raises:
        FormatError: The file cannot be written.
    """
    import networkx

    graph = to_networkx(circuit)
    graph.graph = {"name": found("words.title")(circuit)}
    for *_, name, attributes in graph.edges(keys=True, data=True):
        attributes["label"] = name
    text = "\n".join(networkx.generate_gexf(_for_xml(graph)))
    undated = re.sub(r'(<meta) lastmodifieddate="[^"]*"', r"\1", text, count=1)
    return write_text_atomic(path, f"<?xml version='1.0' encoding='utf-8'?>\n{undated}\n")


def _for_xml(graph: networkx.MultiDiGraph) -> networkx.MultiDiGraph:
    """The graph, its texts without what XML cannot hold."""
    graph.graph = {_xml(name): _xml(value) for name, value in graph.graph.items()}
    for _, attributes in graph.nodes(data=True):
        attributes.update({name: _xml(value) for name, value in attributes.items()})
    return graph


def _xml(value: Any) -> Any:
    # A carriage return can be written, but readers of XML turn it into a line feed.
    return legible(value).replace("\r", "\ufffd") if isinstance(value, str) else value
