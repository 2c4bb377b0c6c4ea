"""What is gathered from a model is what its hooks, its logits and direct logit attribution say."""

import numpy as np
import pytest
import torch
from torch import nn
from vitcircuits.algorithms import logit_attribution, logit_lens
from vitcircuits.algorithms.interpretability.measure import (
    circuit_heads,
    head_effects,
    head_names,
    head_writes,
    represented,
)
from vitcircuits.circuits import Circuit, compile_graph
from vitcircuits.circuits.tasks.metrics import Metric
from vitcircuits.models.errors import ModelError
from vitcircuits.models.readouts import TextHead


def check_writes(vit, images):
    _, cache = vit.run_with_cache(images)
    for at, tokens in (("read", vit.readout.read), ("patches", vit.cfg.tokens.patches)):
        found = dict(zip(head_names(vit), head_writes(vit, images, at=at, memory=1), strict=True))
        for layer in range(vit.cfg.n_layers):
            wanted = cache["result", layer][:, tokens].mean(1).double().numpy()  # image, head, model
            for head in range(vit.cfg.heads_of(layer)):
                np.testing.assert_allclose(found[f"a{layer}.h{head}"], wanted[:, head], atol=1e-4)


def check_effects(vit, images):
    found = dict(zip(head_names(vit), head_effects(vit, images, memory=1), strict=True))
    table = logit_attribution(vit, images, Metric("logit_difference", (0,), (2,)), through_pool=False)
    for place, name in enumerate(table.source_names):
        if name.startswith("a"):
            wanted = table.values[:, place].sum(-1)
            np.testing.assert_allclose(found[name][:, 0] - found[name][:, 2], wanted, atol=1e-4)
            np.testing.assert_allclose(found[name].mean(-1), 0, atol=1e-4)


def check_lens(vit, images):
    tokens = logit_lens(vit, images, classes="all", n_bootstrap=0, memory=1).tokens
    logits, layers = tokens.logits[:, :, 0], tokens.layers
    np.testing.assert_allclose(logits[-1], vit(images).double().numpy(), atol=1e-4)
    _, cache = vit.run_with_cache(images)
    n = vit.cfg.n_layers - int(vit.cfg.pools)
    assert layers == ("input", *(f"block {layer}" for layer in range(n)))
    residuals = [cache["blocks.0.hook_resid_pre"], *(cache["resid_post", layer] for layer in range(n))]
    for row, residual in zip(logits, residuals, strict=True):
        wanted = vit.readout.logits(vit.run_blocks(residual, start=n))
        np.testing.assert_allclose(row, wanted.detach().double().numpy(), atol=1e-4)


@pytest.mark.parametrize("check", [check_writes, check_effects, check_lens])
def test_what_is_gathered_is_what_the_model_says(model, images_for, check):
    check(model, images_for(model, 3))


def test_in_front_of_attention_pooling_heads_write_nothing_that_is_read(architecture_named, images_for):
    vit = architecture_named("map")
    writes = head_writes(vit, images_for(vit, 2))
    pooling = [name.startswith(f"a{vit.cfg.n_layers - 1}.") for name in head_names(vit)]
    assert (np.abs(writes).max((1, 2)) > 0).tolist() == pooling
    assert np.abs(head_writes(vit, images_for(vit, 2), at="patches")).max((1, 2))[0] > 0


def test_heads_by_name_and_by_circuit(variant_named, images_for):
    vit = variant_named("plain")
    images = images_for(vit, 2)
    circuit = Circuit.from_edges(compile_graph(vit), ["input->a0.h1<v>", "a0.h1->m1", "m1->logits", "input->logits"])
    assert circuit_heads(circuit) == {"a0.h1"}
    assert head_names(vit, circuit) == ("a0.h1",)
    assert head_names(vit, ["a1.h0", "a0.h1"]) == ("a0.h1", "a1.h0")
    every = head_writes(vit, images)
    some = head_writes(vit, images, heads=["a1.h0", "a0.h1"])
    np.testing.assert_allclose(some, every[[1, 2]], rtol=0, atol=1e-9)
    (alone,) = head_effects(vit, images, heads=circuit)
    np.testing.assert_allclose(alone, head_effects(vit, images)[1], rtol=0, atol=1e-9)


def test_contributions_to_a_representation_are_those_to_its_projection(variant_named, images_for):
    vit = variant_named("plain")
    torch.manual_seed(0)
    project = nn.Linear(16, 7, dtype=torch.float64)
    spoken = vit.with_readout(TextHead(project, torch.randn(5, 7, dtype=torch.float64)))
    images = images_for(vit, 3)
    bare = head_effects(vit.with_readout(nn.Identity()), images)  # of the pooled vector behind the norm
    wanted = bare @ project.weight.detach().numpy().T
    np.testing.assert_allclose(head_effects(represented(spoken, 7), images), wanted, atol=1e-9)
    np.testing.assert_allclose(head_effects(represented(vit, 7, project), images), wanted, atol=1e-9)


def test_what_makes_no_sense_is_refused(variant_named, images_for):
    vit = variant_named("plain")
    images = images_for(vit, 2)
    with pytest.raises(ModelError, match=r"no head 'a7\.h0'"):
        head_writes(vit, images, heads=["a7.h0"])
    with pytest.raises(ModelError, match="there are no heads"):
        head_names(vit, [])
    with pytest.raises(ModelError, match="at='patches'"):
        head_writes(vit, images, at="everywhere")
    with pytest.raises(ModelError, match="are classes, not a space"):
        represented(vit, 5)
    with pytest.raises(ModelError, match="space of 16"):
        represented(vit.with_readout(nn.Identity()), 5)
    with pytest.raises(ModelError, match="are no classes"):
        logit_lens(vit.with_readout(nn.Identity()), images)
