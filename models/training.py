"""Training a toy ViT by its recipe: AdamW, a cosine, small affine augmentation, and nothing left to chance.

Every random number comes from the recipe's seed and the number of threads is the recipe's, so the same recipe gives the
same weights byte for byte on the same machine. The last epoch's weights are kept: one training looks at the test split
once, for the card. (The digits recipe was retuned twice after such looks, on held-out thirds of its training split.)
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .cards import WEIGHTS_FILE, Card, sha256, write_atomically, write_card
from .data import ImageData, Split, load_data
from .errors import ModelError
from .recipes import Dtype, Recipe, build


@runtime_checkable
class Schedule(Protocol):
    """What a recipe says about the optimizer."""

    @property
    def lr(self) -> float:
        """Learning rate after the warm-up."""
        ...

    @property
    def weight_decay(self) -> float:
        """AdamW's, on weight matrices only."""
        ...

    @property
    def warmup(self) -> float:
        """Part of the steps over which the learning rate rises."""
        ...


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
}


def train(
    recipe: Recipe,
    *,
    out: str | Path,
    data_dir: str | Path | None = None,
    seed: int | None = None,
    progress: bool = True,
) -> Card:
    """The card of a toy ViT trained by the recipe; card and weights are written into `out`.

    Args:
        recipe: One of RECIPES, or one changed with `dataclasses.replace`.
        out: Folder for `model.safetensors` (float32) and `card.json`; made if it isn't there.
        data_dir: Where MNIST's files lie; see `load_data`.
        seed: In place of the recipe's.
        progress: Show a progress bar on stderr.

    Raises:
        DataError: The data cannot be found.
        ModelError: The folder cannot be written.
    """
    recipe = recipe if seed is None else replace(recipe, seed=seed)
    folder = writable_folder(out)
    # pixels, because augmentation turns and shifts them before they are normalised
    data = load_data(recipe.data, None, data_dir=data_dir)
    start = time.perf_counter()
    with borrowed_threads(recipe.threads):
        model = build(recipe)
        _fit(model, data.train, recipe, progress=progress)
        seconds = time.perf_counter() - start
        test = recipe.preprocess.normalise(data.test.images)
        full = count_correct(model, test, data.test.labels)
        round_weights(model, recipe.dtype)
        n_correct = count_correct(model, test, data.test.labels)
    return _save(folder, model, recipe, data, n_correct=n_correct, full=full, seconds=seconds)


@torch.no_grad()
def count_correct(model: nn.Module, images: Float[Tensor, "image channel height width"], labels: Tensor) -> int:
    """How many preprocessed images the model classifies as labelled."""
    model.eval()
    parts = zip(images.split(1000), labels.split(1000), strict=True)
    return sum(int((model(part).argmax(-1) == wanted).sum()) for part, wanted in parts)


@torch.no_grad()
def round_weights(model: nn.Module, dtype: Dtype) -> None:
    """Make the model what will be read back: its weights as the stored dtype holds them, in float32."""
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.copy_(value.to(getattr(torch, dtype)))


def augment(
    pixels: Float[Tensor, "image channel height width"], recipe: Recipe, generator: torch.Generator
) -> Float[Tensor, "image channel height width"]:
    """Each image turned, resized and shifted by its own random amounts, black outside."""
    angle, zoom, shift_x, shift_y = 2 * torch.rand(4, len(pixels), generator=generator) - 1
    angle, zoom = angle * math.radians(recipe.rotate), 1 + zoom * recipe.zoom
    # affine_grid counts from -1 to 1 over the image, so a pixel is 2 / size
    shift_x, shift_y = (shift * recipe.shift * 2 / recipe.image_size for shift in (shift_x, shift_y))
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    affine = torch.stack([cos, -sin, shift_x, sin, cos, shift_y], dim=1).reshape(-1, 2, 3)
    grid = F.affine_grid(affine, list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, align_corners=False)


def learning_rate(step: int, steps: int, recipe: Schedule) -> float:
    """Linear warm-up from zero, then a cosine to zero."""
    warm = max(1, round(recipe.warmup * steps))
    if step < warm:
        return recipe.lr * (step + 1) / warm
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _fit(model: nn.Module, split: Split, recipe: Recipe, *, progress: bool) -> None:
    from tqdm import tqdm

    # dropout, if any, draws from the global generator: it is lent for the while
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        generator = torch.Generator().manual_seed(recipe.seed)
        model.train()
        optimizer = make_optimizer(model, recipe)
        steps = recipe.epochs * math.ceil(len(split) / recipe.batch_size)
        with tqdm(total=steps, desc=f"train {recipe.name}", unit="step", disable=not progress) as bar:
            for step, rows in enumerate(_batches(len(split), recipe, generator)):
                optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = learning_rate(step, steps, recipe)
                images = recipe.preprocess.normalise(augment(split.images[rows], recipe, generator))
                loss, accuracy = _step(model, optimizer, images, split.labels[rows], recipe)
                bar.update()
                if bar.disable is False and step % 20 == 0:
                    bar.set_postfix(epoch=1 + step * recipe.epochs // steps, loss=f"{loss:.3f}", acc=f"{accuracy:.1%}")


def _step(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor, recipe: Recipe
) -> tuple[Tensor, Tensor]:
    """One update; the batch's loss in nats and its accuracy."""
    logits = model(images)
    loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.detach(), (logits.argmax(-1) == labels).float().mean()


def _batches(n: int, recipe: Recipe, generator: torch.Generator) -> Iterator[Tensor]:
    for _ in range(recipe.epochs):
        yield from torch.randperm(n, generator=generator).split(recipe.batch_size)


def make_optimizer(model: nn.Module, recipe: Schedule) -> torch.optim.AdamW:
    """AdamW with the recipe's weight decay on matrices."""
    named = list(model.named_parameters())
    # biases, norms, positions, CLS and registers are not pulled to zero, as in timm
    tokens = ("pos_embed", "cls_token", "reg_token")
    decayed = [p for name, p in named if p.ndim > 1 and name not in tokens]
    free = [p for name, p in named if p.ndim <= 1 or name in tokens]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98))


def _save(
    folder: Path, model: nn.Module, recipe: Recipe, data: ImageData, *, n_correct: int, full: int, seconds: float
) -> Card:
    save_weights(folder, model, recipe.dtype)
    facts: dict[str, Any] = DATA_FACTS.get(recipe.data, {})
    card = Card(
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
        weights_sha256=sha256(folder / WEIGHTS_FILE),
        weights_licence="MIT",
    )
    if recipe.dtype != "float32":
        card["n_test_correct_float32"] = full
    write_card(folder, card)
    return card


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


@contextmanager
def borrowed_threads(n: int) -> Iterator[None]:
    """As many threads as a recipe says; the old number is put back afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
