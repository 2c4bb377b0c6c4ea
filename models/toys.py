"""The toy ViTs that come with the package, and any folder that `train` wrote."""

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from .cards import CARD_FILE, Card, check_weights, read_card
from .errors import ModelError
from .preprocess import Preprocess
from .recipes import Recipe, build

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

_WEIGHTS = Path(__file__).parent / "weights"
_PREFIX = "toy/"


def list_toys() -> list[str]:
    """Names of the toys that come with the package, such as `toy/digits-2l`."""
    return [_PREFIX + path.parent.name for path in sorted(_WEIGHTS.glob(f"*/{CARD_FILE}"))]


def toy_card(name: str) -> Card:
    """A toy's card: data, recipe, accuracy, hash, licence.

    Raises:
        ModelError: There is no toy of that name.
    """
    return read_card(_home(name))


def load_toy(name: str) -> tuple["VisionTransformer", Preprocess, tuple[str, ...], Card]:
    """A toy as timm module (eval mode, no gradients), its preprocessing, what its logits mean, and its card.

    Args:
        name: One of `list_toys()`; the `toy/` may be left out.

    Raises:
        ModelError: There is no toy of that name, or its files were changed.
    """
    return load_toy_folder(_home(name))


def load_toy_folder(path: str | Path) -> tuple["VisionTransformer", Preprocess, tuple[str, ...], Card]:
    """The same for a folder that `train` wrote.

    Raises:
        ModelError: The folder lacks card or weights, or they don't belong together.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(path).expanduser()
    card = read_card(folder)
    weights = check_weights(folder, card)
    recipe = Recipe.from_dict(card["recipe"])
    module = build(recipe)
    try:
        module.load_state_dict(load_file(weights))
    except (RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"{weights} does not fit the recipe in its card ({str(error).splitlines()[-1].strip()}). Train again with "
            f"`vitcircuits train`."
        ) from error
    return module.eval().requires_grad_(False), recipe.preprocess, recipe.classes, card


def _home(name: str) -> Path:
    toys = list_toys()
    full = _PREFIX + name.removeprefix(_PREFIX)
    if full not in toys:
        near = difflib.get_close_matches(full, toys, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ModelError(f"There is no toy named {name!r}.{hint} The toys are {', '.join(toys) or 'not installed'}.")
    return _WEIGHTS / full.removeprefix(_PREFIX)
