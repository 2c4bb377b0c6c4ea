"""The recipes of the toys that come with the package."""

import difflib
from dataclasses import replace

from ..errors import ModelError
from .recipes import Recipe, TextRecipe
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

_MNIST = Recipe(
    name="mnist-2l",
    data="mnist",
    image_size=28,
    patch=7,
    channels=1,
    mean=(0.1307,),
    std=(0.3081,),
    classes=tuple("0123456789"),
    d_model=64,
    layers=2,
    heads=4,
    mlp_ratio=4.0,
    epochs=15,
    batch_size=128,
    lr=2e-3,
    weight_decay=0.05,
    warmup=0.05,
    label_smoothing=0.05,
    shift=2.0,
    rotate=10.0,
    zoom=0.1,
)

_MNIST_16 = replace(_MNIST, dtype="float16")

_SPRITES = Recipe(
    name="sprites-2l",
    data="sprites",
    image_size=32,
    patch=8,
    channels=3,
    mean=(0.058, 0.057, 0.057),
    std=(0.196, 0.181, 0.193),
    classes=SHAPES,
    d_model=64,
    layers=2,
    heads=4,
    mlp_ratio=4.0,
    epochs=15,
    batch_size=128,
    lr=2e-3,
    weight_decay=0.05,
    warmup=0.05,
    label_smoothing=0.05,
    # an image that is moved would belie its caption
    shift=0.0,
    rotate=0.0,
    zoom=0.0,
    dtype="float16",
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
    near = difflib.get_close_matches(short, RECIPES, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ModelError(
        f"There is no recipe named {name!r}.{hint} The recipes are {', '.join(RECIPES)}; NAME@7 is one with seed 7."
    )
