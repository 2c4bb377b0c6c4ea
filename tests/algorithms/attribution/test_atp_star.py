"""AtP*: edges into heads against heads recomputed one by one, the others against EAP, GradDrop by its definition."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from vitcircuits.algorithms import atp_star, eap
from vitcircuits.algorithms.attribution.token_edges import exchanged, grouped, without_each
from vitcircuits.algorithms.registry import least_memory
from vitcircuits.circuits import compile_graph
from vitcircuits.circuits.baseline import make_baseline, source_values
from vitcircuits.models.blocks import OpenBlock
from vitcircuits.models.errors import TaskError


def clean_run(task):
    """Per layer the residual, q, k, v, z and the metric's gradient at z."""
    vit = task.vit
    with vit.borrowed(), torch.enable_grad():
        residual = vit.embed(task.discovery.clean).requires_grad_(True)
        layers = []
        for block in vit.blocks:
            q, k, v = block.read(block.norm1(residual))
            z = block.attend(q, k, v)
            layers.append([residual.detach(), (q.detach(), k.detach(), v.detach()), z])
            residual = residual + block.attn_write(z)
            residual = residual + block.mlp_write(residual)
        value = task.metric(vit.readout.logits(residual)).sum()
        gradients = torch.autograd.grad(value, [layer[2] for layer in layers])
    return [(*layer[:2], layer[2].detach(), g) for layer, g in zip(layers, gradients, strict=True)]


def recomputed(graph, task):
    """gradient at z . (z - z of the recomputed head) for every edge into heads, mean over pairs; NaN elsewhere."""
    vit, pairs, scores = task.vit, task.discovery, np.full(len(graph), np.nan)
    member = torch.tensor(graph.groups.one_hot())
    with torch.no_grad(), vit.borrowed():
        gone = source_values(vit, pairs.clean) - make_baseline(vit, task.ablation, task.reference)(pairs)
        for layer, (residual, clean, z, g) in enumerate(clean_run(task)):
            block, edges = vit.blocks[layer], graph.layers[layer].attention
            for index in range(edges.start, edges.stop):
                row, group, source = edges.locate(index)
                x = residual - gone[source] * member[group][None, :, None]
                fresh, scores[index] = block.read(block.norm1(x)), 0.0
                for head, rows in enumerate(graph.port_rows):
                    parts = [(fresh if r == row else clean)[p][:, head] for p, r in enumerate(rows.tolist())]
                    if row in rows:
                        change = z[:, head] - block.attend(*(part[:, None] for part in parts))[:, 0]
                        scores[index] += float((g[:, head] * change).sum((1, 2)).mean())
    return scores


def is_value(graph, index):
    return graph.edge(index).destination.port == "v" and not graph.edge(index).inside


def test_edges_into_heads_are_heads_recomputed(own_case, same_scores):
    graph, task = own_case.graph, own_case.task
    wanted = recomputed(graph, task)
    chosen = [i for i in np.flatnonzero(~np.isnan(wanted)).tolist() if not is_value(graph, i)]
    same_scores(atp_star(graph, task, freeze_norm=False).values[chosen], wanted[chosen], task.vit)


@pytest.mark.parametrize("freeze_norm", [True, False])
def test_all_other_edges_score_as_in_eap(freeze_norm, tokens, ports, variant_named, task_on, same_scores):
    task = task_on(variant_named("qknorm-rms"))
    graph = compile_graph(task.vit, tokens=tokens, ports=ports)
    got = atp_star(graph, task, freeze_norm=freeze_norm).values
    wanted = eap(graph, task, freeze_norm=freeze_norm, softmax="exact").values
    heads = np.zeros(len(graph), dtype=bool)
    for layer in graph.layers:
        heads[layer.attention.start : layer.attention.stop] = True
    others = [i for i in range(len(graph)) if not heads[i] or is_value(graph, i)]
    same_scores(got[others], wanted[others], task.vit)
    assert len(others) < len(graph)


class StillBlock(OpenBlock):
    """A block whose writes pass no gradient back."""

    def attn_write(self, z):
        written = super().attn_write(z)
        return written.detach() + 0 * written

    def mlp_write(self, x, *, freeze_norm=False):
        written = super().mlp_write(x, freeze_norm=freeze_norm)
        return written.detach() + 0 * written


def without_layer(task, layer):
    """The task on a model with one layer that passes no gradient back."""
    vit, blocks = copy.copy(task.vit), list(task.vit.blocks)
    blocks[layer] = StillBlock(**{f.name: getattr(blocks[layer], f.name) for f in dataclasses.fields(OpenBlock)})
    vit.blocks = tuple(blocks)
    return dataclasses.replace(task, vit=vit)


def test_grad_drop_is_the_mean_of_absolute_scores_without_each_other_layer(variant_named, task_on, same_scores):
    vit = variant_named("prenorm-rms-layerscale")
    task, graph = task_on(vit), compile_graph(vit)
    wanted = np.zeros(len(graph))
    for pair in range(3):
        one = dataclasses.replace(task, discovery=task.discovery.select([pair]))
        each = [atp_star(graph, without_layer(one, layer)).values for layer in range(3)]
        layers = np.array([graph.edge(i).destination.layer for i in range(len(graph))])  # -1 for the logits
        for layer, scores in enumerate(each):
            assert np.abs(scores[layers == layer]).max() == 0 < np.abs(scores[layers != layer]).max()
        wanted += np.abs(each).sum(0) / np.where(layers < 0, 3, 2) / 3
    found = atp_star(graph, task, grad_drop=True)
    same_scores(found.values, wanted, vit)
    same_scores(found.mean_abs, wanted, vit)


def test_grad_drop_needs_a_second_layer(tiny_vit, task_on):
    task = task_on(tiny_vit(depth=1))
    with pytest.raises(TaskError, match="grad_drop=False"):
        atp_star(compile_graph(task.vit), task, grad_drop=True)


def test_batched_is_whole_and_spread_is_over_pairs(variant_named, task_on):
    task = task_on(variant_named("plain"))
    for tokens, ports in (("role", "qkv"), ("each", "head")):
        graph = compile_graph(task.vit, tokens=tokens, ports=ports)
        least = least_memory("atp_star", graph, task)
        whole, single = (atp_star(graph, task, memory=memory) for memory in (10**9, least))
        pairs = [dataclasses.replace(task, discovery=task.discovery.select([pair])) for pair in range(3)]
        for name in ("values", "mean_abs", "std_err"):
            np.testing.assert_allclose(getattr(single, name), getattr(whole, name), rtol=0, atol=1e-12)
        np.testing.assert_allclose(
            whole.mean_abs, np.abs([atp_star(graph, p).values for p in pairs]).mean(0), atol=1e-12
        )


@pytest.mark.parametrize("scale", [1.0, 300.0])
@pytest.mark.parametrize("groups", [[[0, 1], [2], [3, 4, 5]], [[i] for i in range(6)], [list(range(6))]])
def test_exchanging_a_group_is_the_softmax_over_the_mix(groups, scale, close):
    """Also where exp would overflow, and where the group that is exchanged held all the weight."""
    generator = torch.Generator().manual_seed(0)
    old, new, values, fresh = (torch.randn(4, 6, generator=generator, dtype=torch.float64) for _ in range(4))
    old, new = scale * old, scale * new
    member = torch.tensor([[token in group for token in range(6)] for group in groups])
    others = without_each(grouped(old, values, member)) if len(groups) > 1 else None
    mixed = [(torch.where(at, new, old).softmax(-1) * torch.where(at, fresh, values)).sum(-1) for at in member]
    close(exchanged(others, grouped(new, fresh, member)), torch.stack(mixed, -1))
