"""The same recipe gives the same weights, and training leaves the process as it was."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from vitcircuits.models import watching
from vitcircuits.models.data import load_data
from vitcircuits.models.errors import ModelError
from vitcircuits.models.load import load_vit
from vitcircuits.models.mlps import NoMlp
from vitcircuits.models.toys import load_text_encoder, load_toy_folder, model_folders, sprites, zero_shot
from vitcircuits.models.toys.objectives import Captions
from vitcircuits.models.toys.recipe_book import RECIPES, get_recipe
from vitcircuits.models.toys.recipes import Recipe, TextRecipe, build
from vitcircuits.models.toys.sprites import captions, factors_of
from vitcircuits.models.toys.training import augment, checkpoint_steps, learning_rate, make_optimizer, train

# dropout, because it alone draws from the global generator
TINY = replace(RECIPES["digits-2l"], name="tiny", epochs=1, d_model=16, layers=1, heads=2, dropout=0.1)
FILES = ["card.json", "model.safetensors", "training.csv", "training.svg"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder and the card of TINY, trained once: copy the folder to change it."""
    folder = tmp_path_factory.mktemp("trained") / "new" / "folder"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return folder, train(TINY, out=folder, progress=False)


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """The folder and the card of a training that is long enough to learn, with two checkpoints."""
    folder = tmp_path_factory.mktemp("learnt")
    calm = replace(TINY, shift=0.0, rotate=0.0, zoom=0.0, dropout=0.0, label_smoothing=0.0, weight_decay=0.0)
    recipe = replace(calm, epochs=12, lr=1e-2, d_model=32)
    return folder, train(recipe, out=folder, checkpoints=[0, 7], progress=False)


@pytest.fixture(scope="module")
def halved(tmp_path_factory):
    """The folder, the card and the recipe of an attention-only toy with registers that is stored in 16 bits."""
    folder, recipe = tmp_path_factory.mktemp("halved"), replace(TINY, registers=3, attention_only=True, layers=2)
    recipe = replace(recipe, dtype="float16", epochs=2)
    return folder, train(recipe, out=folder, progress=False), recipe


def test_the_same_recipe_gives_the_same_bytes(trained, tmp_path):
    folder, first = trained
    torch.manual_seed(2)
    second = train(TINY, out=tmp_path / "second", progress=False)
    other = train(TINY, out=tmp_path / "other", seed=1, progress=False)
    weights = [(path / "model.safetensors").read_bytes() for path in (folder, tmp_path / "second", tmp_path / "other")]
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]
    for name in FILES[2:]:
        assert (folder / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    assert {**first, "training_seconds": 0} == {**second, "training_seconds": 0}
    assert other["recipe"]["seed"] == 1


def test_progress_goes_to_stderr_and_random_state_and_threads_are_left_as_they_were(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(watching, "DELAY", 0)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    train(replace(TINY, threads=threads + 1, batch_size=600), out=tmp_path, progress=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    captured = capsys.readouterr()
    assert "train tiny" in captured.err and "loss=" in captured.err and not captured.out


def test_training_learns(learnt):
    assert learnt[1]["test_accuracy"] > 0.48  # chance is 0.1


def test_a_training_leaves_card_and_weights_and_nothing_else(trained):
    folder, card = trained
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert [path.name for path in folder.parent.iterdir()] == ["folder"]
    assert json.loads((folder / "card.json").read_text()) == card
    assert Recipe.from_dict(card["recipe"]) == TINY
    assert load_toy_folder(folder)[3] == card


def test_a_folder_that_cannot_be_written_is_refused_before_training(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match="cannot be written"):
        train(replace(TINY, epochs=10**6), out=tmp_path / "file", progress=False)


def test_building_draws_from_the_recipes_seed_only():
    state = torch.get_rng_state()
    first, other = build(TINY).state_dict(), build(replace(TINY, seed=1)).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first["pos_embed"], build(TINY).state_dict()["pos_embed"])
    assert not torch.equal(first["pos_embed"], other["pos_embed"])


def test_positions_start_as_wide_as_the_recipe_says():
    narrow, wide = (build(replace(TINY, position_std=std)).state_dict() for std in (0.02, 0.3))
    assert 0.015 < narrow["pos_embed"].std() < 0.025 and 0.25 < wide["pos_embed"].std() < 0.35
    assert all(torch.equal(narrow[key], wide[key]) for key in narrow if key != "pos_embed")


def test_augmentation_moves_by_pixels():
    dot = torch.zeros(200, 1, 8, 8)
    dot[:, :, 3:5, 3:5] = 1
    still = replace(TINY, shift=0.0, rotate=0.0, zoom=0.0)
    torch.testing.assert_close(augment(dot, still, torch.Generator()), dot)
    moved = augment(dot, replace(still, shift=2.0), torch.Generator().manual_seed(0))
    centre = (moved.sum((1, 2)) * torch.arange(8)).sum(-1) / moved.sum((1, 2, 3)) - 3.5
    assert 1.8 < centre.abs().max() <= 2.001


def test_the_learning_rate_rises_then_falls_to_zero():
    rates = [learning_rate(step, 100, TINY) for step in range(100)]
    peak = rates.index(max(rates))
    assert max(rates) == TINY.lr and 0 < peak <= 6
    assert rates[peak:] == sorted(rates[peak:], reverse=True) and rates[-1] < 0.01 * TINY.lr


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(ModelError, match="Did you mean 'digits-2l'"):
        get_recipe("toy/digit-2l")


def test_any_recipe_can_be_had_with_another_seed():
    assert get_recipe("mnist-2l@7") == replace(RECIPES["mnist-2l"], name="mnist-2l@7", seed=7)
    assert get_recipe("toy/sprites-4l@1") is RECIPES["sprites-4l@1"]
    with pytest.raises(ModelError, match="Did you mean 'sprites-"):
        get_recipe("sprites-3l@x")


def test_a_recipe_of_another_version_is_refused():
    with pytest.raises(ModelError, match="layers"):
        Recipe.from_dict({name: value for name, value in TINY.to_dict().items() if name != "layers"})
    with pytest.raises(ModelError, match="colour"):
        Recipe.from_dict({**TINY.to_dict(), "colour": 1})


def test_a_recipe_of_an_earlier_version_has_nothing_of_what_came_later():
    later = {"registers", "attention_only", "dtype", "position_std", "text"}
    old = {name: value for name, value in TINY.to_dict().items() if name not in later}
    assert Recipe.from_dict(old) == TINY
    clip = RECIPES["clip-sprites"]
    assert Recipe.from_dict(json.loads(json.dumps(clip.to_dict()))) == clip


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"patch": 3}, "write patch = 2"),
        ({"heads": 3}, "write heads = 2"),
        ({"mean": (0.5, 0.5)}, "each channel"),
        ({"layers": 0}, "at least 1"),
        ({"classes": ("a", "b")}, "write classes = .*'9'"),
        ({"text": TextRecipe(8, 8, 1, 1)}, "no captions"),
    ],
)
def test_a_recipe_that_contradicts_itself_or_its_data_is_refused(tmp_path, change, sentence):
    with pytest.raises(ModelError, match=sentence):
        train(replace(TINY, **change), out=tmp_path / "new", progress=False)
    assert not (tmp_path / "new").exists()


def test_registers_and_attention_only_blocks_are_trained_and_come_back(halved):
    folder, card, recipe = halved
    module = load_toy_folder(folder)[0]
    assert module.reg_token.shape == (1, 3, 16) and not torch.equal(module.reg_token, build(recipe).reg_token)
    assert all(type(block.mlp) is NoMlp for block in module.blocks)
    assert "attention-only" in card["description"] and "3 registers" in card["description"]
    assert module.reg_token.dtype == torch.float32 and torch.equal(module.reg_token, module.reg_token.half().float())


def test_registers_and_positions_are_not_pulled_to_zero():
    module = build(replace(TINY, registers=3))
    free = make_optimizer(module, TINY).param_groups[1]["params"]
    wanted = [module.pos_embed, module.cls_token, module.reg_token]
    assert all(any(parameter is one for one in free) for parameter in wanted)


def test_the_cards_accuracy_is_that_of_the_weights_as_stored(halved):
    folder, card, _ = halved
    module, preprocess, _, _ = load_toy_folder(folder)
    test = load_data("digits", preprocess).test
    assert int((module(test.images).argmax(-1) == test.labels).sum()) == card["n_test_correct"]
    assert abs(card["n_test_correct_float32"] - card["n_test_correct"]) <= 6


def test_the_curves_hold_loss_and_accuracies_by_step(learnt):
    folder, card = learnt
    rows = list(csv.DictReader((folder / "training.csv").read_text().splitlines()))
    steps = [int(row["step"]) for row in rows]
    assert steps == sorted(set(steps)) and steps[0] == 0 and steps[-1] == 12 * 19 and len(rows) < 210
    tested = {int(row["step"]): float(row["test_accuracy"]) for row in rows if row["test_accuracy"]}
    assert set(tested) == {0, 7, 228} and tested[228] == pytest.approx(card["test_accuracy"], abs=1e-5)
    losses = [float(row["loss"]) for row in rows if row["loss"]]
    assert losses[0] == pytest.approx(2.3, abs=0.1) and sum(losses[-9:]) < sum(losses[:9])
    assert (folder / "training.svg").read_text().count("<svg") == 1


def test_checkpoints_can_be_opened_and_do_not_change_the_training(trained, tmp_path):
    train(TINY, out=tmp_path / "kept", checkpoints=[0, 5, 19], progress=False)
    names = ["step-00000", "step-00005", "step-00019"]
    assert sorted(path.name for path in (tmp_path / "kept").glob("step-*")) == names
    weights = [load_vit(tmp_path / "kept" / name).module.state_dict() for name in names]
    untrained, trained = build(TINY).state_dict(), load_toy_folder(trained[0])[0].state_dict()
    assert all(torch.equal(weights[0][key], untrained[key]) for key in untrained)
    assert all(torch.equal(weights[2][key], trained[key]) for key in trained)
    assert not torch.equal(weights[1]["head.weight"], trained["head.weight"])
    assert load_toy_folder(tmp_path / "kept" / "step-00005")[3]["step"] == 5


def test_checkpoints_are_spread_evenly_or_stand_where_they_are_wanted():
    assert checkpoint_steps(4, 100) == [25, 50, 75, 100]
    assert checkpoint_steps(3, 100) == [33, 67, 100] and checkpoint_steps(0, 100) == []
    assert checkpoint_steps([100, 0, 7, 7], 100) == [0, 7, 100]
    for wanted in (101, [101], [-1]):
        with pytest.raises(ModelError, match="100"):
            checkpoint_steps(wanted, 100)


def test_checkpoints_of_another_training_are_not_mixed_with_new_ones(tmp_path):
    (tmp_path / "step-00003").mkdir()
    with pytest.raises(ModelError, match="step-00003"):
        train(TINY, out=tmp_path, progress=False)


class StoppedError(Exception):
    """In place of someone's Ctrl-C."""


@pytest.mark.parametrize("moment", ["save_weights", "write_card"])
def test_a_training_that_is_stopped_leaves_no_half_written_model(tmp_path, monkeypatch, moment):
    def stop(*_, **__):
        raise StoppedError

    monkeypatch.setattr(model_folders, moment, stop)
    with pytest.raises(StoppedError):
        train(TINY, out=tmp_path / "new", progress=False)
    assert not list(tmp_path.iterdir())


def test_a_training_that_is_stopped_leaves_its_checkpoints_and_the_old_model(trained, tmp_path, monkeypatch):
    shutil.copytree(trained[0], tmp_path / "old")
    before = {name: (tmp_path / "old" / name).read_bytes() for name in FILES}
    write = model_folders.write_card

    def stop_at_the_end(folder, card):
        if "step" not in card:
            raise StoppedError
        write(folder, card)

    monkeypatch.setattr(model_folders, "write_card", stop_at_the_end)
    with pytest.raises(StoppedError):
        train(replace(TINY, seed=1), out=tmp_path / "old", checkpoints=[5], progress=False)
    assert sorted(path.name for path in (tmp_path / "old").iterdir()) == sorted([*FILES, "step-00005"])
    assert all((tmp_path / "old" / name).read_bytes() == before[name] for name in FILES)
    assert load_toy_folder(tmp_path / "old" / "step-00005")[3]["recipe"]["seed"] == 1


def test_a_folder_that_is_only_half_replaced_is_no_model(trained, tmp_path, monkeypatch):
    shutil.copytree(trained[0], tmp_path, dirs_exist_ok=True)
    replace_file = Path.replace

    def stop_at_the_weights(path, target):
        if Path(target).parent == tmp_path and Path(target).name == "model.safetensors":
            raise StoppedError
        return replace_file(path, target)

    monkeypatch.setattr(Path, "replace", stop_at_the_weights)
    with pytest.raises(StoppedError):
        train(replace(TINY, seed=1), out=tmp_path, progress=False)
    assert not (tmp_path / "card.json").exists()


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory):
    """A small CLIP after a few steps on few sprites."""
    folder = tmp_path_factory.mktemp("clip")
    text = TextRecipe(embedding=8, d_model=16, layers=1, heads=2)
    recipe = replace(RECIPES["clip-sprites"], name="tiny", d_model=16, layers=1, heads=2, epochs=1, text=text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sprites, "_N_IMAGES", {"train": 600, "test": 200})
        sprites.split_factors.cache_clear()
        card = train(recipe, out=folder, progress=False)
    sprites.split_factors.cache_clear()
    return folder, card


def test_a_clip_leaves_its_text_side_and_what_it_knows_of_each_facet(tiny_clip):
    folder, card = tiny_clip
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, "text.safetensors"])
    assert set(card["accuracies"]) == {"zero_shot", "linear_probe"}
    assert card["accuracies"]["zero_shot"]["shape"] == card["test_accuracy"]
    module = load_toy_folder(folder)[0]
    assert module.head.bias is None and module.num_classes == 8
    assert zero_shot(folder).embeddings.shape == (6, 8)


def test_changed_text_weights_are_refused(tiny_clip):
    folder, _ = tiny_clip
    path = folder / "text.safetensors"
    before = path.read_bytes()
    path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    with pytest.raises(ModelError, match="sha256"):
        load_text_encoder(folder)
    path.write_bytes(before)


@pytest.mark.parametrize(("often", "facets"), [(1.0, ("size", "colour", "shape", "place")), (0.0, ("shape", "place"))])
def test_the_contrastive_loss_is_clips(often, facets):
    data = load_data("sprites", None, limit=2)
    text = TextRecipe(embedding=8, d_model=16, layers=1, heads=2, temperature=0.5, said=often)
    learnt = Captions(replace(RECIPES["clip-sprites"], d_model=16, layers=1, heads=2, text=text), data.train)
    rows = torch.tensor([5, 0, 3])
    loss, accuracy = learnt.loss(data.train.images[rows], rows)
    u = torch.nn.functional.normalize(learnt.vit(data.train.images[rows]), dim=-1)
    said = captions(factors_of([data.train.names[row] for row in rows.tolist()]), said=facets)
    p = (2 * u @ learnt.text(learnt.text.tokenise(said)).T).double().exp()
    wanted = -((p.diag() / p.sum(0)).log() + (p.diag() / p.sum(1)).log()).mean() / 2
    torch.testing.assert_close(loss.double(), wanted)
    assert accuracy == (p.argmax(1) == torch.arange(3)).float().mean()
