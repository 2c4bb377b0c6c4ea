"""The card beside a toy's weights: what they are, what they were trained on, how well they do, and their hash."""

import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict, cast

from .errors import ModelError
from .files import write_text_atomic

if TYPE_CHECKING:
    from torch import nn

WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "card.json"
READOUT_FILE = "readout.safetensors"  # beside a circuit, what it was found under in place of the model's own head


class Card(TypedDict):
    """What stands in `card.json`."""

    name: str
    description: str
    data: dict[str, Any]
    augmentation: str
    recipe: dict[str, Any]
    test_accuracy: float
    n_test_correct: int
    n_test_images: int
    training_seconds: float
    versions: dict[str, str]
    weights_sha256: str
    weights_licence: str
    n_test_correct_float32: NotRequired[int]  # before the weights were rounded to the 16 bits that are stored
    step: NotRequired[int]  # of a checkpoint: updates until then
    accuracies: NotRequired[dict[str, dict[str, float]]]  # of sprites: method -> facet -> on the test split
    text_sha256: NotRequired[str]  # of an image tower: the text side's
    certificate: NotRequired[dict[str, Any]]  # of a model with a known circuit


def sha256(path: Path) -> str:
    """The file's sha256 in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def publish(folder: Path, fill: Callable[[Path], object]) -> None:
    """Let `fill` write a model's files into a hidden folder, then move them to where they belong, the card last.

    A folder without a card is no model, so whoever is stopped at any moment leaves either a whole one or none.
    """
    beside = folder if folder.is_dir() else folder.parent
    with tempfile.TemporaryDirectory(dir=beside, prefix=f".{folder.name}.") as name:
        fill(Path(name))
        folder.mkdir(exist_ok=True)
        (folder / CARD_FILE).unlink(missing_ok=True)
        for path in sorted(Path(name).iterdir(), key=lambda path: path.name == CARD_FILE):
            path.chmod(0o644)
            path.replace(folder / path.name)


def write_card(folder: Path, card: Card) -> None:
    """Write `card.json` into the folder."""
    text = json.dumps(card, indent=2, ensure_ascii=False) + "\n"
    write_text_atomic(folder / CARD_FILE, text)


def read_card(folder: Path) -> Card:
    """The folder's card.

    Raises:
        ModelError: There is none, or it is not a card.
    """
    path = folder / CARD_FILE
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read ({error.strerror}): a folder that `vitcircuits train ... --out {folder}` wrote is "
            f"wanted, with {CARD_FILE} and {WEIGHTS_FILE}."
        ) from error
    except ValueError as error:
        raise ModelError(f"{path} is not JSON ({error}). Train again with `vitcircuits train`.") from error
    if missing := sorted(Card.__required_keys__ - set(card if isinstance(card, dict) else ())):
        raise ModelError(f"{path} is not a toy's card: it lacks {', '.join(missing)}.")
    return cast(Card, card)


def fill_module(module: "nn.Module", folder: Path, card: Card, *, again: str = "vitcircuits train") -> "nn.Module":
    """The module with the weights beside the card, in evaluation mode and without gradients.

    Args:
        module: Built by the card's recipe.
        folder: Where card and weights lie.
        card: The card.
        again: The command that makes them anew, for messages.

    Raises:
        ModelError: The weights are missing, are others than the card's, or do not fit the module.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    weights = check_weights(folder, card)
    try:
        module.load_state_dict(load_file(weights))
    except (RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"{weights} does not fit the recipe in its card ({str(error).splitlines()[-1].strip()}). Train again with "
            f"`{again}`."
        ) from error
    return module.eval().requires_grad_(False)


def check_weights(folder: Path, card: Card, name: str = WEIGHTS_FILE) -> Path:
    """The path of the weights (or of the text side), if they are those that the card describes.

    Raises:
        ModelError: The weights are missing or are others.
    """
    path = folder / name
    wanted = card["weights_sha256"] if name == WEIGHTS_FILE else card.get("text_sha256", "nothing")
    if not path.is_file():
        raise ModelError(f"{folder} has a card but no {name}: train again with `vitcircuits train`.")
    if (found := sha256(path)) != wanted:
        raise ModelError(
            f"{path} has the sha256 {found[:12]}..., but its card says {wanted[:12]}...: one of the two was changed. "
            f"Train again with `vitcircuits train`, or install vitcircuits again."
        )
    return path
