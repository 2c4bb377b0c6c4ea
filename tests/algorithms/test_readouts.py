"""The laws of runs and gradients hold under a readout that took the place of a model's own."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from vitcircuits.algorithms import eap, exact_effects
from vitcircuits.circuits import Circuit, Pairs, Task, compile_graph, run_circuit
from vitcircuits.circuits.baseline import make_baseline
from vitcircuits.circuits.masked_run import MaskWeights, masked_logits
from vitcircuits.circuits.tasks.metrics import Metric
from vitcircuits.models import probe_readout
from vitcircuits.models.readouts import TextHead

READ = {
    "text": lambda vit, images: vit.with_readout(text_head(vit)),
    "probe": lambda vit, images: probe_readout(vit, images, torch.arange(10) % 3, kind="ridge"),
    "probe on patches": lambda vit, images: probe_readout(vit, images, torch.arange(10) % 3, pool="patches"),
    "features": lambda vit, images: vit.with_readout(nn.Identity()),
}


def text_head(vit):
    torch.manual_seed(7)
    project = nn.Linear(vit.cfg.d_model, 6, dtype=vit.dtype).requires_grad_(False)
    return TextHead(project, torch.randn(3, 6, dtype=vit.dtype), scale=10.0, bias=1.0)


@pytest.fixture(params=READ)
def task(request, variant_named, images_for):
    """A task under each readout."""
    vit = variant_named("registers-layerscale")
    images = images_for(vit, 10)
    pairs = Pairs(images[:3], images[3:6]), Pairs(images[6:8], images[8:])
    return Task(READ[request.param](vit, images), Metric("logit_difference", (0, 1), (2,)), *pairs)


@pytest.mark.parametrize("tokens", ["all", "role", "each"])
def test_law_2_all_edges_are_the_clean_run_and_none_the_corrupted(task, tokens, close):
    graph = compile_graph(task.vit, tokens=tokens)
    images = {"clean": task.discovery.clean, "corrupt": task.discovery.corrupt}
    close(run_circuit(task.vit, Circuit.full(graph), **images), task.vit(images["clean"]).detach())
    close(run_circuit(task.vit, Circuit.empty(graph), **images), task.vit(images["corrupt"]).detach())


@pytest.mark.parametrize("tokens", ["all", "role"])
def test_law_4_eap_is_the_derivative_along_the_mask(task, tokens):
    graph = compile_graph(task.vit, tokens=tokens)
    soft = torch.ones(len(graph), dtype=torch.float64, requires_grad=True)
    with task.vit.borrowed():
        ablated = make_baseline(task.vit, task.ablation, task.reference)(task.discovery)
        weights = MaskWeights.from_tensor(graph, soft)
        value = task.metric(masked_logits(task.vit, weights, task.discovery.clean, ablated)).mean()
        (wanted,) = torch.autograd.grad(value, soft)
    got = eap(graph, task, freeze_norm=False).values
    np.testing.assert_allclose(got, wanted.numpy(), rtol=0, atol=1e-9 * float(wanted.abs().max()))


def test_exact_effects_are_those_of_single_runs(task):
    graph = compile_graph(task.vit)
    found = exact_effects(graph, task).values
    pairs, clean = task.discovery, task.metric(task.vit(task.discovery.clean))
    for edge in range(0, len(graph), 7):
        mask = np.ones(len(graph), dtype=bool)
        mask[edge] = False
        logits = run_circuit(task.vit, Circuit(graph, mask), clean=pairs.clean, corrupt=pairs.corrupt)
        assert found[edge] == pytest.approx(float((clean - task.metric(logits)).mean()), abs=1e-9)


def test_edges_into_the_logits_are_where_the_readout_reads(variant_named, images_for):
    vit = variant_named("registers-layerscale")
    patches = READ["probe on patches"](vit, images_for(vit, 10))
    for read, group in ((vit, "cls"), (patches, "patch")):
        graph = compile_graph(read, tokens="role")
        ends = {name.rpartition("@")[2] for name in graph.edge_names() if "->logits" in name}
        assert ends == {group}
    assert dataclasses.replace(patches.cfg, read_tokens=(0,), pooling="token", n_classes=5) == vit.cfg
