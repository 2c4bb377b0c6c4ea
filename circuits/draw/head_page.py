"""The page of an attention-head tour: what its script works with, and the grid of stills, which is a file too.

Rows are 16 bits: from 1 for a row's least to the most for its largest value, 0 where a mask forbids the token. Full
patterns stand in an element of their own for each image, which is read when the image is asked for.

Measured for DeiT-Tiny over four photographs of 224 x 224 (36 heads, 197 tokens), headless on two busy cores: see
`docs/attention.md`.
"""

from __future__ import annotations

import base64
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...models.config import VitConfig
from ...models.errors import FormatError
from .images import attention_image, png_uri
from .page_data import script_json
from .pages import explorer, markup, render
from .style import LABEL, draw_plot, head

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..tour import HeadTour

ROOT = 4.0
"""Root of the shares that a page holds, so that small weights beside a large one keep their digits."""


def written_as(path: str | Path) -> str:
    """The ending of a file that a tour is written to.

    Raises:
        FormatError: It is not known.
    """
    ending = Path(path).suffix.lower()
    if ending not in (".html", ".svg", ".pdf", ".png"):
        raise FormatError(
            f"cannot tell a format from the ending of {str(path)!r}: a tour is written as .html, or as a still .svg, "
            f'.pdf or .png, such as tour.save("heads.html").'
        )
    return ending


def to_html(tour: HeadTour) -> str:
    """The page as text."""
    maps, cfg = tour.rows["pattern"], tour.cfg
    stills = {name: png_uri(_still(maps.on_image(name))) for name in maps}
    return render(
        "heads.html",
        title=f"Attention heads of {cfg.name}",
        facts=_facts(tour),
        note=missing(tour),
        looker=looker(cfg),
        grid=[[(name, stills[name]) for name in row] for row in in_rows(stills)],
        images=[
            (name, answer, png_uri(picture))
            for name, answer, picture in zip(tour.names, tour.answers, tour.pictures, strict=True)
        ],
        data=markup(script_json(tour_data(tour))),
        full=[
            (image, markup(script_json(full_data(tour, image)))) for image in range(len(tour.names)) if tour.kept(image)
        ],
        **explorer("heads"),
    )


def _still(values: NDArray[np.floating]) -> NDArray[np.floating]:
    return attention_image(np.zeros((*values.shape, 1), dtype=np.float32), values)


def _facts(tour: HeadTour) -> list[tuple[str, str]]:
    cfg, (height, width) = tour.cfg, tour.cfg.patch_size
    rows, columns = cfg.tokens.grid
    return [
        ("heads", f"{len(tour.heads)} in {cfg.n_layers} layers"),
        ("tokens", f"{cfg.tokens.n_tokens:,}, {rows} x {columns} patches of {height} x {width} pixels"),
        ("images", f"{len(tour.names):,}"),
    ]


def looker(cfg: VitConfig) -> str:
    """Which tokens look where none is chosen: those that are read out."""
    tokens = cfg.tokens
    where = "the mean over all tokens"
    if tokens.has_cls:
        where = "CLS and the distillation token" if tokens.has_dist else "CLS"
    return f"the pool, and in the layers before it {where}" if cfg.pools else where


def missing(tour: HeadTour) -> str:
    """Which full patterns the page lacks, and how to have them; empty where it has all."""
    if tour.cfg.tokens.frames > 1:
        return "Of videos frames are added up, and what single patches see is not kept."
    kept = [tour.kept(image) for image in range(len(tour.names))]
    if min(kept) == len(tour.heads):
        return ""
    whole = sum(n == len(tour.heads) for n in kept)
    part = [f"{n} heads of image {image + 1}" for image, n in enumerate(kept) if 0 < n < len(tour.heads)]
    has = "; ".join([*([f"all heads of {whole} images"] * bool(whole)), *part[:3], *(["..."] * (len(part) > 3))])
    megabytes = -(-sum(map(_pattern_bytes(tour), tour.heads)) * len(kept) // 1_000_000)
    return (
        f"What single patches see is kept for {has or 'no head'}; of the others what {looker(tour.cfg)} sees. "
        f"The page would have all with --full-mb {megabytes} (in Python full_bytes={megabytes}_000_000)."
    )


def _pattern_bytes(tour: HeadTour) -> Any:
    keys, last = tour.cfg.tokens.patches.stop, f"a{tour.cfg.n_layers - 1}."
    return lambda name: keys * (1 if tour.cfg.pools and name.startswith(last) else keys)


def tour_data(tour: HeadTour) -> dict[str, Any]:
    """What the script reads, but for full patterns; the pictures themselves stand in the page already."""
    tokens, maps = tour.cfg.tokens, tour.rows["pattern"]
    return {
        "schema": "vitcircuits.heads/1",
        "title": tour.cfg.name,
        "grid": tokens.grid,
        "n_prefix": tokens.n_prefix,
        "frames": tokens.frames,
        "tokens": maps.tokens,
        "looker": looker(tour.cfg),
        "chip": "pool" if tour.cfg.pools else "CLS" if tokens.has_cls and not tokens.has_dist else "read out",
        "only_cls": tokens.has_cls and not tokens.has_dist and not tour.cfg.pools,
        "heads": tour.heads,
        "pool": tour.cfg.n_layers - 1 if tour.cfg.pools else -1,
        "layers": tour.cfg.n_layers,
        "chosen": tour.chosen,
        "kind": tour.kind,
        "one_length": tour.one_length,
        "rows": {kind: packed(_stacked(tour, kind), 1.0 if kind == "score" else ROOT) for kind in tour.rows},
        "lengths": packed(tour.lengths),
    }


def _stacked(tour: HeadTour, kind: str) -> NDArray[np.float32]:
    """Rows of the tokens that are read out, (image, head or layer, token)."""
    return np.stack([tour.rows[kind].readout(name) for name in tour.rows[kind]], 1)


def full_data(tour: HeadTour, image: int) -> dict[str, Any]:
    """Full patterns on an image: name of a head -> its bytes, and the largest score of each row."""
    return {
        name: {"data": _base64(full.data), "largest": _base64(full.largest.astype("<f4"))}
        for (place, name), full in tour.full.items()
        if place == image
    }


def packed(values: NDArray[np.floating], root: float = 1.0) -> dict[str, Any]:
    """Values, (..., token), as 16 bits between the least and the largest of each row; 0 for what is not finite.

    Args:
        values: The values.
        root: Root that is taken of shares of the span, so that small ones beside a large one keep their digits.
    """
    known = np.isfinite(values)
    least = np.where(known, values, np.inf).min(-1, keepdims=True)
    span = np.where(known, values, -np.inf).max(-1, keepdims=True) - least
    shares = np.where(known, values - least, 0) / np.where(span > 0, span, 1.0)
    data = np.where(known, 1 + np.rint(65534 * shares ** (1 / root)), 0).astype("<u2")
    ends = {"least": _base64(least.astype("<f4")), "span": _base64(span.astype("<f4"))}
    return {"shape": values.shape, "root": root, "data": _base64(data), **ends}


def _base64(array: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")


_SIDE = 0.9  # inches of a map
_ACROSS = 12  # maps in a row that belong to no head


def draw_grid(
    panels: Mapping[str, NDArray[np.floating]], path: str | Path, *, image: NDArray[np.floating] | None, title: str
) -> Path:
    """Draws maps to an .svg, .pdf or .png, and returns the path.

    Args:
        panels: `a3.h1` (or any name) -> heights over the patches, (row, column).
        path: Where to.
        image: The picture beneath, (height, width, channel) in [0, 1]; None for the maps alone.
        title: Stands above.

    Raises:
        FormatError: The ending is not known, or the file cannot be written.
    """
    rows = in_rows(panels)
    across, (high, wide) = max(map(len, rows)), next(iter(panels.values())).shape
    width = across * _SIDE + 0.1
    lines = textwrap.wrap(title, max(16, int(width * 11)), max_lines=3)
    ratio = high / wide if image is None else image.shape[0] / image.shape[1]

    def fill(figure: Figure) -> None:
        every: Any = figure.subplots(len(rows), across, squeeze=False)
        for row, place in np.ndindex(every.shape):
            axes = every[row, place]
            axes.set_axis_off()
            if place < len(rows[row]):
                name = rows[row][place]
                values = panels[name]
                axes.imshow(attention_image(np.zeros((high, wide, 1)) if image is None else image, values))
                axes.set_title(name, fontsize=6, color=LABEL, pad=1.5, parse_math=False)
        head(figure, "\n".join(lines))

    height = len(rows) * (_SIDE * ratio + 0.16) + 0.2 + 0.2 * len(lines)
    return draw_plot(path, "heads", (width, height), fill)


def in_rows(names: Mapping[str, Any]) -> list[list[str]]:
    """Names of heads by layer; what belongs to no head in rows of equal length."""
    rows: dict[str, list[str]] = {}
    for at, name in enumerate(names):
        layer, dot, _ = name.partition(".")
        rows.setdefault(layer if dot else str(at // _ACROSS), []).append(name)
    return list(rows.values())
