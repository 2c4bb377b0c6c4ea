"""open_clip's text towers: prompts -> unit vectors, the scale of the cosine, and which tower belongs to a timm model.

Needs the extra `clip` (open_clip_torch). A tower is given as an open_clip model, or as text: `ViT-B-16:openai` (a name
and a tag of open_clip's), `hf-hub:org/repo`, `local-dir:/path`.
"""

from __future__ import annotations

import difflib
from typing import Any, cast

from torch import nn

from .errors import ModelError
from .hf_text import is_hf_clip, open_hf_text_tower
from .text_tower import TextTower, Tokenizer

_SCHEMES = ("hf-hub:", "local-dir:")
_CLIP_WORDS = 49408  # size of the vocabulary that open_clip ships with


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
    if is_hf_clip(clip):
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


def import_open_clip() -> Any:
    """open_clip.

    Raises:
        ModelError: It is not installed.
    """
    try:
        import open_clip
    except ImportError as error:
        raise ModelError(
            "prompts are encoded by open_clip, which is not installed: pip install 'vitcircuits[clip]'. Or pass a file "
            "of class embeddings that was made elsewhere (see save_class_embeddings)."
        ) from error
    return open_clip


def _create(open_clip: Any, clip: str, tokenizer: Tokenizer | None) -> tuple[Any, Tokenizer]:
    model = create_clip(open_clip, clip)
    try:
        return model, tokenizer or open_clip.get_tokenizer(split_name(clip)[0])
    except Exception as error:
        raise ModelError(f"open_clip could not make the tokenizer of {clip!r}: {error}. Pass tokenizer=.") from error


def split_name(clip: str) -> tuple[str, str]:
    """A name of open_clip's and the tag of its weights; no tag for a folder or a repository."""
    if clip.startswith(_SCHEMES):
        return clip, ""
    name, _, tag = clip.partition(":")
    return name, tag


def create_clip(
    open_clip: Any, clip: str, *, pretrained: bool = True, checkpoint: str | None = None, **options: Any
) -> Any:
    """An open_clip model.

    Args:
        open_clip: The library.
        clip: `ViT-B-16:openai`, `hf-hub:org/repo`, `local-dir:/path`.
        pretrained: Load weights; False for random ones.
        checkpoint: A file of weights, in place of a tag.
        options: Passed to `open_clip.create_model`.

    Raises:
        ModelError: The name or the tag is not known, or the weights cannot be had.
    """
    name, tag = split_name(clip)
    if not pretrained:
        options = {"load_weights": False, "pretrained_text": False, **options}
    elif checkpoint is not None:
        options = {"pretrained": checkpoint, **options}
    elif not clip.startswith(_SCHEMES):
        options = {"require_pretrained": True, **_checked(open_clip, name, tag), **options}
    else:
        options = {"require_pretrained": True, **options}
    try:
        return open_clip.create_model(name, **options)
    except Exception as error:
        hint = (
            " Its weights need the network or the cache of Hugging Face; a folder at hand is passed as local-dir:/path."
        )
        raise ModelError(f"open_clip could not make {clip!r}: {error}.{hint if pretrained else ''}") from error


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
