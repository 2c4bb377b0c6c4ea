"""Arrays taken from a model, so that what draws and what compares needs none: images, attention, effects of heads.

Models differ in tokens, so attention is laid on one grid: what each head's readers (the tokens that the readout looks
at, and apart from them the mean patch) give to CLS and registers together, and to each cell of a grid over the picture
(of videos: all frames together), the patches' attention being divided by area.

Direct effects are what a head's write adds to chosen logits with the final norm's standard deviation held at its value
(as in `algorithms/attribution/direct`), less their mean over these classes, which no softmax sees.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ..models.attention_layers import read_layers
from ..models.errors import ModelError, TaskError
from ..models.hooked import HookedViT
from .compare.matching import HeadFeatures
from .tasks.design import one_partner_each
from .tasks.metrics import Metric
from .tasks.task import Pairs, Task
from .words import shortened


@dataclass(frozen=True, eq=False)
class Exhibit:
    """A few pairs to look at.

    Args:
        clean: Clean images in [0, 1], shape (pair, height, width, channel), 1 or 3 channels.
        corrupt: Their corrupted partners, same shape.
        clean_logits: Logits of the clean images, shape (pair, class).
        corrupt_logits: Logits of the partners, shape (pair, class).
        class_names: One name per logit.
        grid: Patch rows and columns.
        n_prefix: Tokens in front of the patches.
        attention: Pattern of each head on the clean images from CLS (with a distillation token, averaged over both;
            without either, over all tokens; in attention pooling, from the pool) to every token, shape (pair, layer,
            head, token).
        frames: Frames of a video's tubelets; 1 for images.
        pictures: Number of a clean image in a report's table of images -> the image in [0, 1], shape (height, width,
            channel).
        patterns: Full patterns on the first clean images, shape (image, layer, head, target token, source token);
            None where those of one would fill too much memory.
        kinds: What else attention is told by (`attention.py`), `score` and `value_weighted` -> rows like those of
            `attention`.
        keys: `image_keys` of the clean images, by which other results find them.
    """

    clean: NDArray[np.float32]
    corrupt: NDArray[np.float32]
    clean_logits: NDArray[np.float32]
    corrupt_logits: NDArray[np.float32]
    class_names: tuple[str, ...]
    grid: tuple[int, int]
    n_prefix: int
    attention: NDArray[np.float32]
    frames: int = 1
    pictures: Mapping[int, NDArray[np.float32]] = field(default_factory=dict)
    patterns: NDArray[np.float16] | None = None
    kinds: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    keys: tuple[str, ...] = ()

    def on_patches(self, pair: int, layer: int, head: int) -> NDArray[np.float32]:
        """Attention of a head on each patch, of a video summed over frames, shape (row, column)."""
        rows, columns = self.grid
        patches = self.attention[pair, layer, head, self.n_prefix :][: self.frames * rows * columns]
        return patches.reshape(self.frames, rows, columns).sum(0)


@dataclass(frozen=True, eq=False)
class PartnerExhibit:
    """A few clean images beside the partners that different corruptions give them.

    Args:
        clean: Clean images in [0, 1], shape (image, height, width, channel), 1 or 3 channels.
        partners: Corruption -> the partners, same shape.
        changed: For corruptions that change the clean image at some places: pixels that differ, shape (image, height,
            width).
        tokens: Likewise -> patches that hold such a pixel, shape (image, row, column).
        captions: `clean` or corruption -> what the model says about each image.
    """

    clean: NDArray[np.float32]
    partners: Mapping[str, NDArray[np.float32]]
    changed: Mapping[str, NDArray[np.bool_]]
    tokens: Mapping[str, NDArray[np.bool_]]
    captions: Mapping[str, tuple[str, ...]]


def gather(
    task: Task,
    *,
    n: int | None = None,
    split: Literal["evaluation", "discovery"] = "evaluation",
    images: Sequence[int] = (),
    patterns: Literal["first", "all"] = "first",
) -> Exhibit:
    """Some pairs of a task, with logits and attention on the clean images.

    Of a crossed task one pair of each cell in turn, the mixed cells first, each with another clean image and those
    first that the model gets right; of a one-sided one the first pairs.

    Args:
        task: The task.
        n: At most so many pairs; by default one of each cell, and three of a one-sided task.
        split: Which pairs.
        images: Numbers of clean images of a crossed task whose pictures are wanted, too.
        patterns: Full patterns of the `first` clean image, or of `all` of them, as many as fit into 200 MB.

    Raises:
        TaskError: n is below 1, or the split or the choice of patterns is not known.
    """
    if (n is not None and n < 1) or split not in ("evaluation", "discovery") or patterns not in ("first", "all"):
        raise TaskError(
            f"gather(n={n}, split={split!r}, patterns={patterns!r}) is not possible: pass n of at least 1, "
            f'"evaluation" or "discovery", and "first" or "all".'
        )
    vit, cfg = task.vit, task.vit.cfg
    every: Pairs = getattr(task, split)
    pairs, wanted = every.select(_rows(every, n)), _rows_of(every, images)
    gathered: list[Tensor] = []
    full: list[Tensor] = []
    fitting = _MOST_WEIGHTS // (cfg.n_layers * cfg.n_heads * cfg.tokens.n_tokens**2)
    whole = min(fitting, len(pairs) if patterns == "all" else 1)

    def take(layer: int, pattern: Tensor) -> None:
        gathered.append(_gathered(vit, pattern, layer))
        full.append(pattern[:whole].half().cpu())

    with torch.no_grad():
        logits, kinds = read_layers(vit, pairs.clean, take), _kinds(vit, pairs.clean)
        corrupt_logits = vit(pairs.corrupt)
    clean, corrupt, alone = pixels(vit, pairs.clean, pairs.corrupt, every.clean[list(wanted.values())])
    return Exhibit(
        clean=clean,
        corrupt=corrupt,
        clean_logits=_array(logits),
        corrupt_logits=_array(corrupt_logits),
        class_names=tuple(vit.class_names),
        grid=cfg.tokens.grid,
        n_prefix=cfg.tokens.n_prefix,
        attention=_array(torch.stack(gathered, 1)),
        frames=cfg.tokens.frames,
        pictures=dict(zip(wanted, alone, strict=True)),
        patterns=torch.stack(full, 1).numpy() if whole else None,
        kinds=kinds,
        keys=image_keys(pairs.clean),
    )


def _kinds(vit: HookedViT, images: Tensor) -> dict[str, NDArray[np.float32]]:
    """What else than patterns is known of the model's attention, rows as in `Exhibit.attention`."""
    found = {}
    for kind in ("score", "value_weighted"):
        rows: list[Tensor] = []
        try:
            read_layers(vit, images, lambda layer, maps, rows=rows: rows.append(_gathered(vit, maps, layer)), kind=kind)
        except ModelError:  # of heads that are gated and share a norm
            continue
        found[kind] = _array(torch.stack(rows, 1))
    return found


def _rows(pairs: Pairs, n: int | None) -> list[int]:
    """The pairs to look at: one of each cell in turn, no clean image twice."""
    design = pairs.design
    if design is None:
        return list(range(min(3 if n is None else n, len(pairs))))
    right, images = design.right.tolist(), design.clean_image.tolist()
    cells = sorted(design.cells(), key=lambda cell: cell[0] in ("target_with_target", "foil_with_foil"))
    waiting = [sorted(np.flatnonzero(inside).tolist(), key=lambda row: not right[row]) for _, inside in cells]
    chosen: list[int] = []
    seen: set[int] = set()
    for turn in range(len(cells) if n is None else n):
        free = (row for row in waiting[turn % len(cells)] if images[row] not in seen)
        if (row := next(free, None)) is not None:
            chosen.append(row)
            seen.add(images[row])
    return chosen


def _rows_of(pairs: Pairs, images: Sequence[int]) -> dict[int, int]:
    """Number of a clean image -> its first pair, for those that stand in the pairs."""
    if pairs.design is None:
        return {}
    first: dict[int, int] = {}
    for row, image in enumerate(pairs.design.clean_image.tolist()):
        first.setdefault(image, row)
    return {image: first[image] for image in images if image in first}


def gather_partners(
    tasks: Mapping[str, Task], *, n: int = 4, split: Literal["evaluation", "discovery"] = "evaluation"
) -> PartnerExhibit:
    """Some clean images of several tasks, of crossed ones from both classes, each beside its partners and what changed.

    Of crossed tasks images of target and foil in turn, each beside its first partner of the other class.

    Args:
        tasks: Name of the corruption -> task; all with the same clean images, as `partner_contrasts` makes them.
        n: At most so many images.
        split: Which pairs.

    Raises:
        TaskError: n is below 1, there is no task, or the clean images differ.
    """
    if n < 1 or not tasks:
        raise TaskError(f"gather_partners({len(tasks)} tasks, n={n}) is not possible: pass a task and n of at least 1.")
    shown = {name: in_turn(getattr(task, split).opposed, n) for name, task in tasks.items()}
    first, vit = next(iter(shown.values())).clean, next(iter(tasks.values())).vit
    for name, pairs in shown.items():
        if not torch.equal(pairs.clean, first):
            raise TaskError(f"the clean images of {name!r} are others: make the tasks by partner_contrasts.")
    clean, *partners = pixels(vit, first, *(pairs.corrupt for pairs in shown.values()))
    aligned = {name: pairs for name, pairs in shown.items() if pairs.changed is not None}
    tokens = {name: pairs.changed for name, pairs in shown.items() if pairs.changed is not None}
    patches, grid = vit.cfg.tokens.patches, vit.cfg.tokens.grid
    metrics = {name: task.metric for name, task in tasks.items()}
    said = {name: _said(vit, pairs.corrupt, metrics[name], first) for name, pairs in shown.items()}
    return PartnerExhibit(
        clean=clean,
        partners=dict(zip(shown, partners, strict=True)),
        changed={name: (pairs.clean != pairs.corrupt).any(1).cpu().numpy() for name, pairs in aligned.items()},
        tokens={name: changed[:, patches].reshape(-1, *grid).numpy() for name, changed in tokens.items()},
        captions={"clean": _said(vit, first, next(iter(metrics.values())), first), **said},
    )


def in_turn(pairs: Pairs, n: int) -> Pairs:
    """The first pairs; of a crossed task the first of each clean image, target and foil in turn."""
    design = pairs.design
    if design is None:
        return pairs.select(slice(0, n))
    first = one_partner_each(design)
    sides = [first[design.clean_side[first] == side].tolist() for side in design.sides]
    rows = [row for some in zip_longest(*sides) for row in some if row is not None]
    return pairs.select(rows[:n])


def _said(vit: HookedViT, images: Tensor, metric: Metric, clean: Tensor) -> tuple[str, ...]:
    """The class that the model reads, and the metric."""
    with torch.no_grad():
        logits, reference = vit(images), vit(clean)
    values = metric(logits, reference)
    names = [shortened(vit.class_names[index].split(",")[0], 16) for index in logits.argmax(-1).tolist()]
    return tuple(f"{name}, {float(value):.1f}" for name, value in zip(names, values, strict=True))


def _gathered(
    vit: HookedViT, pattern: Float[Tensor, "pair head target token"], layer: int
) -> Float[Tensor, "pair head token"]:
    """What a layer's heads gather for the readout; zero for heads that it has not."""
    found = pattern[..., vit.cfg.gathering(layer), :].mean(-2)
    found[:, vit.cfg.heads_of(layer) :] = 0
    return found


def pixels(vit: HookedViT, *images: Tensor) -> list[NDArray[np.float32]]:
    """Images in [0, 1], channels last, 1 or 3 of them; stretched together to their own range without preprocessing."""
    images = tuple(image[:, : vit.cfg.n_channels // vit.cfg.clip_frames] for image in images)  # a clip's first frame
    if vit.preprocess is not None:
        drawn = [vit.preprocess.denormalise(image) for image in images]
    else:
        low = min(float(image.min()) for image in images if len(image))
        width = max(float(image.max()) for image in images if len(image)) - low
        drawn = [(image - low) / (width or 1.0) for image in images]
    if images[0].shape[1] not in (1, 3):
        drawn = [image.mean(1, keepdim=True) for image in drawn]
    return [_array(image.clamp(0, 1).permute(0, 2, 3, 1)) for image in drawn]


def image_keys(images: Float[Tensor, "image channel height width"]) -> tuple[str, ...]:
    """What tells an image from others, whatever else it stands among."""
    return tuple(hashlib.sha256(image.numpy().tobytes()).hexdigest()[:16] for image in images.cpu().contiguous())


def _array(values: Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(values.detach().cpu().to(torch.float32).numpy())


_BATCH = 16
_MOST_WEIGHTS = 100_000_000  # of the full patterns of one image: ViT-B's at 785 tokens, 180 MB


def gather_heads(
    vit: HookedViT,
    images: Float[Tensor, "image channel height width"],
    *,
    classes: Sequence[int],
    grid: tuple[int, int] | None = None,
    batch_size: int = _BATCH,
) -> HeadFeatures:
    """Attention on a common grid, and direct effects on some logits, of every head.

    Costs a hooked forward pass, and a backward pass through the readout per class.

    Args:
        vit: The opened model.
        images: Preprocessed images: the same pictures for every model that is compared.
        classes: Logits to look at, such as the task's targets and foils. They should mean the same in every model.
        grid: Rows and columns that attention is pooled to; the model's own patches by default. Pass the coarser one for
            models that differ.
        batch_size: Images at a time.

    Raises:
        TaskError: There is no class.
        DataError: The images don't fit the model.
    """
    if not len(classes):
        raise TaskError("no classes were given: pass the task's, such as classes=[3, 8].")
    cells = _cells(vit, grid or vit.cfg.tokens.grid)
    batches = [_batch(vit, batch, list(classes), cells) for batch in vit.check_images(images).split(batch_size)]
    patterns, effects, mlp_effects = (np.concatenate(parts, axis=1) for parts in zip(*batches, strict=True))
    cfg = vit.cfg
    return HeadFeatures(
        model=cfg.name,
        n_layers=cfg.n_layers,
        names=tuple(f"a{layer}.h{head}" for layer in range(cfg.n_layers) for head in range(cfg.heads_of(layer))),
        layers=np.repeat(np.arange(cfg.n_layers), [cfg.heads_of(layer) for layer in range(cfg.n_layers)]),
        patterns=patterns,
        effects=effects,
        mlp_effects=mlp_effects,
    )


def _batch(
    vit: HookedViT, images: Tensor, classes: list[int], cells: Float[Tensor, "token cell"]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Patterns, effects (head, image and feature) and effects of MLPs (block, image and feature)."""
    last = f"blocks.{vit.cfg.n_layers - 1}.hook_resid_post"
    with torch.no_grad():
        _, cache = vit.run_with_cache(
            images, lambda name: name.endswith(("hook_pattern", "hook_result", "hook_mlp_out")) or name == last
        )
    gradients = _gradients(vit, cache[last], classes)
    patterns, effects, mlps = [], [], []
    for layer in range(vit.cfg.n_layers):
        n_heads = vit.cfg.heads_of(layer)
        pattern = cache["pattern", layer][:, :n_heads].double()  # image, head, target, source
        read = pattern[:, :, _readers(vit, layer)].mean(2)
        patch = pattern[:, :, vit.cfg.tokens.patches].mean(2)
        pooled = torch.stack([read, patch], 2) @ cells  # image, head, reader, cell
        patterns.append(_by_head(pooled.transpose(0, 1)))
        written = cache["result", layer][:, :, :n_heads].double()  # image, token, head, model
        effects.append(_by_head(torch.einsum("ithd,citd->hic", written, gradients)))
        wrote = cache["mlp_out", layer] if vit.cfg.has_mlp(layer) else torch.zeros_like(cache[last])
        mlps.append(_by_head(torch.einsum("itd,citd->ic", wrote.double(), gradients)[None]))
    return np.concatenate(patterns), np.concatenate(effects), np.concatenate(mlps)


def _readers(vit: HookedViT, layer: int) -> list[int]:
    """The tokens whose attention is looked at: those that are read out, or where these only pool, all others."""
    cfg = vit.cfg
    if cfg.pools and layer < cfg.n_layers - 1:
        return list(range(cfg.tokens.n_tokens - 1))
    return list(cfg.read_tokens)


def _by_head(values: Tensor) -> NDArray[np.float64]:
    return values.flatten(1).cpu().numpy()


def _gradients(vit: HookedViT, residual: Tensor, classes: list[int]) -> Float[Tensor, "class image token model"]:
    """Gradient of each logit, less their mean, at the last residual, the readout's norms frozen."""
    found = []
    with torch.enable_grad(), vit.borrowed():
        at = residual.detach().requires_grad_(True)
        logits = vit.readout(vit.readout.select(at), freeze_norm=True)[:, classes]
        if len(classes) > 1:
            logits = logits - logits.mean(1, keepdim=True)
        for place in range(len(classes)):
            (gradient,) = torch.autograd.grad(logits[:, place].sum(), at, retain_graph=True)
            found.append(gradient.double())
    return torch.stack(found)


def _cells(vit: HookedViT, grid: tuple[int, int]) -> Float[Tensor, "token cell"]:
    """Share of each token that belongs to each cell: first CLS and registers together, then the grid row by row."""
    tokens = vit.cfg.tokens
    shares = np.einsum("rh,cw->hwrc", cells_in_cells(grid[0], tokens.grid[0]), cells_in_cells(grid[1], tokens.grid[1]))
    cells = np.zeros((tokens.n_tokens, 1 + grid[0] * grid[1]))
    cells[: tokens.n_prefix, 0] = 1.0
    cells[tokens.patches, 1:] = np.tile(shares.reshape(tokens.grid[0] * tokens.grid[1], -1), (tokens.frames, 1))
    return torch.from_numpy(cells).to(vit.device)


def cells_in_cells(n_cells: int, n_patches: int) -> NDArray[np.float64]:
    """Share of each patch's length that lies in each cell, (cell, patch); columns add up to 1."""
    cell, patch = np.arange(n_cells + 1) / n_cells, np.arange(n_patches + 1) / n_patches
    low = np.maximum(cell[:-1, None], patch[None, :-1])
    high = np.minimum(cell[1:, None], patch[None, 1:])
    return np.maximum(0.0, high - low) * n_patches
