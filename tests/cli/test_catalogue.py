"""`vitcircuits catalogue` writes what `head_catalogue` and `neuron_catalogue` say of the same images."""

import pandas as pd
import pytest
from vitcircuits.algorithms import head_catalogue
from vitcircuits.cli.main import main
from vitcircuits.models import load_vit
from vitcircuits.models.pictures import load_pictures


def test_the_table_is_that_of_the_catalogue(tmp_path, capsys):
    path = tmp_path / "heads.csv"
    assert main(["catalogue", "toy/digits-2l", "--images", "digits", "--n", "10", "--to", str(path)]) == 0
    said = capsys.readouterr().out
    assert "8 heads on 10 images" in said and str(path) in said
    vit = load_vit("toy/digits-2l")
    wanted = head_catalogue(vit, load_pictures("digits", vit.preprocess, 10)[0]).frame()
    got = pd.read_csv(path, keep_default_na=False)
    assert got["pattern"].tolist() == wanted["pattern"].tolist()
    assert got["position"].astype(float).tolist() == pytest.approx(wanted["position"].tolist())


def test_the_contact_sheet_of_neurons(tmp_path, capsys):
    path = tmp_path / "neurons.svg"
    assert (
        main(["catalogue", "toy/digits-2l", "--images", "digits", "--of", "neurons", "--n", "10", "--to", str(path)])
        == 0
    )
    assert "512 neurons" in capsys.readouterr().out and "<svg" in path.read_text()


def test_an_unknown_ending_is_said_at_once(capsys):
    assert main(["catalogue", "toy/digits-2l", "--images", "digits", "--to", "heads.txt"]) == 2
    assert "--to heads.csv" in capsys.readouterr().err
