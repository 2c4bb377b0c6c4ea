"""The text tower of transformers' `CLIPModel`: its own `get_text_features`, with the tokenizer of its folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .errors import ModelError
from .text_tower import TextTower, Tokenizer

_TOKENIZERS = ("tokenizer.json", "vocab.json")


class HfText(nn.Module):
    """A `CLIPModel` that is asked as open_clip's models are.

    Args:
        model: The model, by reference.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def encode_text(self, tokens: Int[Tensor, "text position"]) -> Float[Tensor, "text dim"]:
        """A vector per text; attention is causal, so that what stands behind a text's end changes nothing."""
        found = self.model.get_text_features(input_ids=tokens)
        return found if isinstance(found, Tensor) else found.pooler_output


def is_hf_clip(clip: Any) -> bool:
    """Whether this is transformers' `CLIPModel`, or a folder of one."""
    if isinstance(clip, nn.Module):
        return any(base.__name__ == "CLIPModel" for base in type(clip).__mro__)
    return isinstance(clip, str | Path) and _model_type(Path(clip).expanduser()) == "clip"


def _model_type(folder: Path) -> str:
    try:
        return str(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def open_hf_text_tower(clip: Any, tokenizer: Tokenizer | None = None, *, folder: Path | None = None) -> TextTower:
    """The text tower of a `CLIPModel`.

    Args:
        clip: The model, or its folder.
        tokenizer: Texts -> input ids, (text, position); by default the folder's.
        folder: Where the tokenizer of a model is.

    Raises:
        ModelError: There is no tokenizer, or the folder cannot be loaded.
    """
    model: Any = clip
    if not isinstance(clip, nn.Module):
        from .foreign import read_folder  # which hands its models' text towers on

        folder = Path(clip).expanduser()
        model = read_folder(folder)
    if tokenizer is None and folder is None:
        raise ModelError(
            f"a {type(model).__name__} does not say which tokenizer belongs to it: pass tokenizer=, from texts to "
            f"input ids, or load the model from its folder, load_vit('path/to/folder')."
        )
    found = tokenizer or folder_tokenizer(folder or Path(), int(model.config.text_config.max_position_embeddings))
    name = type(model).__name__ if folder is None else folder.name
    return TextTower(HfText(model), found, name, float(model.logit_scale.detach().exp()), None)


def folder_tokenizer(folder: Path, length: int) -> Tokenizer:
    """Texts -> input ids by the tokenizer in a folder, which is read when the first text comes.

    Args:
        folder: Where it is.
        length: The most ids that a text may have; longer ones are cut off.
    """

    @cache
    def read() -> Any:
        from transformers import AutoTokenizer

        try:
            if not any((folder / name).is_file() for name in _TOKENIZERS):
                raise FileNotFoundError(f"no {' or '.join(_TOKENIZERS)}")  # transformers would make an empty one
            return AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:
            raise ModelError(
                f"{folder} has no tokenizer that can be read ({str(error).splitlines()[0]}): put the model's tokenizer "
                f"files there, or pass tokenizer=, from texts to their input ids."
            ) from error

    def tokenize(texts: list[str]) -> Tensor:
        return read()(texts, padding=True, truncation=True, max_length=length, return_tensors="pt")["input_ids"]

    return tokenize


def given_tokens(texts: Sequence[str], ids: Int[Tensor, "text position"]) -> Tokenizer:
    """A tokenizer that knows these texts alone, for whoever has their input ids: `text_readout(..., tokenizer=...)`.

    Raises:
        ModelError: There is not one row of ids for each text.
    """
    if len(texts) != len(ids):
        raise ModelError(f"there are {len(ids)} rows of ids for {len(texts)} texts: pass one for each.")
    rows = dict(zip(texts, ids, strict=True))

    def tokenize(wanted: list[str]) -> Tensor:
        if missing := [text for text in wanted if text not in rows]:
            raise ModelError(f"no ids were given for the text {missing[0]!r}: give them to given_tokens.")
        return torch.stack([rows[text] for text in wanted])

    return tokenize
