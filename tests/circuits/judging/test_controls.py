"""Random circuits: exactly as many edges, all on paths, deterministic by seed, like the circuit layer by layer."""

import numpy as np
import pytest
from vitcircuits.circuits import Circuit, compile_graph
from vitcircuits.circuits.judging.controls import random_circuits
from vitcircuits.circuits.reach import Walks, prune, reach


def graph_of(tokens="all", ports="qkv", n_layers=3, n_heads=3, cls=True):
    from timm.models.vision_transformer import VisionTransformer
    from vitcircuits.models import load_vit

    module = VisionTransformer(
        img_size=8,
        patch_size=4,
        num_classes=3,
        embed_dim=4 * n_heads,
        depth=n_layers,
        num_heads=n_heads,
        class_token=cls,
        global_pool="token" if cls else "avg",
    )
    return compile_graph(load_vit(module), tokens=tokens, ports=ports)


def random_circuit_of(graph, share, seed=0):
    mask = np.random.default_rng(seed).random(len(graph)) < share
    return Circuit(graph, prune(graph, mask))


@pytest.mark.parametrize("share", [0.7, 0.95])
def test_random_circuits_have_exactly_as_many_edges_all_on_paths(sole_case, share):
    circuit = random_circuit_of(sole_case.graph, share)
    for found in random_circuits(circuit, 3, seed=1):
        assert len(found) == len(circuit) > 0
        np.testing.assert_array_equal(prune(found.graph, found.mask), found.mask)


@pytest.mark.parametrize("n", range(1, 12))
@pytest.mark.parametrize("tokens", ["all", "role"])
def test_the_smallest_circuits_are_matched_exactly(tokens, n):
    graph = graph_of(tokens, n_layers=2, n_heads=2, cls=False)
    names = ["input->logits", "input->m0", "m0->logits", "input->m1", "m1->logits", "m0->m1"]
    names += ["input->a0.h0<v>", "a0.h0->m0", "a0.h0->logits", "a0.h0->m1", "input->a0.h0<q>"]
    circuit = Circuit.from_edges(graph, names[:n])
    for found in random_circuits(circuit, 4, seed=0):
        assert len(found) == len(circuit) == len(prune(graph, found.mask).nonzero()[0])


def test_seeds_decide():
    circuit = random_circuit_of(graph_of(), 0.3)
    first, again, other = (random_circuits(circuit, 4, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert len({c.mask.tobytes() for c in first}) == 4
    assert random_circuits(circuit, 2, seed=0) == first[:2]


def test_layers_and_kinds_are_matched_better_than_by_chance():
    graph = graph_of(n_layers=4)
    chance = np.random.default_rng(0)
    mask = np.zeros(len(graph), bool)
    for block in graph.blocks:  # a circuit that is dense in the last layer
        mask[block.start : block.stop] = chance.random(block.stop - block.start) < (
            0.8 if block.layer in (3, -1) else 0.4
        )
    circuit = Circuit(graph, prune(graph, mask))
    found = random_circuits(circuit, 1, seed=0)[0]
    off = [
        abs(int(found.mask[b.start : b.stop].sum()) - int(circuit.mask[b.start : b.stop].sum())) for b in graph.blocks
    ]
    assert sum(off) < 0.1 * len(circuit)


def test_none_and_all_are_their_own_controls():
    graph = graph_of()
    assert [len(c) for c in random_circuits(Circuit.empty(graph), 2, seed=0)] == [0, 0]
    assert [len(c) for c in random_circuits(Circuit.full(graph), 2, seed=0)] == [len(graph)] * 2


@pytest.mark.parametrize("tokens", ["all", "role"])
@pytest.mark.parametrize("ports", ["qkv", "head", "block"])
def test_links_reach_what_the_graph_reaches(tokens, ports):
    graph = graph_of(tokens, ports)
    mask = np.random.default_rng(3).random(len(graph)) < 0.15
    walks = Walks.of(graph)
    kept = np.concatenate([mask, np.ones(len(walks.start) - len(graph), bool)])
    alive, needed = np.zeros(walks.logits + 1, bool), np.zeros(walks.logits + 1, bool)
    alive[walks.inputs], needed[walks.logits] = True, True
    for _ in range(40):
        alive[walks.end[kept & alive[walks.start]]] = True
        needed[walks.start[kept & needed[walks.end]]] = True
    on_path = mask & alive[walks.start[: len(graph)]] & needed[walks.end[: len(graph)]]
    np.testing.assert_array_equal(on_path, reach(graph, mask).mask)
