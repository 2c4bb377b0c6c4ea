"""`vitcircuits models`: what there is, how large, and whether it is opened faithfully; and masks from files."""

import numpy as np
import pytest
from vitcircuits.cli.main import main
from vitcircuits.cli.models import START, STOP, write_page
from vitcircuits.models.errors import ModelError
from vitcircuits.models.model_config import read_mask


def test_a_pattern_lists_layers_heads_tokens_and_edges(capsys):
    assert main(["models", "deit_tiny_patch16_224"]) == 0
    assert capsys.readouterr().out.split() == [
        "deit_tiny_patch16_224", "12", "layers", "3", "heads", "197", "tokens", "2,845", "edges"
    ]  # fmt: skip


def test_what_is_not_opened_is_listed_with_its_reason(capsys):
    assert main(["models", "*_rpn_*"]) == 0
    assert "not opened: its writes pass a norm" in capsys.readouterr().out


def test_checking_builds_and_verifies(capsys):
    assert main(["models", "--check", "test_vit[34]"]) == 0
    out = capsys.readouterr().out
    assert out.count(": holds") == 2
    assert "2 of 2 are opened, 0 refused; the laws fail on 0." in out


def test_a_pattern_that_matches_nothing_is_told(capsys):
    assert main(["models", "nothing-like-this"]) == 2
    assert "no model matches" in capsys.readouterr().err
    assert main(["models", "--check", "toy"]) == 2
    assert "none of timm's ViT architectures" in capsys.readouterr().err


def test_the_page_keeps_what_stands_around_the_tables(tmp_path, monkeypatch):
    page = tmp_path / "models.md"
    page.write_text(f"before\n{START}\nold\n{STOP}\nafter\n")
    monkeypatch.setattr("vitcircuits.cli.models.tables", lambda: "new\n")
    write_page(page)
    assert page.read_text() == f"before\n{START}\n\nnew\n\n{STOP}\nafter\n"
    page.write_text("no marks")
    with pytest.raises(ModelError, match="lacks the lines"):
        write_page(page)


def test_masks_come_from_files_of_booleans(tmp_path):
    path = tmp_path / "mask.npy"
    np.save(path, np.tri(3, dtype=bool))
    assert read_mask(str(path)).tolist() == np.tri(3, dtype=bool).tolist()
    assert read_mask("causal") == "causal"
    np.save(path, np.tri(3))
    with pytest.raises(ModelError, match="boolean"):
        read_mask(str(path))
    with pytest.raises(ModelError, match="cannot be read"):
        read_mask(str(tmp_path / "none.npy"))
