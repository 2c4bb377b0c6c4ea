"""A flow is the masked run without its edges, by gradient the sum of their scores, of a planted model the truth."""

import dataclasses

import numpy as np
import pytest
import torch
from vitcircuits.algorithms import eap, eap_ig, exact_effects, token_flow
from vitcircuits.circuits import class_contrast, compile_graph, run_circuit
from vitcircuits.circuits.circuit import Circuit
from vitcircuits.circuits.names import parse_edge
from vitcircuits.circuits.truths.planted import planted_task
from vitcircuits.models import load_vit
from vitcircuits.models.errors import GraphError, TaskError


def inside(graph, layer, head, source, destination, ports="kv"):
    """Edges of a flow, found by their names alone; head -1 means every head."""
    found = []
    for name in graph.edge_names():
        start, end = parse_edge(name)
        same = start.node == end.node and start.kind in ("head", "attention") and start.layer == layer
        port = not start.port or start.port in ports
        if same and port and head in (-1, start.head) and (start.group, end.group) == (source, destination):
            found.append(graph.index(name))
    return found


def without(task, graph, mask, edges):
    """The metric under a mask without some edges, turned as effects are, by the masked run."""
    kept, pairs = np.array(mask), task.discovery.under(task.ablation).opposed
    kept[edges] = False
    given = {"ablation": task.ablation, "reference": task.reference, "ids": pairs.pair_ids}
    with torch.no_grad():
        logits = run_circuit(task.vit, Circuit(graph, kept), pairs.clean, pairs.corrupt, **given)
        return (task.signs(pairs) * task.metric(logits, task.vit(pairs.clean)).double()).numpy()


def check(table, task, graph, mask):
    now, seen = without(task, graph, mask, []), 0
    allowed = 1e-9 if task.vit.dtype == torch.float64 else 1e-4
    for layer, place, source, to in np.ndindex(table.values.shape[1:]):
        names = table.groups[source], table.groups[table.into[to]]
        edges = [e for e in inside(graph, layer, table.heads[place], *names) if mask[e]]
        values = table.values[:, layer, place, source, to]
        assert np.isnan(values).all() == (not edges)
        if edges:
            seen += 1
            wanted = now - without(task, graph, mask, edges)
            np.testing.assert_allclose(values, wanted, rtol=0, atol=allowed)
    assert seen


@pytest.mark.parametrize("name", ["registers-layerscale", "distilled", "map-prefix", "parallel", "joint-norm"])
def test_an_exact_flow_is_the_masked_run_without_its_edges(case_of, name):
    case = case_of(name, "role")
    check(token_flow(case.task), case.task, case.graph, np.ones(len(case.graph), dtype=bool))


@pytest.mark.parametrize("ablation", [{"kind": "partner"}, {"kind": "mean"}, {"kind": "zero"}])
def test_in_a_circuit_flows_are_of_the_edges_that_it_keeps(case_of, ablation):
    case = case_of("registers-layerscale", "role", "qkv", ablation)
    circuit = eap(case.graph, case.task).top(0.5)
    table = token_flow(circuit, case.task)
    assert table.circuit == len(circuit) and str(len(circuit)) in table.method
    check(table, case.task, case.graph, circuit.mask)


@pytest.mark.parametrize("by", ["exact", "gradient"])
def test_of_masks_each_pair_flows_as_under_its_own_partition(case_of, by):
    task = case_of("registers-layerscale").task
    n_tokens, rng = task.vit.cfg.tokens.n_tokens, np.random.default_rng(0)
    objects = torch.from_numpy(rng.random((2, 2, n_tokens)) < 0.4)
    objects[:, :, : task.vit.cfg.tokens.n_prefix] = False
    pairs = dataclasses.replace(task.discovery, objects=objects)
    table = token_flow(task, tokens="mask", by=by, pairs=pairs)
    assert {"object", "background"} < set(table.groups)
    for row in range(2):
        alone = token_flow(task, tokens="mask", by=by, pairs=pairs.select([row]))
        np.testing.assert_allclose(table.values[row], alone.values[0], rtol=0, atol=1e-9)
    roles = token_flow(task, by=by, pairs=pairs) if by == "gradient" else None
    if roles is not None:  # first order: what the two parts of the patches carry adds up
        cls, patch = roles.groups.index("cls"), roles.groups.index("patch")
        both = [table.groups.index(name) for name in ("object", "background")]
        sums = table.values[:, 0, 0, both, table.groups.index("cls")].sum(1)
        np.testing.assert_allclose(sums, roles.values[:, 0, 0, patch, cls], rtol=0, atol=1e-9)


def test_keys_and_values_can_be_told_apart(case_of):
    case = case_of("registers-layerscale", "role")
    whole, together = np.ones(len(case.graph), dtype=bool), token_flow(case.task)
    for reads, port in (("keys", "k"), ("values", "v")):
        table = token_flow(case.task, reads=reads, into="cls", heads=False)
        assert table.heads == (-1,) and table.into == (0,) and reads in table.method
        edges = inside(case.graph, 0, -1, "patch", "cls", port)
        patch = table.groups.index("patch")
        wanted = without(case.task, case.graph, whole, []) - without(case.task, case.graph, whole, edges)
        np.testing.assert_allclose(table.values[:, 0, 0, patch, 0], wanted, rtol=0, atol=1e-9)
        assert np.abs(table.values[:, 0, 0, patch, 0] - together.values[:, 0, 0, patch, 0]).max() > 1e-6


@pytest.mark.parametrize("sides", ["both", "one"])
def test_by_gradient_a_flow_is_the_sum_of_its_edges_scores(sides):
    vit = load_vit("toy/digits-2l")
    task = class_contrast(vit, "digits", target=3, foil=8, n_discovery=6, n_evaluation=4, sides=sides)
    graph = compile_graph(vit, tokens="role")
    table, pairs = token_flow(task, by="gradient", steps=3), task.discovery.opposed
    apart = class_contrast(vit, "digits", target=3, foil=8, n_discovery=6, n_evaluation=4, sides="one")
    if sides == "one":
        scores = eap_ig(graph, apart, steps=3)
        for layer, head in ((0, -1), (1, 2)):
            edges = inside(graph, layer, head, "patch", "cls")
            found = table.effect[layer, 1 + head, 1, 0]
            assert found == pytest.approx(scores.values[edges].sum(), rel=1e-4, abs=1e-5)
    assert len(table.values) == len(pairs) and "flips" not in table.table().columns
    frame = table.frame()
    assert frame["flips"].isna().all() and (frame["low"] <= frame["effect"] + 1e-9).all()


def test_scores_are_added_up_and_have_no_interval(case_of):
    case = case_of("registers-layerscale", "role")
    scores = exact_effects(case.graph, case.task)
    table = token_flow(scores)
    edges = inside(case.graph, 0, -1, "patch", "cls")
    patch, cls = table.groups.index("patch"), table.groups.index("cls")
    assert table.effect[0, 0, patch, cls] == pytest.approx(scores.values[edges].sum())
    assert table.frame()["low"].isna().all() and "exact_effects" in str(table)


@pytest.mark.parametrize("name", ["planted/neighbour-xor", "planted/bright-column", "planted/majority"])
def test_a_planted_models_flow_is_its_truth(name):
    vit = load_vit(name)
    task = planted_task(vit, n=128)
    table = token_flow(task, tokens="each", into=[*vit.cfg.tokens.token_names()], heads=True)
    wanted = set()
    for edge in vit.truth(tokens="each"):
        start, end = parse_edge(edge)
        if start.node == end.node:
            wanted.add((start.layer, start.head, start.group, end.group))
    frame = table.frame(n_bootstrap=0)
    alone = frame[(frame["head"] >= 0) & (frame["effect"].abs() > 1e-5)]
    found = set(alone[["layer", "head", "source", "destination"]].itertuples(index=False, name=None))
    assert wanted and found <= wanted  # two heads that stand in for one another have no effect alone
    together = frame[(frame["head"] < 0) & (frame["effect"].abs() > 1e-5)]
    layers = {(layer, source, to) for layer, _, source, to in wanted}
    assert set(together[["layer", "source", "destination"]].itertuples(index=False, name=None)) == layers


def test_pictures_are_bands_between_few_groups_and_maps_of_many(tmp_path, case_of):
    case = case_of("registers-layerscale", "role")
    bands = token_flow(case.task).draw(tmp_path / "bands.svg").read_text()
    assert "cls" in bands and "blue helps" in bands
    digits = class_contrast(load_vit("toy/digits-2l"), "digits", target=3, foil=8, n_discovery=3, n_evaluation=3)
    each = token_flow(digits, tokens="each")
    assert each.into == (0,) and each.heads == (-1,) and len(each.groups) == 17
    assert each.draw(tmp_path / "each.png").stat().st_size > 5000


def test_what_cannot_be_asked_is_said(case_of):
    case = case_of("registers-layerscale")
    with pytest.raises(GraphError, match="one token group"):
        token_flow(eap(case.graph, case.task))
    with pytest.raises(GraphError, match="no token group"):
        token_flow(case.task, into="patches")
    with pytest.raises(TaskError, match="by='guess'"):
        token_flow(case.task, by="guess")
    roles = compile_graph(case.task.vit, tokens="role", ports="head")
    circuit = eap(roles, case.task).top(20)
    with pytest.raises(TaskError, match="pass the task"):
        token_flow(circuit)
    with pytest.raises(TaskError, match="whole model"):
        token_flow(circuit, case.task, by="gradient")
    with pytest.raises(GraphError, match="ports='qkv'"):
        token_flow(circuit, case.task, reads="keys")
