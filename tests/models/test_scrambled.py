"""Copies that cannot compute what the model does: the user's module stays, and heads have no order of their own."""

import hashlib

import pytest
import torch
from vitcircuits.models import load_vit
from vitcircuits.models.errors import ModelError
from vitcircuits.models.scrambled import copy_model, exchange_heads, shuffle_weights

COPIES = (exchange_heads, shuffle_weights)


def state(module):
    """Weights, what learns and what is in training mode."""
    weights = hashlib.sha256()
    for value in module.state_dict().values():
        weights.update(value.detach().numpy().tobytes())
    learns = [parameter.requires_grad for parameter in module.parameters()]
    return weights.hexdigest(), learns, [part.training for part in module.modules()]


@pytest.mark.parametrize("make", COPIES)
def test_the_module_stays_as_it_was_and_the_copy_differs(make, tiny_module, images_for):
    module = tiny_module(num_heads=4)
    module.train()
    module.blocks[0].eval()
    module.blocks[1].mlp.requires_grad_(False)
    before, vit = state(module), load_vit(module)
    images = images_for(vit)
    clean = vit(images)
    other = make(vit, seed=3)
    assert state(module) == before
    assert torch.equal(vit(images), clean)
    assert not torch.allclose(other(images), clean)
    assert not any(parameter.requires_grad for parameter in other.module.parameters())


@pytest.mark.parametrize("make", COPIES)
def test_a_seed_gives_one_copy(make, tiny_vit, images_for):
    vit = tiny_vit(num_heads=4)
    images = images_for(vit)
    assert torch.equal(make(vit, seed=1)(images), make(vit, seed=1)(images))
    assert not torch.allclose(make(vit, seed=1)(images), make(vit, seed=2)(images))


def test_reading_weights_in_the_same_order_as_writing_ones_change_nothing(tiny_vit, images_for, close):
    vit = tiny_vit(num_heads=4)
    images, other = images_for(vit), exchange_heads(vit, seed=5)
    with torch.no_grad():
        for own, block, inner in zip(vit.blocks, other.blocks, other.module.blocks, strict=True):
            order = [
                next(place for place, was in enumerate(own.out_weight) if torch.equal(was, now))
                for now in block.out_weight
            ]
            assert sorted(order) == list(range(4)) and all(place != was for place, was in enumerate(order))
            for values in (inner.attn.qkv.weight, inner.attn.qkv.bias):
                parts = values.unflatten(0, (3, 4, -1))
                values.copy_(parts[:, order].flatten(0, 2))
    close(other(images), vit(images))


def test_shuffled_weights_keep_their_numbers(tiny_vit):
    vit = tiny_vit()
    for was, now in zip(vit.module.parameters(), shuffle_weights(vit).module.parameters(), strict=True):
        assert torch.equal(was.flatten().sort().values, now.flatten().sort().values)


def test_models_of_every_architecture_can_be_copied(architecture, images_for, close):
    images = images_for(architecture)
    close(copy_model(architecture)(images), architecture(images))
    before = architecture(images)
    for make in COPIES:
        assert not torch.allclose(make(architecture)(images), before)
    assert torch.equal(architecture(images), before)


def test_readouts_go_with_the_copy(tiny_vit, images_for, close):
    vit = tiny_vit()
    head = torch.nn.Linear(16, 3).double()
    read = vit.with_readout(head, ("a", "b", "c"), pool="patches")
    found = copy_model(read)
    assert found.labels == read.labels and found.readout.head is not head
    close(found(images_for(vit)), read(images_for(vit)))
    weight = head.weight.detach().clone()
    shuffle_weights(read)
    assert torch.equal(head.weight, weight)


def test_a_single_head_cannot_be_exchanged(tiny_vit):
    with pytest.raises(ModelError, match="no layer of tiny has two heads"):
        exchange_heads(tiny_vit(num_heads=1))
