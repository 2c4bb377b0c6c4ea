"""What engines say of edges is what the masked run says: exact changes, derivatives, decisions, on every model."""

import dataclasses

import numpy as np
import pytest
import torch
from vitcircuits.algorithms import acdc, eap, eap_ig, exact_effects
from vitcircuits.algorithms.engines.flips import measure_flips
from vitcircuits.algorithms.engines.gated_run import GatedRunner, measure_slopes
from vitcircuits.circuits import compile_graph
from vitcircuits.circuits.reach import prune


def agree(case, got, wanted):
    """Equal at the laws' tolerance."""
    factor = 1e-9 if case.vit.dtype == torch.float64 else 1e-4
    np.testing.assert_allclose(got, wanted, rtol=0, atol=factor * max(1, np.abs(wanted).max()))


def one_of_each(case, seed=0):
    """One edge, drawn by chance, into each kind of place: logits, MLPs, tokens inside heads, what heads read."""
    kinds, order = {}, case.some(len(case.graph), seed).tolist()
    for block in case.graph.blocks:
        kinds.setdefault(block.kind, set()).update(range(block.start, block.stop))
    return np.array([next(edge for edge in order if edge in members) for members in kinds.values() if members])


@pytest.fixture
def turn(request):
    """0 to 5: cases take turns at the settings of a law; each graph meets all, over the models, and each ablation."""
    place, tokens = divmod(request.node.callspec.indices["case"], 3)
    return (place // 3 + tokens) % 3 + 3 * (place // 2 % 2)


def check_effects(case):
    full = np.ones(len(case.graph), dtype=bool)
    edges, now = one_of_each(case), case.metric(full)
    wanted = np.stack([now - case.flipped(full, edge) for edge in edges], 1)
    found = exact_effects(case.graph, case.task)
    agree(case, found.values[edges], wanted.mean(0))
    agree(case, found.mean_abs[edges], np.abs(wanted).mean(0))


def test_an_exact_effect_is_what_the_metric_loses_without_the_edge(sole_case):
    check_effects(sole_case)


def test_so_it_is_for_a_metric_that_looks_back_at_the_clean_run(sole_case):
    task = dataclasses.replace(sole_case.task, metric=dataclasses.replace(sole_case.task.metric, kind="kl"))
    check_effects(dataclasses.replace(sole_case, graph=compile_graph(task.vit, ports="block"), task=task))


def test_flips_around_a_mask_are_masked_runs(case, turn):
    """Around the whole graph too, where they are exact effects."""
    masks = case.mask(1.0), case.mask(0.6), prune(case.graph, case.mask(0.25, seed=1))
    mask, edges = masks[turn % 3], one_of_each(case, seed=2)
    found = measure_flips(case.vit, case.graph, mask, edges, case.task.metric, case.pairs, case.baseline)
    agree(case, found.now, case.metric(mask))
    agree(case, found.flipped, np.stack([case.flipped(mask, edge) for edge in edges]))


def test_law_4_eap_is_the_derivative_along_the_mask(case, same_scores):
    _, wanted = case.derivative(np.ones(len(case.graph)), lambda logits: case.task.metric(logits).mean())
    same_scores(eap(case.graph, case.task, freeze_norm=False, softmax="linear").values, wanted, case.vit)


def test_the_gradient_at_every_gate_is_the_derivative_of_the_masked_run(case, turn, close, same_scores):
    def loss(logits):
        return logits[:, 1].square().sum() - logits[:, 0].sum()

    chance, closed = np.random.default_rng(4), (0.3, 0.0)[turn // 3]
    gates = torch.from_numpy(chance.random(len(case.graph)) * (chance.random(len(case.graph)) >= closed))
    with torch.no_grad(), case.vit.borrowed():
        runner = GatedRunner(case.vit, case.graph)
        runner(1 - gates, *case.ends, loss)  # nothing of an earlier batch is left in the buffers
        found = runner(gates, *case.ends, loss)
    logits, wanted = case.derivative(gates, loss)
    close(found.logits, logits)
    opened = gates.numpy() > 0
    same_scores(found.gradient.double().numpy()[opened], wanted[opened], case.vit)


def test_slopes_are_the_derivative_of_each_pair_and_gates_of_0_and_1_a_circuit(case, turn, close, same_scores):
    graph, metric = case.graph, case.task.metric
    mask = prune(graph, case.mask((0.4, 0.8)[turn // 3]))
    now, slopes = measure_slopes(case.vit, graph, mask, metric, case.pairs, case.baseline)
    with torch.no_grad(), case.vit.borrowed():
        found = GatedRunner(case.vit, graph)(torch.from_numpy(mask).double(), *case.ends, lambda x: x.sum())
    logits = case.logits(mask)
    close(found.logits, logits)
    agree(case, now, metric(logits, case.clean).double().numpy())
    for pair in range(len(case.pairs)):
        _, wanted = case.derivative(mask.astype(float), lambda logits, pair=pair: metric(logits)[pair])
        same_scores(slopes[pair], wanted, case.vit)


def test_law_6_acdc_decides_as_one_edge_at_a_time(sole_case, sequential):
    task, graph = sole_case.task, sole_case.graph
    coarser = ((graph.groups.kind, "block"), ("role", "block"), ("all", "qkv"), ("all", "block"))
    graphs = (graph, *(compile_graph(task.vit, tokens=tokens, ports=ports) for tokens, ports in coarser))
    graph = next(graph for graph in graphs if len(graph) < 72)
    options = {"tau": 0.1, "metric": "task", "worsening": "absolute"}
    wanted, found = sequential(graph, task, **options), acdc(graph, task, **options)
    losses = np.zeros(len(graph))  # what was not measured changed nothing
    for edge, _, loss in wanted.decisions:
        losses[edge] = loss
    agree(sole_case, found.scores.values, losses)
    assert np.array_equal(found.mask, wanted.circuit) and wanted.mask.sum() < len(graph)


def test_integrated_gradients_are_complete_where_norms_are_not_frozen(model, case_of):
    """To a thousandth at 144 steps, where fewer are not enough."""
    case = case_of(model.cfg.name, "all", "block")
    clean = float(case.task.metric(case.clean).mean())
    drop = clean - float(case.task.metric(model(case.pairs.corrupt)).mean())
    leaving = [k for k, name in enumerate(case.graph.edge_names()) if name.startswith("input")]
    rounding = 32 * torch.finfo(model.dtype).eps * max(1, abs(clean)) / abs(drop)  # a difference of two metrics
    gaps = []
    for steps in (4, 24, 48, 144):
        scores = eap_ig(case.graph, case.task, steps=steps, freeze_norm=False)
        found = float(scores.values[leaving].sum())
        gaps.append(scores.diagnostics["completeness_gap"])
        assert gaps[-1] == pytest.approx(abs(found / drop - 1), abs=rounding)
        if steps > 4 and abs(found - drop) <= 1e-3 * max(1, abs(clean)) and gaps[-1] < min(1e-3, gaps[0]):
            break
    assert found == pytest.approx(drop, abs=1e-3 * max(1, abs(clean)))
    assert gaps[-1] < min(1e-3, gaps[0])
