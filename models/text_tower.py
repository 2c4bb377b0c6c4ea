"""Text towers, ready to encode: texts -> unit vectors, and the scale of the cosine.

A tower is that of an open_clip model or of transformers' `CLIPModel`, given as the model or as text: `ViT-B-16:openai`
(a name and a tag of open_clip's), `hf-hub:org/repo`, `local-dir:/path`, or the folder of a `CLIPModel`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .errors import ModelError
from .external import Tokenizer, create_clip, folder_tokenizer, import_open_clip, read_config, read_folder, split_name
from .readouts import evaluating

_BATCH = 64  # texts at once
_CLIP_WORDS = 49408  # size of the vocabulary that open_clip ships with


@dataclass(frozen=True, eq=False)
class TextTower:
    """A text tower, ready to encode.

    Args:
        model: An open_clip model.
        tokenizer: Texts -> their tokens (text, position).
        name: What it was loaded as.
        scale: What it multiplies cosines by: exp(logit_scale).
        bias: What it adds to them (SigLIP), if it does.
    """

    model: Any
    tokenizer: Tokenizer
    name: str
    scale: float
    bias: float | None

    def encode(self, texts: Sequence[str]) -> Float[Tensor, "text dim"]:
        """A unit vector per text, in float32 on the CPU."""
        device = next(self.model.parameters()).device
        found = []
        with torch.no_grad(), evaluating(self.model):
            for start in range(0, len(texts), _BATCH):
                tokens: Int[Tensor, "text position"] = self.tokenizer(list(texts[start : start + _BATCH]))
                found.append(self.model.encode_text(tokens.to(device)).float().cpu())
        return nn.functional.normalize(torch.cat(found), dim=-1)


def open_text_tower(clip: nn.Module | str, tokenizer: Tokenizer | None = None) -> TextTower:
    """The text tower of an open_clip model.

    Args:
        clip: The model, or text: `ViT-B-16:openai`, `hf-hub:org/repo`, `local-dir:/path`; or transformers' `CLIPModel`,
            or its folder.
        tokenizer: Texts -> tokens; by default the one that open_clip has for the name, or CLIP's own for a model.

    Raises:
        ModelError: open_clip is not installed, the name or the tag is not known, the weights cannot be had, or it is
            not clear which tokenizer belongs to a model.
    """
    if _is_hf_clip(clip):
        return open_hf_text_tower(clip, tokenizer)
    open_clip = import_open_clip()
    if isinstance(clip, str):
        model, tokenizer, name = (*_create(open_clip, clip, tokenizer), clip)
    else:
        model, name = cast(Any, clip), type(clip).__name__
        if not hasattr(model, "encode_text") or not hasattr(model, "logit_scale"):
            raise ModelError(
                f"a {name} has no text tower: pass an open_clip model with encode_text and logit_scale, or a name and "
                f'a tag such as "ViT-B-16:openai".'
            )
        tokenizer = tokenizer or _own_tokenizer(open_clip, model)
    scale, bias = float(model.logit_scale.detach().exp()), getattr(model, "logit_bias", None)
    return TextTower(model, tokenizer, name, scale, None if bias is None else float(bias.detach()))


def tower_of(architecture: str) -> str | None:
    """The open_clip name and tag of the weights that a timm name has, where both libraries take them from one place."""
    import timm

    known = architecture in timm.list_pretrained() or ("." not in architecture and timm.is_model(architecture))
    hub = getattr(timm.get_pretrained_cfg(architecture), "hf_hub_id", None) if known else None
    if not hub:
        return None
    open_clip = import_open_clip()
    found = [
        f"{name}:{tag}"
        for name, tag in open_clip.list_pretrained()
        if (open_clip.get_pretrained_cfg(name, tag).get("hf_hub") or "").rstrip("/") == hub
    ]
    return min(found, key=lambda name: ("quickgelu" not in name, len(name)), default=None)


def _create(open_clip: Any, clip: str, tokenizer: Tokenizer | None) -> tuple[Any, Tokenizer]:
    model = create_clip(open_clip, clip)
    try:
        return model, tokenizer or open_clip.get_tokenizer(split_name(clip)[0])
    except Exception as error:
        raise ModelError(f"open_clip could not make the tokenizer of {clip!r}: {error}. Pass tokenizer=.") from error


def _own_tokenizer(open_clip: Any, model: Any) -> Tokenizer:
    if getattr(model, "vocab_size", None) != _CLIP_WORDS:
        raise ModelError(
            f"it is not clear which tokenizer belongs to a {type(model).__name__} with "
            f"{getattr(model, 'vocab_size', 'an unknown number of')} words: pass "
            f"tokenizer=open_clip.get_tokenizer(name)."
        )
    return open_clip.SimpleTokenizer(context_length=model.context_length)


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


def _is_hf_clip(clip: Any) -> bool:
    """Whether this is transformers' `CLIPModel`, or a folder of one."""
    if isinstance(clip, nn.Module):
        return any(base.__name__ == "CLIPModel" for base in type(clip).__mro__)
    return isinstance(clip, str | Path) and read_config(Path(clip).expanduser()).get("model_type") == "clip"


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
