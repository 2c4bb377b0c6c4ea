"""The kept edges as torch-geometric data: one kind of node and edge, or several.

Nodes and edges are those of `to_networkx`. What tensors cannot hold is dropped: the edges that were not kept and their
scores, the task, the ablation and the provenance; scores are rounded to float32.

Such data is saved without pickled classes, and so read by `torch.load` in its safe way, as a table:

    torch.save(circuit.to_hetero().to_dict(), "circuit.pt")
    HeteroData.from_dict(torch.load("circuit.pt"))
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..names import End
from .graphs import node_names, nodes_of
from .tables import EdgeRow, edge_rows

if TYPE_CHECKING:
    import torch
    from torch_geometric.data import Data, HeteroData

    from ..circuit import Circuit


NODE_KINDS = ("input", "head", "attention", "mlp", "logits")
"""What the first five columns of `x` stand for."""

EDGE_PORTS = ("", "q", "k", "v")
"""What the numbers in `edge_port` stand for."""


def to_pyg(circuit: Circuit) -> Data:
    """The kept edges in rank order, with the nodes that they touch.

    Parallel q, k and v edges between two nodes stay parallel columns of `edge_index`, told apart by `edge_port`: don't
    call `coalesce` on it, which merges them.

    - `edge_index` (2, edge): source and destination node.
    - `edge_port` (edge,): 0 none, 1 q, 2 k, 3 v. `edge_inside` (edge,): runs between token groups inside a head.
    - `edge_id` (edge,): index of the edge in the circuit's graph. `edge_exact` (edge,): measured exactly.
    - `edge_attr` (edge, 3): score, std_err, mean_abs; NaN in a circuit without scores.
    - `x` (node, 7): one-hot kind (`NODE_KINDS`), then layer and head, -1 where there is none.
    - `node_group` (node,): the token group's index in the circuit's graph.
    - `node_names`, `edge_names`, `group_names`: lists of names.
    """
    rows = edge_rows(circuit)
    nodes = nodes_of(row.edge for row in rows)
    place = {name: index for index, name in enumerate(nodes)}
    return _quietly("Data")(
        **_node_fields(nodes, circuit),
        x=_features(nodes.values()),
        **_edge_fields(rows, place, place),
        group_names=list(circuit.graph.groups.names),
    )


def to_hetero(circuit: Circuit) -> HeteroData:
    """The kept edges by what they join and where they are read, in rank order, with the nodes that they touch.

    - Node types are kinds: `input`, `head`, `attention` (what a layer's heads read at `block` ports), `mlp`, `logits`.
      Each has `x` (node, 2): layer and head, -1 where there is none; `node_group` and `node_names` as in `to_pyg`.
    - Edge types are (kind, port, kind): `("head", "q", "head")`, `("mlp", "reads", "logits")` where no port is told
      apart, and `("head", "inside_v", "head")` inside a head; so q, k and v edges never lie in one `edge_index`. Each
      has `edge_index`, `edge_attr`, `edge_id`, `edge_exact` and `edge_names` as in `to_pyg`.
    - `group_names`: list of names.
    """
    data = _quietly("HeteroData")()
    data.group_names = list(circuit.graph.groups.names)
    rows = edge_rows(circuit)
    kinds: dict[str, dict[str, End]] = {}
    for name, end in nodes_of(row.edge for row in rows).items():
        kinds.setdefault(end.kind, {})[name] = end
    for kind, nodes in kinds.items():
        data[kind].update(_node_fields(nodes, circuit), x=_features(nodes.values())[:, -2:].clone())
    places = {kind: {name: index for index, name in enumerate(nodes)} for kind, nodes in kinds.items()}
    joined: dict[tuple[str, str, str], list[EdgeRow]] = {}
    for row in rows:
        joined.setdefault(_relation(row), []).append(row)
    for (source, port, destination), some in joined.items():
        data[source, port, destination].update(_edge_fields(some, places[source], places[destination]))
    return data


def _relation(row: EdgeRow) -> tuple[str, str, str]:
    edge = row.edge
    inside = "inside" + f"_{edge.port}" * bool(edge.port)
    return edge.source.kind, inside if edge.inside else edge.port or "reads", edge.destination.kind


def _node_fields(nodes: dict[str, End], circuit: Circuit) -> dict[str, Any]:
    import torch

    groups = circuit.graph.groups.names
    placed = [groups.index(end.group) for end in nodes.values()]
    return {"node_group": torch.tensor(placed, dtype=torch.long, device="cpu"), "node_names": list(nodes)}


def _edge_fields(rows: list[EdgeRow], sources: dict[str, int], destinations: dict[str, int]) -> dict[str, Any]:
    import torch

    names = [node_names(row.edge) for row in rows]
    joined = [[sources[source], destinations[destination]] for source, destination in names]
    numbers = [[math.nan if n is None else n for n in (row.score, row.std_err, row.mean_abs)] for row in rows]
    return {
        "edge_index": torch.tensor(joined, dtype=torch.long, device="cpu").reshape(-1, 2).t().contiguous(),
        "edge_attr": torch.tensor(numbers, dtype=torch.float32, device="cpu").reshape(-1, 3),
        "edge_port": torch.tensor([EDGE_PORTS.index(row.edge.port) for row in rows], dtype=torch.long, device="cpu"),
        "edge_inside": torch.tensor([row.edge.inside for row in rows], dtype=torch.bool, device="cpu"),
        "edge_exact": torch.tensor([bool(row.exact) for row in rows], dtype=torch.bool, device="cpu"),
        "edge_id": torch.tensor([row.edge.index for row in rows], dtype=torch.long, device="cpu"),
        "edge_names": [row.edge.name for row in rows],
    }


def _features(ends: Iterable[End]) -> torch.Tensor:
    """One-hot kind, layer and head, shape (node, 7)."""
    import torch

    rows = [[*(float(end.kind == kind) for kind in NODE_KINDS), end.layer, end.head] for end in ends]
    return torch.tensor(rows, dtype=torch.float32, device="cpu").reshape(-1, len(NODE_KINDS) + 2)


def _quietly(name: str) -> Any:
    """A class of torch-geometric, whose own use of torch warns on import."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch_geometric import data

        return getattr(data, name)
