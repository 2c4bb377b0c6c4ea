"""TextSpan: which texts span what a head adds to CLIP's image representation, of arrays alone.

After Gandelsman, Efros and Steinhardt, "Interpreting CLIP's Image Representation via Text-Based Decomposition" (ICLR
2024), section 4.1, algorithm 1. For a head with contributions C (image, dim) and texts R (text, dim), of length 1:

    1.  C loses its mean over images; R is projected onto the span of C.
    2.  The text r is taken whose products with the rows of C vary most over the images.
    3.  C and R lose their components along r. Again from 2.

What texts explain is the share of C's variance that lies in the span of those taken. It is set beside the same
procedure on as many random directions as there are texts, which are not picked for meaning, and beside as
many principal components, which no list can beat.

The product in step 2 is with r as it was projected, not scaled to length 1 again: a text that lies outside the
span of the head, or in that of the texts taken before, counts for little. `pick="explained"` scales it, and so takes
the text that explains most, however small the part of it that does; where one dimension is left, all texts do equally.

Caveats: the texts are the best of a list, not the right ones, and another list gives others; a direct contribution
leaves out what a head does through later layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray

from ...circuits.judging.bootstrap import Resamples
from ...circuits.report import Figure, Table, Tabular
from ...circuits.shown import drawable
from ...models.errors import DataError, GraphError

if TYPE_CHECKING:
    import pandas


Pick = Literal["variance", "explained"]
"""What the next text has most of: variance of the products (the paper's), or variance explained."""

_NOTHING = 1e-9  # share of a length or of a variance below which the rest is rounding


@dataclass(frozen=True, eq=False)
class Span:
    """Directions taken one after another.

    Args:
        taken: Their places in the list, (step,).
        explained: Share of the variance that the first 1, 2, ... explain together, (step,).
        parts: What each explains of each image's squared distance from the mean, (step, image).
        total: Each image's squared distance from the mean, (image,).
    """

    taken: NDArray[np.int64]
    explained: Float64[np.ndarray, " step"]
    parts: Float64[np.ndarray, "step image"]
    total: Float64[np.ndarray, " image"]


def text_span(
    contributions: Float64[np.ndarray, "image dim"],
    directions: Float64[np.ndarray, "text dim"],
    n: int,
    *,
    pick: Pick | str = "variance",
) -> Span:
    """The directions that span the contributions best, greedily; fewer than n where the list or the span gives out.

    Args:
        contributions: What a head adds to the representation of each image.
        directions: One per text, of any length.
        n: How many to take.
        pick: What the next one has most of.

    Raises:
        DataError: n is below 1, the choice is not known, the dimensions differ, or a direction has no length.
    """
    _check(contributions, directions, n, pick)
    rows = contributions - contributions.mean(0)
    basis = _basis(contributions)
    rest, texts = rows @ basis, directions / np.linalg.norm(directions, axis=1, keepdims=True) @ basis
    total, smallest = np.square(rest).sum(1), _NOTHING * np.linalg.norm(texts, axis=1).max(initial=0.0)
    taken, parts = [], []
    while len(taken) < n and np.square(rest).sum() > _NOTHING * total.sum():
        place = _next(rest, texts, pick, smallest)
        if place is None:
            break
        along = texts[place] / np.linalg.norm(texts[place])
        taken.append(place)
        parts.append(np.square(rest @ along))
        rest, texts = rest - np.outer(rest @ along, along), texts - np.outer(texts @ along, along)
    table = np.array(parts, dtype=np.float64).reshape(len(taken), len(rows))
    explained = np.cumsum(table.sum(1)) / total.sum() if taken else np.zeros(0)
    return Span(np.array(taken, dtype=np.int64), explained, table, total)


def _check(contributions: NDArray, directions: NDArray, n: int, pick: str) -> None:
    if n < 1 or pick not in get_args(Pick):
        raise DataError(f"n={n}, pick={pick!r}: pass n of at least 1, and pick='variance' or pick='explained'.")
    if contributions.shape[1] != directions.shape[1]:
        raise DataError(
            f"the texts have {directions.shape[1]} dimensions and the image representation {contributions.shape[1]}: "
            f"pass embeddings from the text tower that the image tower was trained with."
        )
    if not len(directions) or not bool((np.linalg.norm(directions, axis=1) > 0).all()):
        raise DataError("there are no texts, or one has an embedding of length 0: leave it out, or encode it again.")


def _basis(contributions: NDArray) -> NDArray:
    """Orthonormal columns that span the rows, (dim, rank)."""
    _, values, turned = np.linalg.svd(contributions, full_matrices=False)
    return turned[values > _NOTHING * values.max(initial=0.0)].T


def _next(rest: NDArray, texts: NDArray, pick: str, smallest: float) -> int | None:
    """The place of the next direction; None if all have been used up."""
    lengths = np.linalg.norm(texts, axis=1)
    variances = np.square(rest @ texts.T).sum(0)
    if pick == "explained":
        variances = variances / np.maximum(lengths, smallest) ** 2
    usable = np.where(lengths > smallest, variances, -1.0)
    place = int(usable.argmax())
    return place if usable[place] > 0 else None


def principal_explained(contributions: Float64[np.ndarray, "image dim"], n: int) -> Float64[np.ndarray, " step"]:
    """Share of the variance in the first 1, ..., n principal components: the most that so many directions can."""
    values = np.square(np.linalg.svd(contributions - contributions.mean(0), compute_uv=False))
    return np.cumsum(values)[:n] / values.sum()


def random_explained(
    contributions: Float64[np.ndarray, "image dim"],
    n_directions: int,
    n: int,
    *,
    n_draws: int,
    seed: int | Sequence[int],
    pick: Pick | str = "variance",
) -> Float64[np.ndarray, " draw"]:
    """Share of the variance that n of as many random directions explain, picked in the same way, for each draw."""
    rng, dim = np.random.default_rng(seed), contributions.shape[1]
    spans = (text_span(contributions, rng.normal(size=(n_directions, dim)), n, pick=pick) for _ in range(n_draws))
    return np.array([span.explained[-1] if len(span.explained) else 0.0 for span in spans])


def explained_ends(span: Span, resamples: Resamples) -> Float64[np.ndarray, "end step"]:
    """Ends of the 95% interval over images of the share explained, the directions being kept; NaN without draws."""
    if not len(resamples.weights) or not len(span.taken):
        return np.full((2, len(span.taken)), np.nan)
    drawn = resamples.means(np.cumsum(span.parts, axis=0)) / resamples.means(span.total)[:, None]
    return np.quantile(drawn, [0.025, 0.975], axis=0)


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


@dataclass(frozen=True, eq=False, repr=False)
class TextTable(Tabular):
    """The texts of several heads.

    Args:
        model: The model's name.
        heads: What was found of each.
        method: `n_texts` (in the list), `n`, `pick`, `n_images`, `n_random`, `seed`, in plain values.
    """

    caveat: ClassVar[str] = (  # type: ignore[override]
        "The texts are the best of the list that was given, and another list gives others; direct contributions "
        "leave out what a head does through later layers."
    )

    model: str
    heads: tuple[HeadTexts, ...]
    method: Mapping[str, Any]

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
        return Table(columns, rows, f"{self.headline}. {self.caveat}")

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

    @drawable
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
