"""The kept edges as torch-geometric data.

Parallel q, k and v edges between two nodes stay parallel columns of `edge_index`, told apart by `edge_port`: don't
call `coalesce` on it, which merges them. What a `Data` cannot hold is dropped: the edges that were not kept and their
scores, the task, the ablation and the provenance; scores are rounded to float32.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import numpy as np

from ..names import End
from .networkx import node_names
from .rows import EdgeRow, edge_rows

if TYPE_CHECKING:
    import torch
    from torch_geometric.data import Data

    from ..circuit import Circuit

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
