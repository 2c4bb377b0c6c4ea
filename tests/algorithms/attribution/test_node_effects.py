"""Exact effects of nodes: against the model with a node's write replaced by a hook, on every kind of ViT."""

import pytest
import torch
from vitcircuits.algorithms import node_effects
from vitcircuits.circuits import Pairs, Task, compile_graph, planted_task
from vitcircuits.circuits.baseline import values_from
from vitcircuits.circuits.tasks.metrics import Metric
from vitcircuits.models import load_vit


def replaced(vit, clean, corrupt, source):
    """Logits of a plain run in which one source writes what it writes on the partners."""
    theirs = values_from(vit, vit.embed(corrupt))
    residual, n_heads = vit.embed(clean), vit.cfg.n_heads
    for layer, block in enumerate(vit.blocks):
        first = 1 + layer * (n_heads + 1)
        z = block.attend(*block.read(block.norm1(residual)))
        writes = block.head_write(z).transpose(0, 1)
        after = residual + block.attn_write(z)
        if first <= source < first + n_heads:
            after = after - writes[source - first] + theirs[source]
        mlp = theirs[source] if source == first + n_heads else block.mlp_write(after)
        residual = after + mlp
    return vit.readout.logits(residual)


def test_an_effect_is_that_of_replacing_what_the_node_writes(variant, images_for, tokens, close):
    images = [images_for(variant, 3, seed=seed) for seed in range(4)]
    task = Task(variant, Metric("logit_difference", (1,), (2,)), Pairs(images[0], images[1]), Pairs(*images[2:]))
    found = node_effects(compile_graph(variant, tokens=tokens), task)
    with torch.no_grad(), variant.borrowed():
        full = task.metric(variant.readout.logits(_residual(variant, images[0])))
        wanted = [
            (full - task.metric(replaced(variant, images[0], images[1], source))).double().mean()
            for source in range(1, 1 + len(found))
        ]
    close(torch.from_numpy(found.values.copy()).to(variant.dtype), torch.stack(wanted).to(variant.dtype))
    assert found.exact and (found.std_err >= 0).all()


def _residual(vit, images):
    residual = vit.embed(images)
    for block in vit.blocks:
        z = block.attend(*block.read(block.norm1(residual)))
        residual = residual + block.attn_write(z)
        residual = residual + block.mlp_write(residual)
    return residual


@pytest.mark.parametrize("name", ["planted/bright-column", "planted/neighbour-xor"])
def test_the_true_nodes_of_planted_models_are_found_and_suffice(name):
    from vitcircuits.circuits import evaluate
    from vitcircuits.circuits.names import parse_edge

    vit = load_vit(name)
    task, graph = planted_task(vit), compile_graph(vit)
    true = {end.node for edge in vit.truth() for end in parse_edge(edge)} - {"input", "logits"}
    circuit = node_effects(graph, task).top(len(true))
    assert set(circuit.provenance["nodes"]) == true
    report = evaluate(circuit, task, curve=False, n_random=2, n_bootstrap=20)
    assert report["faithfulness"].value == pytest.approx(1, abs=1e-4) and report.headline.startswith("node circuit")
