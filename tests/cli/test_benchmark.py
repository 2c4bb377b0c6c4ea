"""`vitcircuits benchmark` prints and writes the table; planted models work wherever a model is wanted."""

import pytest
from vitcircuits.cli.main import main


def test_the_table_is_printed_and_written(tmp_path, capsys):
    assert main(["benchmark", "--only", "eap", "--only", "bright", "--pairs", "2", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert "planted/bright-column" in shown.out and "eap_ig" in shown.out and "operations" in shown.out
    assert {"benchmark.csv", "benchmark.json"} <= {path.name for path in tmp_path.iterdir()}


def test_a_pattern_that_fits_nothing_and_a_folder_that_cannot_be_written(tmp_path, capsys):
    assert main(["benchmark", "--only", "nothing"]) == 2
    assert "exact_effects" in capsys.readouterr().err
    (tmp_path / "file").touch()
    arguments = ["benchmark", "--only", "eap", "--only", "majority", "--pairs", "2", "--out", str(tmp_path / "file")]
    assert main(arguments) == 2
    assert "file" in capsys.readouterr().err


def test_help_teaches_by_example(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["benchmark", "--help"])
    assert stop.value.code == 0
    assert "vitcircuits benchmark" in capsys.readouterr().out.split("examples:")[1]


def test_planted_models_are_listed_discovered_and_evaluated(tmp_path, capsys):
    assert main(["models", "planted"]) == 0
    assert "13 of 110 edges" in capsys.readouterr().out
    model, out = "planted/neighbour-xor:norm=none", str(tmp_path / "run")
    task = ["--data", "planted", "--target", "1", "--foil", "0", "--pairs", "4", "--eval-pairs", "8", "--random", "0"]
    options = ["--algorithm", "exact_effects", "--size", "13", "--patches", "0", "--out", out]
    assert main(["discover", "--model", model, *task, *options]) == 0
    assert "13 of 110" in capsys.readouterr().out
    assert main(["evaluate", f"{out}/circuit.json", "--no-curve", "--random", "0"]) == 0
    assert "1.000" in capsys.readouterr().out


def test_mistakes_with_planted_models(tmp_path, capsys):
    task = ["--data", "planted", "--target", "1", "--foil", "0", "--out", str(tmp_path / "run")]
    assert main(["discover", "--model", "planted/majorty", *task]) == 2
    assert "planted/majority" in capsys.readouterr().err
    assert main(["discover", "--model", "toy/digits-2l", *task]) == 2
    assert "load_vit" in capsys.readouterr().err
    assert main(["train", "planted/digit-pairs", "--epochs", "1", "--out", str(tmp_path / "pairs")]) == 2
    assert "--epochs" in capsys.readouterr().err
