"""The laws on models of other libraries.

transformers' ViT, DeiT, DINOv2, CLIP and ViViT, open_clip's towers, and those that are opened by watching one run:
torchvision's, vit-pytorch's, and stacks of PyTorch's encoder layers.
"""

import numpy as np
import pytest
import torch
from torch import nn
from vitcircuits.algorithms import eap, eap_ig, exact_effects, logit_attribution, relp
from vitcircuits.circuits import Circuit, Pairs, Task, compile_graph, run_circuit
from vitcircuits.circuits.baseline import make_baseline, source_values
from vitcircuits.circuits.masked_run import MaskWeights, masked_logits
from vitcircuits.circuits.tasks.metrics import Metric
from vitcircuits.models.errors import ModelError
from vitcircuits.models.hooked import HookedViT

METRIC = Metric("logit_difference", (0,), (2,))


def make_task(vit, images_for, n=2):
    pairs = [images_for(vit, n, seed=seed) for seed in range(4)]
    return Task(vit, METRIC, Pairs(*pairs[:2]), Pairs(*pairs[2:]))


def test_law_1_opened_logits_are_the_originals(foreign, images_for, close):
    images = images_for(foreign)
    with torch.no_grad(), foreign.borrowed():
        wanted = foreign.opened.forward(images)
        close(foreign(images), wanted)
        close(foreign.finish(foreign.embed(images)), wanted)
    assert float(wanted.std()) > 0.05 and foreign.parity.max_difference <= 1e-9


def test_law_1_sources_and_biases_add_up_to_the_residual_of_the_original(foreign, images_for, close):
    images, outputs = images_for(foreign), []
    handle = foreign.opened.originals[-1].register_forward_hook(lambda _m, _a, out: outputs.append(out))
    with torch.no_grad(), foreign.borrowed():
        foreign.opened.forward(images)
        handle.remove()
        values = source_values(foreign, images)
        total = values.sum(0) + sum(block.attn_bias for block in foreign.blocks)
    close(total[:, : outputs[0].shape[1]], outputs[0])


def test_idle_hooks_change_nothing_and_neurons_are_what_fc2_is_handed(foreign, images_for, close):
    images = images_for(foreign)
    logits, cache = foreign.run_with_cache(images)
    close(logits, foreign(images))
    for layer, block in enumerate(foreign.blocks):
        close(block.mlp_written(block.mlp.fc2(cache["post", layer])).detach(), cache["mlp_out", layer])
        assert cache["post", layer].shape[-1] == block.mlp.fc2.in_features
        close(cache["result", layer].sum(2) + block.attn_bias.detach(), cache["attn_out", layer])


@pytest.mark.parametrize(("tokens", "ports"), [("all", "block"), ("each", "qkv")])
def test_law_2_all_edges_are_the_clean_run_and_none_the_corrupted_one(foreign, images_for, close, tokens, ports):
    if foreign.cfg.tokens.n_tokens > 30 and tokens == "each":
        tokens = "role"
    graph, clean, corrupt = compile_graph(foreign, tokens=tokens, ports=ports), *make_images(foreign, images_for)
    full = np.ones(len(graph), dtype=bool)
    close(run_circuit(foreign, Circuit(graph, full), clean, corrupt), foreign(clean))
    close(run_circuit(foreign, Circuit(graph, ~full), clean, corrupt), foreign(corrupt))


def make_images(vit, images_for):
    return images_for(vit, 2, seed=0), images_for(vit, 2, seed=1)


def test_direct_attribution_adds_up_to_the_logit(foreign, images_for):
    images = images_for(foreign)
    found = logit_attribution(foreign, images, Metric("logit", (1,)))
    wanted = foreign(images)[:, 1].detach().numpy()
    np.testing.assert_allclose(found.values.sum((1, 2)) + found.constant, wanted, rtol=0, atol=1e-9)


def test_eap_ig_and_relp_run_from_a_task_to_a_circuit(foreign, images_for):
    task = make_task(foreign, images_for)
    graph = compile_graph(foreign, tokens="role")
    for scores in (eap_ig(graph, task, steps=1), relp(graph, task)):
        circuit = scores.top(len(graph) // 2, by="abs_mean")
        assert 0 < circuit.mask.sum() <= len(graph) // 2 and np.isfinite(scores.values).all()


@pytest.mark.parametrize("kind", ["dinov2-registers", "vivit", "clip-classes", "open-clip-norms"])
def test_law_4_eap_is_the_derivative_along_the_mask(foreign_named, images_for, kind):
    vit = foreign_named(kind)
    task = make_task(vit, images_for)
    graph = compile_graph(vit, tokens="frame" if kind == "vivit" else "role")
    soft = torch.ones(len(graph), dtype=torch.float64, requires_grad=True)
    with vit.borrowed():
        ablated = make_baseline(vit, task.ablation, task.reference)(task.discovery)
        weights = MaskWeights.from_tensor(graph, soft)
        value = METRIC(masked_logits(vit, weights, task.discovery.clean, ablated)).mean()
        (wanted,) = torch.autograd.grad(value, soft)
    got = eap(graph, task, freeze_norm=False, softmax="linear").values
    np.testing.assert_allclose(got, wanted.numpy(), rtol=0, atol=1e-9 * max(1, float(wanted.abs().max())))


def test_exact_effects_equal_masked_runs(foreign_named, images_for):
    vit = foreign_named("dinov2-registers")
    task = make_task(vit, images_for)
    graph = compile_graph(vit, tokens="role", ports="head")
    found, full = exact_effects(graph, task).values, np.ones(len(graph), dtype=bool)
    clean, corrupt = task.discovery.clean, task.discovery.corrupt
    now = float(METRIC(vit(clean)).mean())
    for edge in np.random.default_rng(0).permutation(len(graph))[:30]:
        mask = full.copy()
        mask[edge] = False
        without = float(METRIC(run_circuit(vit, Circuit(graph, mask), clean, corrupt)).mean())
        assert found[edge] == pytest.approx(now - without, abs=1e-9), graph.edge(int(edge))


def test_the_original_is_left_as_it_was(foreign_module, images_for):
    for kind in ("clip", "dinov2-registers", "open-clip-average"):
        module = foreign_module(kind).train().requires_grad_(True)
        before = {name: value.clone() for name, value in module.state_dict().items()}
        vit = HookedViT(module, name=kind)
        vit.run_with_cache(images_for(vit, 1))
        assert vit.module is module and all(part.training for part in module.modules())
        assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
        assert all(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize("kind", ["vit", "vivit", "open-clip"])
def test_attention_masks_are_refused(foreign_module, kind):
    with pytest.raises(ModelError, match="attention_mask= needs a module that takes one"):
        HookedViT(foreign_module(kind), attention_mask="causal")


def test_a_model_of_a_known_library_that_is_not_opened_is_refused_by_name():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    sizes = {"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = transformers.BeitConfig(**sizes, image_size=8, patch_size=4, use_relative_position_bias=True)
    with pytest.raises(ModelError, match="transformers's BeitModel, which is not opened: ViTForImageClassification"):
        HookedViT(transformers.BeitModel(config))


def test_a_subclass_of_ones_own_is_opened_as_what_it_is(foreign_module):
    module = foreign_module("vit")
    kind = type("Mine", (type(module),), {"__module__": "mine"})
    module.__class__ = kind
    assert HookedViT(module).cfg.n_classes == 5
    assert isinstance(module, nn.Module)
