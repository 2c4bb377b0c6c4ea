"""A recipe of one's own, as TOML: every field of `Recipe` is a key, and `base` names a recipe to start from.

    base = "mnist-2l"
    name = "mnist-wide"       # else the file's name
    d_model = 96
    heads = 6

Without `base` every field without a default must be there. The text encoder of a CLIP is a table, [text].
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, fields
from pathlib import Path
from typing import Any, get_args

from ..errors import ModelError
from .recipe_book import get_recipe
from .recipes import Dtype, Recipe, TextRecipe

BASE = "base"


def read_recipe(path: str | Path) -> Recipe:
    """The recipe in a TOML file.

    A relative folder under `data` is looked for beside the file.

    Raises:
        ModelError: The file cannot be read, or a key is unknown, missing or of another type.
    """
    path = Path(path).expanduser()
    written = _read(path)
    given = {name: value for name, value in written.items() if name != BASE}
    _check_names(given, Recipe, str(path), also=(BASE,))
    start = _start(written, path)
    values = {"name": path.stem, **start, **given}
    if isinstance(given.get("text"), Mapping):
        values["text"] = _table(given["text"], start.get("text"), f"{path} [text]")
    elif "text" in given:
        raise ModelError(f"{path} has text = {given['text']!r}, but a table is wanted: write [text] and below it keys.")
    _check_missing(values, Recipe, str(path), '; or start from a recipe with base = "mnist-2l"')
    values = {field.name: _fitting(field, values[field.name], path) for field in fields(Recipe) if field.name in values}
    beside = path.parent / values["data"]
    return Recipe(**{**values, "data": str(beside) if beside.is_dir() else values["data"]})


def write_recipe(recipe: Recipe) -> str:
    """The recipe as TOML, to begin with."""
    table = asdict(recipe)
    text = table.pop("text")
    lines = [f"{name} = {_toml(value)}" for name, value in table.items()]
    if text is not None:
        lines += ["", "[text]", *(f"{name} = {_toml(value)}" for name, value in text.items())]
    return "\n".join(lines) + "\n"


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}): pass a TOML file with a recipe.") from error
    except ValueError as error:
        raise ModelError(f"{path} is not TOML ({error}). A line looks like: layers = 2") from error


def _start(written: dict[str, Any], path: Path) -> dict[str, Any]:
    """The fields of the recipe that the file starts from, but its name."""
    if BASE not in written:
        return {}
    if not isinstance(written[BASE], str):
        raise ModelError(f'{path} has {BASE} = {written[BASE]!r}, but a name is wanted: {BASE} = "mnist-2l".')
    base = get_recipe(written[BASE])
    return {field.name: getattr(base, field.name) for field in fields(base) if field.name != "name"}


def _table(given: Mapping[str, Any], start: TextRecipe | None, where: str) -> TextRecipe:
    _check_names(given, TextRecipe, where)
    values = {**({} if start is None else asdict(start)), **given}
    _check_missing(values, TextRecipe, where, "")
    return TextRecipe(
        **{
            field.name: _fitting(field, values[field.name], where)
            for field in fields(TextRecipe)
            if field.name in values
        }
    )


def _check_names(given: Mapping[str, Any], kind: type, where: str, also: tuple[str, ...] = ()) -> None:
    known = [*also, *(field.name for field in fields(kind))]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ModelError(f"{where} has the key {name!r}, which a recipe has not.{hint} It has {', '.join(known)}.")


def _check_missing(values: Mapping[str, Any], kind: type, where: str, instead: str) -> None:
    missing = [field.name for field in fields(kind) if field.default is MISSING and field.name not in values]
    if missing:
        raise ModelError(
            f"{where} lacks {', '.join(missing)}: add a line for each, such as {missing[0]} = ...{instead}."
        )


# a field's type -> what TOML may give for it, what a list of it may hold, and how that is said
_TYPES: dict[Any, tuple[Any, Any, str]] = {
    int: (int, None, "a whole number"),
    float: ((int, float), None, "a number"),
    bool: (bool, None, "true or false"),
    str: (str, None, "a text in quotes"),
    Dtype: (str, None, " or ".join(f'"{name}"' for name in get_args(Dtype))),
    tuple[float, ...]: (list, (int, float), "a list of numbers"),
    tuple[str, ...]: (list, str, "a list of texts in quotes"),
}


def _fitting(field: Field[Any], value: Any, where: object) -> Any:
    """The value as the field wants it, if it is of its type."""
    if field.type not in _TYPES or isinstance(value, tuple):  # a text encoder, or what a base has brought
        return value
    wanted, inner, said = _TYPES[field.type]
    fits = _is_a(value, wanted) and (field.type != Dtype or value in get_args(Dtype))
    if not fits or (inner is not None and not all(_is_a(part, inner) for part in value)):
        raise ModelError(f"{where} has {field.name} = {_toml(value)}, but {said} is wanted.")
    if inner is not None:
        return tuple(value) if inner is str else tuple(map(float, value))
    return float(value) if field.type is float else value


def _is_a(value: object, wanted: Any) -> bool:
    """Python counts True as a number, TOML does not."""
    return isinstance(value, wanted) and isinstance(value, bool) == (wanted is bool)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' if isinstance(value, str) else repr(value)
