"""The text side of a toy CLIP: a small text encoder for captions of sprites, and what is needed to do without it.

A caption is a start token, its words, and padding; every token sees every other, and what stands at the start token
after the last block is projected into the space shared with images.

Embeddings of the classes and of other phrases, and the scale, stand beside the image tower's weights in
`text.safetensors`, with their names in the file's metadata, and so does the encoder itself. logits = scale x
cosine(image, embedding).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..cards import check_weights, read_card
from ..errors import DataError, ModelError, did_you_mean
from .recipes import Recipe, TextRecipe
from .sprites import FACETS, all_captions, captions_saying

START, PADDING = "<start>", "<padding>"


class TextEncoder(nn.Module):
    """From words to the shared space.

    Args:
        recipe: Sizes.
    """

    def __init__(self, recipe: TextRecipe) -> None:
        super().__init__()
        from timm.models.vision_transformer import Block

        everything = [text.split() for text in all_captions()]
        self.words = (START, PADDING, *sorted({word for text in everything for word in text}))
        self.length = 1 + max(map(len, everything))
        width = recipe.d_model
        self.embed = nn.Embedding(len(self.words), width)
        self.pos_embed = nn.Parameter(torch.empty(self.length, width))
        self.blocks = nn.Sequential(*(Block(width, recipe.heads, qkv_bias=True) for _ in range(recipe.layers)))
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, recipe.embedding, bias=False)
        nn.init.normal_(self.embed.weight, std=0.02)
        nn.init.normal_(self.pos_embed, std=0.02)

    def tokenise(self, texts: Sequence[str]) -> Int[Tensor, "text word"]:
        """The words' places in the vocabulary.

        Raises:
            DataError: A word never stands in a caption, or a text is longer than any caption.
        """
        rows = [[START, *text.split()] for text in texts]
        for row, text in zip(rows, texts, strict=True):
            if unknown := [word for word in row if word not in self.words]:
                hint = did_you_mean(unknown[0], self.words)
                raise DataError(
                    f"The word {unknown[0]!r} of {text!r} never stood in a caption.{hint} The words are "
                    f"{', '.join(self.words[2:])}."
                )
            if len(row) > self.length:
                raise DataError(f"{text!r} has {len(row) - 1} words, but captions have at most {self.length - 1}.")
        padded = [row + [PADDING] * (self.length - len(row)) for row in rows]
        places = {word: place for place, word in enumerate(self.words)}
        return torch.tensor([[places[word] for word in row] for row in padded], device=self.pos_embed.device)

    def forward(self, tokens: Int[Tensor, "text word"]) -> Float[Tensor, "text embedding"]:
        """One vector of length 1 per text."""
        hidden = self.blocks(self.embed(tokens) + self.pos_embed)
        return F.normalize(self.project(self.norm(hidden[:, 0])), dim=-1)

    @torch.no_grad()
    def mean_embedding(self, texts: Sequence[str]) -> Float[Tensor, " embedding"]:
        """The mean over some texts, brought to length 1: CLIP's way with several prompts for one class."""
        return F.normalize(self(self.tokenise(texts)).mean(0), dim=0)

    def facet_embeddings(self, facet: str) -> Float[Tensor, "phrase embedding"]:
        """For each phrase of a facet (size, colour, shape, place) the mean over all captions that say it."""
        return torch.stack([self.mean_embedding(captions_saying(facet, phrase)) for phrase in FACETS[facet]])


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


def write_text(path: Path, encoder: TextEncoder, scale: Tensor, dtype: torch.dtype) -> None:
    """Write the text side of a trained pair of towers; the encoder in `dtype`, what is read off it in float32."""
    from safetensors.torch import save_file

    phrases = [(facet, phrase) for facet, names in FACETS.items() for phrase in names]
    tensors = {f"encoder.{name}": value.detach().to(dtype) for name, value in encoder.state_dict().items()}
    tensors["class_embeddings"] = encoder.facet_embeddings("shape")
    tensors["phrase_embeddings"] = torch.cat([encoder.facet_embeddings(facet) for facet in FACETS])
    tensors["scale"] = scale.detach().float()
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
    tensors, _ = _read(folder)
    recipe = Recipe.from_dict(read_card(folder)["recipe"]).text
    assert recipe is not None  # _read has looked
    with torch.random.fork_rng(devices=[]):
        encoder = TextEncoder(recipe)
    state = {name.removeprefix("encoder."): value for name, value in tensors.items() if name.startswith("encoder.")}
    encoder.load_state_dict(state)
    return encoder.eval().requires_grad_(False)


def _read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import safe_open

    card = read_card(folder)
    if card["recipe"].get("text") is None:
        raise ModelError(
            f"{card['name']} was trained on class labels and has no text side: its own head gives the class logits. "
            f"Such a side has toy/clip-sprites."
        )
    path = check_weights(folder, card, TEXT_FILE)
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
