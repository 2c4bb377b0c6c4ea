"""A small text encoder for captions of sprites: words, positions, transformer blocks, and a projection.

A caption is a start token, its words, and padding; what stands at the start token after the last block is projected
into the space shared with images. Every token sees every other.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..errors import DataError
from .recipes import TextRecipe
from .sprites_captions import FACETS, all_captions, captions_saying

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
                near = difflib.get_close_matches(unknown[0], self.words, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
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
