"""The kept edges as a networkx multigraph, as GraphML, and as torch-geometric data.

A node is a component at a token group: `input`, `a0.h1`, `m0`, `logits` with one group, `a0.h1@cls` with several. It
stands for what the component reads and for what it writes there. An edge between token groups inside a head runs from
the head at the source group to the head at the target group; where the two are the same group it is a self-loop. At
`block` ports attention reads at `a5` and its heads write as `a5.h0`, `a5.h1`, ...: no edge of the circuit joins them.

The edge's key is its name, so q, k and v edges stay apart. An attribute that would be empty (the port of an MLP's
edge, the group where there is one group, the scores of a circuit without scores) is not there: GraphML has no None,
and readers of GraphML drop empty text.

As torch-geometric data, parallel q, k and v edges between two nodes stay parallel columns of `edge_index`, told apart
by `edge_port`: don't call `coalesce` on it, which merges them. What a `Data` cannot hold is dropped: the edges that
were not kept and their scores, the task, the ablation and the provenance; scores are rounded to float32.
"""

from __future__ import annotations

import io
import json
import math
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...models.files import write_bytes_atomic
from ..names import Edge, End
from .plain import plain
from .tables import EdgeRow, edge_rows

if TYPE_CHECKING:
    import networkx
    import torch
    from torch_geometric.data import Data

    from ..circuit import Circuit


# What XML 1.0 cannot hold, and the carriage return, which its readers turn into a line feed.
_NOT_XML = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_networkx(circuit: Circuit) -> networkx.MultiDiGraph:
    """The kept edges in rank order, with the nodes that they touch.

    Nodes have kind (`input`, `head`, `attention`, `mlp`, `logits`), layer and head (-1 where there is none) and group.
    Edges have rank, inside (whether they run inside a head), port, score, std_err, mean_abs and exact. The graph has
    model, tokens, ports, n_graph (edges of the whole graph), ablation, and each entry of the task and the provenance
    as `task_...` and `provenance_...`, lists and tables as JSON text. Edges that were not kept are dropped.
    """
    import networkx

    graph = networkx.MultiDiGraph(**_graph_attributes(circuit))
    for row in edge_rows(circuit):
        source, destination = node_names(row.edge)
        graph.add_node(source, **_node_attributes(row.edge.source))
        graph.add_node(destination, **_node_attributes(row.edge.destination))
        graph.add_edge(source, destination, key=row.edge.name, **_edge_attributes(row))
    return graph


def node_names(edge: Edge) -> tuple[str, str]:
    """Names of the two nodes that an edge joins: its ends without ports."""
    source, destination = (end.node + f"@{end.group}" * bool(end.group) for end in (edge.source, edge.destination))
    return source, destination


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

    graph = to_networkx(circuit)
    graph.graph = {_xml(name): _xml(value) for name, value in graph.graph.items()}
    for _, attributes in graph.nodes(data=True):
        attributes.update({name: _xml(value) for name, value in attributes.items()})
    buffer = io.BytesIO()
    networkx.write_graphml_xml(graph, buffer)
    return write_bytes_atomic(path, buffer.getvalue())


def _xml(value: Any) -> Any:
    return _NOT_XML.sub("\ufffd", value) if isinstance(value, str) else value


NODE_KINDS = ("input", "head", "attention", "mlp", "logits")
"""What the first five columns of `x` stand for."""

EDGE_PORTS = ("", "q", "k", "v")
"""What the numbers in `edge_port` stand for."""


def to_pyg(circuit: Circuit) -> Data:
    """The kept edges in rank order, with the nodes that they touch, as in `to_networkx`.

    - `edge_index` (2, edge): source and destination node.
    - `edge_port` (edge,): 0 none, 1 q, 2 k, 3 v. `edge_inside` (edge,): runs between token groups inside a head.
    - `edge_id` (edge,): index of the edge in the circuit's graph. `edge_exact` (edge,): measured exactly.
    - `edge_attr` (edge, 3): score, std_err, mean_abs; NaN in a circuit without scores.
    - `x` (node, 7): one-hot kind (`NODE_KINDS`), then layer and head, -1 where there is none.
    - `node_group` (node,): the token group's index in the circuit's graph.
    - `node_names`, `edge_names`, `group_names`: lists of names.
    """
    with warnings.catch_warnings():  # torch-geometric's own use of torch warns on import
        warnings.simplefilter("ignore")
        import torch
        from torch_geometric.data import Data

    rows = edge_rows(circuit)
    nodes = _nodes(rows)
    place = {name: index for index, name in enumerate(nodes)}
    joined = [[place[name] for name in node_names(row.edge)] for row in rows]
    groups = circuit.graph.groups.names
    return Data(
        x=torch.from_numpy(_features(list(nodes.values()))),
        edge_index=torch.tensor(joined, dtype=torch.long).reshape(-1, 2).t().contiguous(),
        **_edge_tensors(rows),
        node_group=torch.tensor([groups.index(end.group) for end in nodes.values()], dtype=torch.long),
        node_names=list(nodes),
        edge_names=[row.edge.name for row in rows],
        group_names=list(groups),
    )


def _nodes(rows: list[EdgeRow]) -> dict[str, End]:
    nodes: dict[str, End] = {}
    for row in rows:
        for name, end in zip(node_names(row.edge), (row.edge.source, row.edge.destination), strict=True):
            nodes.setdefault(name, end)
    return nodes


def _features(ends: list[End]) -> np.ndarray:
    features = np.zeros((len(ends), len(NODE_KINDS) + 2), dtype=np.float32)
    for row, end in zip(features, ends, strict=True):
        row[NODE_KINDS.index(end.kind)] = 1
        row[-2:] = end.layer, end.head
    return features


def _edge_tensors(rows: list[EdgeRow]) -> dict[str, torch.Tensor]:
    import torch

    numbers = [[math.nan if n is None else n for n in (row.score, row.std_err, row.mean_abs)] for row in rows]
    return {
        "edge_attr": torch.tensor(numbers, dtype=torch.float32).reshape(-1, 3),
        "edge_port": torch.tensor([EDGE_PORTS.index(row.edge.port) for row in rows], dtype=torch.long),
        "edge_inside": torch.tensor([row.edge.inside for row in rows], dtype=torch.bool),
        "edge_exact": torch.tensor([bool(row.exact) for row in rows], dtype=torch.bool),
        "edge_id": torch.tensor([row.edge.index for row in rows], dtype=torch.long),
    }
