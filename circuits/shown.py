"""How a result looks where Python shows it: a line or a small table in a terminal, the same as HTML in a notebook.

`draw` writes a picture to a path, and without one returns a `Drawing`, which a notebook shows (`drawable`).
"""

from __future__ import annotations

import base64
import inspect
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Concatenate, ParamSpec, Protocol, overload, runtime_checkable

from ..models.files import write_text_atomic
from .formats import found

P = ParamSpec("P")

MOST_LINES, MOST_WIDTH = 12, 100
"""Of what a terminal shows."""
MOST_SHOWN = 20
"""Rows that a notebook shows."""


@dataclass(frozen=True)
class Glance:
    """What is seen of a result at first.

    Args:
        headline: What it is.
        columns: Headings of the table; empty where the headline is all.
        rows: The first rows of the table.
        n_rows: How many rows there are in all.
        caveat: What has to be known to read it.
        rest: How to see all rows.
    """

    headline: str
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    n_rows: int = 0
    caveat: str = ""
    rest: str = ".frame() has all"

    def left_out(self, shown: int) -> str:
        """How many rows are not seen, and where they are; empty where all are."""
        n = self.n_rows - shown
        return f"... and {n:,} more: {self.rest}" if n > 0 else ""

    def __str__(self) -> str:
        head, tail = (_wrapped(text) for text in (self.headline, self.caveat))
        room = MOST_LINES - len(head) - len(tail) - 2  # the headings, and how many are left out
        rows = self.rows[:room]
        headings = [self.columns] if any(self.columns) else []  # rows of words have none
        table = aligned([*headings, *rows])
        lines = [*head, *(f"  {line}" for line in table), self.left_out(len(rows)), *tail]
        return "\n".join(line if len(line) <= MOST_WIDTH else f"{line[: MOST_WIDTH - 3]}..." for line in lines if line)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, MOST_WIDTH, max_lines=2)


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Cells in columns of one width each, a line for each row."""
    if not lines:
        return []
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


class Shown(ABC):
    """A result that a terminal shows in at most MOST_LINES lines, and a notebook as a table of MOST_SHOWN rows."""

    @abstractmethod
    def glance(self, most: int) -> Glance:
        """What is seen of it at first, with at most so many rows."""

    def __repr__(self) -> str:
        return str(self.glance(MOST_LINES))

    def _repr_html_(self) -> str:
        glance = self.glance(MOST_SHOWN)
        return found("draw.pages.render")(
            "table.html",
            headline=glance.headline,
            columns=[(column, "") for column in glance.columns],
            rows=glance.rows,
            left_out=glance.left_out(len(glance.rows)),
            caveat=glance.caveat,
        )


@dataclass(frozen=True)
class Drawing:
    """A picture that was drawn without a path, as SVG text; a notebook shows it."""

    svg: str

    def __repr__(self) -> str:
        return f"Drawing of {len(self.svg):,} bytes: a notebook shows it, and .save('picture.svg') writes it"

    def _repr_html_(self) -> str:
        # An image of its own: in the page itself, the styles of an SVG would reach everything else.
        source = base64.b64encode(self.svg.encode()).decode("ascii")
        return f'<img style="max-width:100%" alt="drawing" src="data:image/svg+xml;base64,{source}">'

    def save(self, path: str | Path) -> Path:
        """Writes the SVG to a file, and returns its path.

        Raises:
            FormatError: The file cannot be written.
        """
        return write_text_atomic(path, self.svg)


@runtime_checkable
class _Bound(Protocol[P]):
    @overload
    def __call__(self, path: None = None, *args: P.args, **kwargs: P.kwargs) -> Drawing: ...
    @overload
    def __call__(self, path: str | Path, *args: P.args, **kwargs: P.kwargs) -> Path: ...


@runtime_checkable
class _Method(Protocol[P]):
    def __get__(self, instance: Any, owner: Any = None) -> _Bound[P]: ...


def drawable(draw: Callable[Concatenate[Any, str | Path, P], Path]) -> _Method[P]:
    """A method that draws to a path, made into one that returns a `Drawing` where no path is given."""

    @wraps(draw)
    def drawn(self: Any, path: str | Path | None = None, *args: Any, **options: Any) -> Path | Drawing:
        if path is not None:
            return draw(self, path, *args, **options)
        with TemporaryDirectory() as folder:
            return Drawing(draw(self, Path(folder) / "drawing.svg", *args, **options).read_text(encoding="utf-8"))

    first, where, *options = inspect.signature(draw).parameters.values()
    parameters = [first, where.replace(default=None), *options]
    drawn.__signature__ = inspect.Signature(parameters, return_annotation="Path | Drawing")  # type: ignore[attr-defined]
    return drawn  # type: ignore[return-value]
