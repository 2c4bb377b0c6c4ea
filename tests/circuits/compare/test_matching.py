"""Heads matched by what they do: a relabelled copy is recovered exactly, and overlap after matching is 1."""

import copy
import dataclasses
import re

import numpy as np
import pytest
import torch
from vitcircuits.circuits import Circuit, Scores, compile_graph, jaccard
from vitcircuits.circuits.compare import Subject, compare
from vitcircuits.circuits.compare.matching import (
    HeadFeatures,
    head_similarity,
    match_heads,
    matched_overlap,
    named_nodes,
)
from vitcircuits.circuits.figure_data import cells_in_cells, gather_heads
from vitcircuits.circuits.nodes import node_names
from vitcircuits.circuits.tasks.metrics import Metric
from vitcircuits.models.errors import GraphError, TaskError
from vitcircuits.models.load import load_vit


def permuted(module, orders):
    """The same function with the heads of each block in another order: new head h is old head orders[layer][h]."""
    other = copy.deepcopy(module)
    with torch.no_grad():
        for block, order in zip(other.blocks, orders, strict=True):
            attention, n = block.attn, block.attn.num_heads
            for parameter in (attention.qkv.weight, attention.qkv.bias):
                rows = parameter.unflatten(0, (3, n, -1))
                parameter.copy_(rows[:, list(order)].flatten(0, 2))
            columns = attention.proj.weight.unflatten(1, (n, -1))
            attention.proj.weight.copy_(columns[:, list(order)].flatten(1))
    return other


@pytest.fixture(scope="module")
def models(tiny_module):
    module = tiny_module(depth=3, num_heads=4, embed_dim=16, img_size=16)
    rng = np.random.default_rng(3)
    orders = [rng.permutation(4).tolist() for _ in range(3)]
    return load_vit(module, name="first"), load_vit(permuted(module, orders), name="second"), orders


@pytest.fixture(scope="module")
def features(models, images_for):
    images = images_for(models[0], 6)
    return [gather_heads(vit, images, classes=[0, 1, 3], batch_size=4) for vit in models[:2]]


@pytest.mark.parametrize("window", ["block", 0.0, "free"])
def test_matching_recovers_the_permutation_exactly(models, features, images_for, window):
    first, second, orders = models
    assert torch.allclose(first(images_for(first, 3)), second(images_for(first, 3)))
    found = match_heads(*features, window=window)
    assert found.heads == {f"a{n}.h{h}": f"a{n}.h{order[h]}" for n, order in enumerate(orders) for h in range(4)}
    assert found.mlps == {"m0": "m0", "m1": "m1", "m2": "m2"}
    assert min(found.similarity.values()) == pytest.approx(1) and min(found.margin.values()) > 0


@pytest.mark.parametrize("tokens", ["all", "role"])
def test_a_circuit_and_its_relabelled_copy_overlap_wholly_after_matching(models, features, tokens, ports):
    first, second, orders = models
    graphs = [compile_graph(vit, tokens=tokens, ports=ports) for vit in (first, second)]
    back = {f"a{n}.h{old}": f"a{n}.h{new}" for n, order in enumerate(orders) for new, old in enumerate(order)}
    rng = np.random.default_rng(0)
    circuit = Circuit.from_edges(graphs[0], [name for name in graphs[0].edge_names() if rng.random() < 0.5])
    names = [re.sub(r"a\d\.h\d", lambda head: back[head[0]], name) for name in circuit.edge_names()]
    relabelled = Circuit.from_edges(graphs[1], names)
    assert len(relabelled) == len(circuit) and jaccard(circuit, relabelled) < 1
    assert matched_overlap(circuit, relabelled, match_heads(*features)) == (1, 1)


def alone(features, n_layers):
    """The second model's `a1.h1` as the only head of another model's first block."""
    one = features[0]
    parts = (one.patterns[5:6], one.effects[5:6], one.mlp_effects[:1].repeat(n_layers, 0))
    return HeadFeatures("x", n_layers, ("a0.h0",), np.array([0]), *parts)


def test_heads_of_one_block_are_not_matched_with_those_of_another(features):
    inside = match_heads(*features)
    assert all(b.split(".")[0] == a.split(".")[0] for b, a in inside.heads.items())
    few = alone(features, 1)
    assert match_heads(features[1], few, window=0.01).heads == {"a0.h0": "a1.h" + match_heads_of(features, "a1.h1")}
    far = alone(features, 12)
    assert match_heads(features[1], far, window=0.01).heads == {}
    assert match_heads(features[1], far, window="free").heads["a0.h0"].startswith("a1.")


def match_heads_of(features, name):
    return next(b for b, a in match_heads(*features).heads.items() if a == name)[-1]


def test_effects_are_those_of_direct_logit_attribution(models, images_for, features):
    from vitcircuits.algorithms import logit_attribution

    vit, images = models[0], images_for(models[0], 6)
    logits = [logit_attribution(vit, images, Metric("logit", (c,))) for c in (0, 1, 3)]
    table = np.stack([found.values.sum(2) for found in logits], -1)  # image, source, class
    table -= table.mean(-1, keepdims=True)
    names = logits[0].source_names
    for head, name in enumerate(features[0].names):
        wanted = table[:, names.index(name)].ravel()
        np.testing.assert_allclose(features[0].effects[head], wanted, atol=1e-10)


def test_attention_is_shared_out_by_area_and_stays_whole(models, images_for):
    vit, images = models[0], images_for(models[0], 2)
    for grid in ((1, 1), (3, 2), (4, 4)):
        found = gather_heads(vit, images, classes=[0], grid=grid).patterns
        cells = found.reshape(len(found), 2, 2, 1 + grid[0] * grid[1])
        np.testing.assert_allclose(cells.sum(-1), 1)
    np.testing.assert_allclose(cells_in_cells(2, 3), [[1, 0.5, 0], [0, 0.5, 1]])
    own = gather_heads(vit, images, classes=[0]).patterns.reshape(12, 2, 2, -1)
    _, cache = vit.run_with_cache(images)
    np.testing.assert_allclose(own[0, :, 0], cache["pattern", 0][:, 0, 0].numpy())


def test_mlps_are_matched_by_what_they_write(models, features, images_for):
    from vitcircuits.algorithms import logit_attribution

    vit, images = models[0], images_for(models[0], 6)
    logits = [logit_attribution(vit, images, Metric("logit", (c,))) for c in (0, 1, 3)]
    table = np.stack([found.values.sum(2) for found in logits], -1)
    table -= table.mean(-1, keepdims=True)
    for layer in range(3):
        wanted = table[:, logits[0].source_names.index(f"m{layer}")].ravel()
        np.testing.assert_allclose(features[0].mlp_effects[layer], wanted, atol=1e-10)
    one = features[0]
    shuffled = dataclasses.replace(one, mlp_effects=one.mlp_effects[[2, 0, 1]])
    assert match_heads(one, shuffled, window="free").mlps == {"m0": "m2", "m1": "m0", "m2": "m1"}
    assert match_heads(one, shuffled).mlps == {"m0": "m0", "m1": "m1", "m2": "m2"}  # inside blocks there is no choice


def test_what_has_no_counterpart_is_nobodys(make_graph, features):
    graph = make_graph(3, 4)
    circuit = Circuit.from_edges(graph, ["input->a0.h1<v>", "a0.h1->m1", "m1->logits"])
    full = match_heads(*features)
    assert named_nodes(circuit) == {"a0.h1", "m1"}
    by_query = Circuit.from_edges(graph, ["input->a0.h1<q>", "a0.h1->m1", "m1->logits"])
    assert matched_overlap(circuit, by_query, type(full)({"a0.h1": "a0.h1"}, full.mlps, {}, {}, "")) == (1 / 2, 1)
    nobody = type(full)({}, full.mlps, {}, {}, "")
    edges, nodes = matched_overlap(circuit, circuit, nobody)
    assert edges == 1 / 5 and nodes == 1 / 3


def test_features_of_other_images_and_graphs_of_other_groups_are_refused(features, make_graph):
    short = dataclasses.replace(features[0], patterns=features[0].patterns[:, :9])
    with pytest.raises(GraphError, match="9"):
        head_similarity(features[0], short)
    first, second = Circuit.full(make_graph(3, 4)), Circuit.full(make_graph(3, 4, tokens="role"))
    with pytest.raises(GraphError, match="token groups"):
        matched_overlap(first, second, match_heads(*features))


def test_a_head_that_never_varies_is_like_nothing(features):
    one = features[0]
    flat = dataclasses.replace(one, patterns=np.ones_like(one.patterns), effects=np.zeros_like(one.effects))
    np.testing.assert_array_equal(head_similarity(features[0], flat), 0)


def test_no_class_is_refused(models, images_for):
    with pytest.raises(TaskError, match="classes"):
        gather_heads(models[0], images_for(models[0], 1), classes=[])


def test_heads_of_every_architecture_are_gathered_and_match_themselves(architecture, images_for):
    images = images_for(architecture, 3)
    found = gather_heads(architecture, images, classes=[0, 1, 2], grid=(2, 2))
    names = [name for name in node_names(compile_graph(architecture)) if name.startswith("a")]
    assert list(found.names) == names and len(found.patterns) == len(found.effects) == len(names)
    assert (
        np.isfinite(found.patterns).all() and np.isfinite(found.effects).all() and np.isfinite(found.mlp_effects).all()
    )
    sums = found.patterns.reshape(len(names), 3, 2, 5).sum(-1)
    np.testing.assert_allclose(sums[:, :, 0], 1, atol=1e-6)
    alike = np.diag(head_similarity(found, found))
    varied = (np.ptp(found.patterns, axis=1) > 1e-9) & (np.ptp(found.effects, axis=1) > 1e-9)
    np.testing.assert_allclose(alike[varied], 1, atol=1e-9)


@pytest.mark.parametrize("name", ["map-other-heads", "distilled", "causal"])
def test_compared_with_itself_any_architecture_agrees_wholly(architecture_named, images_for, name):
    architecture = architecture_named(name)
    graph = compile_graph(architecture, tokens="role")
    values = np.random.default_rng(0).normal(size=len(graph))
    zeros = np.zeros(len(graph))
    circuit = Scores(graph, values, abs(values), zeros, zeros.astype(bool), 4, "x").top(3 * len(graph) // 4)
    assert len(circuit)
    one = Subject(circuit, heads=gather_heads(architecture, images_for(architecture, 3), classes=[0, 1]))
    found = compare({"a": [one], "b": [one]}, n_random=1)
    for measure, similarity in found.agreement.values.items():
        np.testing.assert_allclose(similarity, 1, err_msg=measure)
    assert one.anatomy.paths.weighted.sum() == pytest.approx(1)
