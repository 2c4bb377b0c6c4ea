"""One cleaner for every writer: what comes out is plain, and comes back equal."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vitcircuits.circuits.formats.plain import plain, restore
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
