"""A finished cell whose weights are others by now is stale: it says so, holds no figures, and is run again if asked."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from vitcircuits import models
from vitcircuits.algorithms.sweeps.inputs import with_stale
from vitcircuits.algorithms.sweeps.outcomes import read_outcome
from vitcircuits.algorithms.sweeps.plan import sweep_from_dict
from vitcircuits.algorithms.sweeps.sweep import run_sweep
from vitcircuits.models.cards import sha256


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return Path(shutil.copytree(Path(models.__file__).parent / "weights/digits-2l", tmp_path_factory.mktemp("m") / "m"))


@pytest.fixture(scope="module")
def swept(model):
    """Two cells of one model, both done."""
    given = {"models": [str(model)], "algorithms": ["eap"], "seeds": [0, 1]}
    given["tasks"] = [{"data": "digits", "target": 3, "foil": 8}]
    given["defaults"] = {"pairs": 4, "eval_pairs": 4, "random": 0, "size": 5, "ports": "block", "patches": 0}
    cells = sweep_from_dict(given).cells()
    assert [one.status for one in run_sweep(cells, model.parent / "out", workers=0)] == ["done"] * 2
    return cells


def statuses(cells, out):
    return [one.status for one in with_stale([read_outcome(cell, out) for cell in cells])]


def train_on(model):
    """Other weights under the same name."""
    path = model / "model.safetensors"
    weights = load_file(path)
    weights["head.bias"] = weights["head.bias"] + 1
    save_file(weights, path)
    card = json.loads((model / "card.json").read_text())
    (model / "card.json").write_text(json.dumps({**card, "weights_sha256": sha256(path)}))


def test_changed_weights_make_cells_stale_until_they_are_run_again(model, swept):
    out = model.parent / "out"
    assert statuses(swept, out) == ["done"] * 2
    train_on(model)
    before = (out / swept[0].folder / "circuit.json").read_bytes()
    outcomes = run_sweep(swept, out, workers=0)
    assert [(one.status, one.report) for one in outcomes] == [("stale", None)] * 2
    assert "weights changed: --retry-stale" in outcomes[0].error
    assert "stale" in (out / "table.csv").read_text() and "stale" in (out / "index.html").read_text()
    assert (out / swept[0].folder / "circuit.json").read_bytes() == before
    assert [one.status for one in run_sweep(swept, out, workers=0, retry_stale=True)] == ["done"] * 2
    assert statuses(swept, out) == ["done"] * 2


def test_changed_images_make_a_cell_stale_and_a_model_that_is_gone_tells_nothing(model, swept):
    out = model.parent / "out"
    done = read_outcome(swept[0], out)
    other = dataclasses.replace(done, run={**done.run, "data_hash": "0"})
    (found,) = with_stale([other])
    assert found.status == "stale" and "images changed" in found.error
    shutil.move(model, model.parent / "away")
    assert with_stale([other])[0].status == "done"
    shutil.move(model.parent / "away", model)
