"""The same recipe gives the same weights, and training leaves the process as it was."""

import argparse
import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from vitcircuits.cli import train as command
from vitcircuits.models.errors import ModelError
from vitcircuits.models.recipes import RECIPES, Recipe, build, get_recipe
from vitcircuits.models.toys import load_toy_folder
from vitcircuits.models.training import augment, learning_rate, train

# dropout, because it alone draws from the global generator
TINY = replace(RECIPES["digits-2l"], name="tiny", epochs=1, d_model=16, layers=1, heads=2, dropout=0.1)


def test_the_same_recipe_gives_the_same_bytes(tmp_path):
    torch.manual_seed(1)
    first = train(TINY, out=tmp_path / "first", progress=False)
    torch.manual_seed(2)
    second = train(TINY, out=tmp_path / "second", progress=False)
    other = train(TINY, out=tmp_path / "other", seed=1, progress=False)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "second", "other")]
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]
    assert {**first, "training_seconds": 0} == {**second, "training_seconds": 0}
    assert other["recipe"]["seed"] == 1


def test_training_leaves_random_state_and_threads_as_they_were(tmp_path):
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    train(replace(TINY, threads=threads + 1), out=tmp_path, progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_training_learns(tmp_path):
    calm = replace(TINY, shift=0.0, rotate=0.0, zoom=0.0, dropout=0.0, label_smoothing=0.0, weight_decay=0.0)
    card = train(replace(calm, epochs=8, lr=1e-2, d_model=32), out=tmp_path, progress=False)
    assert card["test_accuracy"] > 0.4  # chance is 0.1


def test_a_training_leaves_card_and_weights_and_nothing_else(tmp_path):
    card = train(TINY, out=tmp_path / "new" / "folder", progress=False)
    folder = tmp_path / "new" / "folder"
    assert sorted(path.name for path in folder.iterdir()) == ["card.json", "model.safetensors"]
    assert json.loads((folder / "card.json").read_text()) == card
    assert Recipe.from_dict(card["recipe"]) == TINY
    assert load_toy_folder(folder)[3] == card


def test_a_folder_that_cannot_be_written_is_refused_before_training(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match="cannot be written"):
        train(replace(TINY, epochs=10**6), out=tmp_path / "file", progress=False)


def test_progress_goes_to_stderr(tmp_path, capsys):
    train(TINY, out=tmp_path)
    captured = capsys.readouterr()
    assert "train tiny" in captured.err and "loss=" in captured.err and not captured.out


def test_building_draws_from_the_recipes_seed_only():
    state = torch.get_rng_state()
    first, other = build(TINY).state_dict(), build(replace(TINY, seed=1)).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first["pos_embed"], build(TINY).state_dict()["pos_embed"])
    assert not torch.equal(first["pos_embed"], other["pos_embed"])


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


def test_a_recipe_of_another_version_is_refused():
    with pytest.raises(ModelError, match="seed"):
        Recipe.from_dict({name: value for name, value in TINY.to_dict().items() if name != "seed"})


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    return parser.parse_args(words)


def test_the_command_trains_and_says_how_to_load(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(RECIPES, "tiny", TINY)
    args = parse("train", "tiny", "--out", str(tmp_path), "--epochs", "1", "--seed", "3")
    assert args.run(args) == 0
    out = capsys.readouterr().out
    assert f'load_vit("{tmp_path}")' in out and "test accuracy" in out
    assert load_toy_folder(tmp_path)[3]["recipe"]["seed"] == 3


def test_the_command_refuses_no_epochs(tmp_path):
    args = parse("train", "digits-2l", "--out", str(tmp_path), "--epochs", "0")
    with pytest.raises(ModelError, match="--epochs 1"):
        args.run(args)


def test_the_commands_parser_imports_no_torch():
    code = (
        "import argparse, sys; from vitcircuits.cli.train import add_parser; "
        "add_parser(argparse.ArgumentParser().add_subparsers()); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
