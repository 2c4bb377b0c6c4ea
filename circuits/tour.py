"""The attention-head tour: every head over one's own images, as one page that opens anywhere.

Kept are, for every image and head, the rows of the tokens that are read out (of every kind), how long each token's
value is once written, and rollout; full patterns for as many heads and images as a budget allows, a byte for each
weight. A full pattern is held by its scores: byte = 255 exp((score - largest score of its row) / 4), so that the
page makes of it both the scores (within 0.3 down to the weight's millionth part) and, by a softmax, the pattern
(within 1% of the row's largest weight).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ..models.config import VitConfig
from ..models.errors import TaskError
from ..models.files import write_text_atomic
from ..models.hooked import HookedViT
from ..models.watching import progress_bar
from .attention import KINDS, AttentionMaps, attention_maps, head_names
from .baseline import DEFAULT_MEMORY
from .draw.head_page import ROOT, written_as
from .figure_data import pixels
from .formats import found
from .shown import Glance, Shown
from .words import shortened

FULL_BYTES = 6_000_000
"""Of all full patterns together: all heads of four images of DeiT-Tiny, or of one image of ViT-B/16."""


@dataclass(frozen=True, eq=False)
class Full:
    """A head's full pattern on one image.

    Args:
        data: Bytes, (query token, key token); see the module's first lines.
        largest: The largest score of each row, (query token,).
    """

    data: NDArray[np.uint8]
    largest: NDArray[np.float32]

    @classmethod
    def of(cls, scores: NDArray[np.float32]) -> Full:
        """From scores, (query token, key token)."""
        largest = scores.max(-1)
        return cls((255 * np.exp((scores - largest[:, None]) / ROOT) + 0.5).astype(np.uint8), largest)


@dataclass(frozen=True, eq=False, repr=False)
class HeadTour(Shown):
    """Attention of every head on a few images, with what the model says of them.

    Args:
        cfg: The model's sizes.
        pictures: In [0, 1], (image, height, width, channel), 1 or 3 channels.
        names: What each image is called.
        answers: What the model says of each.
        rows: Kind -> what the tokens that are read out see; of all kinds.
        lengths: How long each token's value is once it is written with weight 1, (image, head, token).
        full: (image, head) -> full pattern, of those that are kept.
        chosen: Heads that stand side by side at first.
        kind: What is shown at first.
        one_length: Whether a value is as long from wherever it is looked at: not where heads are gated or share a norm.
    """

    cfg: VitConfig
    pictures: NDArray[np.float32]
    names: tuple[str, ...]
    answers: tuple[str, ...]
    rows: Mapping[str, AttentionMaps]
    lengths: NDArray[np.float32]
    full: Mapping[tuple[int, str], Full]
    chosen: tuple[str, ...]
    kind: str = "pattern"
    one_length: bool = True

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of all heads."""
        return tuple(self.rows["pattern"])

    def kept(self, image: int) -> int:
        """How many heads have their full pattern on an image."""
        return sum(1 for place, _ in self.full if place == image)

    def glance(self, most: int) -> Glance:
        """Each image with what the model says of it, and how many heads have their full pattern on it."""
        rows = [
            (name, answer, f"{self.kept(image)} of {len(self.heads)}")
            for image, (name, answer) in enumerate(zip(self.names, self.answers, strict=True))
        ]
        what = f"Tour of {len(self.heads)} heads of {self.cfg.name} over {len(rows)} images: .save('heads.html')"
        return Glance(what, ("image", "model", "full patterns"), rows[:most], len(rows), rest="the page has all")

    def to_html(self) -> str:
        """The page as text, one file that needs no network."""
        return found("draw.head_page.to_html")(self)

    def _repr_html_(self) -> str:
        """The page in a frame of its own."""
        return found("draw.pages.in_frame")(self.to_html())

    def save(self, path: str | Path) -> Path:
        """Writes the page to an .html, or a still picture of all heads over the first image to an .svg, .pdf or .png.

        Raises:
            FormatError: The ending is not known, or the file cannot be written.
        """
        if written_as(path) == ".html":
            return write_text_atomic(path, self.to_html())
        maps = self.rows[self.kind]
        title = f"{self.cfg.name}, {self.kind.replace('_', '-')} on {shortened(self.names[0], 40)}"
        return found("draw.head_page.draw_grid")(maps.heights(), path, image=self.pictures[0], title=title)


def head_tour(
    vit: HookedViT,
    images: Float[Tensor, "image channel height width"],
    *,
    names: Sequence[str] | None = None,
    heads: str | Iterable[str] | None = None,
    kind: str = "pattern",
    full_bytes: int = FULL_BYTES,
    memory: int = DEFAULT_MEMORY,
    progress: bool | None = None,
) -> HeadTour:
    """Every head over a few images: `head_tour(vit, images).save("heads.html")`.

    Costs four forward passes, and one more for each image of which full patterns are kept.

    Args:
        vit: The opened model.
        images: Preprocessed images.
        names: What each is called; their numbers by default.
        heads: Heads that stand side by side at first, and whose full patterns are kept before others'; by default the
            first one of the last layer. Of the others the last layers' come first.
        kind: What is shown at first: `pattern`, `score`, `value_weighted` or `rollout`.
        full_bytes: Bytes of full patterns, one for each weight; in the page a third more.
        memory: Bytes that maps and batches may take together.
        progress: Whether a bar is shown; None where somebody watches.

    Raises:
        TaskError: A head or kind is not known, or names don't fit the images.
        DataError: The images don't fit the model.
        ModelError: As in `attention_maps`.
    """
    images = vit.check_images(images)
    told = tuple(map(str, range(1, len(images) + 1))) if names is None else tuple(names)
    if len(told) != len(images) or full_bytes < 0 or kind not in KINDS:
        raise TaskError(
            f"head_tour({len(images)} images, {len(told)} names, kind={kind!r}, full_bytes={full_bytes}) is not "
            f"possible: pass a name for each image, bytes of 0 or more, and one of {', '.join(map(repr, KINDS))}."
        )
    last = list(head_names(vit.cfg))[-vit.cfg.heads_of(vit.cfg.n_layers - 1)]
    chosen = tuple(head_names(vit.cfg, last if heads is None else heads))
    rows = {}
    with progress_bar("looking through heads", len(KINDS) + 1, progress, unit="pass") as bar:
        for one in KINDS:
            rows[one] = attention_maps(vit, images, kind=one, queries="readout", memory=memory, progress=False)
            bar.update()
        full = _full(vit, images, chosen, full_bytes, memory)
    with torch.no_grad():
        answers = tuple(_answer(vit, row) for batch in images.split(16) for row in vit(batch))
    return HeadTour(
        cfg=vit.cfg,
        pictures=pixels(vit, images)[0],
        names=told,
        answers=answers,
        rows=rows,
        lengths=_lengths(rows),
        full=full,
        chosen=chosen,
        kind=kind,
        one_length=not any(block.gated or block.joint is not None for block in vit.blocks),
    )


def _full(
    vit: HookedViT, images: Tensor, chosen: Sequence[str], full_bytes: int, memory: int
) -> dict[tuple[int, str], Full]:
    """Full patterns as far as the bytes go: the chosen heads on every image, then image by image the other heads."""
    cfg, keys = vit.cfg, vit.cfg.tokens.patches.stop
    every = head_names(cfg)
    others = sorted((name for name in every if name not in chosen), key=lambda name: (-every[name][0], every[name][1]))
    order = [(image, name) for some in (chosen, others) for image in range(len(images)) for name in some]
    wanted: dict[int, list[str]] = {}
    for image, name in order if cfg.tokens.frames == 1 else []:  # a patch that is pointed at is one token
        full_bytes -= keys * (1 if cfg.is_pool(every[name][0]) else keys)
        if full_bytes < 0:
            break
        wanted.setdefault(image, []).append(name)
    return {
        (image, name): Full.of(scores[0])
        for image, some in wanted.items()
        for name, scores in attention_maps(
            vit, images[image : image + 1], heads=some, kind="score", memory=memory, progress=False
        ).items()
    }


def _lengths(rows: Mapping[str, AttentionMaps]) -> NDArray[np.float32]:
    """||v W_O|| of each token, from what is written over the weight that it is written with."""
    written, weight = (
        np.stack([rows[kind].readout(name) for name in rows["pattern"]], 1) for kind in ("value_weighted", "pattern")
    )
    return np.divide(written, weight, out=np.zeros_like(written), where=weight > np.finfo(np.float32).tiny)


def _answer(vit: HookedViT, logits: Float[Tensor, " class"]) -> str:
    """The classes with the highest logits: with shares where the logits have names, else the number alone."""
    if not len(logits):
        return "no logits"
    if vit.labels is None:
        return f"largest logit: {int(logits.argmax())}"
    shares = logits.softmax(-1)
    best = shares.topk(min(3, len(shares)))
    told = zip(best.values.tolist(), best.indices.tolist(), strict=True)
    return "; ".join(f"{shortened(vit.class_names[index], 40)} {share:.0%}" for share, index in told)
