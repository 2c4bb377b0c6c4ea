"""Activation patching against brute force with hooks, for every activation, direction and choice of tokens."""

import dataclasses

import numpy as np
import pytest
import torch
from vitcircuits.algorithms.patching.activation_patching import activation_patch
from vitcircuits.circuits import Ablation, Pairs, Task, compile_graph
from vitcircuits.circuits.tasks.metrics import Metric
from vitcircuits.circuits.tokens import token_columns
from vitcircuits.models.errors import GraphError, TaskError

WHATS = ("z", "q", "k", "v", "pattern", "resid", "mlp_out", "head_out")
HOOKS = {"head_out": "attn.hook_result", "mlp_out": "hook_mlp_out", "resid": "hook_resid_pre"}
HOOKS |= {what: f"attn.hook_{what}" for what in ("z", "q", "k", "v", "pattern")}


def make_task(vit, images_for, kind="partner", metric="logit_difference", n=3):
    pairs = [Pairs(images_for(vit, n, seed=seed), images_for(vit, n, seed=seed + 1)) for seed in (1, 3)]
    foil = () if metric == "probability" else (1, 2)
    return Task(vit, Metric(metric, (0, 3), foil), *pairs, Ablation(kind, seed=5))


def patched_by_hook(vit, images, what, layer, cells, value):
    """Logits of runs in which one activation is replaced, (cell, pair, class): one for each (head, tokens).

    The value has the activation's shape. The runs stand in one batch, one behind the other.
    """

    def patch(activation, hook):
        new = activation.clone()
        for own, (head, tokens) in zip(new.split(len(images)), cells, strict=True):
            if what == "pattern":
                own[:, head, tokens] = value[:, head, tokens]
            elif what in ("resid", "mlp_out"):
                own[:, tokens] = value[:, tokens]
            else:
                own[:, tokens, head] = value[:, tokens, head]
        return new

    logits = vit.run_with_hooks(images.repeat(len(cells), 1, 1, 1), [(hook_name(vit, what, layer), patch)])
    return logits.unflatten(0, (len(cells), len(images)))


def hook_name(vit, what, layer):
    if what == "resid" and layer == vit.cfg.n_layers:
        return f"blocks.{layer - 1}.hook_resid_post"
    return f"blocks.{layer}.{HOOKS[what]}"


def check_against_hooks(task, what, direction, tokens, values_of, close):
    """Every effect and flip equals that of a run with one hook; `values_of` gives a hook's replacement."""
    vit, pairs, metric = task.vit, task.discovery, task.metric
    table = activation_patch(compile_graph(vit), task, what, tokens=tokens, direction=direction)
    base = pairs.clean if direction == "noising" else pairs.corrupt
    member = token_columns(vit.cfg.tokens, tokens).member
    with torch.no_grad():
        reference, logits = vit(pairs.clean), vit(base)
        for layer in range(table.values.shape[1]):
            there = ~np.isnan(table.values[:, layer]).all(0)
            for head in np.argwhere(~there)[:, 0]:
                assert head >= vit.cfg.heads_of(layer) or (what == "mlp_out" and not vit.cfg.has_mlp(layer))
            cells = np.argwhere(there).tolist()
            if not cells:
                continue
            at = [(head, torch.from_numpy(member[column])) for head, column in cells]
            every = patched_by_hook(vit, base, what, layer, at, values_of(hook_name(vit, what, layer)))
            for (head, column), found in zip(cells, every, strict=True):
                moved = metric(found, reference) - metric(logits, reference)
                wanted = -moved if direction == "noising" else moved
                close(torch.tensor(table.values[:, layer, head, column]).to(wanted), wanted)
                sides = [metric.prefers_target(run) for run in (logits, found)]
                flips = sides[0] & ~sides[1] if direction == "noising" else ~sides[0] & sides[1]
                assert table.flips[:, layer, head, column].tolist() == flips.tolist()
    return table


def cached(task, direction):
    """The other run's activations."""
    donor = task.discovery.corrupt if direction == "noising" else task.discovery.clean
    with torch.no_grad():
        return task.vit.run_with_cache(donor)[1].__getitem__


@pytest.mark.parametrize("what", WHATS)
def test_a_patch_is_a_hook_on_every_model(separable, images_for, close, what):
    task = make_task(separable, images_for, n=2)
    direction = ("noising", "denoising")[(WHATS.index(what) + len(separable.cfg.name)) % 2]
    tokens = ("all", "r0c1") if what == "k" else "role"
    check_against_hooks(task, what, direction, tokens, cached(task, direction), close)


def test_what_a_block_does_not_have_is_not_patched(architecture_named, images_for):
    for name, what, there in (("map-other-heads", "z", [2, 2, 4]), ("attention-only", "mlp_out", [0, 0])):
        vit = architecture_named(name)
        table = activation_patch(compile_graph(vit), make_task(vit, images_for, n=2), what)
        assert (~np.isnan(table.effect)).sum((1, 2)).tolist() == there
        assert table.frame(n_bootstrap=0).groupby("layer").size().tolist() == [n for n in there if n]


@pytest.mark.parametrize(
    ("tokens", "metric"),
    [("all", "kl"), ("each", "probability"), ("cls", "kl"), (("reg1", "patch", "r1c0"), "logit_difference")],
)
@pytest.mark.parametrize("what", WHATS)
def test_a_patch_is_a_hook_at_any_tokens_and_metric(variant_named, images_for, close, what, tokens, metric):
    task = make_task(variant_named("registers-layerscale"), images_for, metric=metric)
    table = check_against_hooks(task, what, "noising", tokens, cached(task, "noising"), close)
    assert np.abs(table.values).max() > 1e-3


@pytest.mark.parametrize("kind", ["mean", "zero"])
@pytest.mark.parametrize("what", WHATS)
def test_a_mean_and_zero_stand_in_for_activations(variant_named, images_for, close, what, kind):
    # with biases, a residual of zero writes is not zero
    vit = variant_named("no-projection-bias" if kind == "zero" else "registers-layerscale")
    task = make_task(vit, images_for, kind)
    with torch.no_grad():
        _, cache = vit.run_with_cache(task.reference)
    mean = {name: value.mean(0, keepdim=True).expand(3, *value.shape[1:]) for name, value in cache.items()}
    values = mean if kind == "mean" else {name: torch.zeros_like(value) for name, value in mean.items()}
    check_against_hooks(task, what, "noising", "role", values.__getitem__, close)


@pytest.mark.parametrize("kind", ["partner", "another", "mean", "zero", "noise"])
@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_the_whole_input_carries_everything(variant_named, images_for, direction, kind):
    task = make_task(variant_named("plain"), images_for, kind)
    table = activation_patch(compile_graph(task.vit), task, "resid", direction=direction)
    np.testing.assert_allclose(table.values[:, 0, 0, 0], table.clean - table.corrupt, atol=1e-9)
    assert table.shown("normalised")[0, 0, 0] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("kind", ["partner", "another", "mean", "zero"])
def test_z_and_what_a_head_writes_are_one_patch(variant_named, images_for, kind):
    task = make_task(variant_named("registers-layerscale"), images_for, kind)
    graph = compile_graph(task.vit)
    z, written = (activation_patch(graph, task, what, tokens="each") for what in ("z", "head_out"))
    np.testing.assert_allclose(z.values, written.values, atol=1e-9)


@pytest.mark.parametrize(
    ("kind", "direction"), [("partner", "denoising"), ("another", "noising"), ("noise", "noising")]
)
@pytest.mark.parametrize("what", ["q", "head_out", "resid"])
def test_batches_change_nothing(variant_named, images_for, monkeypatch, what, kind, direction):
    task = make_task(variant_named("plain"), images_for, kind, n=5)
    graph = compile_graph(task.vit)
    whole = activation_patch(graph, task, what, tokens="each", direction=direction)
    monkeypatch.setattr(
        "vitcircuits.algorithms.patching.activation_patching.MOST_RUNS", 4
    )  # pairs by two, candidates by two
    small = activation_patch(graph, task, what, tokens="each", direction=direction)
    tiny = activation_patch(graph, task, what, tokens="each", direction=direction, memory=1)
    for parts in (small, tiny):
        np.testing.assert_allclose(parts.values, whole.values, atol=1e-9)
        np.testing.assert_array_equal(parts.flips, whole.flips)
        np.testing.assert_allclose(parts.clean, whole.clean, atol=1e-9)


def test_noise_is_drawn_once_for_each_pair_and_head(variant_named, images_for):
    task = make_task(variant_named("plain"), images_for, "noise")
    graph = compile_graph(task.vit)
    table = activation_patch(graph, task, "k")
    last = activation_patch(graph, task, "k", pairs=task.discovery.select([2]))
    np.testing.assert_allclose(last.values[0], table.values[2], atol=1e-9)
    twice = task.discovery.select([0, 0])
    twice = activation_patch(graph, task, "k", pairs=Pairs(twice.clean, twice.corrupt)).values
    assert np.abs(twice[0] - twice[1]).max() > 1e-3
    other = activation_patch(graph, dataclasses.replace(task, ablation=Ablation("noise", seed=6)), "k")
    assert np.abs(other.values - table.values).max() > 1e-3


@pytest.mark.parametrize("over", ["token", "tokens"])
def test_a_pattern_over_tokens_is_the_mean_row(variant_named, images_for, over):
    task = make_task(variant_named("plain"), images_for)
    task = dataclasses.replace(task, ablation=Ablation("mean", over=over))
    with torch.no_grad():
        _, cache = task.vit.run_with_cache(task.reference, "blocks.1.attn.hook_pattern")
        mean = cache["pattern", 1].mean((0, 2) if over == "tokens" else (0,), keepdim=True).expand(3, -1, 5, -1)
        logits = [
            patched_by_hook(task.vit, task.discovery.clean, "pattern", 1, [(0, slice(None))], mean)[0],
            task.vit(task.discovery.clean),
        ]
    table = activation_patch(compile_graph(task.vit), task, "pattern")
    wanted = task.metric(logits[1]) - task.metric(logits[0])
    np.testing.assert_allclose(table.values[:, 1, 0, 0], wanted.numpy(), atol=1e-9)


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"what": "Z"}, TaskError, "what='head_out'"),
        ({"direction": "backwards"}, TaskError, "direction='denoising'"),
        ({"tokens": "r9c9"}, GraphError, "tokens='r"),
        ({"tokens": ()}, GraphError, 'tokens="cls"'),
        ({"what": "pattern"}, TaskError, 'with_ablation\\("mean"\\)'),
    ],
)
def test_mistakes_are_answered_by_the_repaired_call(variant_named, images_for, options, error, sentence):
    task = make_task(variant_named("plain"), images_for, "noise")
    with pytest.raises(error, match=sentence):
        activation_patch(compile_graph(task.vit), task, **options)
