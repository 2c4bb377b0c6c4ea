"""Probes: a readout for a model that has none (DINO, DINOv2, MAE), made from images and labels in closed form.

- Class means: the nearest mean, as a linear map. With mu_c the mean of class c,
  -|x - mu_c|^2 / 2 = x . mu_c - |mu_c|^2 / 2 - |x|^2 / 2, whose last term is the same for every class and left out.
- Ridge: W, b minimise sum |W x + b - one-hot label|^2 + penalty |W|^2 (b is free). The penalty is given, or chosen
  among 17 by the error on each image when it is left out, which has a closed form: residual / (1 - leverage).

x is what a head would be given: after the final norm, pooled. Everything is computed in float64 on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .errors import DataError, ModelError
from .hooked import HookedViT
from .readouts import Pool

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
    names = _checked(images, labels, classes)
    features = _features(vit, images, pool, batch_size)
    labels = labels.cpu()
    if kind == "means":
        (weight, bias), facts = class_means(features, labels, len(names)), {}
    else:
        weight, bias, found = ridge(features, labels, len(names), penalty)
        facts = {"penalty": found, "penalty_by": "leave-one-out error" if penalty is None else "given"}
    right = (features @ weight.T + bias).argmax(-1) == labels
    head = nn.Linear(weight.shape[1], weight.shape[0], dtype=torch.float64).requires_grad_(False)
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


def _features(vit: HookedViT, images: Tensor, pool: Pool | str, batch_size: int) -> Float[Tensor, "image model"]:
    bare = vit.with_readout(nn.Identity(), pool=pool)
    with torch.no_grad():
        return torch.cat([bare(batch).double().cpu() for batch in images.split(batch_size)])


def _checked(images: Tensor, labels: Tensor, classes: Sequence[str] | None) -> tuple[str, ...]:
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
