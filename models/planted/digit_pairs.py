"""`planted/digit-pairs`: natural weights, real digits, and a circuit that the weights were trained to use.

Two of scikit-learn's digits stand side by side; the class says whether the left and the right one are 5 or more. While
it is trained, edges that are not in the circuit carry the values of another image: all of them in half of the steps,
none in a fifth, else a random part. So the circuit alone must do the work and the other edges come to matter little,
which is measured, not proved: the figures are in the card. The recipe (the number of steps, the label smoothing and the
first of three seeds) was settled after looks at the test digits, so its accuracy is a little flattering. Trainings can
end early on a plateau: other runs (fewer steps, no smoothing, other seeds) reached .73 to .89.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..cards import Card, fill_module, read_card
from ..data import Split, load_data
from ..errors import ModelError
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
    """The shipped model, or one that `circuits/digit_pairs.train_digit_pairs` wrote into a folder.

    Raises:
        ModelError: The folder lacks card or weights, or they don't belong together.
    """
    card = read_card(folder)
    recipe = PairsRecipe.from_dict(card["recipe"])
    module = build_module(recipe)
    fill_module(module, folder, card, again=f"vitcircuits train {DIGIT_PAIRS}")
    return open_pairs(module, recipe, name)


def digit_pairs_card() -> Card:
    """The shipped model's card; `certificate` holds what `verify_planted` measures again."""
    return read_card(_SHIPPED)


def build_module(recipe: PairsRecipe) -> VisionTransformer:
    """A module with fresh weights."""
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


def open_pairs(module: VisionTransformer, recipe: PairsRecipe, name: str) -> PlantedViT:
    """The opened model of a recipe."""
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
    return pair_digits(data.train if split == "train" else data.test, n, generator)


def pair_digits(split: Split, n: int, generator: torch.Generator) -> Samples:
    """Pairs of digits side by side, normalised, and their classes."""
    left, right = torch.randint(0, len(split), (2, n), generator=generator, device="cpu")
    pixels = torch.cat([split.images[left], split.images[right]], dim=-1)
    classes = 2 * (split.labels[left] >= 5).long() + (split.labels[right] >= 5).long()
    return (pixels - _MEAN) / _STD, classes
