"""Which pattern over positions a head's mean attention is: templates, of arrays alone.

A template is a set S of cells (target patch, source patch). Of the mean pattern mu over images, with m its mean over
all N cells and V its sum of squares about m,

    R^2(S) = (sum of mu over S - |S| m)^2 / (|S| (1 - |S| / N) V)        0 if mu is not higher on S than elsewhere

which is the squared correlation of mu with the indicator of S: the share of mu's variance over cells that one number on
S and another elsewhere account for. All targets count, those too whose place in S lies outside the image. A family of
templates has the R^2 of its best member:

    same      s = t
    offset    s = t + (rows, columns), for every offset but 0
    near      the square of 3, 5 or 7 patches a side around the target
    row       the target's row
    column    the target's column
    corner    the corners of the image, or any one, two or three of them
    edge      the border of the image, or any one, two or three of its sides
    modulus   s = k mod n, patches counted row by row, or s = t + k mod n, for 2 <= n <= patches / 3

Multiples of the number of columns are no modulus: those are columns. Two more figures say how much any member of a
whole kind could account for: `place` (one number per source: every target looks at the same places) and `relative` (one
number per offset). They have many numbers to fit, so noise has about 1 / patches and 4 / patches: see the null.

The null deals every target's sources to other positions, each target's in an order of its own, and fits again: what is
left of a template is what its size and the number of its family's members give to positions that mean nothing. A token
by itself that looks at one patch can only be told from chance where corners and sides are a small part of all patches:
4 corners of 16 are not.

Joseph and Nanda (2024), "Laying the Foundations for Vision and Multimodal Mechanistic Interpretability & Open
Problems", name Corner, Edges and Modulus heads by eye; these are their measures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray

FAMILIES = ("same", "offset", "near", "row", "column", "corner", "edge", "modulus")
"""In the order in which they win where two account for equally much."""

WIDE = {"place": "other places", "relative": "other offsets"}
"""Kinds of template as a whole, and what a head is called that is one, but no member of a family."""

UNLIKELY = 0.95
"""The share of shuffles that a named template is above."""

Members = Iterator[tuple[Callable[[int], str], NDArray, NDArray]]  # their names by index, sums over them, their cells
Grid = tuple[int, int]
Mean = Float64[np.ndarray, "target patch"]


@dataclass(frozen=True)
class TemplateFit:
    """The best member of a family.

    Args:
        label: What it is called, such as `offset: 1 left`.
        r2: Share of the mean pattern's variance over cells that it accounts for; NaN for a pattern without any.
        attention: What a target pays to it, mean over targets: a share of all its attention.
        beyond: The same less what it would be if the attention paid to patches were spread evenly over them.
    """

    label: str
    r2: float
    attention: float
    beyond: float


def fit_templates(mean: Mean, grid: Grid) -> dict[str, TemplateFit]:
    """The best member of every family, and `place` and `relative`.

    Args:
        mean: Mean pattern over images. Targets are the patches, or one other token such as CLS; then only families of
            sources are asked: `corner`, `edge` and `modulus`.
        grid: Rows and columns of patches.
    """
    sums = _Sums.of(mean, grid)
    found = {family: sums.best(_MEMBERS[family](sums)) for family in FAMILIES if sums.square or family in _OF_SOURCES}
    if sums.square:
        found["place"] = sums.wide(WIDE["place"], sums.places, sums.n_targets)
        found["relative"] = sums.wide(WIDE["relative"], sums.offsets, sums.offset_cells)
    return found


def shuffled_fits(mean: Mean, grid: Grid, n: int, *, seed: int) -> dict[str, Float64[np.ndarray, " shuffle"]]:
    """R^2 of every family where the sources of every target are dealt out anew."""
    rng = np.random.default_rng(seed)
    drawn = [fit_templates(rng.permuted(mean, axis=1), grid) for _ in range(n)]
    return {name: np.array([fits[name].r2 for fits in drawn]) for name in (drawn[0] if drawn else ())}


def name_of(fits: dict[str, TemplateFit], null: dict[str, NDArray[np.float64]], least: float, beyond: float) -> str:
    """The family whose best member accounts for most of the pattern; empty where no one accounts for enough.

    Args:
        fits: What was found.
        null: What dealt out sources get: it has to be above what 95% of them get at best.
        least: R^2 that it needs.
        beyond: Attention beyond an even spread that it needs, as a share of all attention.
    """
    dealt = {}
    for wide in (False, True):
        rows = [r2 for name, r2 in null.items() if (name in WIDE) == wide]
        dealt[wide] = float(np.quantile(np.max(rows, axis=0), UNLIKELY)) if rows else -np.inf

    def good(name: str) -> bool:
        fit = fits[name]
        return fit.r2 >= least and fit.beyond >= beyond and fit.r2 > dealt[name in WIDE]

    families = [name for name in FAMILIES if name in fits and good(name)]
    if families:
        return max(families, key=lambda name: round(fits[name].r2, 9))  # the first of equals
    return next((name for name in WIDE if name in fits and good(name)), "")


def offset_sums(mean: Mean, grid: Grid) -> Float64[np.ndarray, "rows columns"]:
    """The sum of a pattern from patches to patches over the cells of every offset, no offset in the middle."""
    rows, columns = grid
    row, column = np.divmod(np.arange(rows * columns), columns)
    down, right = (axis[None, :] - axis[:, None] for axis in (row, column))
    place = (down + rows - 1) * (2 * columns - 1) + right + columns - 1
    shape = 2 * rows - 1, 2 * columns - 1
    return np.bincount(place.ravel(), mean.ravel(), shape[0] * shape[1]).reshape(shape)


def offset_counts(grid: Grid) -> Float64[np.ndarray, "rows columns"]:
    """How many targets have a source at every offset."""
    ways = [n - np.abs(np.arange(1 - n, n)) for n in grid]
    return np.outer(*ways).astype(np.float64)


@dataclass(frozen=True, eq=False)
class _Sums:
    """A mean pattern as the sums that templates need.

    Args:
        grid: Rows and columns of patches.
        places: Of each source over targets, (row, column).
        offsets: Of each offset; empty where the targets are no patches.
        steps: Of each distance between source and target in the sequence; likewise.
        n_targets: Number of targets.
        spread: Sum of squares about the mean; 0 where that is rounding.
    """

    grid: Grid
    places: NDArray[np.float64]
    offsets: NDArray[np.float64]
    steps: NDArray[np.float64]
    n_targets: int
    spread: float

    @classmethod
    def of(cls, mean: Mean, grid: Grid) -> _Sums:
        """Of a mean pattern (target, source)."""
        n_targets, n = mean.shape
        square, spread = n_targets == n > 1, float(np.square(mean - mean.mean()).sum())
        distance = np.arange(n)[None, :] - np.arange(n)[:, None] + n - 1
        return cls(
            grid,
            mean.sum(0).reshape(grid),
            offset_sums(mean, grid) if square else np.zeros((0, 0)),
            np.bincount(distance.ravel(), mean.ravel(), 2 * n - 1).astype(np.float64) if square else np.zeros(0),
            n_targets,
            spread if spread > 1e-12 * float(np.square(mean).sum()) else 0.0,
        )

    @property
    def square(self) -> bool:
        return bool(self.steps.size)

    @property
    def n_cells(self) -> int:
        return self.n_targets * self.places.size

    @property
    def offset_cells(self) -> NDArray[np.float64]:
        return offset_counts(self.grid)

    def best(self, members: Members) -> TemplateFit:
        """The member that accounts for most; with none, one that accounts for nothing."""
        found = TemplateFit("", 0.0, 0.0, 0.0)
        for label, totals, counts in members:
            even = counts * float(self.places.sum()) / self.n_cells
            own = counts * (1 - counts / self.n_cells)
            r2 = np.maximum(totals - even, 0) ** 2 / (own * self.spread if self.spread else np.nan)
            best = int(np.argmax(r2))
            if not r2[best] <= found.r2:
                above = float(totals[best] - even[best]) / self.n_targets
                found = TemplateFit(label(best), float(r2[best]), float(totals[best]) / self.n_targets, above)
        return found

    def wide(self, label: str, sums: NDArray[np.float64], counts: NDArray[np.float64] | int) -> TemplateFit:
        """One number for each of many sets of cells that together are all; what is beyond an even spread is moved."""
        even = counts * sums.sum() / self.n_cells
        r2 = float((np.square(sums - even) / counts).sum()) / self.spread if self.spread else np.nan
        total, beyond = float(sums.sum()), float(np.maximum(sums - even, 0).sum())
        return TemplateFit(label, r2, total / self.n_targets, beyond / self.n_targets)


def _one(label: str, total: float, n: int) -> tuple[Callable[[int], str], NDArray, NDArray]:
    return lambda _: label, np.array([total], dtype=np.float64), np.array([n])


def _same(sums: _Sums) -> Members:
    rows, columns = sums.grid
    yield _one("same patch", sums.offsets[rows - 1, columns - 1], rows * columns)


def _offset(sums: _Sums) -> Members:
    rows, columns = sums.grid
    down, right = (np.arange(1 - n, n) for n in (rows, columns))
    places = np.argwhere(down[:, None].astype(bool) | right.astype(bool))
    totals, counts = sums.offsets[tuple(places.T)], sums.offset_cells[tuple(places.T)]
    yield lambda i: f"offset: {offset_words(int(down[places[i, 0]]), int(right[places[i, 1]]))}", totals, counts


def offset_words(down: int, right: int) -> str:
    """An offset in words, such as `1 up 2 left`."""
    parts = ((down, "down", "up"), (right, "right", "left"))
    return " ".join(f"{abs(n)} {plus if n > 0 else minus}" for n, plus, minus in parts if n) or "none"


def _near(sums: _Sums) -> Members:
    rows, columns = sums.grid
    for reach in range(1, min(4, max(rows, columns) - 1)):
        down, right = (slice(max(n - 1 - reach, 0), n + reach) for n in (rows, columns))
        n = int(sums.offset_cells[down, right].sum())
        yield _one(f"near: within {reach}", sums.offsets[down, right].sum(), n)


def _row(sums: _Sums) -> Members:
    rows, columns = sums.grid
    if rows > 1:
        yield _one("row", sums.offsets[rows - 1].sum(), rows * columns**2)


def _column(sums: _Sums) -> Members:
    rows, columns = sums.grid
    if columns > 1:
        yield _one("column", sums.offsets[:, columns - 1].sum(), columns * rows**2)


def _corner(sums: _Sums) -> Members:
    places = {"top left": (0, 0), "top right": (0, -1), "bottom left": (-1, 0), "bottom right": (-1, -1)}
    if min(sums.grid) > 1:
        yield from _unions(sums, "corner", "corners", places)


def _edge(sums: _Sums) -> Members:
    sides = {"top": (0,), "bottom": (-1,), "left": (slice(None), 0), "right": (slice(None), -1)}
    if min(sums.grid) > 2:
        yield from _unions(sums, "edge", "edges", sides)


def _unions(sums: _Sums, one: str, every: str, parts: Mapping[str, tuple[int | slice, ...]]) -> Members:
    """Every union of some of the parts."""
    for n in range(1, len(parts) + 1):
        for chosen in combinations(parts, n):
            member = np.zeros(sums.grid, dtype=bool)
            for name in chosen:
                member[parts[name]] = True
            label = every if n == len(parts) else f"{one}: {', '.join(chosen)}"
            if not member.all():
                yield _one(label, sums.places[member].sum(), int(member.sum()) * sums.n_targets)


def _modulus(sums: _Sums) -> Members:
    n_patches, columns = sums.places.size, sums.grid[1]
    place, distance = np.arange(n_patches), np.arange(1 - n_patches, n_patches)
    flat, ways = sums.places.ravel(), n_patches - np.abs(distance)
    for n in range(2, n_patches // 3 + 1):
        if n % columns == 0:
            continue
        words = f"modulus: every {ordinal(n)} patch, from"
        totals, counts = np.bincount(place % n, flat, n), np.bincount(place % n, minlength=n) * sums.n_targets
        yield lambda k, words=words: f"{words} {k}", totals, counts
        if sums.square:
            totals, counts = np.bincount(distance % n, sums.steps, n), np.bincount(distance % n, ways, n)
            yield lambda k, words=words: f"{words} {k} behind its own", totals, counts


def ordinal(n: int) -> str:
    """1st, 2nd, 3rd, 4th, ..., 11th, ..., 21st."""
    ending = "th" if n // 10 % 10 == 1 else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{ending}"


_OF_SOURCES = ("corner", "edge", "modulus")
_MEMBERS = {
    "same": _same,
    "offset": _offset,
    "near": _near,
    "row": _row,
    "column": _column,
    "corner": _corner,
    "edge": _edge,
    "modulus": _modulus,
}
