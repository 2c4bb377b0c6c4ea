"""The sum over edges does not depend on how it is cut up, and a budget decides how many pairs are held."""

import pytest
import torch
from vitcircuits.algorithms.attribution.contraction import Contraction, Gradients
from vitcircuits.algorithms.attribution.gradient_method import PathGradients
from vitcircuits.algorithms.attribution.tape import make_ablated, make_deltas, record_tape, record_writes
from vitcircuits.circuits import Ablation, Pairs, Task, compile_graph
from vitcircuits.circuits.baseline import make_baseline
from vitcircuits.circuits.tasks.metrics import Metric


def contract(vit, graph, pairs, chunk_bytes, ablation):
    """Scores of every block of residual edges, keyed by the block's start."""
    baseline, found = make_baseline(vit, Ablation(ablation), pairs.corrupt), {}
    with vit.borrowed(), torch.no_grad():
        ablated = make_ablated(vit, pairs, baseline, inside=False)
        tape = record_tape(vit, vit.embed(pairs.clean), Metric("logit", (0,)), freeze_norm=False)
        gradients = Gradients(vit, freeze_norm=False)
        gradients.add(tape)
        deltas = make_deltas(vit, tape.writes, ablated)
        for block, scores in Contraction(vit, graph, chunk_bytes=chunk_bytes)(gradients, deltas):
            found.setdefault(block.start, []).append(scores)
    return {start: torch.cat(scores) for start, scores in found.items()}


@pytest.mark.parametrize("ablation", ["partner", "mean"])
@pytest.mark.parametrize("name", ["registers-layerscale", "average-tokennorm"])
def test_chunks_of_any_size_give_the_same_sum(name, ablation, tokens, variant_named, images_for, close):
    vit = variant_named(name)
    graph = compile_graph(vit, tokens=tokens)
    pairs = Pairs(images_for(vit, 5), images_for(vit, 5, seed=1))
    token_bytes = (graph.n_sources + 3 * vit.cfg.n_heads) * vit.cfg.d_model * 8
    whole = contract(vit, graph, pairs, 10**9, ablation)
    for n_tokens in (1, 2, 2 * vit.cfg.tokens.n_tokens):
        cut = contract(vit, graph, pairs, n_tokens * token_bytes, ablation)
        assert cut.keys() == whole.keys()
        for start, scores in whole.items():
            close(cut[start], scores)


def test_a_run_that_stops_at_the_read_tokens_gives_the_models_logits(variant, images_for, close):
    images = images_for(variant)
    with variant.borrowed(), torch.no_grad():
        embedded = variant.embed(images)
        writes = record_writes(variant, embedded)
        tape = record_tape(variant, embedded, Metric("logit", (0,)), freeze_norm=True)
        close(variant.readout(writes.read), variant(images))
        for got, wanted in zip([*tape.writes.z, *tape.writes.mlps], [*writes.z, *writes.mlps], strict=True):
            close(got, wanted)


def test_more_memory_holds_more_pairs_and_more_work_fewer(tiny_vit, images_for):
    vit = tiny_vit()
    images = [images_for(vit, 1, seed=seed) for seed in range(4)]
    graph, role = compile_graph(vit), compile_graph(vit, tokens="role")

    def fit(memory, graph=graph, points=1, freeze_norm=True, kind="partner"):
        task = Task(vit, Metric("logit", (0,)), Pairs(*images[:2]), Pairs(*images[2:]), Ablation(kind))
        return PathGradients(graph, task, freeze_norm, memory, False, "eap", points=[1.0] * points).pairs_at_once()

    budget = 60_000_000
    assert fit(1) == 1
    assert 1 < fit(budget) < fit(2 * budget)
    dearer = [fit(budget, role), fit(budget, points=5), fit(budget, freeze_norm=False), fit(budget, kind="noise")]
    assert max(dearer) < fit(budget)
    assert fit(budget, points=5, freeze_norm=False) < fit(budget, points=5)
