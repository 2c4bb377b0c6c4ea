"""Law 2, and the masked run against plain loops over heads and tokens written from the definition."""

import numpy as np
import pytest
import torch
from vitcircuits.circuits.ablation import Ablation
from vitcircuits.circuits.baseline import make_baseline
from vitcircuits.circuits.circuit import Circuit
from vitcircuits.circuits.graph import compile_graph
from vitcircuits.circuits.reach import prune
from vitcircuits.circuits.run import run_circuit
from vitcircuits.circuits.tasks.task import Pairs
from vitcircuits.models.errors import GraphError, TaskError

ABLATIONS = [
    Ablation("partner"),
    Ablation("another", seed=3),
    Ablation("mean"),
    Ablation("mean", over="tokens"),
    Ablation("zero"),
    Ablation("noise", seed=3),
]
SOME = ("plain", "registers-layerscale", "no-class-registers", "average-tokennorm")


@pytest.fixture(scope="module")
def setting(images_for):
    """Clean images, partners and reference images of a model."""
    return lambda vit: (images_for(vit), images_for(vit, seed=1), images_for(vit, 6, seed=2))


def _ablated(vit, ablation, clean, corrupt, reference):
    with torch.no_grad(), vit.borrowed():
        return make_baseline(vit, ablation, reference)(Pairs(clean, corrupt))


@pytest.mark.parametrize("ablation", ABLATIONS, ids=str)
def test_law_2_all_kept_is_the_clean_run_and_none_kept_the_ablated_values(
    variant, tokens, ports, ablation, setting, close
):
    graph, (clean, corrupt, reference) = compile_graph(variant, tokens=tokens, ports=ports), setting(variant)
    images = {"ablation": ablation, "reference": reference}
    close(run_circuit(variant, Circuit.full(graph), clean, corrupt, **images), variant(clean).detach())
    total = _ablated(variant, ablation, clean, corrupt, reference).sum(0)
    total = total + sum(block.attn_bias.detach() for block in variant.blocks)
    none = run_circuit(variant, Circuit.empty(graph), clean, corrupt, **images)
    close(none, variant.readout.logits(total).detach())
    if ablation.kind == "partner":
        close(none, variant(corrupt).detach())


def test_with_no_edge_kept_mean_and_another_are_known_without_their_values(variant, setting, close):
    graph, (clean, corrupt, reference) = compile_graph(variant), setting(variant)
    images = {"clean": clean, "corrupt": corrupt, "reference": reference}
    _, cache = variant.run_with_cache(reference)
    mean = cache["resid_post", variant.cfg.n_layers - 1].mean(0, keepdim=True)
    none = run_circuit(variant, Circuit.empty(graph), ablation="mean", **images)
    close(none, variant.readout.logits(mean).detach().expand_as(none))
    choices = variant(reference).detach()
    none = run_circuit(variant, Circuit.empty(graph), ablation="another", **images)
    close((none[:, None] - choices).abs().amax(-1).amin(-1), torch.zeros(len(clean), dtype=none.dtype))


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


@pytest.mark.parametrize("ablation", [Ablation("partner"), Ablation("mean")], ids=str)
@pytest.mark.parametrize("name", SOME)
def test_a_masked_run_is_what_plain_loops_give(variant_named, name, tokens, ports, ablation, setting, on_paths, close):
    vit = variant_named(name)
    graph, (clean, corrupt, reference) = compile_graph(vit, tokens=tokens, ports=ports), setting(vit)
    generator = np.random.default_rng(len(name))
    for share in (0.15, 0.5, 0.9):
        mask = generator.random(len(graph)) < share
        with torch.no_grad():
            ablated = _ablated(vit, ablation, clean, corrupt, reference)
            wanted = reference_run(vit, graph, mask, on_paths(graph, mask)[1], vit.embed(clean), ablated)
        got = run_circuit(vit, Circuit(graph, mask), clean, corrupt, ablation=ablation, reference=reference)
        close(got, wanted)


@pytest.mark.parametrize("ablation", ABLATIONS, ids=str)
def test_law_6_micro_batched_is_whole(variant_named, tokens, ports, ablation, setting, close):
    vit = variant_named("registers-layerscale")
    graph, (clean, corrupt, reference) = compile_graph(vit, tokens=tokens, ports=ports), setting(vit)
    circuit = Circuit(graph, np.random.default_rng(0).random(len(graph)) < 0.5)
    options = {"ablation": ablation, "reference": reference, "ids": torch.tensor([4, 0, 9])}
    whole = run_circuit(vit, circuit, clean, corrupt, **options)
    close(run_circuit(vit, circuit, clean, corrupt, memory=1, **options), whole)
    options["ids"] = options["ids"].flip(0)
    close(run_circuit(vit, circuit, clean.flip(0), corrupt.flip(0), **options), whole.flip(0))


@pytest.mark.parametrize("ablation", ABLATIONS, ids=str)
def test_edges_off_paths_change_nothing(variant_named, tokens, ports, ablation, setting, close):
    vit = variant_named("average-tokennorm")
    graph, (clean, corrupt, reference) = compile_graph(vit, tokens=tokens, ports=ports), setting(vit)
    options = {"ablation": ablation, "reference": reference}
    for share in (0.05, 0.2):
        mask = np.random.default_rng(1).random(len(graph)) < share
        whole, pruned = (
            run_circuit(vit, Circuit(graph, m), clean, corrupt, **options) for m in (mask, prune(graph, mask))
        )
        close(pruned, whole)


def test_a_source_cut_off_from_the_input_carries_its_ablated_value(variant_named, setting, close):
    vit = variant_named("plain")
    graph, (clean, corrupt, reference) = compile_graph(vit), setting(vit)
    mask = np.zeros(len(graph), dtype=bool)
    mask[[graph.index(name) for name in ("m0->a1.h0<q>", "a1.h0->m1", "m1->logits", "m0->logits")]] = True
    for ablation in ABLATIONS:
        options = {"ablation": ablation, "reference": reference}
        got = run_circuit(vit, Circuit(graph, mask), clean, corrupt, **options)
        close(got, run_circuit(vit, Circuit.empty(graph), clean, corrupt, **options))


def test_what_does_not_fit_is_refused(variant_named, setting, unchecked):
    vit, other = variant_named("plain"), variant_named("prenorm-rms-layerscale")
    clean, corrupt, _ = setting(vit)
    with pytest.raises(GraphError, match="another graph"):
        run_circuit(vit, Circuit.full(compile_graph(other)), clean, corrupt)
    circuit = Circuit.full(compile_graph(vit))
    with pytest.raises(TaskError, match="reference"):
        run_circuit(vit, circuit, clean, corrupt, ablation="mean")
    with pytest.raises(TaskError, match="partner"):
        Pairs(clean, corrupt[:2])
