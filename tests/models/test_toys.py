"""The shipped toys are what their cards say."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from timm.models.vision_transformer import Block, VisionTransformer
from vitcircuits.models import toys
from vitcircuits.models.data import load_data
from vitcircuits.models.errors import ModelError
from vitcircuits.models.recipes import RECIPES, Recipe
from vitcircuits.models.toys import list_toys, load_toy, load_toy_folder, toy_card
from vitcircuits.models.training import count_correct

PROMISED = {"toy/digits-2l": 0.96, "toy/mnist-2l": 0.975, "toy/mnist-4l": 0.985}


@pytest.fixture
def folder(tmp_path):
    """A copy of a shipped toy, to damage."""
    return Path(shutil.copytree(Path(toys.__file__).parent / "weights" / "digits-2l", tmp_path / "toy"))


def test_every_recipe_has_its_toy():
    assert list_toys() == list(PROMISED) == [f"toy/{name}" for name in RECIPES]


@pytest.mark.parametrize("name", PROMISED)
def test_a_toy_is_timms_own_vit_ready_to_use(name):
    module, preprocess, labels, card = load_toy(name)
    assert type(module) is VisionTransformer and all(type(block) is Block for block in module.blocks)
    assert not module.training and not any(p.requires_grad for p in module.parameters())
    assert all(p.dtype == torch.float32 for p in module.parameters())
    logits = module(torch.zeros(2, preprocess.channels, *preprocess.size))
    assert logits.shape == (2, len(labels)) and labels == tuple("0123456789")
    assert module.pos_embed.shape == (1, 17, 64)
    assert card == toy_card(name)


@pytest.mark.parametrize("name", PROMISED)
def test_a_toys_card_keeps_the_promise_and_belongs_to_the_committed_recipe(name):
    card = toy_card(name)
    assert card["name"] == name
    assert card["test_accuracy"] == card["n_test_correct"] / card["n_test_images"] >= PROMISED[name]
    assert Recipe.from_dict(card["recipe"]) == RECIPES[name.removeprefix("toy/")]
    assert card["data"]["licence"] and card["weights_licence"] == "MIT"


def accuracy(name: str, **where) -> float:
    module, preprocess, _, card = load_toy(name)
    data = load_data(card["data"]["name"], preprocess, **where)
    assert load_data(card["data"]["name"], None, **where).digest == card["data"]["digest"]
    return count_correct(module, data.test.images, data.test.labels) / len(data.test)


def test_the_digits_accuracy_is_reproduced():
    assert accuracy("toy/digits-2l") == toy_card("toy/digits-2l")["test_accuracy"]


@pytest.mark.parametrize("name", ["toy/mnist-2l", "toy/mnist-4l"])
def test_the_mnist_accuracy_is_reproduced(name):
    here = Path(__file__).resolve().parents[3] / "shared" / "data"
    data_dir = Path(os.environ.get("VITCIRCUITS_TEST_DATA", here)) / "mnist"
    if not data_dir.is_dir():
        pytest.skip("MNIST's idx files are not here: set VITCIRCUITS_TEST_DATA to a folder that holds mnist/.")
    assert accuracy(name, data_dir=data_dir) == toy_card(name)["test_accuracy"]


def test_loading_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    load_toy("digits-2l")
    assert torch.equal(before, torch.get_rng_state())


def test_an_unknown_toy_names_the_nearest():
    with pytest.raises(ModelError, match="Did you mean 'toy/mnist-2l'"):
        load_toy("toy/mnist-21")


def test_changed_weights_are_refused(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    with pytest.raises(ModelError, match="sha256"):
        load_toy_folder(folder)


def test_weights_of_another_shape_are_refused(folder):
    card = json.loads((folder / "card.json").read_text())
    card["recipe"]["d_model"] = 32
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(ModelError, match="does not fit the recipe"):
        load_toy_folder(folder)


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("card.json", None, r"card\.json cannot be read"),
        ("card.json", "{", "not JSON"),
        ("card.json", "[]", "not a toy's card"),
        ("card.json", '{"name": "x"}', "it lacks"),
        ("model.safetensors", None, r"no model\.safetensors"),
    ],
)
def test_a_damaged_folder_is_refused_with_the_way_out(folder, name, text, sentence):
    (folder / name).unlink()
    if text is not None:
        (folder / name).write_text(text)
    with pytest.raises(ModelError, match=sentence):
        load_toy_folder(folder)
