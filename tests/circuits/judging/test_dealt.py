"""Dealt and renamed circuits: exactly as many edges of each class, all on paths, and evenly drawn from all such."""

from collections import Counter
from itertools import combinations, product
from math import comb, prod

import numpy as np
import pytest
from scipy.stats import chisquare, ttest_ind
from vitcircuits.circuits import Circuit, compile_graph, node_circuit
from vitcircuits.circuits.judging.control_kinds import CONTROLS, control_masks
from vitcircuits.circuits.judging.dealt import (
    can_rename,
    class_counts,
    dealt_masks,
    edge_classes,
    fixed_share,
    rename,
    renamed_masks,
    share_in_class,
)
from vitcircuits.circuits.nodes import kept_nodes
from vitcircuits.circuits.reach import prune
from vitcircuits.models.config import TokenLayout, VitConfig
from vitcircuits.models.errors import GraphError

DRAWS = {"dealt": dealt_masks, "renamed": renamed_masks}


@pytest.fixture(autouse=True)
def _few_rounds(monkeypatch):
    """What is exact is so after any number of rounds."""
    monkeypatch.setattr("vitcircuits.circuits.judging.dealt._SWEEPS", {False: 25, True: 25})


def sizes(n_layers=3, n_heads=3, **fields):
    """Sizes of a small ViT."""
    layout = TokenLayout(True, 0, (2, 2))
    return VitConfig("tiny", n_layers, n_heads, 12, 4, 24, 5, (8, 8), (4, 4), 1, layout, (0,), "token", **fields)


UNEVEN = {
    "uneven heads": {"heads": (3, 1, 2)},
    "no MLPs": {"mlps": (False, True, False)},
    "parallel": {"parallel": (True, False, True)},
    "joint": {"joint": (True, False, True)},
}
TURNS = (("uneven heads", "qkv"), ("no MLPs", "head"), ("parallel", "block"), ("joint", "qkv"), ("joint", "head"))


def random_mask(graph, share, seed=0):
    return prune(graph, np.random.default_rng(seed).random(len(graph)) < share)


def check(graph, mask, draw, n=2):
    """Every law that holds for each draw."""
    classes = edge_classes(graph)
    found = DRAWS[draw](graph, mask, n, seed=1)
    for other in found:
        assert other.dtype == bool and other.sum() == mask.sum()
        np.testing.assert_array_equal(prune(graph, other), other)
        np.testing.assert_array_equal(class_counts(classes, other), class_counts(classes, mask))
        assert share_in_class(graph, mask, other) == 1
    return found


def by_name(graph, index):
    """An edge's class, read from its name."""
    edge = graph.edge(index)
    start, end = edge.source, edge.destination
    return (start.kind, start.layer, start.group, start.port, end.kind, end.layer, end.port, end.group, edge.inside)


def same_partition(labels, names):
    return len(set(zip(labels.tolist(), names, strict=True))) == len(set(labels.tolist())) == len(set(names))


@pytest.mark.parametrize("fields", [{}, *UNEVEN.values()], ids=["plain", *UNEVEN])
def test_classes_are_those_of_the_names(tokens, ports, fields):
    graph = compile_graph(sizes(**fields), tokens=tokens, ports=ports)
    assert same_partition(edge_classes(graph), [by_name(graph, index) for index in range(len(graph))])


def test_classes_are_those_of_the_names_on_every_model(sole_case):
    graph = sole_case.graph
    assert same_partition(edge_classes(graph), [by_name(graph, index) for index in range(len(graph))])


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_size_and_classes_are_exact(tokens, ports, share, draw):
    graph = compile_graph(sizes(), tokens=tokens, ports=ports)
    check(graph, random_mask(graph, share), draw)


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize(
    ("fields", "ports"), [(UNEVEN[name], ports) for name, ports in TURNS], ids=map("-".join, TURNS)
)
def test_size_and_classes_are_exact_where_layers_differ(tokens, ports, fields, draw):
    graph = compile_graph(sizes(**fields), tokens=tokens, ports=ports)
    check(graph, random_mask(graph, 0.5), draw)


@pytest.mark.parametrize("draw", DRAWS)
def test_size_and_classes_are_exact_on_every_model(sole_case, draw):
    check(sole_case.graph, random_mask(sole_case.graph, 0.6), draw)


@pytest.mark.parametrize("draw", DRAWS)
def test_edges_on_no_path_are_dropped_first(draw):
    graph = compile_graph(sizes())
    mask = np.random.default_rng(0).random(len(graph)) < 0.2
    pruned = prune(graph, mask)
    assert 0 < pruned.sum() < mask.sum()
    np.testing.assert_array_equal(DRAWS[draw](graph, mask, 2, seed=0), DRAWS[draw](graph, pruned, 2, seed=0))


@pytest.mark.parametrize("draw", DRAWS)
def test_seeds_decide_and_draws_differ(draw):
    graph = compile_graph(sizes())
    mask = random_mask(graph, 0.6)
    first, again, other = (DRAWS[draw](graph, mask, 4, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(DRAWS[draw](graph, mask, 2, seed=0), first[:2])
    assert len({m.tobytes() for m in first + other}) > 4
    assert not any(np.array_equal(m, mask) for m in first)


@pytest.mark.parametrize("draw", DRAWS)
def test_none_and_all_are_their_own_controls(tokens, draw):
    graph = compile_graph(sizes(), tokens=tokens)
    for mask in (np.zeros(len(graph), bool), np.ones(len(graph), bool)):
        for found in DRAWS[draw](graph, mask, 2, seed=0):
            np.testing.assert_array_equal(found, mask)


@pytest.mark.parametrize("draw", DRAWS)
def test_a_chain_stays_a_chain_through_any_heads(draw):
    graph = compile_graph(sizes(n_layers=2))
    chain = Circuit.from_edges(graph, ["input->a0.h1<v>", "a0.h1->a1.h0<k>", "a1.h0->logits"])
    found = Counter(" ".join(Circuit(graph, m).edge_names()) for m in DRAWS[draw](graph, chain.mask, 180, seed=0))
    wanted = {
        f"input->a0.h{first}<v> a0.h{first}->a1.h{last}<k> a1.h{last}->logits"
        for first in range(3)
        for last in range(3)
    }
    assert set(found) == wanted
    assert min(found.values()) > 5  # of 20


@pytest.mark.parametrize("draw", DRAWS)
def test_without_two_heads_nothing_can_be_exchanged(draw):
    graph = compile_graph(sizes(n_heads=1))
    assert not can_rename(graph) and can_rename(compile_graph(sizes(heads=(1, 3, 1))))
    with pytest.raises(GraphError, match="one head in each layer"):
        DRAWS[draw](graph, np.ones(len(graph), bool), 2, seed=0)


@pytest.mark.parametrize("draw", DRAWS)
def test_a_negative_number_is_refused(draw):
    graph = compile_graph(sizes())
    with pytest.raises(GraphError, match="pass 0 or more"):
        DRAWS[draw](graph, np.ones(len(graph), bool), -1, seed=0)
    assert DRAWS[draw](graph, np.ones(len(graph), bool), 0, seed=0) == []


@pytest.mark.parametrize("fields", [{}, *UNEVEN.values()], ids=["plain", *UNEVEN])
def test_renaming_renames_heads_in_every_edge_and_nothing_else(tokens, ports, fields):
    graph = compile_graph(sizes(**fields), tokens=tokens, ports=ports)
    mask, rng = random_mask(graph, 0.4), np.random.default_rng(5)
    names = [rng.permutation(graph.cfg.heads_of(layer)) for layer in range(graph.cfg.n_layers)]
    found = rename(graph, mask, names)
    for index in range(len(graph)):
        edge, words = graph.edge(index), []
        for end in (edge.source, edge.destination):
            head = f"a{end.layer}.h{end.head}"
            old = f"a{end.layer}.h{names[end.layer][end.head]}" if end.kind == "head" else head
            words.append(str(end).replace(head, old))
        assert found[index] == mask[graph.index("->".join(words))]
    np.testing.assert_array_equal(rename(graph, found, [np.argsort(order) for order in names]), mask)


def all_of_the_same_classes(graph, mask):
    """Every mask with as many edges of each class, all on paths, by trying each."""
    classes = edge_classes(graph)
    choices = []
    for kind in np.unique(classes[mask]):
        places = np.flatnonzero(classes == kind)
        choices.append(list(combinations(places.tolist(), int(mask[places].sum()))))
    found = set()
    for chosen in product(*choices):
        other = np.zeros(len(graph), bool)
        other[[edge for edges in chosen for edge in edges]] = True
        if np.array_equal(prune(graph, other), other):
            found.add(other.tobytes())
    return found


@pytest.mark.parametrize(
    "tokens_, ports_, share, fields",
    [
        ("all", "block", 0.6, {}),
        ("role", "qkv", 0.25, {}),
        ("role", "head", 0.35, {"joint": (True, False)}),
        ("all", "qkv", 0.3, {"joint": (False, True)}),
    ],
)
def test_dealing_is_even_over_all_circuits_of_the_same_classes(tokens_, ports_, share, fields):
    graph = compile_graph(sizes(2, 2, **fields), tokens=tokens_, ports=ports_)
    classes = edge_classes(graph)
    for seed in range(200):
        mask = random_mask(graph, share, seed)
        n_choices = prod(map(comb, np.bincount(classes).tolist(), class_counts(classes, mask).tolist()))
        if not 8 <= n_choices <= 2_000 or not 4 <= len(all_of_them := all_of_the_same_classes(graph, mask)) <= 12:
            continue
        found = Counter(other.tobytes() for other in dealt_masks(graph, mask, 15 * len(all_of_them), seed=seed))
        assert set(found) == all_of_them
        assert chisquare(list(found.values())).pvalue > 1e-4
        return
    raise AssertionError("no small enough circuit was found")


def test_dealing_is_as_drawing_until_all_edges_are_on_paths():
    graph = compile_graph(sizes(2, 3))
    mask, classes, rng = random_mask(graph, 0.55), edge_classes(graph), np.random.default_rng(0)
    lucky = []
    while len(lucky) < 80:
        other = mask.copy()
        for kind in np.unique(classes[mask]):
            places = np.flatnonzero(classes == kind)
            other[places] = rng.permutation(mask[places])
        if np.array_equal(prune(graph, other), other):
            lucky.append(other)
    dealt = dealt_masks(graph, mask, 80, seed=0)
    shared = [np.array([int((other & mask).sum()) for other in masks]) for masks in (lucky, dealt)]
    assert ttest_ind(*shared).pvalue > 1e-3
    assert abs(np.mean(lucky, axis=0) - np.mean(dealt, axis=0)).max() < 5 * np.sqrt(0.5 / 80)
    assert fixed_share(graph, mask) * mask.sum() <= shared[1].min()


def test_a_circuit_on_few_heads_is_spread_over_more():
    graph = compile_graph(sizes(3, 6))
    crowded = prune(graph, node_circuit(graph, ["a0.h0", "a1.h0", "a2.h0", "m0", "m1", "m2"]).mask)
    for other in check(graph, crowded, "dealt"):
        heads = {edge.source.node for edge in Circuit(graph, other) if edge.source.kind == "head"}
        assert len(heads) > 5


def test_shares_of_classes_and_of_what_is_fixed():
    graph = compile_graph(sizes())
    first = Circuit.from_edges(graph, ["input->a0.h1<v>", "a0.h1->logits", "input->logits"]).mask
    same = Circuit.from_edges(graph, ["input->a0.h2<v>", "a0.h2->logits", "input->logits"]).mask
    query = Circuit.from_edges(graph, ["input->a0.h2<q>", "a0.h2->logits", "input->logits"]).mask
    empty = np.zeros_like(first)
    assert share_in_class(graph, first, same) == share_in_class(graph, empty, first) == fixed_share(graph, empty) == 1
    assert share_in_class(graph, first, query) == 2 / 3
    assert share_in_class(graph, first, empty) == 0
    assert fixed_share(graph, first) == 1 / 3
    assert fixed_share(graph, np.ones_like(first)) == 1


@pytest.mark.parametrize("kind", CONTROLS)
def test_each_kind_has_words_and_masks_of_the_same_size(kind):
    graph = compile_graph(sizes())
    circuit = Circuit(graph, random_mask(graph, 0.3))
    found = control_masks(circuit, kind, 3, seed=2)
    assert [mask.sum() for mask in found] == [len(circuit)] * 3
    np.testing.assert_array_equal(found, control_masks(circuit, kind, 3, seed=2))
    assert CONTROLS[kind].words["edge"]


def test_whole_paths_miss_classes_that_dealing_keeps():
    graph = compile_graph(sizes(4))
    classes = edge_classes(graph)
    values = np.array([graph.edge(i).port in ("", "v") for i in range(len(graph))])
    circuit = Circuit(graph, prune(graph, values & (np.random.default_rng(0).random(len(graph)) < 0.4)))
    paths, dealt = (control_masks(circuit, kind, 3, seed=0) for kind in ("paths", "dealt"))
    assert max(share_in_class(graph, circuit.mask, mask) for mask in paths) < 0.9
    assert all(not mask[~values].any() for mask in dealt) and classes.max() > 0


def test_controls_of_node_circuits_keep_nodes_whole():
    graph = compile_graph(sizes(), tokens="role")
    circuit = node_circuit(graph, ["a0.h0", "a1.h0", "a1.h2", "a2.h1", "m1"])
    for mask in control_masks(circuit, "renamed", 3, seed=0):
        nodes = sorted({edge.source.node for edge in Circuit(graph, mask)} - {"input"})
        np.testing.assert_array_equal(node_circuit(graph, nodes).mask, mask)
        assert len(nodes) == len(kept_nodes(circuit))
    assert len(control_masks(circuit, "paths", 2, seed=0)) == 2
    with pytest.raises(GraphError, match="keeps heads and MLPs whole"):
        control_masks(circuit, "dealt", 2, seed=0)


def test_unknown_kinds_and_negative_numbers_are_refused():
    circuit = Circuit.full(compile_graph(sizes()))
    with pytest.raises(GraphError, match="'paths', 'dealt', 'renamed'"):
        control_masks(circuit, "shuffled", 2, seed=0)
    with pytest.raises(GraphError, match="pass 0 or more"):
        control_masks(circuit, "paths", -1, seed=0)


def test_controls_of_a_shipped_toy(tokens):
    from vitcircuits.models import load_vit

    graph = compile_graph(load_vit("toy/digits-2l"), tokens=tokens)
    for draw in DRAWS:
        for seed in range(2):
            check(graph, random_mask(graph, 0.5, seed), draw)
