"""The recipes of the toys that come with the package, and recipes of one's own, as TOML.

Every field of `Recipe` is a key, and `base` names a recipe to start from:

    base = "mnist-2l"
    name = "mnist-wide"       # else the file's name
    d_model = 96
    heads = 6

Without `base` every field without a default must be there. The text encoder of a CLIP is a table, [text].
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, fields, replace
from pathlib import Path
from typing import Any, get_args

from ..errors import ModelError, did_you_mean
from .recipes import Dtype, Recipe, TextRecipe
from .sprites import SHAPES

_DIGITS = Recipe(
    name="digits-2l",
    data="digits",
    image_size=8,
    patch=2,
    channels=1,
    mean=(0.305,),
    std=(0.376,),
    classes=tuple("0123456789"),
    d_model=64,
    layers=2,
    heads=4,
    mlp_ratio=4.0,
    # dropout, weight decay and augmentation were chosen on held-out thirds of the training split
    epochs=200,
    batch_size=64,
    lr=2e-3,
    weight_decay=0.5,
    warmup=0.05,
    label_smoothing=0.05,
    shift=0.75,
    rotate=10.0,
    zoom=0.1,
    dropout=0.1,
)

_MNIST = replace(
    _DIGITS,
    name="mnist-2l",
    data="mnist",
    image_size=28,
    patch=7,
    mean=(0.1307,),
    std=(0.3081,),
    epochs=15,
    batch_size=128,
    weight_decay=0.05,
    shift=2.0,
    dropout=0.0,
)

_MNIST_16 = replace(_MNIST, dtype="float16")

_SPRITES = replace(
    _MNIST_16,
    name="sprites-2l",
    data="sprites",
    image_size=32,
    patch=8,
    channels=3,
    mean=(0.058, 0.057, 0.057),
    std=(0.196, 0.181, 0.193),
    classes=SHAPES,
    # an image that is moved would belie its caption
    shift=0.0,
    rotate=0.0,
    zoom=0.0,
)

# the controlled pair: all but what is learnt is the same
_PAIR = replace(_SPRITES, name="vit-sprites", position_std=0.3)
_TEXT = TextRecipe(embedding=32, d_model=64, layers=1, heads=4, said=0.5)


def _seeds(recipe: Recipe) -> tuple[Recipe, ...]:
    """The recipe, and with two more seeds."""
    return (recipe, *(_with_seed(recipe, seed) for seed in (1, 2)))


def _with_seed(recipe: Recipe, seed: int) -> Recipe:
    return replace(recipe, name=f"{recipe.name}@{seed}", seed=seed)


RECIPES = {
    recipe.name: recipe
    for recipe in (
        _DIGITS,
        # the first two toys on MNIST keep the 32 bits that their measured figures rest on
        _MNIST,
        replace(_MNIST, name="mnist-4l", layers=4),
        replace(_MNIST_16, name="mnist-1l", layers=1),
        replace(_MNIST_16, name="mnist-3l", layers=3),
        replace(_MNIST_16, name="mnist-2l-reg4", registers=4),
        *(replace(_MNIST_16, name=f"mnist-{n}l-attn", layers=n, attention_only=True) for n in (1, 2, 3, 4)),
        *_seeds(_SPRITES),
        *_seeds(replace(_SPRITES, name="sprites-4l", layers=4)),
        *_seeds(_PAIR),
        *_seeds(replace(_PAIR, name="clip-sprites", text=_TEXT)),
    )
}


def get_recipe(name: str) -> Recipe:
    """The recipe of that name, with or without `toy/`; `mnist-2l@7` is the recipe mnist-2l with seed 7.

    Raises:
        ModelError: There is none.
    """
    short = name.removeprefix("toy/")
    base, at, seed = short.partition("@")
    if short in RECIPES:
        return RECIPES[short]
    if at and base in RECIPES and seed.isdecimal():
        return _with_seed(RECIPES[base], int(seed))
    hint = did_you_mean(short, RECIPES)
    raise ModelError(
        f"There is no recipe named {name!r}.{hint} The recipes are {', '.join(RECIPES)}; NAME@7 is one with seed 7."
    )


BASE = "base"


def read_recipe(path: str | Path) -> Recipe:
    """The recipe in a TOML file.

    A relative folder under `data` is looked for beside the file.

    Raises:
        ModelError: The file cannot be read, or a key is unknown, missing or of another type.
    """
    path = Path(path).expanduser()
    written = _read(path)
    start = {"name": path.stem, **_start(written, path)}
    given = {name: value for name, value in written.items() if name != BASE}
    if isinstance(text := given.get("text"), Mapping):
        given["text"] = _filled(TextRecipe, text, asdict(start["text"]) if start.get("text") else {}, f"{path} [text]")
    elif "text" in given:
        raise ModelError(f"{path} has text = {text!r}, but a table is wanted: write [text] and below it keys.")
    repair = '; or start from a recipe with base = "mnist-2l"'
    recipe = _filled(Recipe, given, start, str(path), also=(BASE,), repair=repair)
    beside = path.parent / recipe.data
    return replace(recipe, data=str(beside)) if beside.is_dir() else recipe


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


def _filled(
    kind: type[Any],
    given: Mapping[str, Any],
    start: Mapping[str, Any],
    where: str,
    *,
    also: tuple[str, ...] = (),
    repair: str = "",
) -> Any:
    """A recipe, or a text encoder's, of what is given and for the rest what it starts from."""
    known = [*also, *(field.name for field in fields(kind))]
    for name in given:
        if name not in known:
            hint = did_you_mean(name, known)
            raise ModelError(f"{where} has the key {name!r}, which a recipe has not.{hint} It has {', '.join(known)}.")
    values = {**start, **given}
    missing = [field.name for field in fields(kind) if field.default is MISSING and field.name not in values]
    if missing:
        raise ModelError(
            f"{where} lacks {', '.join(missing)}: add a line for each, such as {missing[0]} = ...{repair}."
        )
    return kind(
        **{field.name: _fitting(field, values[field.name], where) for field in fields(kind) if field.name in values}
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
    """JSON's texts, numbers, truth values and lists are TOML's."""
    return json.dumps(value, ensure_ascii=False, default=str)
