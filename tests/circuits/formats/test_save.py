"""One call for every format; none of them needs torch, and none depends on the hash seed."""

import hashlib
import inspect
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from vitcircuits.circuits import Circuit
from vitcircuits.circuits.formats import DRAWN, FORMATS, RUN_FILES, SAVED, found
from vitcircuits.circuits.formats.json import save_circuit_json, save_scores
from vitcircuits.models.errors import FormatError

ENDINGS = ["json", "csv", "graphml", "dot"]


@pytest.mark.parametrize("ending", [*ENDINGS, "JSON"])
def test_the_ending_chooses_the_format(circuit: Circuit, tmp_path: Path, ending: str):
    path = circuit.save(tmp_path / "deep" / f"circuit.{ending}")
    assert path.stat().st_size > 100


@pytest.mark.parametrize("name", ["circuit", "circuit.png", "circuit.json.gz", "."])
def test_another_ending_is_refused(circuit: Circuit, tmp_path: Path, name: str):
    with pytest.raises(FormatError, match=r"\.json, \.csv, \.graphml, \.dot"):
        circuit.save(tmp_path / name)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", ["NA", "<i>", "a & b", '"quoted"', "'", "ö 猫 🐈", "back\\slash", "new\nline", ""])
def test_every_format_takes_every_class_name(circuit: Circuit, tmp_path: Path, ending: str, name: str):
    named = replace(circuit, task={"target_names": [name], "foil_names": [name], name: name})
    assert named.save(tmp_path / f"circuit.{ending}").stat().st_size > 100


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_interrupted_save_leaves_the_old_file_whole(
    circuit: Circuit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
):
    path = circuit.save(tmp_path / f"circuit.{ending}")
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(FormatError, match="No space left"):
        Circuit.empty(circuit.graph).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_every_row_of_the_table_of_endings_has_a_writer_that_takes_its_options():
    for one in FORMATS.values():
        assert {*one.options} <= {*inspect.signature(found(one.writer)).parameters}
    assert RUN_FILES.keys() >= {"circuit.json", "circuit.html"} and not {*SAVED, *DRAWN} ^ {*FORMATS}


SCRIPT = """
import sys
from vitcircuits.circuits import Circuit
from vitcircuits.circuits.formats.json import load_scores, save_scores
circuit = Circuit.load("circuit.json")
for ending in ("json", "csv", "graphml", "dot"):
    circuit.save("again." + ending)
save_scores(load_scores("scores.safetensors"), "again.safetensors")
heavy = {"torch", "timm", "torch_geometric", "matplotlib", "sklearn"} & set(sys.modules)
assert not heavy, heavy
"""


def run_elsewhere(circuit: Circuit, folder: Path, hash_seed: str) -> dict[str, str]:
    """Loads and saves everything in a fresh interpreter; the hash of each file."""
    folder.mkdir()
    save_circuit_json(circuit, folder / "circuit.json")
    assert circuit.scores is not None
    save_scores(circuit.scores, folder / "scores.safetensors")
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    subprocess.run([sys.executable, "-c", SCRIPT], cwd=folder, env=environment, check=True)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("again.*"))}


def test_law_10_saving_needs_no_torch_and_gives_the_same_bytes(circuit: Circuit, tmp_path: Path):
    first = run_elsewhere(circuit, tmp_path / "first", "1")
    assert first == run_elsewhere(circuit, tmp_path / "second", "2")
    assert len(first) == 5
    for name in ("json", "csv", "graphml", "dot"):
        path = circuit.save(tmp_path / f"here.{name}")
        assert hashlib.sha256(path.read_bytes()).hexdigest() == first[f"again.{name}"]
