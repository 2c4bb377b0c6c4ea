"""How well heads are described by known factors: one row per head and factor, printed, as a table, and drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ...circuits.report import Figure, Table, Tabular
from ...circuits.shown import drawable
from ...models.errors import GraphError
from .factors import FactorFits

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False, repr=False)
class FactorTable(Tabular):
    """Heads against factors.

    Args:
        model: The model's name.
        heads: Names of the heads.
        factors: Names of the factors.
        fits: What was found.
        method: What was looked at and how, in plain values: `of`, `at`, `n_images`, `n_folds`, `n_shuffles`, `seed`.
    """

    caveat: ClassVar[str] = (  # type: ignore[override]
        "R^2 says what can be read off a head by a linear map, not what the model reads, and an untrained network lets "
        "factors be read too: set a table of one beside it."
    )

    model: str
    heads: tuple[str, ...]
    factors: tuple[str, ...]
    fits: FactorFits
    method: Mapping[str, Any]

    @property
    def headline(self) -> str:
        """What was looked at."""
        said = self.method
        of = {"write": f"writes at {said['at']} tokens", "effect": "direct effects on the outputs"}[said["of"]]
        return (
            f"{self.model}: {len(self.heads)} heads' {of} against {len(self.factors)} factors, {said['n_images']:,} "
            f"images, each left out of the fit that it is judged by"
        )

    def select(self, heads: Iterable[str]) -> FactorTable:
        """The same for some of the heads, such as `circuit_heads(circuit)`.

        Raises:
            GraphError: One is not in the table.
        """
        wanted = set(heads)
        if unknown := sorted(wanted - set(self.heads)):
            raise GraphError(f"{unknown[0]!r} is not in the table: it has {', '.join(self.heads)}.")
        rows = [place for place, name in enumerate(self.heads) if name in wanted]
        kept = {f.name: getattr(self.fits, f.name) for f in fields(self.fits)}
        cut = {name: value[:, rows] if name == "null" else value[rows] for name, value in kept.items()}
        return replace(self, heads=tuple(self.heads[row] for row in rows), fits=FactorFits(**cut))

    def best(self, head: str) -> tuple[str, Figure, str, Figure, Figure]:
        """Best factor and its R^2, second and its R^2, and selectivity: the first R^2 less the second, floored at 0.

        1 says that one factor is all that can be read, 0 that two can be read equally well. The interval is over
        images, for the two factors that are best on all of them.

        Raises:
            GraphError: The head is not in the table.
        """
        row = self._row(head)
        values = self.fits.r2[row]
        if np.isnan(values).all():
            none = _figure(np.nan)
            return "", none, "", none, none
        first, *others = np.argsort(-values, kind="stable").tolist()
        if not others:
            lone = Figure(None, "share", reason="there is one factor")
            return self.factors[first], self.r2(head, self.factors[first]), "", lone, lone
        floored = np.maximum(values, 0)
        gap = float(floored[first] - floored[others[0]])
        ends = float(self.fits.gap_low[row]), float(self.fits.gap_high[row])
        names = self.factors[first], self.factors[others[0]]
        return names[0], self.r2(head, names[0]), names[1], self.r2(head, names[1]), _figure(gap, *ends)

    def r2(self, head: str, factor: str) -> Figure:
        """How well a factor can be read off a head.

        Raises:
            GraphError: They are not in the table.
        """
        if factor not in self.factors:
            raise GraphError(f"{factor!r} is not in the table: it has {', '.join(self.factors)}.")
        place = self._row(head), self.factors.index(factor)
        return _figure(*(float(part[place]) for part in (self.fits.r2, self.fits.low, self.fits.high)))

    def described(self, head: str) -> tuple[str, Figure, Figure]:
        """The factor that alone accounts for most of what the head writes, its share, and that less the second's.

        Raises:
            GraphError: The head is not in the table.
        """
        row, fits = self._row(head), self.fits
        shares = fits.share[row]
        if np.isnan(shares).all():
            return "", _figure(np.nan), _figure(np.nan)
        first, *others = np.argsort(-shares, kind="stable").tolist()
        share = _figure(*(float(part[row, first]) for part in (fits.share, fits.share_low, fits.share_high)))
        if not others:
            return self.factors[first], share, Figure(None, "share", reason="there is one factor")
        gap = float(max(shares[first], 0) - max(shares[others[0]], 0))
        return self.factors[first], share, Figure(gap, "share", reason="its draws were not kept")

    def _row(self, head: str) -> int:
        if head not in self.heads:
            raise GraphError(f"{head!r} is not in the table: it has {', '.join(self.heads)}.")
        return self.heads.index(head)

    @property
    def above_null(self) -> np.ndarray:
        """Whether R^2 is above that of every shuffle (p = 1 / (shuffles + 1) for one cell), (head, factor)."""
        return self.fits.r2 > self.fits.null.max(0, initial=-np.inf)

    def table(self) -> Table:
        """One row per head: best and second factor, selectivity, and the largest R^2 of any shuffle."""
        rows = []
        for head in self.heads:
            first, r2, second, other, selectivity = self.best(head)
            row = self._row(head)
            null = self.fits.null[:, row]
            largest = f"{np.max(null):.3f}" if null.size and np.isfinite(null).all() else "none"
            factor, share, _ = self.described(head)
            rows.append((head, first, r2, second, other, selectivity, largest, factor, share))
        names = ("head", "best", "R^2", "second", "R^2", "selectivity", "shuffled")
        return Table((*names, "describes it best", "share of write"), tuple(rows), f"{self.headline}. {self.caveat}")

    def frame(self) -> pandas.DataFrame:
        """One row per head and factor: `r2`, `null` (largest shuffle), `p`, `share`, `accuracy`.

        `low` and `high`, `share_low` and `share_high` are ends of 95% intervals over images; `p` is of one cell alone,
        not corrected for the number of cells.
        """
        import pandas

        heads, factors = (axis.ravel() for axis in np.indices(self.fits.r2.shape))
        null, n = self.fits.null, len(self.fits.null)
        p = np.where(np.isnan(self.fits.r2), np.nan, (1 + (null >= self.fits.r2).sum(0)) / (1 + n))
        columns = {
            "r2": self.fits.r2,
            "low": self.fits.low,
            "high": self.fits.high,
            "null": null.max(0) if n else np.full(self.fits.r2.shape, np.nan),
            "p": p,
            "share": self.fits.share,
            "share_low": self.fits.share_low,
            "share_high": self.fits.share_high,
            "accuracy": self.fits.accuracy,
        }
        places = {"model": self.model, "head": np.array(self.heads)[heads], "factor": np.array(self.factors)[factors]}
        return pandas.DataFrame({**places, **{name: column.ravel() for name, column in columns.items()}})

    @drawable
    def draw(self, path: str | Path, *, title: str = "") -> Path:
        """Draws R^2 and share of the write, heads upwards and factors across, to an .svg, .pdf or .png.

        Raises:
            FormatError: The ending is not known, or the file cannot be written.
        """
        from ...circuits.draw.heatmap import Heatmap, draw_heatmap

        grids = np.stack([self.fits.r2, self.fits.share])
        panels = "read off the head", "share of what it writes"
        words = title or f"{self.model}: heads and factors", "R\N{SUPERSCRIPT TWO} on images that were left out"
        axes = {"row_axis": "head", "column_axis": "factor", "unit": "R\N{SUPERSCRIPT TWO}"}
        shown = np.clip(grids, 0, 1)
        return draw_heatmap(Heatmap(shown, self.heads, self.factors, **axes, panels=panels, title=words[0],
                                    subtitle=words[1], share=True), path)  # fmt: skip


def _figure(value: float, low: float = np.nan, high: float = np.nan) -> Figure:
    if np.isnan(value):
        return Figure(None, "share", reason="the head writes the same for all images here")
    if np.isnan(low):
        return Figure(value, "share", reason="n_bootstrap is 0")
    return Figure(value, "share", low, high, method="R^2 on images that were left out; interval: bootstrap over images")
