"""Readouts made for a model: directions of texts for a CLIP image tower, and linear heads fitted to images with labels.

Texts: the image tower is read out along the embeddings of prompts. Several texts for one class (templates) are averaged
as CLIP's zero-shot classifier does: each embedding divided by its length, their mean, divided by its length again
(Radford et al. 2021, section 3.1.4).

Probes, for a model without a head (DINO, DINOv2, MAE), in closed form:

- Class means: the nearest mean, as a linear map. With mu_c the mean of class c,
  -|x - mu_c|^2 / 2 = x . mu_c - |mu_c|^2 / 2 - |x|^2 / 2, whose last term is the same for every class and left out.
- Ridge: W, b minimise sum |W x + b - one-hot label|^2 + penalty |W|^2 (b is free). The penalty is given, or chosen
  among 17 by the error on each image when it is left out, which has a closed form: residual / (1 - leverage).

x is what a head would be given: after the final norm, pooled. Everything is computed in float64 on the CPU.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .errors import DataError, ModelError
from .external import Tokenizer
from .hooked import HookedViT
from .readouts import Pool, TextHead
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
    tower = _chosen_tower(vit, clip, tokenizer)
    embeddings = class_directions(tower, list(texts.values())).to(device=vit.device, dtype=vit.sum_dtype)
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


def _chosen_tower(vit: HookedViT, clip: nn.Module | str | None, tokenizer: Tokenizer | None) -> TextTower:
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
            f"it is not known which text tower belongs to {vit.cfg.name}, so prompts cannot be read: pass clip=, an "
            f'open_clip model or a name and a tag, such as clip="ViT-B-32:laion2b_s34b_b79k".'
        )
    return found


ProbeKind = Literal["means", "ridge"]

_PENALTIES = tuple(10 ** (step / 2) for step in range(-12, 5))  # times the mean eigenvalue of the features' covariance


def probe_readout(
    vit: HookedViT,
    images: Float[Tensor, "image channel height width"],
    labels: Int[Tensor, " image"],
    *,
    kind: ProbeKind | str = "means",
    pool: Pool | str = "own",
    classes: Sequence[str] | None = None,
    penalty: float | None = None,
    batch_size: int = 64,
    source: str | None = None,
) -> HookedViT:
    """The same ViT, with a linear head fitted to images and labels.

    Args:
        vit: The ViT; whatever readout it has is set aside.
        images: Preprocessed images, of the data's training split.
        labels: Indices of their classes.
        kind: `means` (nearest class mean) or `ridge` (least squares on one-hot labels).
        pool: What the head is given: `own` (what the model's own head gets), `cls`, or `patches` (their mean).
        classes: Names of the classes; their indices if not given.
        penalty: Of ridge; chosen by leave-one-out error where it is not given.
        batch_size: Images run at once.
        source: Where the images are from, for the record.

    Raises:
        DataError: Images and labels don't fit each other or the model, or a class has no image.
        ModelError: The kind is not known, the penalty is not above 0, or the model has no such tokens.
    """
    if kind not in get_args(ProbeKind):
        raise ModelError(f"a probe of kind {kind!r} is not known: pass kind='means' or kind='ridge'.")
    if penalty is not None and (kind != "ridge" or not penalty > 0):
        raise ModelError(f"penalty={penalty} with kind={kind!r}: kind='ridge' takes a penalty above 0, or None.")
    names = _class_names(images, labels, classes)
    features = _pooled_features(vit, images, pool, batch_size)
    labels = labels.cpu()
    if kind == "means":
        (weight, bias), facts = class_means(features, labels, len(names)), {}
    else:
        weight, bias, found = ridge(features, labels, len(names), penalty)
        facts = {"penalty": found, "penalty_by": "leave-one-out error" if penalty is None else "given"}
    right = (features @ weight.T + bias).argmax(-1) == labels
    head = nn.Linear(weight.shape[1], weight.shape[0], dtype=torch.float64, device="cpu").requires_grad_(False)
    head.load_state_dict({"weight": weight, "bias": bias})
    made = {"n_images": len(labels), "accuracy_when_fitted": float(right.double().mean()), "images": source}
    return vit.with_readout(head, names, pool=pool, info={"kind": kind, **facts, **made})


def class_means(
    features: Float[Tensor, "image model"], labels: Int[Tensor, " image"], n_classes: int
) -> tuple[Float[Tensor, "class model"], Float[Tensor, " class"]]:
    """Weight and bias of the nearest class mean."""
    one_hot = nn.functional.one_hot(labels, n_classes).to(features.dtype)
    means = (one_hot.T @ features) / one_hot.sum(0)[:, None]
    return means, -means.square().sum(-1) / 2


def ridge(
    features: Float[Tensor, "image model"], labels: Int[Tensor, " image"], n_classes: int, penalty: float | None = None
) -> tuple[Float[Tensor, "class model"], Float[Tensor, " class"], float]:
    """Weight and bias of the ridge regression on one-hot labels, and the penalty."""
    from sklearn.linear_model import Ridge, RidgeCV

    x, one_hot = features.numpy(), nn.functional.one_hot(labels, n_classes).double().numpy()
    if penalty is None:
        per_dimension = float(features.var(0, unbiased=False).mean()) * len(features)  # the mean eigenvalue
        fitted: Any = RidgeCV([max(part * per_dimension, 1e-300) for part in _PENALTIES]).fit(x, one_hot)
        penalty = float(fitted.alpha_)
    else:
        fitted = Ridge(penalty).fit(x, one_hot)
    return torch.from_numpy(fitted.coef_), torch.from_numpy(fitted.intercept_), penalty


def _pooled_features(vit: HookedViT, images: Tensor, pool: Pool | str, batch_size: int) -> Float[Tensor, "image model"]:
    bare = vit.with_readout(nn.Identity(), pool=pool)
    with torch.no_grad():
        return torch.cat([bare(batch).double().cpu() for batch in images.split(batch_size)])


def _class_names(images: Tensor, labels: Tensor, classes: Sequence[str] | None) -> tuple[str, ...]:
    if len(images) != len(labels) or len(labels) < 2:
        raise DataError(
            f"{len(images)} images but {len(labels)} labels: a probe needs two images at least, each with one."
        )
    found = sorted(set(labels.tolist()))
    names = tuple(map(str, range(found[-1] + 1))) if classes is None else tuple(classes)
    if found[0] < 0 or found[-1] >= len(names):
        raise DataError(
            f"labels go from {found[0]} to {found[-1]}, but there are {len(names)} classes: 0 is the first."
        )
    if len(names) < 2 or len(found) < len(names):
        lacking = [name for index, name in enumerate(names) if index not in found]
        raise DataError(
            f"a probe needs images of two classes at least, and of each: there are none of "
            f"{', '.join(map(repr, lacking[:5])) or 'a second class'}."
        )
    return names
