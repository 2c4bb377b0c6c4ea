"""Torch-geometric data keeps parallel edges and every number it claims to keep."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from vitcircuits.circuits import Circuit, Graph
from vitcircuits.circuits.formats.graphs import EDGE_PORTS, NODE_KINDS, to_pyg


@pytest.mark.parametrize("tokens", ["all", "role", "each"])
@pytest.mark.parametrize("ports", ["qkv", "head", "block"])
def test_columns_are_the_kept_edges(
    make_graph: Callable[..., Graph], make_circuit: Callable[..., Circuit], tokens: str, ports: str
):
    circuit = make_circuit(make_graph(tokens, ports))
    data = circuit.to_pyg()
    multigraph = circuit.to_networkx()
    assert data.validate()
    assert data.num_edges == len(circuit)
    names = data.node_names
    joined = {
        (names[s], names[d], name) for (s, d), name in zip(data.edge_index.t().tolist(), data.edge_names, strict=True)
    }
    assert joined == set(multigraph.edges(keys=True))
    assert [circuit.graph.edge(i).name for i in data.edge_id.tolist()] == data.edge_names
    assert circuit.scores is not None
    np.testing.assert_allclose(data.edge_attr[:, 0], circuit.scores.values[data.edge_id], rtol=1e-6)
    np.testing.assert_array_equal(data.edge_exact, circuit.scores.exact[data.edge_id])


def test_parallel_edges_keep_their_ports(make_graph: Callable[..., Graph]):
    names = ["input->a0.h1<q>", "input->a0.h1<k>", "input->a0.h1<v>", "a0.h1->logits"]
    data = to_pyg(Circuit.from_edges(make_graph(), names))
    assert data.edge_index.tolist() == [[0, 0, 0, 1], [1, 1, 1, 2]]
    assert [EDGE_PORTS[port] for port in data.edge_port] == ["q", "k", "v", ""]
    assert data.edge_attr.isnan().all()
    assert [NODE_KINDS[kind] for kind in data.x[:, :5].argmax(1)] == ["input", "head", "logits"]
    assert data.x[1, 5:].tolist() == [0, 1]


def test_an_empty_circuit_has_empty_columns(make_graph: Callable[..., Graph]):
    data = to_pyg(Circuit.empty(make_graph()))
    assert data.edge_index.shape == (2, 0)
    assert data.edge_attr.shape == (0, 3)
    assert data.x.shape == (0, 7)


def test_batches_join_without_mixing(make_circuit: Callable[..., Circuit]):
    from torch_geometric.data import Batch

    first, second = to_pyg(make_circuit(seed=1)), to_pyg(make_circuit(seed=2))
    batch = Batch.from_data_list([first, second])
    last = batch.edge_index[:, first.num_edges :] - first.num_nodes
    assert torch.equal(last, second.edge_index)
    assert torch.equal(batch.edge_id[first.num_edges :], second.edge_id)
