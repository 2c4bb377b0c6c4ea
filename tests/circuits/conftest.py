"""A graph of single nodes and ports for networkx, made from edge names alone: what reachability is judged against.

And patch effects that no model was run for.
"""

import networkx as nx
import numpy as np
import pytest
from vitcircuits.circuits.names import End, parse_edge
from vitcircuits.circuits.patch_effects import PatchEffects


def port_graph(graph, mask):
    """Ports, sources and kept edges as nodes; an arrow wherever a value flows."""
    flows, groups, heads = nx.DiGraph(), graph.groups.names, range(graph.cfg.n_heads)
    flows.add_nodes_from(("input", group) for group in groups)
    for index in np.flatnonzero(mask):
        source, destination = parse_edge(graph.edge(int(index)).name)
        inside = source.node == destination.node
        flows.add_edge(str(source) if inside else (source.node, source.group), int(index))
        if not inside:
            flows.add_edge(int(index), "logits" if destination.kind == "logits" else str(destination))
        elif destination.kind == "attention":
            flows.add_edges_from((int(index), (f"a{destination.layer}.h{h}", destination.group)) for h in heads)
        else:
            flows.add_edge(int(index), (destination.node, destination.group))
    for layer in range(graph.cfg.n_layers):
        for group in groups:
            flows.add_edge(str(End("mlp", layer, group=group)), (f"m{layer}", group))
            for head in heads:
                for port in _straight_ports(graph, layer, head, group):
                    flows.add_edge(str(port), (f"a{layer}.h{head}", group))
    return flows


def _straight_ports(graph, layer, head, group):
    """Ports that feed a head at their own group without an edge inside the head."""
    if graph.ports == "block":
        return [End("attention", layer, group=group)]
    if graph.ports == "head":
        return [End("head", layer, head, group=group)]
    return [End("head", layer, head, port, group) for port in ("qkv" if len(graph.groups) == 1 else "q")]


@pytest.fixture(scope="session")
def on_paths():
    """For a graph and a mask: the edges on paths, and (node, group) of the sources that the input reaches."""

    def find(graph, mask):
        flows = port_graph(graph, mask)
        flows.add_edges_from(("start", ("input", group)) for group in graph.groups.names)
        flows.add_node("logits")
        alive, needed = nx.descendants(flows, "start"), nx.ancestors(flows, "logits")
        on_path = np.zeros(len(graph), dtype=bool)
        on_path[[index for index in np.flatnonzero(mask) if int(index) in alive and int(index) in needed]] = True
        return on_path, {node for node in alive if isinstance(node, tuple)}

    return find


@pytest.fixture(scope="session")
def patch_effects():
    """Makes patch effects: of pair p at patch n (1 + p) (1 + n / 10) logits under the circuit, in the model twice."""

    def make(grid=(2, 2), keys=("first", "second", "third"), **changes):
        n = len(keys)
        values = np.multiply.outer(np.arange(1.0, n + 1), 1 + np.arange(grid[0] * grid[1]).reshape(grid) / 10)
        images = np.random.default_rng(0).random((n, 8, 8, 1)).astype(np.float32)
        task = {"model": "toy", "target_name": "3", "foil_name": "<8>"}
        common = {"direction": "noising", "images": images, "keys": tuple(keys), "task": task}
        model, own = (
            {
                "values": factor * values,
                "flips": factor * values > 3,
                "clean": factor * values.sum((1, 2)),
                "corrupt": np.zeros(n),
            }
            for factor in (2.0, 1.0)
        )
        full = PatchEffects(subject="full model", **model, **common)
        return PatchEffects(**{"subject": "circuit of 5 edges", "model": full, **own, **common, **changes})

    return make
