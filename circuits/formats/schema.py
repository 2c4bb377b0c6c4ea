"""Versioned JSON files: how they are laid out, and what is refused when one is read.

Every file says what it is in `schema`, such as `vitcircuits.circuit/1`. The number grows when a reader of the old form
could misread the new one. The text has one entry per line at the top and one item per line in lists of tables, so
that files can be read and compared by eye.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...models.errors import FormatError, GraphError
from ...models.files import read_text, write_text_atomic
from .plain import NonFinite, plain, restore_tag


def json_text(data: dict[str, Any]) -> str:
    """The text of a JSON file that holds this table of plain values."""
    entries = (f"{_compact(key)}: {_value(item)}" for key, item in data.items())
    return "{\n  " + ",\n  ".join(entries) + "\n}\n"


def write_json(path: str | Path, record: Any, *, non_finite: NonFinite = "tag") -> Path:
    """Writes a table as JSON, cleaned to plain values, whole or not at all, and returns the path.

    Raises:
        FormatError: The file cannot be written, or a value has no plain counterpart.
    """
    return write_text_atomic(path, json_text(plain(record, non_finite=non_finite)))


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
