"""Whether a recipe can be followed, said before anything is trained."""

from dataclasses import fields

from ..data import ImageData
from ..errors import ModelError
from .recipes import Recipe


def check_recipe(recipe: Recipe) -> None:
    """Nothing, if the recipe's numbers fit one another.

    Raises:
        ModelError: They don't; the sentence says which and what would.
    """
    for field in fields(recipe):
        value = getattr(recipe, field.name)
        least = _LEAST.get(field.name)
        if least is not None and value < least:
            raise ModelError(f"The recipe {recipe.name!r} has {field.name} = {value}, but at least {least} is wanted.")
    for name in ("mean", "std"):
        if len(getattr(recipe, name)) != recipe.channels:
            raise ModelError(
                f"The recipe {recipe.name!r} has {recipe.channels} channels but {len(getattr(recipe, name))} numbers "
                f"in {name}: each channel wants one, such as {name} = {[0.5] * recipe.channels}."
            )
    _check_division(recipe, "image_size", recipe.image_size, "patch", recipe.patch)
    _check_division(recipe, "d_model", recipe.d_model, "heads", recipe.heads)
    if recipe.text is not None:
        _check_text(recipe)


def check_data(recipe: Recipe, data: ImageData) -> None:
    """Nothing, if the recipe's classes are the data's.

    Raises:
        ModelError: They are not.
    """
    if len(recipe.classes) != len(data.class_names):
        raise ModelError(
            f"The recipe {recipe.name!r} has {len(recipe.classes)} classes, but {data.name!r} has "
            f"{len(data.class_names)}: write classes = {list(data.class_names)}."
        )


_LEAST = {
    "image_size": 1,
    "patch": 1,
    "channels": 1,
    "d_model": 1,
    "layers": 1,
    "heads": 1,
    "epochs": 1,
    "batch_size": 1,
    "threads": 1,
    "seed": 0,
    "registers": 0,
    "mlp_ratio": 0,
    "lr": 0,
    "weight_decay": 0,
    "warmup": 0,
    "label_smoothing": 0,
    "shift": 0,
    "rotate": 0,
    "zoom": 0,
    "dropout": 0,
    "position_std": 0,
}


def _check_division(recipe: Recipe, whole_name: str, whole: int, part_name: str, part: int) -> None:
    if whole % part:
        fitting = [n for n in range(1, whole + 1) if whole % n == 0]
        nearest = min(fitting, key=lambda n: abs(n - part))
        raise ModelError(
            f"The recipe {recipe.name!r} has {whole_name} = {whole} and {part_name} = {part}, which does not divide "
            f"it: write {part_name} = {nearest}."
        )


def _check_text(recipe: Recipe) -> None:
    if recipe.data != "sprites":
        raise ModelError(
            f"The recipe {recipe.name!r} has a text encoder, but {recipe.data!r} has no captions: write "
            f'data = "sprites", or leave out [text].'
        )
    assert recipe.text is not None
    _check_division(recipe, "text.d_model", recipe.text.d_model, "text.heads", recipe.text.heads)
    if min(recipe.text.embedding, recipe.text.layers, recipe.text.d_model) < 1 or recipe.text.temperature <= 0:
        raise ModelError(f"The recipe {recipe.name!r} has {recipe.text}: all of its numbers must be above 0.")
