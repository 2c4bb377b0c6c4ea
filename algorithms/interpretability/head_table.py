"""What is known of each head's attention: printed, as a table, and as a contact sheet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray

from ...circuits.report import Figure, Table, Tabular
from ...circuits.shown import drawable
from ...models.errors import GraphError
from .factor_table import FactorTable
from .templates import FAMILIES, TemplateFit

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class Looking:
    """How a head attends from the patches, or from the token that gathers for the readout (`cls`).

    Args:
        name: The family of templates that it is named after; empty for none.
        fits: The best template of every family, of the mean pattern over images.
        null: The R^2 that 95% of shuffles of positions stay below, of every family; empty without shuffles.
        position: R^2 of the pattern by position alone, on images left out.
        entropy: Of the attention over all tokens, in nats, mean over targets and images.
        to_cls: Share of the attention that CLS (with a distillation token) gets.
        to_registers: The same of the registers.
        map: Mean attention that each patch gets, (row, column).
    """

    name: str
    fits: Mapping[str, TemplateFit]
    null: Mapping[str, float]
    position: Figure
    entropy: Figure
    to_cls: Figure
    to_registers: Figure
    map: Float64[np.ndarray, "row column"]

    @property
    def best(self) -> TemplateFit:
        """The template that it is named after; unnamed, the family's that accounts for most of the mean pattern."""
        return self.fits[self.family]

    @property
    def family(self) -> str:
        """Of the best template."""
        families = (name for name in self.fits if name in FAMILIES)
        return self.name or max(families, key=lambda name: np.nan_to_num(self.fits[name].r2))


@dataclass(frozen=True, eq=False)
class HeadEntry:
    """One head.

    Args:
        head: Its name, such as `a0.h1`.
        looking: `patches` and `cls` -> how it attends from there, where the model has such a place.
        offsets: Mean attention by offset from patch to patch, no offset in the middle; None in attention pooling.
        images: What it writes most on, highest first: length of its write, index of the image.
        patches: What it takes most from, each of another image: length of that part, image, row, column.
        crops: Pixels around those patches in [0, 1], (patch, height, width, channel).
        boxes: Where the patch is in its crop: left, top, width, height as shares.
    """

    head: str
    looking: Mapping[str, Looking]
    offsets: Float64[np.ndarray, "rows columns"] | None
    images: tuple[tuple[float, int], ...]
    patches: tuple[tuple[float, int, int, int], ...]
    crops: tuple[NDArray[np.float32], ...]
    boxes: tuple[tuple[float, float, float, float], ...]

    @property
    def name(self) -> str:
        """What it is called: from the patches, else from `cls`, which is said; empty where neither has a name."""
        said = {"patches": "", "cls": " (from CLS)"}
        return next((looking.best.label + said[at] for at, looking in self.looking.items() if looking.name), "")


@dataclass(frozen=True, eq=False, repr=False)
class HeadCatalogue(Tabular):
    """What each head attends to.

    Args:
        model: The model's name.
        grid: Rows and columns of patches.
        entries: One per head.
        method: `n_images`, `least`, `beyond`, `n_shuffles`, `seed`, in plain values.
        factors: Heads against known factors, where some were given.
    """

    caveat: ClassVar[str] = (  # type: ignore[override]
        "R^2 of a pattern is of its mean over these images; `by position` says how much of the pattern that mean is on "
        "an image left out. A name says where a head looks, not what it does there."
    )

    model: str
    grid: tuple[int, int]
    entries: tuple[HeadEntry, ...]
    method: Mapping[str, Any]
    factors: FactorTable | None = None

    def __getitem__(self, head: str) -> HeadEntry:
        for entry in self.entries:
            if entry.head == head:
                return entry
        raise GraphError(f"{head!r} is not in the catalogue: it has {', '.join(entry.head for entry in self.entries)}.")

    @property
    def headline(self) -> str:
        """What was looked at, and how many heads have a name."""
        n = sum(bool(entry.name) for entry in self.entries)
        rows, columns = self.grid
        return (
            f"{self.model}: {len(self.entries)} heads on {self.method['n_images']:,} images of {rows} x {columns} "
            f"patches, {n} named by position"
        )

    def named(self) -> dict[str, list[str]]:
        """Family -> the heads that are named after it, from the patches or from CLS."""
        found: dict[str, list[str]] = {}
        for entry in self.entries:
            for name in dict.fromkeys(looking.name for looking in entry.looking.values() if looking.name):
                found.setdefault(name, []).append(entry.head)
        return found

    def table(self) -> Table:
        """One row per head and place that it attends from."""
        rows = []
        for entry in self.entries:
            for at, looking in entry.looking.items():
                best, null = looking.best, looking.null.get(looking.family, np.nan)
                said = best.label if looking.name else f"({best.label})"
                shares = tuple(f"{value:.2f}" for value in (best.r2, null, best.attention))
                numbers = (looking.position, looking.entropy, looking.to_cls, looking.to_registers)
                rows.append((entry.head, at, said, *shares, *numbers, *self._factor(entry.head)))
        names = ("head", "from", "pattern", "R^2", "shuffled", "attention", "by position", "entropy", "to CLS")
        columns = (*names, "to registers")
        more = ("factor", "R^2 of it") if self.factors else ()
        return Table((*columns, *more), tuple(rows), f"In brackets: not a name. {self.caveat}")

    def _factor(self, head: str) -> tuple[str | Figure, ...]:
        return () if self.factors is None else self.factors.best(head)[:2]

    def frame(self) -> pandas.DataFrame:
        """One row per head and place that it attends from: every figure, and R^2 and null of every family."""
        import pandas

        return pandas.DataFrame([row for entry in self.entries for row in self._records(entry)])

    def _records(self, entry: HeadEntry) -> list[dict[str, Any]]:
        rows = []
        for at, looking in entry.looking.items():
            best = looking.best
            row: dict[str, Any] = {"model": self.model, "head": entry.head, "from": at, "name": looking.name}
            row |= {"pattern": best.label, "r2": best.r2, "attention": best.attention, "beyond": best.beyond}
            for name in ("position", "entropy", "to_cls", "to_registers"):
                figure = getattr(looking, name)
                row |= {name: figure.value, f"{name}_low": figure.low, f"{name}_high": figure.high}
            row |= {f"{name}_r2": fit.r2 for name, fit in looking.fits.items()}
            row |= {f"{name}_null": value for name, value in looking.null.items()}
            row["images"] = " ".join(str(image) for _, image in entry.images)
            row["patches"] = " ".join(f"{image}:r{r}c{c}" for _, image, r, c in entry.patches)
            if self.factors is not None:
                factor, figure = self._factor(entry.head)
                row |= {"factor": factor, "factor_r2": getattr(figure, "value", None)}
            rows.append(row)
        return rows

    @drawable
    def draw(self, path: str | Path, *, title: str = "") -> Path:
        """Draws a contact sheet to an .svg, .pdf or .png: a card for each head.

        On each: where CLS looks on average (or the patches, without CLS), the mean attention by offset, and the patches
        that excite it most, outlined in what surrounds them. Each map has a scale of its own.

        Raises:
            FormatError: The ending is not known, or the file cannot be written.
        """
        from ...circuits.draw.contact_sheet import SheetCard, draw_contact_sheet

        cards = [
            SheetCard(
                f"{entry.head}  {entry.name}",
                _note(entry),
                (list(entry.looking.values())[-1].map, entry.offsets),
                entry.crops,
                entry.boxes,
                bool(entry.name),
            )
            for entry in self.entries
        ]
        at = "CLS looks here" if any("cls" in entry.looking for entry in self.entries) else "patches look here"
        return draw_contact_sheet(
            cards, path, headings=(at, "by offset", "takes most from"), title=title or self.headline
        )


def _note(entry: HeadEntry) -> str:
    """By position and to CLS, in a line, of the place that names it."""
    looking = next((one for one in entry.looking.values() if one.name), next(iter(entry.looking.values())))
    r2, fixed = looking.best.r2, looking.position.value
    said = f"R\N{SUPERSCRIPT TWO} {r2:.2f}  " if looking.name else ""
    by = "the same everywhere" if fixed is None else f"by position {max(fixed, 0):.2f}"
    return f"{said}{by}  CLS {looking.to_cls.value or 0:.2f}"
