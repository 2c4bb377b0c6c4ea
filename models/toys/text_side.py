"""What is needed to read a toy CLIP without its text encoder: embeddings of the classes and of other phrases, a scale.

They stand beside the image tower's weights in `text.safetensors`, with their names in the file's metadata, and so does
the text encoder itself. logits = scale x cosine(image, embedding).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..cards import Card, check_weights, read_card
from ..errors import ModelError
from .recipes import Recipe
from .sprites_captions import FACETS

if TYPE_CHECKING:
    from .objectives import Captions
    from .sprites_text import TextEncoder

TEXT_FILE = "text.safetensors"


@dataclass(frozen=True, eq=False)
class ZeroShot:
    """The text side of a toy CLIP.

    Args:
        names: The classes.
        embeddings: One unit vector per class.
        scale: What cosines are multiplied with to become logits.
        phrases: Facet and phrase, such as ("colour", "red"): everything that captions say, the shapes included.
        phrase_embeddings: One unit vector per phrase.
    """

    names: tuple[str, ...]
    embeddings: Float[Tensor, "class embedding"]
    scale: float
    phrases: tuple[tuple[str, str], ...]
    phrase_embeddings: Float[Tensor, "phrase embedding"]

    def __repr__(self) -> str:
        return f"ZeroShot({len(self.names)} classes, {len(self.phrases)} phrases, scale {self.scale:.1f})"

    def facet(self, facet: str) -> tuple[tuple[str, ...], Float[Tensor, "phrase embedding"]]:
        """The phrases of one facet (size, colour, shape or place) and their embeddings."""
        rows = [row for row, (name, _) in enumerate(self.phrases) if name == facet]
        return tuple(self.phrases[row][1] for row in rows), self.phrase_embeddings[rows]


def write_text(path: Path, learnt: Captions, dtype: torch.dtype) -> None:
    """Write the text side of a trained pair of towers; the encoder in `dtype`, what is read off it in float32."""
    from safetensors.torch import save_file

    phrases = [(facet, phrase) for facet, names in FACETS.items() for phrase in names]
    tensors = {f"encoder.{name}": value.detach().to(dtype) for name, value in learnt.text.state_dict().items()}
    tensors["class_embeddings"] = learnt.text.facet_embeddings("shape")
    tensors["phrase_embeddings"] = torch.cat([learnt.text.facet_embeddings(facet) for facet in FACETS])
    tensors["scale"] = learnt.scale.detach().float()
    metadata = {"classes": json.dumps(FACETS["shape"]), "phrases": json.dumps(phrases)}
    save_file({name: value.contiguous() for name, value in tensors.items()}, path, metadata=metadata)


def read_zero_shot(folder: Path) -> ZeroShot:
    """The text side in a folder that `train` wrote.

    Raises:
        ModelError: There is none there, or it is not the one that the card describes.
    """
    tensors, metadata = _read(folder)
    return ZeroShot(
        names=tuple(json.loads(metadata["classes"])),
        embeddings=tensors["class_embeddings"],
        scale=float(tensors["scale"]),
        phrases=tuple((facet, phrase) for facet, phrase in json.loads(metadata["phrases"])),
        phrase_embeddings=tensors["phrase_embeddings"],
    )


def read_text_encoder(folder: Path) -> TextEncoder:
    """The text encoder in a folder that `train` wrote, for captions of one's own.

    Raises:
        ModelError: There is none there, or it is not the one that the card describes.
    """
    from .sprites_text import TextEncoder

    tensors, _ = _read(folder)
    recipe = Recipe.from_dict(read_card(folder)["recipe"]).text
    assert recipe is not None  # _read has looked
    with torch.random.fork_rng(devices=[]):
        encoder = TextEncoder(recipe)
    state = {name.removeprefix("encoder."): value for name, value in tensors.items() if name.startswith("encoder.")}
    encoder.load_state_dict(state)
    return encoder.eval().requires_grad_(False)


def has_text(card: Card) -> bool:
    """Whether the card is that of an image tower, whose outputs are no class logits."""
    return card["recipe"].get("text") is not None


def _read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import safe_open

    card = read_card(folder)
    if not has_text(card):
        raise ModelError(
            f"{card['name']} was trained on class labels and has no text side: its own head gives the class logits. "
            f"Such a side has toy/clip-sprites."
        )
    path = check_weights(folder, card, TEXT_FILE)
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
