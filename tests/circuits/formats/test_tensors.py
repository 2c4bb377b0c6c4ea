"""Law 9 for scores as safetensors."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from vitcircuits.circuits import Circuit, Scores
from vitcircuits.circuits.formats.json import load_scores, save_scores
from vitcircuits.models.errors import FormatError


@pytest.fixture
def scores(circuit: Circuit) -> Scores:
    assert circuit.scores is not None
    return circuit.scores


@given(data=st.data())
@settings(deadline=None, max_examples=30)
def test_law_9_saved_and_loaded_is_equal(
    data: st.DataObject, draw_circuit: Callable[[st.DataObject], Circuit], scratch: Path
):
    scores = draw_circuit(data).scores
    assume(scores is not None)
    assert scores is not None
    path = save_scores(scores, scratch / "scores.safetensors")
    again = load_scores(path)
    assert again == scores
    assert again.graph == scores.graph
    assert save_scores(again, scratch / "again.safetensors").read_bytes() == path.read_bytes()


def test_a_damaged_file_is_refused(scores: Scores, tmp_path: Path):
    path = save_scores(scores, tmp_path / "a")
    whole = path.read_bytes()
    for damaged in (b"", whole[:5], whole[:100], whole[:-1], b"x" * 100, whole.replace(b"scores/1", b"scores/9")):
        path.write_bytes(damaged)
        with pytest.raises(FormatError):
            load_scores(path)


def test_other_tensors_are_refused(scores: Scores, tmp_path: Path):
    with pytest.raises(FormatError, match="there is no file"):
        load_scores(tmp_path / "missing")
    with pytest.raises(FormatError, match="there is no file"):
        load_scores(tmp_path)
    save_file({"weight": np.ones(3)}, tmp_path / "weights")
    with pytest.raises(FormatError, match="not of scores"):
        load_scores(tmp_path / "weights")


def test_arrays_of_another_type_are_refused(scores: Scores, tmp_path: Path):
    from safetensors import safe_open

    with safe_open(save_scores(scores, tmp_path / "a"), framework="np") as file:
        metadata, arrays = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file({**arrays, "exact": arrays["values"]}, tmp_path / "b", metadata=metadata)
    with pytest.raises(FormatError, match="exact as float64"):
        load_scores(tmp_path / "b")
    del arrays["std_err"]
    save_file(arrays, tmp_path / "c", metadata=metadata)
    with pytest.raises(FormatError, match="lacks 'std_err'"):
        load_scores(tmp_path / "c")


def test_an_unwritable_folder_is_said(scores: Scores, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(FormatError, match="cannot write"):
        save_scores(scores, tmp_path / "file" / "scores.safetensors")
