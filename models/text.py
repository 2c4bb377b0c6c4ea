"""Text directions as a readout: a CLIP image tower read out along the embeddings of prompts.

Several texts for one class (templates) are averaged as CLIP's zero-shot classifier does: each embedding divided by
its length, their mean, divided by its length again (Radford et al. 2021, section 3.1.4).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .errors import ModelError
from .external import Tokenizer
from .hooked import HookedViT
from .readouts import TextHead
from .text_tower import TextTower, open_text_tower, tower_of

DEFAULT_TEMPLATE = "a photo of a {}."
TEMPLATE_SETS = {"openai": "OPENAI_IMAGENET_TEMPLATES", "simple": "SIMPLE_IMAGENET_TEMPLATES"}
"""open_clip's own sets by name: 80 templates, and the 7 of them that were chosen afterwards."""

Prompts = Sequence[str] | Mapping[str, str | Sequence[str]]


def text_readout(
    vit: HookedViT,
    prompts: Prompts,
    *,
    clip: nn.Module | str | None = None,
    templates: str | Sequence[str] = DEFAULT_TEMPLATE,
    tokenizer: Tokenizer | None = None,
    project: nn.Module | None = None,
) -> HookedViT:
    """The same ViT, with one logit per prompt: scale * cos(image, text), CLIP's zero-shot classifier.

    Image and text tower must have been trained together, which only the dimensions of their space can be checked for.

    Args:
        vit: An image tower whose head is the projection into the space of the texts (timm's `*_clip_*` models, and
            those of open_clip and transformers).
        prompts: Class names, which are put into the templates; or class name -> its text, or texts, as they stand.
        clip: An open_clip model or transformers' `CLIPModel`, or text such as `ViT-B-16:openai`, `hf-hub:org/repo`,
            `local-dir:/path` or a folder of a `CLIPModel`. By default the text tower of the model that the ViT is the
            image tower of, or the one that belongs to its timm name, where open_clip has it.
        templates: One or several texts with `{}` where the class name goes, or a set by name: `openai` (80) or
            `simple` (7).
        tokenizer: Texts -> tokens, where it is not the tower's usual one.
        project: The projection, where it is not the ViT's own head.

    Raises:
        ModelError: There are no prompts, a template lacks `{}`, open_clip is not installed, the tower cannot be had,
            or its space has another number of dimensions than the image tower's.
    """
    texts = class_texts(prompts, templates)
    tower = _tower(vit, clip, tokenizer)
    embeddings = class_directions(tower, list(texts.values())).to(device=vit.device, dtype=vit.dtype)
    own = project if project is not None else vit.own_readout.head
    head = TextHead(own, embeddings, scale=tower.scale, bias=tower.bias)
    spoken: dict[str, Any] = (
        {"prompts": {name: list(some) for name, some in texts.items()}}
        if isinstance(prompts, Mapping)
        else {"templates": list(template_texts(templates))}
    )
    info = {"kind": "text", "text_tower": tower.name, **spoken, "scale": tower.scale, "bias": tower.bias}
    return vit.with_readout(head, tuple(texts), info=info)


def class_texts(prompts: Prompts, templates: str | Sequence[str] = DEFAULT_TEMPLATE) -> dict[str, tuple[str, ...]]:
    """The texts of each class.

    Raises:
        ModelError: There are no prompts, a class comes twice or has no text, or a template lacks `{}`.
    """
    if isinstance(prompts, str) or not len(prompts):
        raise ModelError(
            f"prompts={prompts!r} names no classes: pass names such as ['cat', 'dog'], or a dictionary of texts such "
            f"as {{'cat': 'a photo of a cat', 'dog': 'a photo of a dog'}}."
        )
    if isinstance(prompts, Mapping):
        texts = {name: (some,) if isinstance(some, str) else tuple(some) for name, some in prompts.items()}
    else:
        forms = template_texts(templates)
        texts = {name: tuple(form.replace("{}", name) for form in forms) for name in prompts}
        if len(texts) < len(prompts):
            raise ModelError(f"a class comes twice in {list(prompts)}: name each once.")
    if empty := [name for name, some in texts.items() if not some or not all(text.strip() for text in some)]:
        raise ModelError(f"the class {empty[0]!r} has no text: pass at least one.")
    return texts


def template_texts(templates: str | Sequence[str]) -> tuple[str, ...]:
    """Templates as texts with `{}` in them.

    Raises:
        ModelError: There is none, or one lacks `{}`.
    """
    if isinstance(templates, str) and templates in TEMPLATE_SETS:
        import open_clip

        return tuple(form("{}") for form in getattr(open_clip, TEMPLATE_SETS[templates]))
    forms = (templates,) if isinstance(templates, str) else tuple(templates)
    if not forms or not all("{}" in form for form in forms):
        raise ModelError(
            f"templates={templates!r}: each needs {{}} where the class name goes, such as {DEFAULT_TEMPLATE!r}; or "
            f"pass one of the sets {', '.join(map(repr, TEMPLATE_SETS))}."
        )
    return forms


def class_directions(tower: TextTower, texts: Sequence[Sequence[str]]) -> Float[Tensor, "class dim"]:
    """A unit vector per class: the mean of its texts' unit vectors, divided by its length."""
    counts = [len(some) for some in texts]
    each = tower.encode([text for some in texts for text in some])
    means = torch.stack([part.mean(0) for part in each.split(counts)])
    return nn.functional.normalize(means, dim=-1)


def _tower(vit: HookedViT, clip: nn.Module | str | None, tokenizer: Tokenizer | None) -> TextTower:
    """The tower that is asked for; by default the ViT's own, or the one that belongs to its timm name."""
    if clip is None and vit.text_tower is not None:
        return dataclasses.replace(vit.text_tower, tokenizer=tokenizer or vit.text_tower.tokenizer)
    if clip is None and hasattr(vit.module, "logit_scale"):
        return open_text_tower(vit.module, tokenizer)
    return open_text_tower(_tower_name(vit) if clip is None else clip, tokenizer)


def _tower_name(vit: HookedViT) -> str:
    found = tower_of(vit.cfg.name)
    if found is None:
        raise ModelError(
            f"it is not known which text tower belongs to {vit.cfg.name}: pass clip=, an open_clip model or a name and "
            f'a tag, such as clip="ViT-B-32:laion2b_s34b_b79k".'
        )
    return found
