"""Law 6: speculative ACDC is sequential ACDC, decision by decision; and a journal brings an interrupted run home."""

import json
import re

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from timm.models.vision_transformer import VisionTransformer
from vitcircuits.algorithms import acdc, eap
from vitcircuits.algorithms.registry import least_memory
from vitcircuits.circuits import Ablation, Pairs, Task, compile_graph
from vitcircuits.circuits.tasks.metrics import Metric
from vitcircuits.models import load_vit
from vitcircuits.models.errors import FormatError, TaskError

SHAPES = (
    {},
    {"class_token": False, "global_pool": "avg", "init_values": 0.3},
    {"reg_tokens": 1, "qk_norm": True, "depth": 3},
)
GRAPHS = [
    ("all", "qkv"),
    ("all", "head"),
    ("all", "block"),
    ("role", "qkv"),
    ("role", "head"),
    ("role", "block"),
    ("each", "block"),
]


def make_task(seed=0, ablation="partner", dtype=torch.float64, n_pairs=2, **shape):
    torch.manual_seed(seed)
    sizes = {
        "img_size": 8,
        "patch_size": 4,
        "in_chans": 1,
        "num_classes": 4,
        "embed_dim": 8,
        "depth": 2,
        "num_heads": 2,
    }
    module = VisionTransformer(**{**sizes, **shape})
    for parameter in module.parameters():
        parameter.data = torch.randn_like(parameter) * 0.5
    images = torch.randn(4, n_pairs, 1, 8, 8, dtype=torch.float64).to(dtype)
    pairs = Pairs(images[0], images[1]), Pairs(images[2], images[3])
    return Task(load_vit(module.to(dtype)), Metric("logit_difference", (0,), (2,)), *pairs, Ablation(ablation))


def same_decisions(circuit, wanted):
    """Every measured edge lost what the reference saw it lose; what was not measured changed nothing there."""
    losses = np.zeros(len(circuit.mask))
    for edge, _, loss in wanted.decisions:
        losses[edge] = loss
    np.testing.assert_allclose(circuit.scores.values, losses, rtol=0, atol=1e-9)
    assert np.array_equal(circuit.mask, wanted.circuit)


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(
    seed=st.integers(0, 1000),
    shape=st.sampled_from(SHAPES),
    graph=st.sampled_from(GRAPHS[:6]),
    tau=st.floats(1e-4, 0.5),
    metric=st.sampled_from(["kl", "logit_difference", "task"]),
    order=st.sampled_from(["paper", "eap"]),
    worsening=st.sampled_from(["signed", "absolute"]),
    batch=st.sampled_from([1, 3, 64]),
)
def test_law_6_speculative_acdc_decides_as_one_edge_at_a_time(
    sequential, seed, shape, graph, tau, metric, order, worsening, batch
):
    task = make_task(seed, **{**shape, "depth": 2})
    compiled = compile_graph(task.vit, tokens=graph[0], ports=graph[1])
    options = {"tau": tau, "metric": metric, "worsening": worsening}
    scores = eap(compiled, task) if order == "eap" else "paper"
    same_decisions(
        acdc(compiled, task, order=order, batch=batch, **options), sequential(compiled, task, order=scores, **options)
    )


def test_law_6_micro_batched_is_whole():
    task = make_task(3, n_pairs=7)
    graph = compile_graph(task.vit, tokens="role")
    whole, micro = acdc(graph, task, tau=0.02), acdc(graph, task, tau=0.02, memory=least_memory("acdc", graph, task))
    np.testing.assert_allclose(micro.scores.values, whole.scores.values, rtol=0, atol=1e-9)
    assert np.array_equal(micro.mask, whole.mask)


def test_too_little_memory_is_refused_with_what_is_needed():
    task = make_task(3, n_pairs=7)
    graph = compile_graph(task.vit)
    with pytest.raises(TaskError, match=r"7 pairs .* pass memory=(\d+) or more") as refused:
        acdc(graph, task, tau=0.02, memory=10_000)
    acdc(graph, task, tau=0.02, memory=int(re.search(r"pass memory=(\d+)", str(refused.value))[1]))


def test_a_worsening_of_exactly_tau_is_decided_as_by_whole_runs(sequential):
    task = make_task(4, dtype=torch.float32, n_pairs=5)
    graph = compile_graph(task.vit)
    losses = [loss for _, _, loss in sequential(graph, task, tau=0.02).decisions if loss > 0.005]
    for tau in [*losses[:4], *(np.nextafter(loss, 1) for loss in losses[:4])]:
        found = acdc(graph, task, tau=float(tau))
        assert np.array_equal(found.mask, sequential(graph, task, tau=float(tau)).circuit)
        assert found.scores.diagnostics["ties"] > 0


def test_several_thresholds_give_a_circuit_each():
    task = make_task(5)
    graph = compile_graph(task.vit)
    several = acdc(graph, task, tau=[0.01, 0.2])
    assert [found == acdc(graph, task, tau=tau) for found, tau in zip(several, (0.01, 0.2), strict=True)] == [
        True,
        True,
    ]


def test_a_journal_cut_off_anywhere_leads_to_the_same_bytes(tmp_path):
    task, path = make_task(6, n_pairs=3), tmp_path / "journal.jsonl"
    graph = compile_graph(task.vit, tokens="role")
    wanted = acdc(graph, task, tau=1e-4, journal=path).save(tmp_path / "whole.json").read_bytes()
    whole = path.read_bytes()
    assert len(whole.splitlines()) > 20
    for cut in range(0, len(whole), max(1, len(whole) // 6)):
        path.write_bytes(whole[:cut])
        found = acdc(graph, task, tau=1e-4, journal=path).save(tmp_path / "again.json")
        assert found.read_bytes() == wanted
        assert path.read_bytes() == whole


def test_a_journal_of_another_search_or_an_edited_one_is_refused(tmp_path):
    task, path = make_task(7), tmp_path / "journal.jsonl"
    graph = compile_graph(task.vit)
    acdc(graph, task, tau=0.02, journal=path)
    for changed in ({"tau": 0.03}, {"metric": "task"}, {"worsening": "absolute"}, {"order": "eap"}, {"batch": 2}):
        with pytest.raises(FormatError, match=f"another search: {next(iter(changed))} was"):
            acdc(graph, task, journal=path, **{"tau": 0.02, **changed})
    with pytest.raises(FormatError, match="images was"):
        acdc(graph, make_task(7, n_pairs=3), tau=0.02, journal=path)
    header, first, *rest = path.read_text().splitlines()
    edited = {**json.loads(first), "tried": 17}
    path.write_text("\n".join([header, json.dumps(edited), *rest]) + "\n")
    with pytest.raises(FormatError, match="does not fit this search"):
        acdc(graph, task, tau=0.02, journal=path)
    path.write_text("an old shopping list\n")
    with pytest.raises(FormatError, match="is no journal"):
        acdc(graph, task, tau=0.02, journal=path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tau": 0.0}, "number above 0"),
        ({"tau": float("nan")}, "number above 0"),
        ({"batch": 0}, "at least 1"),
        ({"metric": "accuracy"}, "'kl', 'logit_difference', 'task'"),
        ({"worsening": "none"}, "'signed', 'absolute'"),
        ({"order": "acdc"}, "one of eap"),
    ],
)
def test_mistakes_are_told(options, said, unchecked):
    task = make_task()
    with pytest.raises(TaskError, match=said):
        acdc(compile_graph(task.vit), task, **options)
