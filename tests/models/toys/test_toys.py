"""The shipped toys are what their cards say."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block, VisionTransformer
from vitcircuits.models import toys
from vitcircuits.models.data import load_data
from vitcircuits.models.errors import DataError, ModelError
from vitcircuits.models.mlps import NoMlp
from vitcircuits.models.toys import list_toys, load_text_encoder, load_toy, load_toy_folder, toy_card, zero_shot
from vitcircuits.models.toys.objectives import CosineReader, nearest
from vitcircuits.models.toys.recipe_book import RECIPES
from vitcircuits.models.toys.recipes import Recipe, build
from vitcircuits.models.toys.sprites import FACETS, captions, facet_labels, factors_of

PROMISED = {
    "toy/digits-2l": 0.96,
    "toy/mnist-2l": 0.975,
    "toy/mnist-4l": 0.985,
    "toy/mnist-1l": 0.965,
    "toy/mnist-3l": 0.985,
    "toy/mnist-2l-reg4": 0.98,
    "toy/mnist-1l-attn": 0.92,
    "toy/mnist-2l-attn": 0.97,
    "toy/mnist-3l-attn": 0.98,
    "toy/mnist-4l-attn": 0.98,
    **{f"toy/{name}{seed}": 0.9 for name in ("sprites-2l", "sprites-4l", "vit-sprites") for seed in ("", "@1", "@2")},
    **{f"toy/clip-sprites{seed}": 0.79 for seed in ("", "@1", "@2")},
}
SHIPPED = list_toys()
MNIST = [name for name in SHIPPED if "mnist" in name]
SPRITES = [name for name in SHIPPED if "sprites" in name]
CLIPS = [name for name in SHIPPED if "clip" in name]
ATTENTION_ONLY = [name for name in SHIPPED if "attn" in name]
WEIGHTS = Path(toys.__file__).parents[1] / "weights"


@pytest.fixture
def folder(tmp_path):
    """A copy of a shipped toy, to damage."""
    return Path(shutil.copytree(WEIGHTS / "digits-2l", tmp_path / "toy"))


def test_every_recipe_has_its_toy():
    assert list_toys() == sorted(PROMISED) == sorted(f"toy/{name}" for name in RECIPES)


def test_the_weights_are_small():
    sizes = {folder.name: sum(path.stat().st_size for path in folder.iterdir()) for folder in WEIGHTS.iterdir()}
    assert max(sizes.values()) < 1.5e6 and sum(sizes.values()) <= 15e6


@pytest.mark.parametrize("name", SHIPPED)
def test_a_toy_is_timms_own_vit_ready_to_use(name):
    module, preprocess, labels, card = load_toy(name)
    recipe = Recipe.from_dict(card["recipe"])
    assert type(module) is VisionTransformer and all(type(block) is Block for block in module.blocks)
    assert not module.training and not any(p.requires_grad for p in module.parameters())
    assert all(p.dtype == torch.float32 for p in module.parameters())
    logits = module(torch.zeros(2, preprocess.channels, *preprocess.size))
    assert logits.shape == (2, len(labels)) and labels == (recipe.classes if name not in CLIPS else labels)
    assert module.pos_embed.shape == (1, 17 + recipe.registers, 64) and module.num_reg_tokens == recipe.registers
    assert len(module.blocks) == recipe.layers
    assert card == toy_card(name)


@pytest.mark.parametrize("name", ATTENTION_ONLY)
def test_an_attention_only_toy_has_nothing_in_its_mlps_place(name):
    module = load_toy(name)[0]
    for block in module.blocks:
        assert type(block.mlp) is NoMlp and type(block.norm2) is torch.nn.Identity
        hidden = torch.randn(2, 17, 64, generator=torch.Generator().manual_seed(0))
        assert torch.equal(block(hidden), hidden + block.attn(block.norm1(hidden)))
    assert not [key for key in module.state_dict() if "mlp" in key or "norm2" in key]


@pytest.mark.parametrize("name", SHIPPED)
def test_weights_are_stored_in_the_recipes_dtype_and_lose_nothing_that_counts(name):
    from safetensors import safe_open

    card = toy_card(name)
    with safe_open(WEIGHTS / name.removeprefix("toy/") / "model.safetensors", framework="pt") as file:
        found = {str(file.get_tensor(key).dtype) for key in file.keys()}  # noqa: SIM118
    assert found == {f"torch.{card['recipe'].get('dtype', 'float32')}"}
    lost = card.get("n_test_correct_float32", card["n_test_correct"]) - card["n_test_correct"]
    assert abs(lost) <= 0.001 * card["n_test_images"]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_toys_card_keeps_the_promise_and_belongs_to_the_committed_recipe(name):
    card = toy_card(name)
    assert card["name"] == name
    assert card["test_accuracy"] == card["n_test_correct"] / card["n_test_images"] >= PROMISED[name]
    assert Recipe.from_dict(card["recipe"]) == RECIPES[name.removeprefix("toy/")]
    assert card["data"]["licence"] and card["weights_licence"] == "MIT"


def test_seeds_differ_in_nothing_but_the_seed():
    for base in ("sprites-2l", "sprites-4l", "vit-sprites", "clip-sprites"):
        recipes = [Recipe.from_dict(toy_card(f"toy/{base}{at}")["recipe"]).to_dict() for at in ("", "@1", "@2")]
        assert [recipe.pop("seed") for recipe in recipes] == [0, 1, 2]
        assert [recipe.pop("name") for recipe in recipes] == [base, f"{base}@1", f"{base}@2"]
        assert recipes[0] == recipes[1] == recipes[2]


def test_the_pair_differs_in_nothing_but_what_it_is_trained_for():
    plain, clip = (RECIPES[name].to_dict() for name in ("vit-sprites", "clip-sprites"))
    assert {key for key in plain if plain[key] != clip[key]} == {"name", "text"}  # as many images, as many steps
    towers = [build(RECIPES[name]).state_dict() for name in ("vit-sprites", "clip-sprites")]
    assert {key for key in towers[0] if not key.startswith("head")} == set(towers[1]) - {"head.weight"}


def check_accuracy(name: str, pixels) -> None:
    module, preprocess, _, card = load_toy(name)
    assert pixels.digest == card["data"]["digest"]
    reader = module if name not in CLIPS else CosineReader(module, zero_shot(name).embeddings, torch.tensor(1.0))
    n_correct = int((nearest(reader, preprocess.normalise(pixels.test.images)) == pixels.test.labels).sum())
    assert n_correct == card["n_test_correct"]


def test_the_digits_accuracy_is_reproduced():
    check_accuracy("toy/digits-2l", load_data("digits", None))


@pytest.fixture(scope="module")
def mnist():
    """MNIST as pixels, where it is at hand."""
    here = Path(__file__).resolve().parents[4] / "shared" / "data"
    data_dir = Path(os.environ.get("VITCIRCUITS_TEST_DATA", here)) / "mnist"
    if not data_dir.is_dir():
        pytest.skip("MNIST's idx files are not here: set VITCIRCUITS_TEST_DATA to a folder that holds mnist/.")
    return load_data("mnist", None, data_dir=data_dir)


@pytest.mark.parametrize("name", MNIST)
def test_the_mnist_accuracy_is_reproduced(name, mnist):
    check_accuracy(name, mnist)


@pytest.fixture(scope="module")
def sprites():
    """The sprites as pixels."""
    return load_data("sprites", None)


@pytest.mark.parametrize("name", SPRITES)
def test_the_sprites_accuracy_is_reproduced(name, sprites):
    check_accuracy(name, sprites)


@pytest.mark.parametrize("name", CLIPS)
def test_a_clips_zero_shot_accuracies_are_reproduced_for_every_facet(name, sprites):
    module, preprocess, _, card = load_toy(name)
    found = zero_shot(name)
    images = F.normalize(module(preprocess.normalise(sprites.test.images[:500])), dim=-1)
    truth = facet_labels(factors_of(sprites.test.names[:500]))
    for facet in FACETS:
        phrases, embeddings = found.facet(facet)
        assert phrases == FACETS[facet]
        share = ((images @ embeddings.T).argmax(-1).numpy() == truth[facet]).mean()
        assert abs(share - card["accuracies"]["zero_shot"][facet]) < 0.05  # a part of the test images
    assert set(card["accuracies"]["linear_probe"]) == set(FACETS)


def test_a_clips_text_side_is_unit_vectors_a_scale_and_the_encoder_they_come_from():
    found, encoder = zero_shot("toy/clip-sprites"), load_text_encoder("toy/clip-sprites")
    assert found.names == tuple(toy_card("toy/clip-sprites")["recipe"]["classes"])
    assert found.embeddings.shape == (6, 32) and 1 < found.scale <= 100
    torch.testing.assert_close(found.phrase_embeddings.norm(dim=-1), torch.ones(18))
    torch.testing.assert_close(encoder.facet_embeddings("shape"), found.embeddings)
    with pytest.raises(DataError, match="Did you mean 'heart'"):
        encoder.tokenise(["a large red hart"])


def test_a_clip_finds_the_caption_of_an_image(sprites):
    module, preprocess, labels, _ = load_toy("toy/clip-sprites")
    encoder = load_text_encoder("toy/clip-sprites")
    said = captions(factors_of(sprites.test.names[:100]))
    images = F.normalize(module(preprocess.normalise(sprites.test.images[:100])), dim=-1)
    found = (images @ encoder(encoder.tokenise(said)).T).argmax(-1)
    assert sum(said[i] == said[j] for i, j in enumerate(found.tolist())) > 70  # chance is about 1
    assert labels == tuple(f"e{i}" for i in range(32))


def test_a_model_of_class_labels_has_no_text_side():
    with pytest.raises(ModelError, match="toy/clip-sprites"):
        zero_shot("toy/vit-sprites")


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


def test_a_toy_clip_is_read_out_by_its_own_class_embeddings():
    from vitcircuits.models import load_vit
    from vitcircuits.models.data import load_data
    from vitcircuits.models.toys import toy_card

    vit = load_vit("toy/clip-sprites")
    test = load_data("sprites", vit.preprocess, limit=60).test
    right = (vit(test.images).argmax(-1) == test.labels).float().mean()
    assert vit.readout.kind == "text" and vit.labels is not None and "square" in vit.labels
    assert float(right) == pytest.approx(toy_card("toy/clip-sprites")["test_accuracy"], abs=0.05)
