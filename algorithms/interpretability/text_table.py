"""Which texts span what each head adds to the image representation: printed, as a table, and drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64

from ...circuits.report import Figure, Table
from ...models.errors import GraphError

if TYPE_CHECKING:
    import pandas

CAVEAT = (
    "The texts are the best of the list that was given, and another list gives others; direct contributions leave out "
    "what a head does through later layers."
)


@dataclass(frozen=True, eq=False)
class HeadTexts:
    """One head's texts, in the order in which they were taken.

    Args:
        head: Its name.
        texts: The texts; none for a head that adds the same to every image.
        explained: Share of the variance over images that the first 1, 2, ... texts explain together, (step,).
        low: Lower end of its 95% interval over images, (step,).
        high: Upper end, (step,).
        random: The same for as many texts out of a list of random directions, (draw,).
        principal: Share of the variance in the first 1, 2, ... principal components, (step,).
        size: The contribution's variance, relative to the whole representation's. Heads covary: not a share of it.
    """

    head: str
    texts: tuple[str, ...]
    explained: Float64[np.ndarray, " step"]
    low: Float64[np.ndarray, " step"]
    high: Float64[np.ndarray, " step"]
    random: Float64[np.ndarray, " draw"]
    principal: Float64[np.ndarray, " step"]
    size: float

    @property
    def figure(self) -> Figure:
        """Share of the variance that all texts taken explain."""
        if not self.texts:
            return Figure(None, "share", reason="the head adds the same to every image directly")
        method = f"share of the variance explained by {len(self.texts)} texts"
        low, high = float(self.low[-1]), float(self.high[-1])
        if np.isnan(low):
            return Figure(float(self.explained[-1]), "share", reason="n_bootstrap is 0", method=method)
        method += "; interval: bootstrap over images, the texts being kept"
        return Figure(float(self.explained[-1]), "share", low, high, method=method)

    @property
    def p_value(self) -> float:
        """Share of the random lists, this one counted among them, that explain as much; NaN without any."""
        if not self.texts or not len(self.random):
            return np.nan
        return float((1 + (self.random >= self.explained[-1]).sum()) / (1 + len(self.random)))


@dataclass(frozen=True, eq=False)
class TextTable:
    """The texts of several heads.

    Args:
        model: The model's name.
        heads: What was found of each.
        method: `n_texts` (in the list), `n`, `pick`, `n_images`, `n_random`, `seed`, in plain values.
    """

    model: str
    heads: tuple[HeadTexts, ...]
    method: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.headline}\n{self.table()}\n{CAVEAT}"

    def __getitem__(self, head: str) -> HeadTexts:
        for found in self.heads:
            if found.head == head:
                return found
        raise GraphError(f"{head!r} is not in the table: it has {', '.join(found.head for found in self.heads)}.")

    @property
    def headline(self) -> str:
        """What was looked at."""
        said = self.method
        return (
            f"{self.model}: {said['n']} of {said['n_texts']} texts for each of {len(self.heads)} heads, "
            f"{said['n_images']:,} images"
        )

    def table(self) -> Table:
        """One row per head: what its texts explain, random directions, principal components, and the texts."""
        rows = tuple(
            (
                found.head,
                f"{found.size:.3f}",
                found.figure,
                f"{np.mean(found.random):.3f}" if len(found.random) and found.texts else "none",
                f"{found.principal[-1]:.3f}" if found.texts else "none",
                "; ".join(found.texts),
            )
            for found in self.heads
        )
        columns = ("head", "size", "explained", "random", "principal", "texts")
        return Table(columns, rows, f"{self.headline}. {CAVEAT}")

    def frame(self) -> pandas.DataFrame:
        """One row per head and text: `place` from 1, `explained` so far with its interval, `principal`.

        With them `random`, the mean over random lists of what the head's whole number of texts explains there, and `p`.
        """
        import pandas

        rows = [
            {
                "model": self.model, "head": found.head, "place": step + 1, "text": text,
                "explained": found.explained[step], "low": found.low[step], "high": found.high[step],
                "principal": found.principal[step],
                "random": np.mean(found.random) if len(found.random) else np.nan,
                "p": found.p_value, "size": found.size,
            }
            for found in self.heads
            for step, text in enumerate(found.texts)
        ]  # fmt: skip
        names = ("model", "head", "place", "text", "explained", "low", "high", "principal", "random", "p", "size")
        return pandas.DataFrame(rows, columns=list(names))

    def draw(self, path: str | Path, *, title: str = "") -> Path:
        """Draws what the texts explain, against random directions and principal components, to an .svg, .pdf or .png.

        Raises:
            FormatError: The ending is not known, or the file cannot be written.
        """
        from ...circuits.draw.intervals import SpanRow, draw_spans

        rows = [
            SpanRow(h.head, h.figure, _middle(h.random), float(h.principal[-1]), h.texts) for h in self.heads if h.texts
        ]
        return draw_spans(rows, path, title=title or self.headline)


def _middle(random: Float64[np.ndarray, " draw"]) -> tuple[float, float] | None:
    """Where the middle 95% of the random lists lie."""
    if not len(random):
        return None
    low, high = np.quantile(random, [0.025, 0.975])
    return float(low), float(high)
