"""Tasks that ask what tells one class from another, made from a model, data and two classes.

One contrast under several partners: tasks with the same clean images, so that only what the partner is differs.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ...models.data import ImageData, Split, load_data, read_images
from ...models.errors import TaskError
from ...models.given_data import given_source, is_data_set
from ...models.hooked import HookedViT
from ...models.planted.vit import planted_images
from ...models.toys.registry import trained_on
from ...models.watching import progress_bar
from ..ablation import Ablation, as_ablation
from ..partners.masks import Masks
from ..partners.partner import Partner, as_masks, as_partner
from .classes import ClassSet, ClassSpec, image_labels, parse_classes
from .crossing import MOST_OTHERS, Crossing
from .metrics import Metric, MetricKind
from .pair_maker import PairMaker, foil_word, valid_pairs
from .redraw import met_again
from .task import Pairs, Task, objects_digest

Sides = Literal["both", "one"]

MOST_REFERENCE = 256  # images that means and noise are taken over, equally many of each class
MOST_FOLDERS = 32  # classes of a folder or a data set that are read beside target and foil
MOST_DECODED = 512  # images of each class that are decoded of a data set


def class_contrast(
    vit: HookedViT,
    data: Any,
    *,
    target: ClassSpec,
    foil: ClassSpec,
    metric: MetricKind | str = "logit_difference",
    corruption: Partner | str = "class_swap",
    ablation: Ablation | str = "partner",
    sides: Sides | str = "both",
    n_discovery: int | None = None,
    n_evaluation: int | None = None,
    n_partners: int = 2,
    reference: Float[Tensor, "image channel height width"] | None = None,
    masks: Any = None,
    data_dir: str | Path | None = None,
    seed: int = 0,
) -> Task:
    """A task that asks what tells one class from another.

    Clean images show both, equally many, and each meets partners of both (`design.py`); discovery takes those that the
    model gets right. Under `sides="one"`, the field's way, clean images show the target and partners the foil, each of
    which lowers the metric. `task.info["dropped"]` counts what was left out.

    Args:
        vit: The opened model.
        data: `digits`, `mnist`, a folder of class folders, tensors, or a PyTorch or Hugging Face data set (see
            `load_data`), of which at most 512 images of target and foil each are decoded; `planted` for a planted
            model's own images; or what `load_data` gave.
        target, foil: A class each, several, or text such as "cats=281-285" (images from the folder `cats`).
        metric: `logit_difference`, `logit`, `probability`, `kl` or `accuracy`.
        corruption: `class_swap` (partner: an image of a class of the two), `another` (any image), `nearest` (the most
            similar image of each class), `mean`, `noise`, `blur`, `patch_shuffle`, `word`, or a `Partner` with options,
            such as `Partner("object_fill", mask="attention")`.
        ablation: What a removed edge carries.
        sides: `both`, or `one`.
        n_discovery: Clean images of each class at most, of the training split (48); of a one-sided task pairs (64).
        n_evaluation: Of the test split (64); of a one-sided task pairs (100).
        n_partners: Partners of each class that a clean image meets in evaluation; in discovery one.
        reference: Images for means and noise; by default up to 256 training images, equally many of all classes.
        masks: Where objects are, for `tokens="mask"` (see `as_masks`); by default the partners' own.
        data_dir: Where MNIST's files lie.
        seed: Draws the images, their partners, and corruptions with chance in them.

    Raises:
        TaskError: The classes overlap or don't exist, a choice is not known, or too few images are left.
        DataError: The data cannot be found or read, or doesn't fit the model.
    """
    _require_known(sides)
    classes = (parse_classes(target, vit, data=data), parse_classes(foil, vit, what="foil", data=data))
    judged, (partner, objects) = Metric(metric, classes[0].indices, classes[1].indices), _partner(corruption, masks)
    with progress_bar("drawing images", None):
        loaded = load_images(vit, data, classes, [partner], data_dir=data_dir, seed=seed)
        vit.check_images(loaded.train.images[:1])
        reference = vit.check_images(reference_images(loaded.train, seed) if reference is None else reference)
        info = {**_described(vit, loaded, classes, metric), "sides": sides, "n_reference": len(reference), "seed": seed}
        contrast = _Contrast(vit, loaded, classes, partner, judged, as_ablation(ablation), info, reference, objects)
        if sides == "both":
            return contrast.crossed(n_discovery or 48, n_evaluation or 64, n_partners)
        return contrast.one_sided(n_discovery or 64, n_evaluation or 100)


def _partner(corruption: Partner | str, masks: Any) -> tuple[Partner, Masks | None]:
    """Who is met, and where objects are."""
    partner = as_partner(corruption)
    if masks is None:
        return partner, partner.masks
    if partner.masks is not None:
        raise TaskError(
            f"{partner.kind} has masks already, and objects are taken from them: pass them once, as "
            f"corruption=Partner({partner.kind!r}, mask=...), and leave masks= out."
        )
    return partner, as_masks(masks)


def _require_known(sides: str) -> None:
    if sides not in ("both", "one"):
        raise TaskError(f'sides={sides!r} is not known: pass "both" or "one".')


def _described(vit: HookedViT, data: ImageData, classes: tuple[ClassSet, ClassSet], metric: str) -> dict[str, Any]:
    """Model, data and classes in plain values."""
    target, foil = classes
    return {
        "model": vit.cfg.name,
        **({"readout": dict(vit.readout.info)} if "sha256" in vit.readout.info else {}),
        "metric": metric,
        "target": list(target.indices),
        "foil": list(foil.indices),
        "target_name": target.name,
        "foil_name": foil.name,
        "data": data.name,
        "data_digest": data.digest,
        "weights": vit.digest(),
        **({"trained_on": trained} if (trained := trained_on(vit.cfg.name)) else {}),
    }


@dataclass(frozen=True, eq=False)
class _Contrast:
    """What tasks of both kinds are made from."""

    vit: HookedViT
    data: ImageData
    classes: tuple[ClassSet, ClassSet]
    partner: Partner
    metric: Metric
    ablation: Ablation
    info: Mapping[str, Any]
    reference: Tensor
    objects: Masks | None

    def crossed(self, n_discovery: int, n_evaluation: int, n_partners: int) -> Task:
        """Clean images and partners of both classes."""
        data, crossing = self.data, Crossing(*self._drawn_from)
        first = crossing.pairs(data.train, n_discovery, stream=1, n_partners=1, mistakes=False)
        second = crossing.pairs(data.test, n_evaluation, stream=2, n_partners=n_partners, mistakes=True)
        drawn = {"discovery": first, "evaluation": second}
        left_out = {
            "n_partners": n_partners,
            "images": {name: dict(one.images) for name, one in drawn.items()},
            "dropped": {name: one.dropped for name, one in drawn.items()},
        }
        others = crossing.others(data.test, second, n_partners=1)
        return self._task(first.pairs, second.pairs, left_out, [one.mask_digest for one in drawn.values()], others)

    def one_sided(self, n_discovery: int, n_evaluation: int) -> Task:
        """Clean images of the target, each with one partner that lowers the metric."""
        maker = PairMaker(*self._drawn_from)
        sizes = {"discovery": (self.data.train, n_discovery, 1), "evaluation": (self.data.test, n_evaluation, 2)}
        drawn = {name: maker.pairs(split, n, stream=stream) for name, (split, n, stream) in sizes.items()}
        kept = {name: valid_pairs(self.vit, self.metric, one, name) for name, one in drawn.items()}
        left_out = {"dropped": {name: counts for name, (_, counts) in kept.items()}}
        digests = [one.mask_digest for one in drawn.values()]
        return self._task(kept["discovery"][0], kept["evaluation"][0], left_out, digests)

    @property
    def _drawn_from(self) -> tuple[Any, ...]:
        return self.vit, self.data, self.classes, self.partner, self.info["seed"], self.objects

    def _task(
        self,
        discovery: Pairs,
        evaluation: Pairs,
        left_out: Mapping[str, Any],
        digests: Sequence[str],
        others: Pairs | None = None,
    ) -> Task:
        info = {
            **self.info,
            **self.partner.as_dict(foil_word(self.vit, self.classes[1])),
            "n_discovery": len(discovery),
            "n_evaluation": len(evaluation),
            **left_out,
        }
        if self.objects is not None:
            info |= self.objects.as_dict()
            digests = digests if self.partner.masks else [objects_digest(pairs) for pairs in (discovery, evaluation)]
            info["mask_digest"] = hashlib.sha256("".join(digests).encode()).hexdigest()
        return Task(self.vit, self.metric, discovery, evaluation, self.ablation, info, self.reference, others)


def reference_images(split: Split, seed: int) -> Float[Tensor, "image channel height width"]:
    """Images of a split, equally many of each of its classes where there are enough, at most MOST_REFERENCE."""
    generator = torch.Generator().manual_seed(seed * 10 + 4)
    labels = split.labels.unique().tolist()
    each = max(1, MOST_REFERENCE // len(labels))
    each = min(each, *(int((split.labels == label).sum()) for label in labels))
    rows = []
    for label in labels:
        own = torch.nonzero(split.labels == label).flatten()
        rows.append(own[torch.randperm(len(own), generator=generator, device="cpu")[:each]])
    return split.images[torch.cat(rows)[:MOST_REFERENCE]]


def load_images(
    vit: HookedViT,
    data: Any,
    classes: tuple[ClassSet, ClassSet],
    partners: Sequence[Partner],
    *,
    data_dir: str | Path | None,
    seed: int,
) -> ImageData:
    """The images that a contrast with these partners draws on: of a folder all of target and foil, some of the rest.

    Of a data set at most MOST_DECODED of a class are decoded.
    """
    if isinstance(data, ImageData):
        return data
    if isinstance(data, str) and data == "planted":
        return planted_images(vit, seed=seed)
    folders, most = [chosen.folder for chosen in classes], None
    load = partial(load_data, data, vit.preprocess, data_dir=data_dir, seed=seed)
    if is_data_set(data):
        source, most = given_source(data, vit.preprocess, seed=seed), MOST_DECODED
        load = partial(read_images, source)
        labels = {label for chosen in classes for label in image_labels(chosen, source, vit)}
        folders = [source.class_names[label] for label in sorted(labels) if label < len(source.class_names)]
    if not folders or not all(folders) or any(partner.kind == "another" for partner in partners):
        return load(limit=most)
    own = load(classes=folders, limit=most)
    rest = [name for name in own.class_names if name not in folders]
    if not rest:
        return own
    rest = rest[:: -(-len(rest) // MOST_FOLDERS)]
    return _together(own, load(classes=rest, limit=max(1, MOST_OTHERS // len(rest))))


def _together(first: ImageData, second: ImageData) -> ImageData:
    """The images of two parts of one data set."""
    train, test = (
        Split(torch.cat([a.images, b.images]), torch.cat([a.labels, b.labels]), (*a.names, *b.names))
        for a, b in ((first.train, second.train), (first.test, second.test))
    )
    digest = hashlib.sha256((first.digest + second.digest).encode()).hexdigest()
    dropped = first.n_duplicates_dropped + second.n_duplicates_dropped
    return dataclasses.replace(first, train=train, test=test, digest=digest, n_duplicates_dropped=dropped)


Partners = Sequence[Partner | str] | Mapping[str, Partner | str]


def partner_contrasts(
    vit: HookedViT,
    data: Any,
    *,
    target: ClassSpec,
    foil: ClassSpec,
    partners: Partners,
    metric: MetricKind | str = "logit_difference",
    sides: Sides | str = "both",
    n_discovery: int | None = None,
    n_evaluation: int | None = None,
    n_partners: int = 2,
    masks: Any = None,
    data_dir: str | Path | None = None,
    seed: int = 0,
) -> dict[str, Task]:
    """A `class_contrast` for each kind of partner, all with the same clean images in the same order.

    A clean image stays only if it is there under every partner: of a crossed task, if it has a usable mask under all
    that take one; of a one-sided one, if its pair is valid under all, so that a partner that seldom lowers the metric
    costs all others their pairs. `task.info["dropped"]` has beside each partner's own counts `other_partners`: clean
    images that are there under this partner and not under another. Where masks are given, clean images are those that
    have one under every partner. Partners that are clean images themselves are met anew among those that stay.

    Args:
        vit: The opened model.
        data: As `class_contrast` takes it; read once.
        target: What clean images show.
        foil: What it is told from.
        partners: Kinds or `Partner`s, or name -> either; names are the kinds where none are given.
        metric: As `class_contrast` takes it.
        sides: `both` or `one`; `nearest` partners need both.
        n_discovery: As `class_contrast` takes it, before anything is checked.
        n_evaluation: Likewise.
        n_partners: Likewise.
        masks: Likewise, for the partners that bring none.
        data_dir: Where MNIST's files lie.
        seed: Draws images and chance.

    Raises:
        TaskError: Names occur twice, or no pair is valid under all partners.
        DataError: The data cannot be found or read, or doesn't fit the model.
    """
    named = name_partners(partners)
    classes = (parse_classes(target, vit, data=data), parse_classes(foil, vit, what="foil", data=data))
    loaded = load_images(vit, data, classes, list(named.values()), data_dir=data_dir, seed=seed)
    objects = {name: _partner(partner, None if partner.masks else masks)[1] for name, partner in named.items()}
    for shown in classes if sides == "both" else classes[:1]:
        loaded = _with_masks(loaded, image_labels(shown, loaded, vit), [one for one in objects.values() if one])
    sizes: dict[str, Any] = {"n_discovery": n_discovery, "n_evaluation": n_evaluation, "n_partners": n_partners}
    how: dict[str, Any] = {"target": target, "foil": foil, "metric": metric, "sides": sides, "seed": seed, **sizes}
    tasks = {
        name: class_contrast(vit, loaded, corruption=one, masks=None if one.masks else objects[name], **how)
        for name, one in named.items()
    }
    kept = {split: _common(tasks, split) for split in ("discovery", "evaluation")}
    return {name: _restricted(task, kept) for name, task in tasks.items()}


def name_partners(partners: Partners) -> dict[str, Partner]:
    """Partners by name: their own, or their kinds, numbered where a kind comes twice.

    Raises:
        TaskError: There is none.
    """
    if isinstance(partners, Mapping):
        named = {name: as_partner(partner) for name, partner in partners.items()}
    else:
        every = [as_partner(partner) for partner in partners]
        kinds = [partner.kind for partner in every]
        names = [
            kind if kinds.count(kind) == 1 else f"{kind}-{1 + kinds[:place].count(kind)}"
            for place, kind in enumerate(kinds)
        ]
        named = dict(zip(names, every, strict=True))
    if not named:
        raise TaskError('there are no partners to compare: pass some, such as partners=("class_swap", "blur").')
    return named


def _with_masks(data: ImageData, labels: tuple[int, ...], masks: Sequence[Masks]) -> ImageData:
    """The data without images of these labels that lack some mask; with all where that leaves none."""

    def restricted(split: Split) -> Split:
        own = torch.isin(split.labels, torch.tensor(labels, device="cpu"))
        having = torch.tensor([all(mask.has(name, data) for mask in masks) for name in split.names], device="cpu")
        rows = torch.nonzero(having | ~own).flatten()
        names = tuple(split.names[row] for row in rows.tolist())
        return Split(split.images[rows], split.labels[rows], names) if bool((having & own).any()) else split

    if not masks or not data.train.names:
        return data
    return dataclasses.replace(data, train=restricted(data.train), test=restricted(data.test))


def image_key(image: Tensor) -> bytes:
    """What tells an image from others: its pixels."""
    return image.cpu().numpy().tobytes()


def _common(tasks: Mapping[str, Task], split: str) -> set[bytes]:
    """The clean images that are valid under every partner."""
    found = {name: {image_key(image) for image in getattr(task, split).clean} for name, task in tasks.items()}
    common = set.intersection(*found.values())
    if not common:
        counts = ", ".join(f"{name}: {len(some)}" for name, some in found.items())
        raise TaskError(
            f"no {split} pair is valid under all partners (valid under each: {counts}): pass more pairs, or leave out "
            f"the partner with the fewest."
        )
    return common


def _restricted(task: Task, kept: Mapping[str, set[bytes]]) -> Task:
    pairs: dict[str, Pairs] = {}
    dropped, images = {}, {}
    for split, common in kept.items():
        own: Pairs = getattr(task, split)
        rows = [row for row, image in enumerate(own.clean) if image_key(image) in common]
        pairs[split] = some = own if len(rows) == len(own) else met_again(own.select(rows))
        _require_sides(own, some, split)
        lost = own.n_images - some.n_images
        dropped[split] = {**task.info["dropped"][split], "other_partners": lost}
        if some.design is not None:
            images[split] = {**task.info["images"][split], **some.design.counts}
    info = {**task.info, **{f"n_{split}": len(some) for split, some in pairs.items()}, "dropped": dropped}
    return dataclasses.replace(task, **pairs, info=info | ({"images": images} if images else {}))


def _require_sides(before: Pairs, after: Pairs, split: str) -> None:
    if before.design is not None and after.design is not None and before.design.sides != after.design.sides:
        raise TaskError(
            f"no {split} image of one of the two classes is there under all partners: pass more images, or leave out "
            f"the partner with the fewest masks."
        )
