"""One call for every format; none of them needs torch, and none depends on the hash seed."""

import hashlib
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from vitcircuits.circuits import Circuit, Graph
from vitcircuits.circuits.formats import DRAWN, FORMATS, RUN_FILES, SAVED, found, told
from vitcircuits.circuits.formats.json import save_circuit_json, save_scores
from vitcircuits.models.errors import FormatError

ENDINGS = [ending.lstrip(".") for ending in SAVED]
CLASS_NAMES = [
    "NA",
    "null",
    "<i>",
    "</script>",
    "a & b",
    '"quoted"',
    "'",
    "ö 猫 🐈",
    "\u202e\u05e9\u05dc\u05d5\u05dd",
    "back\\slash",
    "new\nline",
    "",
]


@pytest.fixture
def plain_circuit(make_circuit: Callable[..., Circuit]) -> Circuit:
    """One that every format can hold."""
    return make_circuit()


@pytest.mark.parametrize("ending", [*ENDINGS, "JSON"])
def test_the_ending_chooses_the_format(plain_circuit: Circuit, tmp_path: Path, ending: str):
    path = plain_circuit.save(tmp_path / "deep" / f"circuit.{ending}")
    assert path.stat().st_size > 100


@pytest.mark.parametrize("name", ["circuit", "circuit.png", "circuit.json.gz", "."])
def test_another_ending_is_refused(circuit: Circuit, tmp_path: Path, name: str):
    with pytest.raises(FormatError, match=", ".join(map(re.escape, SAVED))):
        circuit.save(tmp_path / name)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", CLASS_NAMES)
def test_every_format_takes_every_class_name(plain_circuit: Circuit, tmp_path: Path, ending: str, name: str):
    named = replace(plain_circuit, task={"target_names": [name], "foil_names": [name], name: name})
    assert named.save(tmp_path / f"circuit.{ending}").stat().st_size > 100


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_interrupted_save_leaves_the_old_file_whole(
    plain_circuit: Circuit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
):
    path = plain_circuit.save(tmp_path / f"circuit.{ending}")
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(FormatError, match="No space left"):
        Circuit.empty(plain_circuit.graph).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("names", [[], ["input->logits"], None], ids=["none", "one", "all"])
def test_every_format_takes_circuits_of_no_edge_of_one_and_of_all(
    make_graph: Callable[..., Graph], tmp_path: Path, ending: str, names: list[str] | None
):
    graph = make_graph()
    circuit = Circuit.full(graph) if names is None else Circuit.from_edges(graph, names)
    text = circuit.save(tmp_path / f"circuit.{ending}").read_bytes()
    assert (b"logits" in text) >= bool(len(circuit))


def test_every_ending_says_what_it_is_for_and_all_but_our_own_what_they_lose():
    help_text, page = " ".join(told(FORMATS).split()), (Path(__file__).parents[3] / "docs/formats.md").read_text()
    for ending, one in FORMATS.items():
        assert one.use and bool(one.lost) == (ending != ".json")
        assert f"{ending} {one.use}" in help_text and one.lost in help_text
        assert f"\n| `{ending}` | {one.use} | {one.lost}" in page


def test_every_row_of_the_table_of_endings_has_a_writer_that_takes_its_options():
    for one in FORMATS.values():
        assert {*one.options} <= {*inspect.signature(found(one.writer)).parameters}
    assert RUN_FILES.keys() >= {"circuit.json", "circuit.html"} and not {*SAVED, *DRAWN} ^ {*FORMATS}


SCRIPT = """
import sys
from vitcircuits.circuits import Circuit
from vitcircuits.circuits.formats.json import load_scores, save_scores
circuit = Circuit.load("circuit.json")
for ending in sys.argv[1:]:
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
    subprocess.run([sys.executable, "-c", SCRIPT, *ENDINGS], cwd=folder, env=environment, check=True)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("again.*"))}


def test_law_10_saving_needs_no_torch_and_gives_the_same_bytes(plain_circuit: Circuit, tmp_path: Path):
    first = run_elsewhere(plain_circuit, tmp_path / "first", "1")
    assert first == run_elsewhere(plain_circuit, tmp_path / "second", "2")
    assert len(first) == len(ENDINGS) + 1
    for name in ENDINGS:
        path = plain_circuit.save(tmp_path / "here" / f"again.{name}")
        assert hashlib.sha256(path.read_bytes()).hexdigest() == first[f"again.{name}"]
