"""The trained model uses its circuit as its card says, and the recipe makes such a model again."""

import shutil
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from vitcircuits.circuits import compile_graph, verify_planted
from vitcircuits.circuits.truths.certificate import train_digit_pairs
from vitcircuits.models import PlantedViT, load_vit
from vitcircuits.models.errors import ModelError
from vitcircuits.models.planted import digit_pairs
from vitcircuits.models.planted.digit_pairs import PairsRecipe, digit_pairs_card

TINY = PairsRecipe(steps=3, batch_size=4, d_model=8, heads=2)


@pytest.fixture
def few_pairs(monkeypatch):
    """Trained models are certified on 64 pairs: a shipped one's card says so of 512."""
    monkeypatch.setattr("vitcircuits.circuits.truths.certificate.verify_planted", partial(verify_planted, n=64))


@pytest.fixture(scope="module")
def found():
    """The shipped model's certificate, measured again."""
    return verify_planted(load_vit("planted/digit-pairs"))


def test_the_certificate_in_the_card_is_measured_again(found):
    card = digit_pairs_card()
    for name, value in card["certificate"].items():
        again = asdict(found)[name]
        assert again == (pytest.approx(value, rel=1e-3, abs=2e-3) if isinstance(value, float) else value), name


def test_the_certificate_keeps_the_promise(found):
    assert found.holds and (found.n_true, found.n_edges, found.unit) == (12, 110, "nats")
    assert found.weakest_true > 2 * found.strongest_false
    assert found.accuracy >= 0.87 and found.circuit_accuracy >= 0.85
    assert str(found).endswith("holds")


def test_the_card_belongs_to_the_committed_recipe():
    card = digit_pairs_card()
    assert PairsRecipe.from_dict(card["recipe"]) == PairsRecipe()
    assert card["name"] == "planted/digit-pairs" and card["data"]["licence"] and card["weights_licence"] == "MIT"


def test_the_truth_is_its_twelve_edges_and_is_not_called_exact():
    vit = load_vit("planted/digit-pairs")
    assert isinstance(vit, PlantedViT) and not vit.exact
    assert len(vit.truth()) == 12 and vit.truth() <= set(compile_graph(vit).edge_names())
    assert vit.minimal_circuits() == (vit.truth(),)
    with pytest.raises(ModelError, match="trained"):
        vit.truth("zero")
    with pytest.raises(ModelError, match="pass one of 'all'"):
        vit.truth(tokens="role")


def test_training_and_test_images_come_from_different_digits():
    data = load_vit("planted/digit-pairs").images(seed=0)
    train, test = (
        {half.numpy().tobytes() for image in split.images for half in image.split(8, -1)}
        for split in (data.train, data.test)
    )
    assert not train & test


def test_the_same_recipe_gives_the_same_bytes_and_loads_from_its_folder(tmp_path, few_pairs):
    state = torch.get_rng_state()
    first = train_digit_pairs(TINY, out=tmp_path / "first", progress=False)
    train_digit_pairs(TINY, out=tmp_path / "second", progress=False)
    other = train_digit_pairs(TINY, out=tmp_path / "other", seed=1, progress=False)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "second", "other")]
    assert weights[0] == weights[1] != weights[2] and other["recipe"]["seed"] == 1
    assert torch.equal(torch.get_rng_state(), state)
    vit = load_vit(tmp_path / "first")
    assert isinstance(vit, PlantedViT) and vit.truth() == set(TINY.allowed)
    assert first["certificate"]["n_true"] == 12


def test_training_lowers_what_edges_outside_the_circuit_carry(tmp_path, few_pairs):
    recipe = replace(TINY, steps=60, batch_size=32, d_model=16, lr=1e-2)
    kl = {}
    for name, share in (("planted", 0.9), ("free", 0.0)):
        none = 0.1 if name == "planted" else 1.0
        card = train_digit_pairs(
            replace(recipe, all_ablated=share, none_ablated=none), out=tmp_path / name, progress=False
        )
        kl[name] = card["certificate"]["unchanged"]
    assert kl["planted"] < 0.5 * kl["free"]


def test_changed_weights_are_refused(tmp_path):
    folder = Path(shutil.copytree(Path(digit_pairs.__file__).parent / "weights" / "digit-pairs", tmp_path / "pairs"))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    with pytest.raises(ModelError, match="sha256"):
        load_vit(folder)
