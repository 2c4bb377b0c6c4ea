"""Law 2, and the masked run against plain loops over heads and tokens written from the definition."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from vitcircuits.circuits.circuit import Circuit
from vitcircuits.circuits.graph import compile_graph
from vitcircuits.circuits.masked_run import MaskWeights, masked_logits_from
from vitcircuits.circuits.reach import prune
from vitcircuits.circuits.run import run_circuit, run_masks
from vitcircuits.circuits.tasks.design import Design
from vitcircuits.circuits.tasks.task import Pairs
from vitcircuits.circuits.token_parts import groups_of
from vitcircuits.models import devices
from vitcircuits.models.errors import GraphError, TaskError


def run(case, mask, **options):
    """The circuit's logits, by the public call."""
    pairs = case.pairs
    usual = {"ablation": case.task.ablation, "reference": case.task.reference}
    return run_circuit(case.vit, Circuit(case.graph, mask), pairs.clean, pairs.corrupt, **{**usual, **options})


def test_law_2_all_kept_is_the_clean_run_and_none_kept_the_ablated_values(case, close):
    full = np.ones(len(case.graph), dtype=bool)
    close(run(case, full), case.clean)
    with torch.no_grad(), case.vit.borrowed():
        total = case.ends[1].sum(0) + sum(block.attn_bias for block in case.vit.blocks)
        wanted = case.vit.readout.logits(total)
    none = run(case, ~full)
    close(none, wanted.expand_as(none))
    if case.task.ablation.kind == "partner":
        close(none, case.vit(case.pairs.corrupt).detach())


def test_with_no_edge_kept_mean_and_another_are_known_without_their_values(model, case_of, close):
    case = case_of(model.cfg.name)
    none, (_, cache) = np.zeros(len(case.graph), dtype=bool), model.run_with_cache(case.task.reference)
    mean = cache["resid_post", model.cfg.n_layers - 1].detach().mean(0, keepdim=True)
    found = run(case, none, ablation="mean")
    with torch.no_grad(), model.borrowed():
        close(found, model.readout.logits(mean).expand_as(found))
    choices = model(case.task.reference).detach()
    found = run(case, none, ablation="another")
    close((found[:, None] - choices).abs().amax(-1).amin(-1), torch.zeros(len(found), dtype=found.dtype))


def reference_run(vit, graph, mask, alive, clean_input, ablated):
    """Section 4 of the design in plain loops, on the original's own submodules; edges are looked up by name."""
    kept = {graph.edge(int(index)).name for index in np.flatnonzero(mask)}
    place = [f"@{graph.groups.names[g]}" * bool(graph.groups.names[g]) for g in graph.groups.of_token]
    names, n, n_heads, d = graph.source_names(), len(place), graph.cfg.n_heads, graph.cfg.d_head
    old = dict(zip(names, ablated, strict=True))
    new = {"input": clean_input}
    base = old["input"]

    def read(name, t):
        x = base[:, t].clone()
        for source in new:
            if f"{source}{place[t]}->{name}{place[t]}" in kept and (source, place[t].lstrip("@")) in alive:
                x = x + new[source][:, t] - old[source][:, t]
        return x

    def port(layer, head, letter):
        return {"qkv": f"a{layer}.h{head}<{letter}>", "head": f"a{layer}.h{head}", "block": f"a{layer}"}[graph.ports]

    def inside(layer, head, letter, source, target):
        if len(graph.groups) == 1:
            return True
        end = f"a{layer}" if graph.ports == "block" else f"a{layer}.h{head}"
        return f"{port(layer, head, letter)}{place[source]}->{end}{place[target]}" in kept

    for layer, block in enumerate(vit.module.blocks):
        attn, writes = block.attn, {}

        def project(x, head, i, block=block, attn=attn):
            rows = slice((i * n_heads + head) * d, (i * n_heads + head + 1) * d)
            bias = 0 if attn.qkv.bias is None else attn.qkv.bias[rows]
            out = block.norm1(x) @ attn.qkv.weight[rows].T + bias
            return (attn.q_norm, attn.k_norm, torch.nn.Identity())[i](out)

        for head in range(n_heads):
            q, k, v = ([project(read(port(layer, head, c), t), head, i) for t in range(n)] for i, c in enumerate("qkv"))
            k_old, v_old = ([project(base[:, t], head, i) for t in range(n)] for i in (1, 2))
            columns = attn.proj.weight[:, head * d : (head + 1) * d]
            write = []
            for t in range(n):
                keys = [k[s] if inside(layer, head, "k", s, t) else k_old[s] for s in range(n)]
                values = [v[s] if inside(layer, head, "v", s, t) else v_old[s] for s in range(n)]
                scores = torch.stack([(q[t] * key).sum(-1) / d**0.5 for key in keys])
                z = sum(p[:, None] * value for p, value in zip(scores.softmax(0), values, strict=True))
                write.append(block.ls1(z @ columns.T))
            writes[f"a{layer}.h{head}"] = torch.stack(write, 1)
        new.update(writes)
        base = base + sum(old[name] for name in writes)
        if attn.proj.bias is not None:
            base = base + block.ls1(attn.proj.bias)
        mlp = [block.ls2(block.mlp(block.norm2(read(f"m{layer}", t)))) for t in range(n)]
        new[f"m{layer}"] = torch.stack(mlp, 1)
        base = base + old[f"m{layer}"]
    return vit.readout.logits(torch.stack([read("logits", t) for t in range(n)], 1))


def test_a_masked_run_is_what_plain_loops_give(standard_case, on_paths, close):
    case = standard_case
    for share in (0.2, 0.7):
        mask = case.mask(share)
        with torch.no_grad():
            wanted = reference_run(case.vit, case.graph, mask, on_paths(case.graph, mask)[1], *case.ends)
        close(run(case, mask), wanted)


def test_law_6_micro_batched_is_whole(sole_case, close):
    case, ids = sole_case, torch.tensor([4, 9])
    mask, pairs = case.mask(0.5), case.pairs
    whole = run(case, mask, ids=ids)
    close(run(case, mask, ids=ids, memory=1), whole)
    options = {"ablation": case.task.ablation, "reference": case.task.reference, "ids": ids.flip(0)}
    turned = run_circuit(case.vit, Circuit(case.graph, mask), pairs.clean.flip(0), pairs.corrupt.flip(0), **options)
    close(turned, whole.flip(0))


def test_edges_off_paths_change_nothing(sole_case, close):
    for share in (0.1, 0.3):
        mask = sole_case.mask(share)
        close(run(sole_case, prune(sole_case.graph, mask)), run(sole_case, mask))


def test_a_source_cut_off_from_the_input_carries_its_ablated_value(case_of, close):
    case = case_of("plain")
    mask = np.zeros(len(case.graph), dtype=bool)
    names = ("m0->a1.h0<q>", "a1.h0->m1", "m1->logits", "m0->logits")
    mask[[case.graph.index(name) for name in names]] = True
    for kind in ("partner", "another", "mean", "zero", "noise"):
        close(run(case, mask, ablation=kind), run(case, np.zeros_like(mask), ablation=kind))


def test_what_does_not_fit_is_refused(case_of, variant_named, unchecked):
    vit, clean, corrupt = variant_named("plain"), case_of("plain").pairs.clean, case_of("plain").pairs.corrupt
    with pytest.raises(GraphError, match="another graph"):
        run_circuit(vit, Circuit.full(compile_graph(variant_named("prenorm-rms-layerscale"))), clean, corrupt)
    with pytest.raises(TaskError, match="reference"):
        run_circuit(vit, Circuit.full(compile_graph(vit)), clean, corrupt, ablation="mean")
    with pytest.raises(TaskError, match="partner"):
        Pairs(clean, corrupt[:1])


@pytest.mark.parametrize(
    ("name", "ports", "kind"),
    [("plain", "qkv", "partner"), ("no-class-registers", "head", "mean"), ("average", "block", "noise")],
)
def test_over_masks_a_pair_runs_as_plain_loops_do_on_its_own_groups(name, ports, kind, case_of, on_paths, close):
    case = case_of(name, "mask", ports, {"kind": kind}, n=4)
    masks = [case.mask(share) for share in (0.0, 0.4, 0.8, 1.1)]
    runs = run_masks(case.vit, case.graph, masks, case.task.metric, case.pairs, case.baseline, n_logits=4)
    for mask, judged in zip(masks, runs.logits, strict=True):
        found = run(case, mask, objects=case.pairs.objects.any(1))
        close(judged.to(found), found)
        for pair, (one, edges) in enumerate(case.of_pairs):
            with torch.no_grad():
                alive = on_paths(one.graph, mask[edges])[1]
                wanted = reference_run(case.vit, one.graph, mask[edges], alive, *one.ends)
            close(found[pair : pair + 1], wanted)
    close(found, case.clean)  # law 2
    with pytest.raises(TaskError, match="masks="):
        run(case, mask)


def test_masks_that_run_together_are_what_each_is_alone_in_any_order(sole_case, monkeypatch, close):
    """Also behind a mask of more edges, whose values the next one must not find; and with a gradient's own sums."""
    case, masks, wanted = sole_case, [sole_case.mask(share) for share in (0.9, 0.1, 0.5, 0.0, 0.3)], []
    for mask in masks:
        with case.vit.borrowed(), torch.enable_grad():
            weights = MaskWeights.from_mask(case.graph, mask, case.vit)
            logits = masked_logits_from(case.vit, weights, *case.ends, groups_of(case.graph, case.pairs))
        wanted.append(logits.detach())
    for cache in (1, 10**9):
        monkeypatch.setattr(devices, "CPU", replace(devices.CPU, source_bytes=cache))
        for turn in (1, -1):
            told = (case.task.metric, case.pairs, case.baseline)
            runs = run_masks(case.vit, case.graph, masks[::turn], *told, n_logits=5)
            for judged, own in zip(runs.logits, wanted[::turn], strict=True):
                close(judged.to(own), own)


def test_masks_that_begin_alike_are_to_the_bit_what_each_is_alone(sole_case):
    case, graph = sole_case, sole_case.graph
    masks = [case.mask(0.6) for _ in range(6)]
    ends = (graph.layers[0].mlp, graph.layers[1].attention, graph.layers[1].mlp, graph.logits)
    for mask, block in zip(masks[1:], ends, strict=False):
        mask[block.start :] = case.mask(0.3, seed=1)[block.start :]
    masks[5][: graph.layers[0].mlp.stop] = False  # nothing behind it is alive, though the same edges are kept there
    told = (case.task.metric, case.pairs, case.baseline)
    together = run_masks(case.vit, graph, masks, *told, n_logits=6).logits
    for mask, found in zip(masks, together, strict=True):
        assert torch.equal(found, run_masks(case.vit, graph, [mask], *told, n_logits=1).logits[0])


@pytest.mark.parametrize("tokens", ["all", "each"])
def test_what_two_masks_run_alike_ends_at_the_first_edge_or_dead_source_in_which_they_differ(tokens, case_of):
    graph, vit = case_of("plain", tokens).graph, case_of("plain", tokens).vit
    whole = np.ones(len(graph), dtype=bool)
    for block in graph.blocks:
        less = whole.copy()
        less[block.start] = False
        weights = [MaskWeights.from_mask(graph, mask, vit) for mask in (whole, less)]
        assert weights[0].n_alike(weights[0]) == 4 and weights[0].n_alike(None) == 0
        assert weights[1].n_alike(weights[0]) == graph.place_of(block)
    less = whole.copy()
    less[[at for at in range(len(graph)) if graph.edge(at).source.node == "a1.h0"]] = False  # nothing reads this head
    assert MaskWeights.from_mask(graph, less, vit).n_alike(weights[0]) == 2


def test_clean_images_that_follow_themselves_run_once(case_of, monkeypatch, close):
    case = case_of("plain")
    pairs, seen, embed = case.pairs.select([0, 0, 1, 1, 0]), [], type(case.vit).embed
    whole = case.vit(pairs.clean).detach()
    told = (case.vit, case.graph, [case.mask(0.5)], case.task.metric, pairs, case.baseline)
    first = run_masks(*told)
    close(first.clean_logits.to(whole), whole)
    monkeypatch.setattr(type(case.vit), "embed", lambda vit, some: seen.append(len(some)) or embed(vit, some))
    run_masks(*told)
    every = list(seen)
    seen.clear()
    run_masks(*told, clean_logits=first.clean_logits)
    assert sorted(every) == sorted([3, *seen])  # the clean run is the one that is spared


def test_a_partner_runs_once_for_neighbours_that_meet_it_and_a_known_clean_run_not_at_all(case_of, monkeypatch, close):
    case, sides = case_of("plain"), torch.tensor([1, 0, 1, 0])
    met = torch.tensor([0, 1, 1, 0])  # each clean image meets both partners, one of which comes again at the end
    design = Design(sides, sides[met], torch.tensor([0, 1, 0, 1]), met + 2, torch.ones(4, dtype=torch.bool))
    pairs = Pairs(case.pairs.clean[[0, 1, 0, 1]], case.pairs.corrupt[met], design=design)
    mask, seen, embed = case.mask(0.5), [], type(case.vit).embed
    whole = run_circuit(case.vit, Circuit(case.graph, mask), pairs.clean, pairs.corrupt)
    told = (case.vit, case.graph, [mask], case.task.metric, pairs, case.baseline)
    first = run_masks(*told, n_logits=1)
    monkeypatch.setattr(type(case.vit), "embed", lambda vit, some: seen.append(len(some)) or embed(vit, some))
    again = run_masks(*told, n_logits=1, clean_logits=first.clean_logits)
    assert seen == [4, 2]  # clean images in front of block 0, and the two partners
    close(again.logits[0].to(whole), whole)
    np.testing.assert_array_equal(again.outputs, first.outputs)
    np.testing.assert_array_equal(again.clean_outputs, first.clean_outputs)
    assert torch.equal(again.clean_logits, first.clean_logits)
