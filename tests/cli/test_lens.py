"""`vitcircuits lens` writes what the lens says, in the kind of file that is asked for."""

import json

import numpy as np
import pandas
import pytest
from vitcircuits.algorithms import tuned_lens
from vitcircuits.cli.main import main
from vitcircuits.models import load_vit
from vitcircuits.models.data import load_data

SPRITES = ["lens", "toy/sprites-2l", "--images", "sprites", "--n", "4"]


@pytest.mark.parametrize(("name", "more"), [("lens.html", ["--at", "all"]), ("lens.png", []), ("lens.csv", [])])
def test_a_page_a_picture_and_figures(name, more, tmp_path, capsys):
    path = tmp_path / name
    assert main([*SPRITES, *more, "--to", str(path)]) == 0
    assert f"wrote {path}" in capsys.readouterr().out and path.stat().st_size > 300


def test_emoji_and_a_fitted_lens_are_read_from_files(tmp_path, capsys):
    vit = load_vit("toy/sprites-2l")
    lens = tuned_lens(vit, load_data("sprites", vit.preprocess, limit=8).train.images, at="patches", epochs=1)
    fitted, emoji, page = tmp_path / "l.safetensors", tmp_path / "e.json", tmp_path / "p.html"
    lens.save(fitted)
    emoji.write_text(json.dumps({"heart": "\u2665"}), encoding="utf-8")
    assert main([*SPRITES, "--through", str(fitted), "--emoji", str(emoji), "--to", str(page)]) == 0
    assert "tuned lens" in capsys.readouterr().out
    html = page.read_text(encoding="utf-8")
    assert "\u2665" in html and "control agreement" in html
    table = tmp_path / "t.csv"
    assert main([*SPRITES, "--through", str(fitted), "--to", str(table)]) == 0
    assert np.isfinite(pandas.read_csv(table)["control_kl"]).all()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--to", "lens.txt", "--images", "nowhere"], "end the name in one of .html"),  # before anything is read
        (["--to", "lens.html", "--at", "cls"], "no patches were read"),
        (["--emoji", "none.json"], "there is no file"),
        (["--through", "none.safetensors"], "there is no file"),
        (["--images", "nowhere"], "no folder"),
    ],
)
def test_mistakes_are_said_in_a_sentence(more, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*SPRITES, *more]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
