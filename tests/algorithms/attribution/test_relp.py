"""RelP against a model whose norms, activations and patterns are constants, and its conservation of relevance."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from vitcircuits.algorithms import relp
from vitcircuits.algorithms.attribution.ceap import cut_totals
from vitcircuits.algorithms.attribution.relp import activate, relevance_mlp
from vitcircuits.circuits import compile_graph
from vitcircuits.circuits.baseline import make_baseline
from vitcircuits.circuits.tasks.metrics import Metric
from vitcircuits.models import load_vit
from vitcircuits.models.blocks import OpenBlock
from vitcircuits.models.errors import ModelError, TaskError
from vitcircuits.models.mlps import GatedMlp, PlainMlp
from vitcircuits.models.norms import Norm


def half(x):
    return x / 2 + x.detach() / 2


ATTENTION = {
    "pattern": lambda block, q, k, v: block.pattern(q, k).detach() @ v,
    "half": lambda block, q, k, v: half(block.pattern(half(q), half(k))) @ half(v),
    "gradient": lambda block, q, k, v: block.pattern(q, k) @ v,
}


class ConstantNorm(Norm):
    def __call__(self, x):
        centred = x - x.mean(-1, keepdim=True) if self.centres else x
        return self.affine(centred * self.inverse(x).detach()) if self.scales else x


class ConstantAct(nn.Module):
    def forward(self, x):
        return x * (nn.functional.gelu(x) / x).detach()


class ConstantBlock(OpenBlock):
    mode = "pattern"

    def weigh(self, q, k, v, tokens=slice(None)):
        return ATTENTION[self.mode](self, q, k, v)

    def mlp_write(self, x, *, freeze_norm=False):
        hidden = ConstantAct()(self.mlp.fc1(self.norm2(x)))
        return self.scale2(self.mlp.fc2(hidden))


def constant(norm):
    return ConstantNorm(norm.module, norm.scales, norm.centres)


def linear_task(task, mode):
    """The task on the model that relevance rules make of it."""
    kind, vit = type("Block", (ConstantBlock,), {"mode": mode}), copy.copy(task.vit)
    fields = [{f.name: getattr(block, f.name) for f in dataclasses.fields(OpenBlock)} for block in vit.blocks]
    vit.blocks = tuple(kind(**{**f, "norm1": constant(f["norm1"]), "norm2": constant(f["norm2"])}) for f in fields)
    norms = {"norm": constant(vit.readout.norm), "fc_norm": constant(vit.readout.fc_norm)}
    vit.readout = dataclasses.replace(vit.readout, **norms)
    return dataclasses.replace(task, vit=vit)


@pytest.mark.parametrize("attention", list(ATTENTION))
def test_scores_are_gradients_of_the_linear_model(request, variant, attention, task_on, mask_gradient, same_scores):
    turn = request.node.callspec.indices["variant"] + list(ATTENTION).index(attention)
    task = task_on(variant, ("partner", "mean")[turn % 2])
    with torch.no_grad(), variant.borrowed():
        ablated = make_baseline(variant, task.ablation, task.reference)(task.discovery)
        clean = variant.embed(task.discovery.clean)
    ports = {"pattern": "qkv", "half": "head", "gradient": "block"}[attention]
    graph = compile_graph(variant, ports=ports)
    wanted = mask_gradient(graph, linear_task(task, attention), np.ones(len(graph)), clean, ablated)
    same_scores(relp(graph, task, attention=attention).values, wanted, variant)


def gated_metric(task, graph, layer, differences, mask, attention):
    """The linear model's metric where a layer's heads see keys and values less their differences."""
    vit, groups = task.vit, list(graph.groups.of_token)
    residual = vit.embed(task.discovery.clean)
    for place, block in enumerate(vit.blocks):
        q, k, v = block.read(block.norm1(residual))
        z = block.attend(q, k, v)
        if place == layer:
            keys, values = 1 - mask[:, :, groups][..., groups]
            pattern = block.scale * (q @ k.mT - (half(keys) if attention == "half" else keys) * (q @ differences[0].mT))
            pattern = pattern.softmax(-1)
            if attention == "half":
                z = half(pattern) @ v - (pattern.detach() * half(values)) @ differences[1]
            else:
                pattern = pattern.detach() if attention == "pattern" else pattern
                z = pattern @ v - (pattern * values) @ differences[1]
        residual = residual + block.attn_write(z)
        residual = residual + block.mlp_write(residual)
    return task.metric(vit.readout.logits(residual)).mean()


@pytest.mark.parametrize("attention", list(ATTENTION))
def test_edges_inside_heads_follow_the_rules(attention, variant_named, task_on, same_scores):
    vit = variant_named("registers-layerscale")
    task, graph = task_on(vit), compile_graph(vit, tokens="role")
    block, linear = graph.layers[0].inside, linear_task(task, attention)
    with torch.no_grad(), vit.borrowed():
        reads = [
            vit.blocks[0].read(vit.blocks[0].norm1(vit.embed(x)))
            for x in (task.discovery.clean, task.discovery.corrupt)
        ]
        differences = [own - theirs for own, theirs in zip(*reads, strict=True)][1:]
        with torch.enable_grad():
            mask = torch.ones(
                2, vit.cfg.n_heads, len(graph.groups), len(graph.groups), dtype=vit.dtype, requires_grad=True
            )
            value = gated_metric(linear, graph, 0, differences, mask, attention)
            (wanted,) = torch.autograd.grad(value, mask)
    wanted = wanted.transpose(0, 1).flatten(0, 1).numpy()  # head, part -> row
    got = block.unpack(relp(graph, task, attention=attention).values)
    same_scores(got, wanted, vit)
    assert (np.abs(got[::2]).max() == 0) == (attention == "pattern")


def without_biases(vit):
    for name, parameter in vit.module.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
    return load_vit(vit.module)


OPTIONS = [
    {"reg_tokens": 2, "init_values": 1.0},
    {"global_pool": "avg", "norm": "rms", "class_token": False},
    {"pre_norm": True, "fc_norm": True, "final_norm": False, "qk_norm": True, "depth": 3},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_relevance_is_conserved_in_front_of_every_layer(options, tiny_vit, task_on):
    """Where no bias takes relevance, what all sources bring across a cut is the logit difference itself."""
    task = task_on(without_biases(tiny_vit(**options)), "zero")
    task = dataclasses.replace(task, metric=Metric("logit_difference", (0,), (2,)))  # of single classes: linear
    explained = float(task.metric(task.vit(task.discovery.clean)).mean())
    for tokens, ports in (("all", "qkv"), ("role", "head"), ("each", "block")):
        graph = compile_graph(task.vit, tokens=tokens, ports=ports)
        totals = cut_totals(graph, relp(graph, task, attention="pattern").values)
        np.testing.assert_allclose(totals, explained, rtol=0, atol=1e-9 * max(1, abs(explained)))
        assert np.abs(cut_totals(graph, relp(graph, task, attention="half").values)[0] - explained) > 1e-3


@pytest.mark.parametrize(
    "act", [nn.GELU(), nn.ReLU(), nn.SiLU(), nn.Tanh(), nn.Hardswish(inplace=True), nn.LeakyReLU()]
)
def test_an_activation_passes_back_its_factor_and_stays_finite(act):
    x = torch.tensor([-2.0, -1e-30, 0.0, 1e-30, 3.0], dtype=torch.float64, requires_grad=True)
    y = activate(x, act)
    (got,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(y, act(x.detach().clone()))
    assert torch.isfinite(got).all()
    torch.testing.assert_close(got[[0, 4]], (y / x)[[0, 4]].detach())
    slope = torch.autograd.functional.jacobian(lambda at: act(at.clone()), torch.tensor(1e-9, dtype=torch.float64))
    torch.testing.assert_close(got[3], slope, rtol=1e-6, atol=1e-8)


def make_mlps():
    from timm.layers.mlp import GluMlp, Mlp, SwiGLU

    yield Mlp(6, 8, norm_layer=nn.LayerNorm), False
    yield GluMlp(6, 8, act_layer=nn.SiLU, gate_last=False), True
    yield GluMlp(6, 8, act_layer=nn.GELU), True
    yield SwiGLU(6, 8), True
    yield PlainMlp(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6), nn.LayerNorm(8)), False
    yield GatedMlp(nn.Linear(6, 8), nn.Linear(6, 8), nn.SiLU(), nn.Linear(8, 6)), True


def test_every_mlp_keeps_its_values_and_conserves_relevance():
    for mlp, gated in make_mlps():
        torch.manual_seed(0)
        for name, parameter in mlp.named_parameters():
            nn.init.normal_(parameter) if not name.endswith("bias") else nn.init.zeros_(parameter)
        mlp = mlp.double().eval().requires_grad_(False)
        x = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
        y = relevance_mlp(mlp, "test")(x)
        torch.testing.assert_close(y, mlp(x))
        (coefficient,) = torch.autograd.grad(y.sum(), x)
        torch.testing.assert_close((x * coefficient).sum(), y.sum())
        (plain,) = torch.autograd.grad(mlp(x).sum(), x)
        assert gated or not torch.allclose(coefficient, plain)


def test_other_mlps_and_activations_are_refused(tiny_vit, task_on):
    class Odd(nn.Sequential):
        pass

    with pytest.raises(ModelError, match="Odd"):
        relevance_mlp(Odd(nn.Linear(4, 4)), "block 0")
    for act in (nn.Sigmoid, nn.Softplus, lambda: nn.Softmax(-1)):
        vit = tiny_vit(act_layer=act)
        with pytest.raises(ModelError, match="block 0 has the activation"):
            relp(compile_graph(vit), task_on(vit))


def test_the_module_is_left_as_it_was(variant_named, task_on):
    vit = variant_named("plain")
    before = vit.digest()
    relp(compile_graph(vit), task_on(vit))
    assert vit.digest() == before and all(p.requires_grad for p in vit.module.parameters())
    assert not any(module._forward_hooks for module in vit.module.modules())


def test_kl_and_unknown_rules_are_refused(unchecked, variant_named, task_on):
    vit = variant_named("plain")
    with pytest.raises(TaskError, match="zero gradient"):
        relp(compile_graph(vit), task_on(vit, metric="kl"))
    with pytest.raises(TaskError, match="pattern"):
        relp(compile_graph(vit), task_on(vit), attention="whole")
