"""Ablated tokens against forward hooks on the original's own blocks, and what the choices mean."""

import numpy as np
import pytest
import torch
from vitcircuits.algorithms import ablate_registers, ablate_tokens, token_effect
from vitcircuits.circuits import Pairs, Task
from vitcircuits.circuits.tasks.metrics import Metric
from vitcircuits.models.errors import GraphError, TaskError

METRIC = Metric("logit_difference", (0,), (2,))


@torch.no_grad()
def held(module, images):
    """What the original's blocks are handed, one (image, token, model) for each block."""
    seen = []
    handles = [block.register_forward_pre_hook(lambda _m, args: seen.append(args[0])) for block in module.blocks]
    module(images)
    for handle in handles:
        handle.remove()
    return seen


@torch.no_grad()
def replaced(module, images, tokens, values):
    """The original's logits where its blocks are handed other values at some tokens; block -> values."""

    def hook(layer):
        def change(_module, args):
            residual = args[0].clone()
            residual[:, tokens] = values[layer]
            return (residual, *args[1:])

        return change

    handles = [module.blocks[layer].register_forward_pre_hook(hook(layer)) for layer in values]
    logits = module(images)
    for handle in handles:
        handle.remove()
    return logits


@pytest.fixture(params=["registers-layerscale", "map-prefix", "eva", "prefix-pooled"])
def vit(request, variant_named, architecture_named):
    """Models with registers, which some of them pool."""
    return (variant_named if request.param in ("registers-layerscale", "prefix-pooled") else architecture_named)(
        request.param
    )


@pytest.mark.parametrize("at", ["all", 1, [1, 0]])
def test_the_mean_equals_hooks_on_the_original(vit, images_for, close, at):
    images, reference, tokens = images_for(vit, 3), images_for(vit, 5, seed=1), vit.cfg.tokens.registers
    layers = [1] if at == 1 else [0, 1]
    means = held(vit.module, reference)
    values = {layer: means[layer][:, tokens].mean(0) for layer in layers}
    got = ablate_registers(vit, images, reference=reference, at=[0, 1] if vit.cfg.pools and at == "all" else at)
    close(got, replaced(vit.module, images, tokens, values))
    assert float((got - vit(images)).abs().max()) > 1e-3


def test_another_image_gives_its_registers_whole(vit, images_for, close):
    images, other, tokens = images_for(vit, 3), images_for(vit, 2, seed=1)[:1].expand(2, -1, -1, -1), vit.cfg.tokens
    theirs = held(vit.module, other[:1])
    values = {layer: theirs[layer][:, tokens.registers] for layer in range(len(vit.module.blocks))}
    got = ablate_registers(vit, images, by="another", reference=other, at=[0, 1])
    close(got, replaced(vit.module, images, tokens.registers, values))


def test_the_image_itself_is_never_another_one(variant_named, images_for, close):
    vit = variant_named("registers-layerscale")
    images = images_for(vit, 2)
    swapped = ablate_registers(vit, images, by="another", at=1)
    theirs = held(vit.module, images.flip(0))[1][:, vit.cfg.tokens.registers]
    close(swapped, replaced(vit.module, images, vit.cfg.tokens.registers, {1: theirs}))


def test_in_front_of_the_first_block_registers_hold_no_image(vit, images_for, close):
    images = images_for(vit, 3)
    for by in ("mean", "another", "shuffle"):
        close(ablate_registers(vit, images, by=by, at=0), vit(images).detach())


def test_the_pool_gathers_what_was_put_in_front_of_it(architecture_named, images_for, close):
    vit, means = architecture_named("map-prefix"), {}
    images, tokens = images_for(vit, 3), vit.cfg.tokens.registers
    vit.run_with_hooks(images, [("blocks.2.hook_resid_pre", lambda value, hook: means.update(at=value.mean(0)))])

    def put(residual, hook):
        residual = residual.clone()
        residual[:, tokens] = means["at"][tokens]
        return residual

    wanted = vit.run_with_hooks(images, [("blocks.2.hook_resid_pre", put)]).detach()
    close(ablate_registers(vit, images, at=2), wanted)
    assert float((wanted - vit(images)).abs().max()) > 1e-3


def test_shuffled_tokens_come_each_from_another_image_of_its_own(variant_named, images_for, close):
    vit, drawn = variant_named("registers-layerscale"), set()
    images, tokens = images_for(vit, 3), list(range(vit.cfg.tokens.n_tokens))[vit.cfg.tokens.registers]
    own = held(vit.module, images)[1]
    for seed in range(6):
        got = ablate_registers(vit, images, by="shuffle", at=1, seed=seed)
        for image in range(3):
            others = [other for other in range(3) if other != image]
            wanted = {
                (first, second): replaced(
                    vit.module, images, tokens, {1: torch.stack([own[first, tokens[0]], own[second, tokens[1]]])}
                )[image]
                for first in others
                for second in others
            }
            fits = [pair for pair, logits in wanted.items() if torch.allclose(logits, got[image], rtol=0, atol=1e-9)]
            assert len(fits) == 1
            drawn.add(fits[0][0] == fits[0][1])
    assert drawn == {True, False}


def test_registers_that_trade_places_within_an_image_change_nothing(vit, images_for, close):
    images, tokens = images_for(vit, 3), vit.cfg.tokens.registers
    values = {layer: found[:, tokens].flip(1) for layer, found in enumerate(held(vit.module, images))}
    close(replaced(vit.module, images, tokens, values), vit(images).detach())


def test_batches_change_nothing(variant_named, images_for, close):
    vit = variant_named("registers-layerscale")
    images = images_for(vit, 5)
    for by in ("mean", "another", "shuffle"):
        close(ablate_registers(vit, images, by=by, memory=1), ablate_registers(vit, images, by=by))


def test_the_effect_is_the_metric_that_is_lost(variant_named, images_for):
    vit = variant_named("registers-layerscale")
    task = Task(vit, METRIC, *(Pairs(images_for(vit, 4, seed=n), images_for(vit, 4, seed=n + 1)) for n in (0, 2)))
    found = token_effect(task, "reg", n_bootstrap=50)
    clean = task.discovery.clean
    wanted = (METRIC(vit(clean)) - METRIC(ablate_tokens(vit, clean, reference=task.reference))).detach().numpy()
    np.testing.assert_allclose(found.clean - found.ablated, wanted, atol=1e-12)
    assert found.effect.value == pytest.approx(wanted.mean()) and found.effect.low <= wanted.mean() <= found.effect.high
    gap = (METRIC(vit(clean)) - METRIC(vit(task.discovery.corrupt))).mean().item()
    assert found.normalised.value == pytest.approx(wanted.mean() / gap)
    assert found.effect.unit == "logits" and "in front of every block" in found.effect.method and str(found)


def test_what_is_not_possible_is_refused(variant_named, images_for, unchecked):
    vit, plain = variant_named("prefix-pooled"), variant_named("plain")
    images = images_for(vit, 2)
    for wrong, said in (
        ({"by": "zero"}, "by='mean'"),
        ({"by": "another", "reference": images[:1].expand(2, -1, -1, -1)}, "no other image"),
        ({"at": 2}, "0 to 1"),
        ({"at": "last"}, "at='all'"),
        ({"reference": images[:1]}, "at least two images"),
    ):
        with pytest.raises(TaskError, match=said):
            ablate_registers(vit, images, **wrong)
    with pytest.raises(TaskError, match="no registers"):
        ablate_registers(plain, images_for(plain, 2))
    with pytest.raises(GraphError, match="not known here"):
        ablate_tokens(plain, images_for(plain, 2), "reg")
