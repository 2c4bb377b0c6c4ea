"""Tokens of high norm, by block, with the neurons that make them; and what moving them to an added token does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float64, Int

from ...circuits.judging.bootstrap import Resamples, share
from ...circuits.report import Figure, Table, Tabular
from ...circuits.shown import drawable
from .lens import log_softmax


@dataclass(frozen=True, eq=False, repr=False)
class Outliers(Tabular):
    """Patches whose residual is many times as long as their image's median patch's.

    Args:
        model: The model's name.
        grid: Rows and columns of patches.
        times: How many times the median an outlier is at least.
        ratios: Length over the median of the image's patches, behind each block.
        neurons: The neurons of the largest parts in the outliers' length, where they are first; the largest first.
        parts: Their parts, in units of the residual.
        length: The outliers' mean length there.
    """

    caveat: ClassVar[str] = (  # type: ignore[override]
        "An outlier is a patch many times as long as the median of its image; a long tail without a gap has some, too: "
        "look at the longest of each block."
    )

    model: str
    grid: tuple[int, int]
    times: float
    ratios: Float64[np.ndarray, "block image patch"]
    neurons: tuple[str, ...] = ()
    parts: Float64[np.ndarray, " neuron"] | None = None
    length: float = 0.0

    def made_by(self, neurons: tuple[str, ...], parts: Float64[np.ndarray, " neuron"], length: float) -> Outliers:
        """The same with what makes them."""
        return replace(self, neurons=neurons, parts=parts, length=length)

    def at(self, block: int) -> Bool[np.ndarray, "image patch"]:
        """Which patches are outliers behind a block."""
        return self.ratios[block] > self.times

    @property
    def there(self) -> bool:
        """Whether there is any."""
        return bool((self.ratios > self.times).any())

    @property
    def first(self) -> int:
        """The block behind which at least half as many patches are outliers as behind that of most; -1 without any."""
        counts = (self.ratios > self.times).sum((1, 2))
        return int(np.argmax(counts >= max(counts.max() / 2, 1))) if self.there else -1

    @property
    def places(self) -> Float64[np.ndarray, "row column"]:
        """How often each patch is an outlier where they are first, a share of the images."""
        return self.at(self.first).mean(0).reshape(self.grid) if self.there else np.zeros(self.grid)

    @property
    def headline(self) -> str:
        """Whether there are outliers, since when, and what makes them."""
        n = self.ratios.shape[1]
        longest = f"the longest patch is {self.ratios.max():.1f} times its image's median"
        if not self.there:
            return f"{self.model} has no outliers on {n:,} images: {longest}, and {self.times:g} times would be one"
        count = self.at(self.first).sum(1).mean()
        said = f"{self.model}: {count:.1f} outliers an image from block {self.first} on, {n:,} images; {longest}"
        return f"{said}; made by {', '.join(self.neurons[:3])}" if self.neurons else said

    def table(self) -> Table:
        """One row per block."""
        draws = Resamples.draw(self.ratios.shape[1], 1000, seed=0)
        rows = []
        for block in range(len(self.ratios)):
            count = draws.mean(self.at(block).sum(1).astype(np.float64), "", "outliers of an image")
            longest = draws.mean(self.ratios[block].max(1), "", "length of the longest patch over the median")
            rows.append((f"block {block}", count, longest))
        return Table(
            ("behind", "outliers per image", "longest / median"), tuple(rows), f"{self.headline}. {self.caveat}"
        )

    def makers(self) -> Table:
        """One row per neuron: its part in the outliers' length, and what share of it that is."""
        parts = [] if self.parts is None else self.parts.tolist()
        rows = tuple((n, f"{p:.2f}", f"{p / self.length:.0%}") for n, p in zip(self.neurons, parts, strict=True))
        return Table(("neuron", "part", "share"), rows, "part in the outliers' length beyond other patches' activation")


@dataclass(frozen=True, eq=False)
class RunFigures:
    """What a run leaves.

    Args:
        logits: Its answers.
        outliers: Which patches are outliers.
        added: Attention that the added token gets from CLS (from patches without one), mean over heads; 0 without it.
        maps: The attention that each patch gets, likewise.
    """

    logits: Float64[np.ndarray, "image class"]
    outliers: Bool[np.ndarray, "block image patch"]
    added: Float64[np.ndarray, "block image"]
    maps: Float64[np.ndarray, "block image patch"]


@dataclass(frozen=True, eq=False, repr=False)
class MovedOutliers(Tabular):
    """A run as it is, and one whose outliers are taken up by an added token.

    Args:
        model: The model's name.
        grid: Rows and columns of patches.
        neurons: What was moved.
        before: The run as it is.
        after: The other.
        labels: Index of each image's class, where it is known.
    """

    model: str
    grid: tuple[int, int]
    neurons: tuple[str, ...]
    before: RunFigures
    after: RunFigures
    labels: Int[np.ndarray, " image"] | None

    @property
    def headline(self) -> str:
        """What was done."""
        n = len(self.before.logits)
        return f"{self.model}: {len(self.neurons)} neurons moved to an added token, {n:,} images"

    def figures(self) -> Mapping[str, tuple[Figure, Figure]]:
        """Name -> the figure before and after.

        Outliers per image behind the last block; of the attention that patches get from CLS in the last block (from
        patches without a CLS), the share of those that were outliers; that which the added token gets; agreement and KL
        (nats) with the run as it is; accuracy where labels are known.
        """
        runs, n = (self.before, self.after), len(self.before.logits)
        draws = Resamples.draw(n, 1000, seed=0)
        was = self.before.outliers[-1]
        own = self.before.logits.argmax(-1)
        log_p = log_softmax(self.before.logits)
        found: dict[str, list[Figure]] = {}
        for run in runs:
            onto = (run.maps[-1] * was).sum(-1) / run.maps[-1].sum(-1)
            kl = (np.exp(log_p) * (log_p - log_softmax(run.logits))).sum(-1)
            row = {
                "outliers per image": draws.mean(run.outliers[-1].sum(-1).astype(np.float64), "", "last block"),
                "attention to former outliers": draws.mean(onto, "share", "of what patches get in the last block"),
                "attention to the added token": draws.mean(run.added[-1], "share", "of all, last block"),
                "agreement": share(run.logits.argmax(-1) == own, "with the run as it is"),
                "KL": draws.mean(kl, "nats", "from the run as it is"),
            }
            if self.labels is not None:
                row["accuracy"] = share(run.logits.argmax(-1) == self.labels, "images answered rightly")
            for name, figure in row.items():
                found.setdefault(name, []).append(figure)
        return {name: (one, other) for name, (one, other) in found.items()}

    def table(self) -> Table:
        """One row per figure, before and after."""
        rows = tuple((name, *pair) for name, pair in self.figures().items())
        return Table(("figure", "as it is", "moved"), rows, self.headline)

    @drawable
    def draw_maps(self, path: str | Path, *, images: tuple[int, ...] = (0, 1, 2, 3), title: str = "") -> Path:
        """Draws the last block's attention to patches before and after, and the outliers before, image by image.

        Raises:
            FormatError: The ending is not known, or the file cannot be written.
        """
        from ...circuits.draw.contact_sheet import SheetCard, draw_contact_sheet

        cards = []
        for image in images:
            maps = (self.before.maps[-1, image], self.after.maps[-1, image], self.before.outliers[-1, image])
            cards.append(
                SheetCard(f"image {image}", "", [one.reshape(self.grid).astype(np.float64) for one in maps], (), ())
            )
        return draw_contact_sheet(cards, path, headings=("as it is", "moved", "outliers"), title=title or self.headline)
