"""One cleaner for every writer; a file is written whole or not at all."""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vitcircuits.circuits.formats.plain import plain, read_text, restore, write_bytes_atomic, write_text_atomic
from vitcircuits.models.errors import FormatError

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
VALUES = st.recursive(SCALARS, lambda v: st.lists(v) | st.tuples(v, v) | st.dictionaries(st.text(), v), max_leaves=20)


@dataclass
class Point:
    x: np.float32
    names: tuple[str, ...]


def test_numpy_tuples_paths_and_dataclasses_become_plain():
    value = {"a": (1, np.int64(2)), 3: np.arange(2), "p": Path("x") / "y", "d": Point(np.float32(0.5), ("NA",))}
    assert plain(value) == {"a": [1, 2], "3": [0, 1], "p": "x/y", "d": {"x": 0.5, "names": ["NA"]}}
    assert type(plain(np.bool_(True))) is bool
    assert type(plain(np.str_("a"))) is str
    assert type(plain(np.float16(0.5))) is float
    assert plain({2, 1}) == [1, 2]


@given(VALUES)
def test_plain_values_are_json_and_come_back(value: object):
    clean = plain(value, non_finite="tag")
    text = json.dumps(clean, allow_nan=False)
    kept = plain(value, non_finite="keep")
    assert plain(clean) == clean
    assert restore(json.loads(text)) == kept  # a kept NaN is math.nan itself, so containers compare equal


def test_what_becomes_of_nan_and_infinity():
    values = [math.nan, np.float32("inf"), 1.0]
    assert plain(np.array(values), non_finite="null") == [None, None, 1.0]
    assert plain(values, non_finite="tag") == [{"$float": "nan"}, {"$float": "inf"}, 1.0]
    with pytest.raises(FormatError, match="nan"):
        plain(values)
    with pytest.raises(FormatError, match="stands for no number"):
        restore({"$float": "many"})


@pytest.mark.parametrize("value", [object(), 1j, b"x", len, {1: 0, "1": 0}, np.array([1j])])
def test_what_has_no_plain_counterpart_is_refused(value: object):
    with pytest.raises(FormatError):
        plain(value)


def test_writing_makes_folders_and_leaves_nothing_else(tmp_path: Path):
    path = write_text_atomic(tmp_path / "a" / "b.txt", "ö\n")
    assert path.read_bytes() == "ö\n".encode()
    assert [p.name for p in path.parent.iterdir()] == ["b.txt"]


def test_a_name_that_is_not_utf8_can_be_written(tmp_path: Path):
    assert write_text_atomic(tmp_path / "a", "\udc80").read_text() == "\\udc80"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error):
    path = write_bytes_atomic(tmp_path / "a", b"old")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(FormatError if isinstance(error, OSError) else KeyboardInterrupt):
        write_bytes_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_said(tmp_path: Path):
    file = write_text_atomic(tmp_path / "file", "x")
    for path in (file / "under.json", tmp_path, Path(), tmp_path / "nul\0l"):
        with pytest.raises(FormatError, match="cannot write"):
            write_text_atomic(path, "y")
    assert list(tmp_path.iterdir()) == [file]


def test_what_cannot_be_read_is_said(tmp_path: Path):
    with pytest.raises(FormatError, match="there is no file"):
        read_text(tmp_path / "missing")
    with pytest.raises(FormatError, match="cannot read"):
        read_text(tmp_path)
    with pytest.raises(FormatError, match="not a text file"):
        read_text(write_bytes_atomic(tmp_path / "b", b"\xff\xfe"))
