"""open_clip's text towers: prompts -> unit vectors, the scale of the cosine, and which tower belongs to a timm model.

Needs the extra `clip` (open_clip_torch). A tower is given as an open_clip model, or as text: `ViT-B-16:openai` (a name
and a tag of open_clip's), `hf-hub:org/repo`, `local-dir:/path`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .errors import ModelError

Tokenizer = Callable[[list[str]], Tensor]

_SCHEMES = ("hf-hub:", "local-dir:")
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
        with torch.no_grad(), _evaluating(self.model):
            for start in range(0, len(texts), _BATCH):
                tokens: Int[Tensor, "text position"] = self.tokenizer(list(texts[start : start + _BATCH]))
                found.append(self.model.encode_text(tokens.to(device)).float().cpu())
        return nn.functional.normalize(torch.cat(found), dim=-1)


def open_text_tower(clip: nn.Module | str, tokenizer: Tokenizer | None = None) -> TextTower:
    """The text tower of an open_clip model.

    Args:
        clip: The model, or text: `ViT-B-16:openai`, `hf-hub:org/repo`, `local-dir:/path`.
        tokenizer: Texts -> tokens; by default the one that open_clip has for the name, or CLIP's own for a model.

    Raises:
        ModelError: open_clip is not installed, the name or the tag is not known, the weights cannot be had, or it is
            not clear which tokenizer belongs to a model.
    """
    open_clip = _import_open_clip()
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
    open_clip = _import_open_clip()
    found = [
        f"{name}:{tag}"
        for name, tag in open_clip.list_pretrained()
        if (open_clip.get_pretrained_cfg(name, tag).get("hf_hub") or "").rstrip("/") == hub
    ]
    return min(found, key=lambda name: ("quickgelu" not in name, len(name)), default=None)


def _import_open_clip() -> Any:
    try:
        import open_clip
    except ImportError as error:
        raise ModelError(
            "prompts are encoded by open_clip, which is not installed: pip install 'vitcircuits[clip]'. Or pass a file "
            "of class embeddings that was made elsewhere (see save_class_embeddings)."
        ) from error
    return open_clip


def _create(open_clip: Any, clip: str, tokenizer: Tokenizer | None) -> tuple[Any, Tokenizer]:
    name, tag = (clip, "") if clip.startswith(_SCHEMES) else clip.split(":", 1) if ":" in clip else (clip, "")
    options = {} if clip.startswith(_SCHEMES) else _checked(open_clip, name, tag)
    try:
        model = open_clip.create_model(name, require_pretrained=True, **options)
        return model, tokenizer or open_clip.get_tokenizer(name)
    except Exception as error:
        raise ModelError(
            f"open_clip could not make {clip!r}: {error}. Its weights need the network or the cache of Hugging Face; a "
            f"folder at hand is passed as local-dir:/path."
        ) from error


def _checked(open_clip: Any, name: str, tag: str) -> dict[str, Any]:
    """What `create_model` is to be told: the tag, and QuickGELU where the weights were trained with it."""
    known = open_clip.list_models()
    if name not in known:
        near = difflib.get_close_matches(name, known, 4, 0.3)
        raise ModelError(f"open_clip has no model {name!r}. The nearest names are {', '.join(near)}.")
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag not in tags:
        raise ModelError(
            f"the text tower {name!r} needs the tag of its weights, but got {tag!r}: pass one of "
            f"{', '.join(f'{name}:{known}' for known in tags) or 'another name, for which there are weights'}."
        )
    quick = bool(open_clip.get_pretrained_cfg(name, tag).get("quick_gelu", False))
    return {"pretrained": tag, **({"force_quick_gelu": True} if quick else {})}


def _own_tokenizer(open_clip: Any, model: Any) -> Tokenizer:
    if getattr(model, "vocab_size", None) != _CLIP_WORDS:
        raise ModelError(
            f"it is not clear which tokenizer belongs to a {type(model).__name__} with "
            f"{getattr(model, 'vocab_size', 'an unknown number of')} words: pass "
            f"tokenizer=open_clip.get_tokenizer(name)."
        )
    return open_clip.SimpleTokenizer(context_length=model.context_length)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, put back afterwards."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True
