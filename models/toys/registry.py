"""The toy ViTs that come with the package, and any folder that `train` wrote."""

from pathlib import Path
from typing import TYPE_CHECKING

from ..cards import CARD_FILE, Card, fill_module, read_card
from ..errors import ModelError, did_you_mean
from ..preprocess import Preprocess
from .recipes import Recipe, build
from .text_side import TextEncoder, ZeroShot, read_text_encoder, read_zero_shot

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

_WEIGHTS = Path(__file__).parents[1] / "weights"
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


def trained_on(name: str) -> str:
    """The data that a shipped toy was trained on, such as `mnist`; empty for other models."""
    return str(toy_card(name)["recipe"]["data"]) if name in list_toys() else ""


def load_toy(name: str) -> tuple["VisionTransformer", Preprocess, tuple[str, ...], Card]:
    """A toy as timm module (eval mode, no gradients), its preprocessing, what its outputs mean, and its card.

    The outputs are class logits, but for an image tower such as `toy/clip-sprites` the coordinates of the space that it
    shares with texts, `e0`, `e1`, ...; `zero_shot` has what turns them into logits.

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
    folder = Path(path).expanduser()
    card = read_card(folder)
    recipe = Recipe.from_dict(card["recipe"])
    module = build(recipe)
    fill_module(module, folder, card)
    labels = recipe.classes if recipe.text is None else tuple(f"e{i}" for i in range(recipe.text.embedding))
    return module, recipe.preprocess, labels, card


def zero_shot(name: str | Path) -> ZeroShot:
    """The text side of an image tower: class embeddings and their names, the scale, embeddings of other phrases.

    Args:
        name: Such as `toy/clip-sprites`, or a folder that `train` wrote.

    Raises:
        ModelError: There is no such toy, or it was trained on class labels and has no text side.
    """
    return read_zero_shot(_folder(name))


def load_text_encoder(name: str | Path) -> TextEncoder:
    """The text encoder that an image tower was trained against, for captions of one's own.

    Args:
        name: As for `zero_shot`.

    Raises:
        ModelError: As for `zero_shot`.
    """
    return read_text_encoder(_folder(name))


def _folder(name: str | Path) -> Path:
    path = Path(name).expanduser()
    return path if path.is_dir() else _home(str(name))


def _home(name: str) -> Path:
    toys = list_toys()
    full = _PREFIX + name.removeprefix(_PREFIX)
    if full not in toys:
        hint = did_you_mean(full, toys)
        raise ModelError(f"There is no toy named {name!r}.{hint} The toys are {', '.join(toys) or 'not installed'}.")
    return _WEIGHTS / full.removeprefix(_PREFIX)
