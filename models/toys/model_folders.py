"""What a training leaves in a folder: weights, card, and the text side of a CLIP."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..cards import WEIGHTS_FILE, Card, publish, sha256, write_atomically, write_card
from ..data import ImageData
from ..errors import ModelError
from .objectives import Captions, ClassLabels, nearest
from .recipes import Dtype, Recipe
from .sprites_accuracy import sprite_accuracies
from .text_side import TEXT_FILE, write_text

DATA_FACTS = {
    "digits": {
        "source": "Optical Recognition of Handwritten Digits (E. Alpaydin, C. Kaynak; UCI), test part, as shipped in "
        "scikit-learn's load_digits",
        "licence": "CC BY 4.0",
        "split": "every third image of each class, in scikit-learn's order, is a test image; the 13 writers stand in "
        "both splits",
    },
    "mnist": {
        "source": "MNIST (Y. LeCun, C. Cortes, C. Burges)",
        "licence": "usually cited as CC BY-SA 3.0",
        "split": "MNIST's own: 60,000 train, 10,000 test",
    },
    "sprites": {
        "source": "drawn by vitcircuits.models.toys.sprites: one shape on black, with known factors",
        "licence": "MIT",
        "split": "20,000 images train, 4,000 test, drawn from different seeds",
    },
}


def write_model(
    objective: ClassLabels | Captions,
    folder: Path,
    recipe: Recipe,
    data: ImageData,
    *,
    seconds: float,
    step: int | None = None,
    also: Callable[[Path, Card], None] | None = None,
) -> Card:
    """The card of a model as it stands, written with its weights; the objective itself is left as it is.

    Its accuracies are those of the weights as they are stored.

    Args:
        objective: What is trained.
        folder: Where to write; until all is written, there is no card in it.
        recipe: It is trained by.
        data: It is trained on, as pixels.
        seconds: Trained so far.
        step: Of a checkpoint.
        also: Writes more files into the folder that it is given.
    """
    stored = copy.deepcopy(objective).eval()
    full = _count_correct(stored, recipe, data)
    round_weights(stored, recipe.dtype)
    card = _card(recipe, data, n_correct=_count_correct(stored, recipe, data), seconds=seconds)
    if recipe.dtype != "float32":
        card["n_test_correct_float32"] = full
    if step is not None:
        card["step"] = step
    if recipe.data == "sprites":
        card["accuracies"] = sprite_accuracies(stored, data, recipe.preprocess)
    publish(folder, lambda path: _fill(path, stored, recipe, card, also))
    return card


def _count_correct(objective: ClassLabels | Captions, recipe: Recipe, data: ImageData) -> int:
    answers = nearest(objective.reader(), recipe.preprocess.normalise(data.test.images))
    return int((answers == data.test.labels).sum())


def _fill(
    path: Path,
    stored: ClassLabels | Captions,
    recipe: Recipe,
    card: Card,
    also: Callable[[Path, Card], None] | None,
) -> None:
    """Write all files of a model, the hashes going into the card."""
    save_weights(path, stored.vit, recipe.dtype)
    card["weights_sha256"] = sha256(path / WEIGHTS_FILE)
    if isinstance(stored, Captions):
        write_text(path / TEXT_FILE, stored, getattr(torch, recipe.dtype))
        card["text_sha256"] = sha256(path / TEXT_FILE)
    if also is not None:
        also(path, card)
    write_card(path, card)


def _card(recipe: Recipe, data: ImageData, *, n_correct: int, seconds: float) -> Card:
    facts: dict[str, Any] = DATA_FACTS.get(recipe.data, {})
    return Card(
        name=f"toy/{recipe.name}",
        description=recipe.description,
        data={"name": recipe.data, **facts, "n_train_images": len(data.train), "digest": data.digest},
        augmentation=recipe.augmentation,
        recipe=recipe.to_dict(),
        test_accuracy=n_correct / len(data.test),
        n_test_correct=n_correct,
        n_test_images=len(data.test),
        training_seconds=round(seconds, 1),
        versions=versions(),
        weights_sha256="",
        weights_licence="MIT",
    )


@torch.no_grad()
def round_weights(model: nn.Module, dtype: Dtype) -> None:
    """Make the model what will be read back: its weights as the stored dtype holds them, in float32."""
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.copy_(value.to(getattr(torch, dtype)))


def save_weights(folder: Path, model: nn.Module, dtype: Dtype = "float32") -> None:
    """Write the model's weights into the folder."""
    from safetensors.torch import save_file

    stored: torch.dtype = getattr(torch, dtype)
    weights = {name: tensor.detach().to(stored).contiguous() for name, tensor in model.state_dict().items()}
    write_atomically(folder / WEIGHTS_FILE, lambda path: save_file(weights, path))


def versions() -> dict[str, str]:
    """Of the packages that decide the weights."""
    import timm

    return {"torch": str(torch.__version__), "timm": str(timm.__version__)}


def writable_folder(out: str | Path) -> Path:
    """The folder, made if it isn't there.

    Raises:
        ModelError: It cannot be written.
    """
    folder = Path(out).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / ".writable", lambda path: path.touch())
        (folder / ".writable").unlink()
    except OSError as error:
        raise ModelError(f"{folder} cannot be written ({error.strerror}): pass out= another folder.") from error
    return folder
