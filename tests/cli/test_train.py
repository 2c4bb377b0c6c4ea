"""The train command takes any recipe by name or as TOML, and says what came of it."""

import argparse
import subprocess
import sys
from dataclasses import replace

import pytest
from vitcircuits.cli import train as command
from vitcircuits.cli.options import Parser
from vitcircuits.models.errors import ModelError, TaskError
from vitcircuits.models.toys import load_toy_folder
from vitcircuits.models.toys.recipe_book import RECIPES, read_recipe

TINY = replace(RECIPES["digits-2l"], name="tiny", epochs=1, d_model=16, layers=1, heads=2)


@pytest.fixture
def written(tmp_path):
    """Writes a recipe's text into a file: `written("layers = 2")`."""

    def write(text: str):
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return path

    return write


def parse(*words: str) -> argparse.Namespace:
    parser = Parser()
    command.add_parser(parser.add_subparsers())
    return parser.parse_args(words)


def test_the_command_trains_and_says_how_to_load(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(RECIPES, "tiny", TINY)
    args = parse("train", "tiny", "--out", str(tmp_path), "--epochs", "1", "--seed", "3")
    assert args.run(args) == 0
    out = capsys.readouterr().out
    assert f'load_vit("{tmp_path}")' in out and "test accuracy" in out
    assert load_toy_folder(tmp_path)[3]["recipe"]["seed"] == 3


def test_the_command_trains_a_recipe_with_a_seed_in_its_name(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(RECIPES, "tiny", TINY)
    args = parse("train", "tiny@5", "--out", str(tmp_path))
    assert args.run(args) == 0
    card = load_toy_folder(tmp_path)[3]
    assert (card["name"], card["recipe"]["seed"]) == ("toy/tiny@5", 5)


def test_the_command_trains_a_recipe_of_ones_own_and_keeps_checkpoints(tmp_path, capsys, written, monkeypatch):
    monkeypatch.setenv("VITCIRCUITS_PROGRESS", "1")
    monkeypatch.setattr("vitcircuits.models.watching.DELAY", 0)
    path = written('base = "digits-2l"\nepochs = 1\nd_model = 16\nheads = 2\nattention_only = true\n')
    args = parse("train", str(path), "--out", str(tmp_path / "out"), "--checkpoints", "0,4")
    assert args.run(args) == 0
    captured = capsys.readouterr()
    assert "2, step-00000 to step-00004" in captured.out and "train mine" in captured.err
    module, _, _, card = load_toy_folder(tmp_path / "out" / "step-00004")
    assert card["name"] == "toy/mine" and len(module.blocks) == 2 and module.embed_dim == 16


def test_the_command_prints_a_recipe_that_it_takes(capsys, written):
    for name in RECIPES:
        args = parse("train", name, "--print")
        assert args.run(args) == 0
        assert read_recipe(written(capsys.readouterr().out)) == RECIPES[name]


@pytest.mark.parametrize("text", ["0", "5", "5,", "0,100"])
def test_checkpoints_are_a_number_or_steps(text):
    wanted = {"0": 0, "5": 5, "5,": [5], "0,100": [0, 100]}[text]
    assert command.parse_checkpoints(text) == wanted


@pytest.mark.parametrize("text", ["", "x", "-1", "1;2", "1.5"])
def test_other_checkpoints_are_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="0,100"):
        command.parse_checkpoints(text)


def test_a_base_gives_what_the_file_leaves_out(written):
    path = written('base = "clip-sprites@1"\nname = "wide"\nd_model = 96\n[text]\nembedding = 16\n')
    base = RECIPES["clip-sprites@1"]
    assert base.text is not None
    assert read_recipe(path) == replace(base, name="wide", d_model=96, text=replace(base.text, embedding=16))
    assert read_recipe(written('base = "mnist-2l"')) == replace(RECIPES["mnist-2l"], name="mine")
    assert read_recipe(written('base = "mnist-2l"\nlr = 1')).lr == 1.0


def test_a_folder_of_pictures_is_looked_for_beside_the_file(tmp_path, written):
    (tmp_path / "pictures").mkdir()
    path = written('base = "sprites-2l"\ndata = "pictures"\n')
    assert read_recipe(path).data == str(tmp_path / "pictures")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('base = "mnist-2l"\nlayer = 3', "the key 'layer'.*Did you mean 'layers'"),
        ('base = "mnist-2l"\n[text]\nembeding = 3', "Did you mean 'embedding'"),
        ('base = "mnist-2l"\n[text]\nembedding = 3', "lacks d_model, layers, heads"),
        ('base = "mnist-2l"\ntext = 3', "write .text."),
        ('base = "mnist-21"', "Did you mean 'mnist-2l'"),
        ("base = 3", "a name is wanted"),
        ("layers = 3", 'lacks data, image_size.*base = "mnist-2l"'),
        ('base = "mnist-2l"\nlayers = "two"', 'layers = "two", but a whole number'),
        ('base = "mnist-2l"\nlayers = 2.5', "layers = 2.5, but a whole number"),
        ('base = "mnist-2l"\nlayers = true', "layers = true, but a whole number"),
        ('base = "mnist-2l"\nattention_only = 1', "true or false"),
        ('base = "mnist-2l"\ndtype = "float8"', '"float32" or "float16"'),
        ('base = "mnist-2l"\nmean = 0.5', "a list of numbers"),
        ('base = "mnist-2l"\nclasses = [1, 2]', "a list of texts"),
        ("layers 3", "not TOML"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused_with_the_way_out(written, text, sentence):
    with pytest.raises(ModelError, match=sentence):
        read_recipe(written(text))


def test_a_file_that_is_not_there_is_named(tmp_path):
    args = parse("train", str(tmp_path / "no.toml"), "--out", str(tmp_path / "out"))
    with pytest.raises(ModelError, match=r"no\.toml cannot be read"):
        args.run(args)


def test_the_command_refuses_no_epochs_and_no_folder(tmp_path):
    with pytest.raises(TaskError, match="--epochs=0: pass at least 1"):
        parse("train", "digits-2l", "--out", str(tmp_path), "--epochs", "0")
    args = parse("train", "digits-2l")
    with pytest.raises(ModelError, match="--out my-model"):
        args.run(args)


def test_the_commands_parser_imports_no_torch():
    code = (
        "import argparse, sys; from vitcircuits.cli.train import add_parser; "
        "add_parser(argparse.ArgumentParser().add_subparsers()); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
