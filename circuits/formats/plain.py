"""Values cleaned to plain JSON types; every writer uses this.

Plain means: None, bool, int, float, str, lists of these and dictionaries with string keys. JSON itself has no NaN and
no infinity; where they must survive they are written as `{"$float": "nan"}`, `"inf"` or `"-inf"`.

Every JSON file says what it is in `schema`, such as `vitcircuits.circuit/1`. The number grows when a reader of the old
form could misread the new one. The text has one entry per line at the top and one item per line in lists of tables, so
that files can be read and compared by eye.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from importlib.util import find_spec
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ...models.errors import FormatError, GraphError
from ...models.files import read_text, write_bytes_atomic, write_text_atomic

if TYPE_CHECKING:
    import pandas


NonFinite = Literal["refuse", "null", "tag", "keep"]
"""What becomes of NaN and infinities: an error, None, `{"$float": "nan"}`, or they stay floats (not JSON)."""

_TAG = "$float"

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def plain(value: Any, *, non_finite: NonFinite = "refuse") -> Any:
    """The value in plain types.

    numpy scalars and arrays, tuples, sets (sorted), paths, mappings and dataclasses are converted; keys become
    strings. Plain values come back equal, so `plain(plain(x)) == plain(x)`.

    Args:
        value: What is to be cleaned.
        non_finite: `refuse`, `null`, `tag` or `keep` NaN and infinities. A kept NaN is always `math.nan` itself, so
            that dictionaries that hold one compare equal.

    Raises:
        FormatError: A value has no plain counterpart, or is not finite under `refuse`.
    """
    if value is None or isinstance(value, (bool, str)):
        return str(value) if isinstance(value, str) else value
    if isinstance(value, (float, np.floating)):
        number = float(value)
        return number if math.isfinite(number) else _NON_FINITE[non_finite](number)
    for types, convert in _CONVERSIONS:
        if isinstance(value, types):
            return convert(value, non_finite)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name), non_finite=non_finite) for field in fields(value)}
    raise FormatError(
        f"{value!r} of type {type(value).__name__} cannot be written: pass numbers, strings, booleans, None, and lists "
        f"or dictionaries of these, such as tensor.tolist() or str(value)."
    )


def legible(text: str) -> str:
    """The text with what no file can hold, such as control characters and lone surrogates, replaced by U+FFFD."""
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)


def restore(value: Any) -> Any:
    """The value with every `{"$float": ...}` turned back into the float it stands for.

    Raises:
        FormatError: A tag stands for no float.
    """
    if isinstance(value, list):
        return [restore(item) for item in value]
    if isinstance(value, dict):
        return restore_tag({key: restore(item) for key, item in value.items()})
    return value


def restore_tag(value: dict[str, Any]) -> Any:
    """The float that a table stands for, or the table itself where it is no tag.

    Raises:
        FormatError: The tag stands for no float.
    """
    if value.keys() != {_TAG}:
        return value
    known = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
    if value[_TAG] not in known:
        raise FormatError(f'{value} stands for no number: "{_TAG}" takes one of {", ".join(known)}.')
    return known[value[_TAG]]


def _refuse(number: float) -> float:
    raise FormatError(f"{number} cannot be written here: replace it by a finite number, or by None.")


_NON_FINITE: dict[str, Callable[[float], Any]] = {
    "refuse": _refuse,
    "null": lambda number: None,
    "tag": lambda number: {_TAG: repr(number)},
    "keep": lambda number: math.nan if math.isnan(number) else number,
}


def _array(value: np.ndarray, non_finite: NonFinite) -> Any:
    if value.dtype.kind in "biuU" or (value.dtype.kind == "f" and np.isfinite(value).all()):
        return value.tolist()
    return plain(value.tolist(), non_finite=non_finite)


def _mapping(value: Mapping[Any, Any], non_finite: NonFinite) -> dict[str, Any]:
    clean = {str(key): plain(item, non_finite=non_finite) for key, item in value.items()}
    if len(clean) != len(value):
        raise FormatError(f"{list(value)} cannot be keys of one table: two of them have the same text.")
    return clean


_CONVERSIONS: tuple[tuple[type | tuple[type, ...], Callable[[Any, NonFinite], Any]], ...] = (
    (np.bool_, lambda value, non_finite: bool(value)),
    ((int, np.integer), lambda value, non_finite: int(value)),
    (np.ndarray, _array),
    (Mapping, _mapping),
    ((list, tuple), lambda value, non_finite: [plain(item, non_finite=non_finite) for item in value]),
    ((set, frozenset), lambda value, non_finite: [plain(item, non_finite=non_finite) for item in sorted(value)]),
    (PurePath, lambda value, non_finite: str(value)),
)


def write_csv(path: str | Path, table: pandas.DataFrame, **options: Any) -> Path:
    """Writes a table as CSV, numbers to the last digit, whole or not at all, and returns the path."""
    return write_text_atomic(path, table.to_csv(index=False, lineterminator="\n", **options))


def require_parquet() -> None:
    """Does nothing if Parquet can be written.

    Raises:
        FormatError: It cannot.
    """
    if find_spec("pyarrow") is None:
        raise FormatError(
            "Parquet needs pyarrow, which is not installed: pip install 'vitcircuits[parquet]', or write a .csv."
        )


def write_parquet(path: str | Path, table: pandas.DataFrame) -> Path:
    """Writes a table as Parquet, whole or not at all, and returns the path.

    Raises:
        FormatError: pyarrow is missing, or the file cannot be written.
    """
    require_parquet()
    return write_bytes_atomic(path, table.to_parquet(index=False, engine="pyarrow"))


def json_text(data: dict[str, Any]) -> str:
    """The text of a JSON file that holds this table of plain values."""
    entries = (f"{_compact(key)}: {_value(item)}" for key, item in data.items())
    return "{\n  " + ",\n  ".join(entries) + "\n}\n"


def write_json(path: str | Path, record: Any) -> Path:
    """Writes a table as JSON, cleaned to plain values, whole or not at all, and returns the path.

    Raises:
        FormatError: The file cannot be written, or a value has no plain counterpart.
    """
    return write_text_atomic(path, json_text(plain(record, non_finite="tag")))


def _value(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n    " + ",\n    ".join(map(_compact, value)) + "\n  ]"
    if isinstance(value, dict) and value:
        return "{\n    " + ",\n    ".join(f"{_compact(k)}: {_compact(v)}" for k, v in value.items()) + "\n  }"
    return _compact(value)


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def parse_json(text: str, what: str) -> dict[str, Any]:
    """The table that a JSON text holds, tags restored; `what` names the text in errors.

    Raises:
        FormatError: It is not JSON, holds NaN outside a tag, or is not a table.
    """
    try:
        data = json.loads(text, parse_constant=_refuse_constant, object_hook=restore_tag)
    except (ValueError, RecursionError) as error:
        raise FormatError(
            f"{what} is not JSON: {error}. It may have been cut off or edited; write it again."
        ) from error
    if not isinstance(data, dict):
        raise FormatError(f"{what} holds a JSON {type(data).__name__}, but a table {{...}} with a schema was wanted.")
    return data


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def require_schema(data: dict[str, Any], wanted: str, what: str) -> None:
    """Does nothing if the table follows the schema `wanted`, such as `vitcircuits.circuit/1`.

    Raises:
        FormatError: It is something else, or of another version.
    """
    found = data.get("schema")
    if found == wanted:
        return
    family, _, version = wanted.rpartition("/")
    found_family, _, found_version = str(found).rpartition("/")
    if found_family == family and found_version.isdigit():
        repair = "Update vitcircuits to read it." if int(found_version) > int(version) else "Save it again."
        raise FormatError(f"{what} follows {found}, but this vitcircuits reads {wanted}. {repair}")
    raise FormatError(f"{what} has the schema {found!r}, but {wanted!r} was wanted: it holds something else.")


def read_json(path: str | Path, schema: str) -> dict[str, Any]:
    """The table in a JSON file of this schema.

    Raises:
        FormatError: There is no such file, it is not JSON, or it follows another schema.
    """
    data = parse_json(read_text(path), repr(str(path)))
    require_schema(data, schema, repr(str(path)))
    return data


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turns what goes wrong while a table is read into a FormatError that names `what` and the missing field."""
    try:
        yield
    except (FormatError, GraphError):
        raise
    except KeyError as error:
        raise FormatError(f"{what} lacks {error}: it was cut off or edited; write it again.") from error
    except (TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise FormatError(f"{what} cannot be read: {error}. It was cut off or edited; write it again.") from error
