"""Laws 3, 4 and 5, and what EAP and EAP-IG promise."""

import dataclasses

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from vitcircuits.algorithms import eap, eap_ig, exact_effects
from vitcircuits.circuits import Ablation, Pairs, Task, compile_graph
from vitcircuits.circuits.tasks.metrics import Metric
from vitcircuits.models import load_vit
from vitcircuits.models.errors import TaskError

CHOICES = [(tokens, ports) for tokens in ("all", "role", "each") for ports in ("qkv", "head", "block")]
CHOICES += [("grid:1x2", "head"), ("mask", "qkv")]
VARIANTS = [
    {},
    {"class_token": False, "global_pool": "avg", "norm_layer": "rmsnorm"},
    {"reg_tokens": 2, "init_values": 0.3, "qk_norm": True, "qkv_bias": False},
    {"global_pool": "avg", "reg_tokens": 1, "pre_norm": True, "fc_norm": False},
]


def make_task(options, kind="partner", metric="logit_difference", dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    module = VisionTransformer(
        img_size=8, patch_size=4, in_chans=1, num_classes=5, embed_dim=16, depth=2, num_heads=2, **options
    ).to(dtype)
    for parameter in module.parameters():
        parameter.data = torch.randn_like(parameter) * 0.3
    images = torch.randn(10, 1, 8, 8, dtype=dtype)
    pairs = Pairs(images[:3], images[3:6]), Pairs(images[6:8], images[8:])
    return Task(load_vit(module), Metric(metric, (0, 1), (2,)), *pairs, Ablation(kind))


def linear_task():
    """Identity norms and activations, no queries or keys (uniform attention), and a linear metric."""
    torch.manual_seed(1)
    module = VisionTransformer(
        img_size=8, patch_size=4, in_chans=1, num_classes=5, embed_dim=16, depth=2, num_heads=2,
        norm_layer=nn.Identity, act_layer=nn.Identity,
    ).double()  # fmt: skip
    for parameter in module.parameters():
        parameter.data = torch.randn_like(parameter) * 0.3
    for block in module.blocks:
        block.attn.qkv.weight.data[:32] = 0
        block.attn.qkv.bias.data[:32] = 0
    images = torch.randn(8, 1, 8, 8, dtype=torch.float64)
    pairs = Pairs(images[:2], images[2:4]), Pairs(images[4:6], images[6:])
    return with_objects(Task(load_vit(module), Metric("logit_difference", (0,), (2,)), *pairs))


def with_objects(task):
    """The task whose pairs each have an object and a background, at other patches in each."""
    cfg, pairs = task.vit.cfg.tokens, task.discovery
    objects = torch.zeros(len(pairs), 2, cfg.n_tokens, dtype=torch.bool)
    for row in range(len(pairs)):
        objects[row, row % 2, cfg.patches.start + row] = objects[row, 1, cfg.patches.start + 1] = True
    return dataclasses.replace(task, discovery=dataclasses.replace(pairs, objects=objects))


@pytest.mark.parametrize(("tokens", "ports"), CHOICES)
def test_law_3_attribution_is_the_exact_effect_on_a_linear_model(tokens, ports):
    task = linear_task()
    graph = compile_graph(task.vit, tokens=tokens, ports=ports)
    exact = exact_effects(graph, task).values
    scale = np.abs(exact).max()
    for scores in (eap(graph, task), eap_ig(graph, task, steps=3)):
        np.testing.assert_allclose(scores.values, exact, rtol=0, atol=1e-9 * scale)


def residual(block_values, graph):
    """Scores of residual edges keyed by (source, destination without group)."""
    totals = {}
    for index, value in enumerate(block_values):
        edge = graph.edge(index)
        if not edge.inside:
            key = (edge.source.node, edge.destination.node, edge.port)
            totals[key] = totals.get(key, 0.0) + value
    return totals


@pytest.mark.parametrize("score", [lambda g, t: eap(g, t), lambda g, t: eap_ig(g, t, steps=3, freeze_norm=False)])
def test_law_5_residual_edges_add_over_refinements_of_tokens(score):
    task = with_objects(make_task(VARIANTS[2]))
    wanted = residual(score(compile_graph(task.vit), task).values, compile_graph(task.vit))
    for tokens in ("role", "each", "grid:2x1", "mask"):
        graph = compile_graph(task.vit, tokens=tokens)
        got = residual(score(graph, task).values, graph)
        assert got.keys() == wanted.keys()
        for key, value in wanted.items():
            assert got[key] == pytest.approx(value, abs=1e-9), key


@pytest.mark.parametrize("tokens", ["all", "role"])
def test_law_5_ports_add_up_to_the_head_and_heads_to_the_block(tokens):
    task = make_task(VARIANTS[0])
    sums = {}
    for ports in ("qkv", "head", "block"):
        graph = compile_graph(task.vit, tokens=tokens, ports=ports)
        totals = {}
        for index, value in enumerate(eap(graph, task).values):
            edge = graph.edge(index)
            ends = (edge.source, edge.destination)
            node = edge.destination.node.split(".")[0]
            start = node if edge.inside else edge.source.node
            key = (start, ends[0].group, node, ends[1].group)
            totals[key] = totals.get(key, 0.0) + value
        sums[ports] = totals
    for ports in ("head", "block"):
        assert sums[ports].keys() == sums["qkv"].keys()
        for key, value in sums["qkv"].items():
            assert sums[ports][key] == pytest.approx(value, abs=1e-9)


def test_law_5_linear_edges_inside_heads_add_over_refinements():
    task = with_objects(make_task(VARIANTS[0]))
    totals = {}
    for tokens in ("role", "each", "grid:2x1", "mask"):
        graph = compile_graph(task.vit, tokens=tokens)
        role = lambda group: "cls" if group == "cls" else "patch"  # noqa: E731
        for index, value in enumerate(eap(graph, task).values):
            edge = graph.edge(index)
            if edge.inside:
                key = (str(edge.source.node), edge.port, role(edge.source.group), role(edge.destination.group))
                totals.setdefault(tokens, {}).setdefault(key, 0.0)
                totals[tokens][key] += value
    for tokens in ("each", "grid:2x1", "mask"):
        assert totals["role"].keys() == totals[tokens].keys()
        for key, value in totals["role"].items():
            assert totals[tokens][key] == pytest.approx(value, abs=1e-9)


def test_exact_softmax_equals_the_effect_where_the_rest_is_linear():
    """With everything after one layer's heads linear in z, the exact form is the exact effect inside that layer."""
    task = linear_task()
    block = task.vit.module.blocks[1]
    block.attn.qkv.weight.data[:32] = 0.3 * torch.randn(32, 16, dtype=torch.float64)
    for ports in ("qkv", "head"):
        graph = compile_graph(task.vit, tokens="role", ports=ports)
        inside = graph.layers[1].inside
        exact = exact_effects(graph, task).values[inside.start : inside.stop]
        got = eap(graph, task, softmax="exact").values[inside.start : inside.stop]
        linear = eap(graph, task).values[inside.start : inside.stop]
        np.testing.assert_allclose(got, exact, rtol=0, atol=1e-9 * np.abs(exact).max())
        assert np.abs(linear - exact).max() > 1e-3 * np.abs(exact).max()


def test_error_against_twice_the_steps_falls():
    task = make_task({})
    graph = compile_graph(task.vit)
    errors = [eap_ig(graph, task, steps=steps, report_error=True).diagnostics["error_vs_double"] for steps in (2, 16)]
    assert 0 < errors[1] < errors[0] / 10


@pytest.mark.parametrize("tokens", ["all", "role"])
def test_batched_scores_equal_whole_ones(tokens):
    task = make_task(VARIANTS[2], "noise")
    graph = compile_graph(task.vit, tokens=tokens)
    for algorithm in (eap, eap_ig, exact_effects):
        whole, single = algorithm(graph, task), algorithm(graph, task, memory=1)
        for name in ("values", "mean_abs", "std_err"):
            np.testing.assert_allclose(getattr(single, name), getattr(whole, name), rtol=0, atol=1e-12)


def test_spread_is_over_pairs():
    task = make_task({})
    graph = compile_graph(task.vit)
    singles = []
    for pair in range(3):
        one = dataclasses.replace(task, discovery=task.discovery.select([pair]))
        singles.append(eap(graph, one).values)
    scores = eap(graph, task)
    np.testing.assert_allclose(scores.mean_abs, np.abs(singles).mean(0), atol=1e-12)
    np.testing.assert_allclose(scores.std_err, np.std(singles, axis=0, ddof=1) / np.sqrt(3), atol=1e-12)


def test_float32_agrees_with_float64():
    values = []
    for dtype in (torch.float32, torch.float64):
        task = make_task(VARIANTS[3], dtype=dtype)
        task64 = make_task(VARIANTS[3])
        if dtype == torch.float32:  # the same images and weights, rounded
            task.vit.module.load_state_dict(task64.vit.module.state_dict())
            task = dataclasses.replace(
                task,
                discovery=Pairs(task64.discovery.clean.float(), task64.discovery.corrupt.float()),
            )
        values.append(eap(compile_graph(task.vit), task).values)
    assert np.abs(values[0] - values[1]).max() <= 1e-4 * max(1, np.abs(values[1]).max())


def test_kl_is_refused_by_eap_and_taken_by_eap_ig():
    task = make_task({}, metric="kl")
    graph = compile_graph(task.vit)
    with pytest.raises(TaskError, match="zero gradient"):
        eap(graph, task)
    assert np.abs(eap_ig(graph, task).values).max() > 0


def test_accuracy_has_no_gradient_and_bad_steps_are_refused():
    graph = compile_graph(make_task({}).vit)
    with pytest.raises(TaskError, match="no gradient"):
        eap(graph, make_task({}, metric="accuracy"))
    with pytest.raises(TaskError, match="at least 1"):
        eap_ig(graph, make_task({}), steps=0)


def test_the_same_call_gives_the_same_bytes():
    graph = compile_graph(make_task({}).vit, tokens="role")
    first, second = (eap_ig(graph, make_task({}, "noise")).values.tobytes() for _ in range(2))
    assert first == second


def test_scores_of_a_crossed_task_are_those_of_its_sides_whatever_the_chunks_and_batches(monkeypatch):
    """Oriented by what the clean image shows, and equal where pairs come a few at a time."""
    from dataclasses import replace

    from vitcircuits.algorithms.attribution import plan
    from vitcircuits.circuits import class_contrast

    vit = load_vit("toy/digits-2l")
    graph = compile_graph(vit)
    task = class_contrast(vit, "digits", target=3, foil=8, n_discovery=6, n_evaluation=4)
    whole = eap(graph, task)
    sides = []
    for sign in (1, -1):
        rows = torch.nonzero(task.discovery.sign == sign).flatten()
        pairs = replace(task.discovery.select(rows), design=None)
        sides.append(sign * eap(graph, replace(task, discovery=pairs)).values)
    np.testing.assert_allclose(whole.values, np.mean(sides, 0), rtol=1e-4, atol=1e-6)
    monkeypatch.setattr(plan, "chunk_bytes", lambda vit, memory: 200_000)
    few = eap(graph, task, memory=2_000_000)
    np.testing.assert_allclose(few.values, whole.values, rtol=1e-4, atol=1e-6)
