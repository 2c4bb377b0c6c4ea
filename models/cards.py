"""The card beside a toy's weights: what they are, what they were trained on, how well they do, and their hash."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

from .errors import ModelError

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
    certificate: NotRequired[dict[str, Any]]  # of a model with a known circuit


def sha256(path: Path) -> str:
    """The file's sha256 in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, then put it in its place, so that no half-written file is ever seen."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_card(folder: Path, card: Card) -> None:
    """Write `card.json` into the folder."""
    text = json.dumps(card, indent=2, ensure_ascii=False) + "\n"
    write_atomically(folder / CARD_FILE, lambda path: path.write_text(text, encoding="utf-8"))


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


def check_weights(folder: Path, card: Card) -> Path:
    """The path of the weights, if they are those that the card describes.

    Raises:
        ModelError: The weights are missing or are others.
    """
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise ModelError(f"{folder} has a card but no {WEIGHTS_FILE}: train again with `vitcircuits train`.")
    if (found := sha256(path)) != card["weights_sha256"]:
        raise ModelError(
            f"{path} has the sha256 {found[:12]}..., but its card says {card['weights_sha256'][:12]}...: one of the "
            f"two was changed. Train again with `vitcircuits train`, or install vitcircuits again."
        )
    return path
