"""What a training leaves in a folder: weights, card, the text side of a CLIP, and how it went.

Loss, accuracy and learning rate by step are written as numbers (CSV) and as a picture (SVG).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..cards import WEIGHTS_FILE, Card, publish, sha256, write_card
from ..data import ImageData
from ..errors import ModelError
from ..files import write_bytes_atomic
from .objectives import Captions, ClassLabels, nearest, sprite_accuracies
from .recipes import Dtype, Recipe
from .text_side import TEXT_FILE, write_text

if TYPE_CHECKING:
    import pandas as pd

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
    path: Path, stored: ClassLabels | Captions, recipe: Recipe, card: Card, also: Callable[[Path, Card], None] | None
) -> None:
    """Write all files of a model, the hashes going into the card."""
    save_weights(path, stored.vit, recipe.dtype)
    card["weights_sha256"] = sha256(path / WEIGHTS_FILE)
    if isinstance(stored, Captions):
        write_text(path / TEXT_FILE, stored.text, stored.scale, getattr(torch, recipe.dtype))
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
    from safetensors.torch import save

    stored: torch.dtype = getattr(torch, dtype)
    weights = {name: tensor.detach().to(stored).contiguous() for name, tensor in model.state_dict().items()}
    write_bytes_atomic(folder / WEIGHTS_FILE, save(weights))


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
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ModelError(f"{folder} cannot be written ({error.strerror}): pass out= another folder.") from error
    return folder


ROWS = 200  # so many points at most, which are enough for a curve
CSV_FILE, SVG_FILE = "training.csv", "training.svg"


class Curves:
    """Collects what `training.csv` will hold; what was not measured is empty.

    | column | what |
    | --- | --- |
    | step | updates so far |
    | epoch | passes over the training split so far |
    | learning_rate | at the last update |
    | loss | mean over the batches since the line before, in nats, as it is trained (augmented, smoothed) |
    | train_accuracy | mean over the same batches |
    | test_accuracy | of the weights as they are stored, at checkpoints and at the end |

    Args:
        steps: Updates in all.
        steps_per_epoch: Updates in one pass over the training split.
    """

    def __init__(self, steps: int, steps_per_epoch: int) -> None:
        self.steps, self.steps_per_epoch = steps, steps_per_epoch
        self.rows: list[dict[str, float]] = []
        self._pending: list[tuple[float, float, float]] = []

    def update(self, step: int, *, loss: float, accuracy: float, learning_rate: float) -> None:
        """After an update; `step` counts from 1."""
        self._pending.append((loss, accuracy, learning_rate))
        if step % math.ceil(self.steps / ROWS) == 0:
            self._close(step)

    def tested(self, step: int, accuracy: float) -> None:
        """After a look at the test split."""
        if not self.rows or self.rows[-1]["step"] != step:
            self._close(step)
        self.rows[-1]["test_accuracy"] = accuracy

    def write(self, folder: Path, title: str) -> None:
        """Write `training.csv` and `training.svg` into the folder."""
        import pandas as pd

        columns = ["step", "epoch", "learning_rate", "loss", "train_accuracy", "test_accuracy"]
        frame = pd.DataFrame(self.rows, columns=columns)
        frame.to_csv(folder / CSV_FILE, index=False, float_format="%.6g", lineterminator="\n")
        draw_curves(frame, folder / SVG_FILE, title)

    def _close(self, step: int) -> None:
        self.rows.append({"step": step, "epoch": step / self.steps_per_epoch})
        if self._pending:
            losses, accuracies, rates = zip(*self._pending, strict=True)
            means = {"loss": sum(losses) / len(losses), "train_accuracy": sum(accuracies) / len(losses)}
            self.rows[-1] |= {"learning_rate": rates[-1], **means}
        self._pending.clear()


def draw_curves(frame: pd.DataFrame, path: Path, title: str) -> None:
    """Write a picture of the loss above that of the accuracies; the same rows give the same bytes."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # without a salt the ids in the file are drawn anew each time
    with rc_context({"svg.hashsalt": "vitcircuits", "font.size": 9, "axes.spines.top": False}):
        figure = Figure(figsize=(6.4, 4.8), layout="constrained")
        FigureCanvasSVG(figure)
        above, below = figure.subplots(2, 1, sharex=True)
        _draw_loss(above, frame.dropna(subset=["loss"]))
        _draw_accuracy(below, frame)
        above.set_title(title, loc="left")
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": "vitcircuits"})


def _draw_loss(axes: Any, trained: pd.DataFrame) -> None:
    axes.plot(trained["step"], trained["loss"], color="#20639b", linewidth=1.2)
    axes.set_ylabel("loss (nats)")
    axes.set_ylim(bottom=0)
    axes.spines["top"].set_visible(False)
    rate = axes.twinx()
    rate.plot(trained["step"], trained["learning_rate"], color="#999999", linewidth=0.9, linestyle=":")
    rate.set_ylabel("learning rate (dotted)", color="#777777")
    rate.set_ylim(bottom=0)


def _draw_accuracy(axes: Any, frame: pd.DataFrame) -> None:
    trained, tested = (frame.dropna(subset=[column]) for column in ("train_accuracy", "test_accuracy"))
    axes.plot(trained["step"], trained["train_accuracy"], color="#20639b", linewidth=1.2)
    style = {"color": "#d1495b", "marker": "o", "markersize": 4, "linewidth": 0.9}
    axes.plot(tested["step"], tested["test_accuracy"], **style)
    axes.legend(["training batches", "test split"], loc="lower right", frameon=False)
    axes.set(ylabel="accuracy", xlabel="step", ylim=(0, 1.02))
    axes.spines["right"].set_visible(False)
