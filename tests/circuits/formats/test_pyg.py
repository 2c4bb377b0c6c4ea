"""Torch-geometric data keeps parallel edges and every number it claims to keep."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from vitcircuits.circuits import Circuit, Graph
from vitcircuits.circuits.formats.pyg import EDGE_PORTS, NODE_KINDS, to_hetero, to_pyg


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


@pytest.mark.parametrize("tokens", ["all", "role", "each"])
@pytest.mark.parametrize("ports", ["qkv", "head", "block"])
def test_the_columns_of_every_kind_are_the_kept_edges(
    make_graph: Callable[..., Graph], make_circuit: Callable[..., Circuit], tokens: str, ports: str
):
    circuit = make_circuit(make_graph(tokens, ports))
    data, multigraph = circuit.to_hetero(), circuit.to_networkx()
    assert data.validate()
    joined, scores = set(), {}
    for kind in data.edge_types:
        source, port, destination = kind
        some, starts, ends = data[kind], data[source].node_names, data[destination].node_names
        assert sorted(some.edge_id.tolist(), key=list(circuit.to_pyg().edge_id).index) == some.edge_id.tolist()
        for (s, d), name, numbers in zip(some.edge_index.t().tolist(), some.edge_names, some.edge_attr, strict=True):
            joined.add((starts[s], ends[d], name))
            scores[name] = float(numbers[0])
            edge = circuit[name]
            assert port == ("inside" + f"_{edge.port}" * bool(edge.port) if edge.inside else edge.port or "reads")
    assert joined == set(multigraph.edges(keys=True))
    for name, score in scores.items():
        assert score == pytest.approx(circuit[name].score, rel=1e-6)
    for kind in data.node_types:
        for name, (layer, head), group in zip(data[kind].node_names, data[kind].x, data[kind].node_group, strict=True):
            known = {"kind": kind, "layer": int(layer), "head": int(head), "group": data.group_names[group]}
            assert {**known, **multigraph.nodes[name]} == known


def test_no_column_holds_edges_of_two_ports(make_graph: Callable[..., Graph]):
    names = ["input->a0.h1<q>", "input->a0.h1<k>", "input->a0.h1<v>", "a0.h1->logits"]
    data = to_hetero(Circuit.from_edges(make_graph(), names))
    assert {kind: data[kind].edge_names for kind in data.edge_types} == {
        ("input", "q", "head"): names[:1],
        ("input", "k", "head"): names[1:2],
        ("input", "v", "head"): names[2:3],
        ("head", "reads", "logits"): names[3:],
    }
    assert data["head"].x.tolist() == [[0, 1]]


def test_an_empty_circuit_has_no_kinds(make_graph: Callable[..., Graph]):
    data = to_hetero(Circuit.empty(make_graph()))
    assert data.node_types == data.edge_types == []


def test_saved_as_a_table_it_is_read_without_pickled_classes(circuit: Circuit, tmp_path: Path):
    from torch_geometric.data import Data, HeteroData

    for data, kind in ((circuit.to_hetero(), HeteroData), (circuit.to_pyg(), Data)):
        torch.save(data.to_dict(), tmp_path / "circuit.pt")
        again = kind.from_dict(torch.load(tmp_path / "circuit.pt", weights_only=True))
        assert str(again) == str(data)
        for old, new in zip(data.stores, again.stores, strict=True):
            for key, value in old.items():
                assert torch.equal(value, new[key]) if isinstance(value, torch.Tensor) else value == new[key]


@pytest.mark.filterwarnings("ignore")  # torch-geometric's own use of torch warns on import
def test_layers_of_torch_geometric_take_it(circuit: Circuit):
    from torch_geometric.nn import HeteroConv, SAGEConv

    data = circuit.to_hetero()
    layer = HeteroConv({kind: SAGEConv((-1, -1), 4) for kind in data.edge_types})
    out = layer(data.x_dict, data.edge_index_dict)
    assert {kind for _, _, kind in data.edge_types} == set(out)
    assert all(values.shape == (data[kind].num_nodes, 4) for kind, values in out.items())
