"""Images as pictures and pages show them: patch grids, attention as heat, pairs, heads, answers, partners.

Beside a partner that is the clean image changed at some places stands what changed: the changed pixels in full colour
and the rest pale, the patches that hold a changed pixel outlined. It is drawn once for partners that change the same
patches, and not for those that change all of them.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...models.config import TokenLayout, VitConfig
from ..circuit import Circuit
from ..report import Report
from ..words import BEST, WORST, image_number, image_rows, named, shortened
from .style import FRAME, INK, LABEL, ORANGE, draw_plot, head, legible, tag, text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL import Image

    from ..figure_data import Exhibit, PartnerExhibit


CHIPS = 34.0  # px; room for the chips at an image's left
_CRISP = 160  # px; smaller images are enlarged by whole factors so that their pixels stay sharp
THUMBNAIL = 112  # px


def png_uri(image: NDArray[np.floating]) -> str:
    """An image in [0, 1], shape (height, width, channel), 1 or 3 channels, as a PNG data URI."""
    picture = _picture(image)
    return _uri(picture, max(1, -(-_CRISP // max(picture.size))))


def _picture(image: NDArray[np.floating]) -> Image.Image:
    from PIL import Image

    pixels = (np.clip(np.nan_to_num(image), 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _uri(picture: Image.Image, factor: int) -> str:
    """The picture, enlarged by a whole factor, as PNG."""
    from PIL import Image

    if factor > 1:
        picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def attention_image(image: NDArray[np.floating], attention: NDArray[np.floating]) -> NDArray[np.float64]:
    """A small copy of the image in grey under a heat of attention, shape (height, width, 3).

    Args:
        image: In [0, 1], shape (height, width, channel).
        attention: One weight per patch, shape (rows, columns); the strongest patch gets the full colour.
    """
    stride = max(1, max(image.shape[:2]) // THUMBNAIL)
    image = image[::stride, ::stride]
    height, width = image.shape[:2]
    scale = max(1, -(-2 * attention.shape[0] // height), -(-2 * attention.shape[1] // width))
    grey = np.repeat(np.repeat(np.nan_to_num(image).mean(-1), scale, 0), scale, 1)
    weights = np.clip(np.nan_to_num(attention), 0.0, None)
    weights = weights / (weights.max() or 1.0)
    rows = np.arange(grey.shape[0]) * attention.shape[0] // grey.shape[0]
    columns = np.arange(grey.shape[1]) * attention.shape[1] // grey.shape[1]
    heat = weights[rows][:, columns][..., None]
    base = (0.12 + 0.6 * grey)[..., None] * np.ones(3)
    return base * (1 - 0.85 * heat) + 0.85 * heat * np.array([1.0, 0.72, 0.16])


def image_with_grid(
    image: NDArray[np.floating], tokens: TokenLayout, *, x: float, y: float, size: float, alt: str
) -> list[str]:
    """SVG of an image with its patch grid over it, `size` pixels high; chips at its left for tokens without pixels."""
    height, width = image.shape[:2]
    wide = size * width / height
    rows, columns = tokens.grid
    path = "".join(f"M{text(x)} {text(y + size * r / rows)}h{text(wide)}" for r in range(1, rows))
    path += "".join(f"M{text(x + wide * c / columns)} {text(y)}v{text(size)}" for c in range(1, columns))
    frame = {"x": x, "y": y, "width": wide, "height": size}
    return [
        tag("image", tag("title", text(alt)), href=png_uri(image), preserveAspectRatio="none", **frame),
        tag("path", d=path, fill="none", stroke="#9aa3ad", stroke_width=0.7, stroke_opacity=0.75) if path else "",
        tag("rect", fill="none", stroke="#4b5563", stroke_width=0.8, **frame),
        *_chips(tokens, x - CHIPS, y),
    ]


def without_pixels(tokens: TokenLayout) -> tuple[str, ...]:
    """Names of the groups of tokens that stand for no part of the image."""
    found = {"cls": tokens.has_cls, "dist": tokens.has_dist, "reg": tokens.n_registers, "pool": tokens.has_pool}
    return tuple(name for name, there in found.items() if there)


def chips_width(tokens: TokenLayout) -> float:
    """Room at an image's left for the tokens without pixels."""
    return CHIPS if without_pixels(tokens) else 0.0


def _chips(tokens: TokenLayout, x: float, y: float) -> list[str]:
    registers = [f"R{i}" for i in range(tokens.n_registers)]
    if len(registers) > 4:
        registers = [*registers[:3], f"+{len(registers) - 3}"]
    names = ["CLS"] * tokens.has_cls + ["dist"] * tokens.has_dist + registers + ["pool"] * tokens.has_pool
    chips = []
    for place, name in enumerate(names):
        top = y + 20.0 * place
        shade = "#dbe7f5" if name in ("CLS", "dist", "pool") else "#e5e7eb"
        chips.append(tag("rect", x=x, y=top, width=28.0, height=16.0, rx=4.0, fill=shade, stroke="#9ca3af"))
        chips.append(tag("text", name, x=x + 14.0, y=top + 11.5, class_="chip", text_anchor="middle"))
    return chips


def caption(exhibit: Exhibit, pair: int, which: str, *, length: int = 40) -> str:
    """What the model says about a `clean` or `corrupt` image."""
    logits = exhibit.clean_logits if which == "clean" else exhibit.corrupt_logits
    if pair >= len(logits) or not logits.shape[-1]:
        return which
    best = int(np.argmax(logits[pair]))
    name = exhibit.class_names[best] if best < len(exhibit.class_names) else str(best)
    return f"{'clean' if which == 'clean' else 'partner'}: read as {shortened(name, length)}"


_MOST_PAIRS, _MOST_HEADS = 6, 64
_PAIR_SIDE = 150.0
_OTHERS = {"cls": "CLS", "dist": "the distillation token", "reg": "registers"}  # nothing attends to the pool's token


def pairs(exhibit: Exhibit, circuit: Circuit) -> list[list[tuple[str, str]]]:
    """The first pairs, clean beside partner: each image as SVG with its patch grid, and what the model says of it."""
    tokens = circuit.graph.cfg.tokens
    chips = chips_width(tokens)
    found = []
    for pair in range(min(_MOST_PAIRS, len(exhibit.clean))):
        figures = []
        for which, pictures in (("clean", exhibit.clean), ("corrupt", exhibit.corrupt)):
            image, said = pictures[pair], caption(exhibit, pair, which, length=80)
            wide = chips + _PAIR_SIDE * image.shape[1] / image.shape[0] + 1
            drawing = image_with_grid(image, tokens, x=chips, y=0.5, size=_PAIR_SIDE, alt=said)
            figures.append((_framed(drawing, wide, _PAIR_SIDE + 1), said))
        found.append(figures)
    return found


def attention(exhibit: Exhibit, circuit: Circuit) -> dict[str, Any] | None:
    """One thumbnail per head of the circuit, over the first clean image: `note`, and `heads` as (URI, caption)."""
    heads = sorted(
        {(end.layer, end.head) for edge in circuit for end in (edge.source, edge.destination) if end.head >= 0}
    )
    if not heads or not len(exhibit.attention) or exhibit.grid[0] * exhibit.grid[1] == 0:
        return None
    cfg = circuit.graph.cfg
    note = f"Attention {_where(cfg)} over the first clean image; the strongest patch of each head is fully coloured."
    others = [name for name in without_pixels(cfg.tokens) if name in _OTHERS]
    if others:
        rest = "CLS itself" if others == ["cls"] else " and ".join(_OTHERS[name] for name in others)
        note += f" The number is the share of attention that goes to patches, the rest goes to {rest}."
    if len(heads) > _MOST_HEADS:
        note += f" The first {_MOST_HEADS} of {len(heads)} heads are shown."
    return {"note": note, "heads": [_head(exhibit, layer, head) for layer, head in heads[:_MOST_HEADS]]}


def _where(cfg: VitConfig) -> str:
    """Which tokens attention is shown from."""
    tokens = cfg.tokens
    where = "averaged over all tokens"
    if tokens.has_cls:
        where = "from CLS and the distillation token" if tokens.has_dist else "from CLS"
    return f"{where} (in layer {cfg.n_layers - 1}, attention pooling, from the pool)" if cfg.pools else where


def _head(exhibit: Exhibit, layer: int, head: int) -> tuple[str, str]:
    pattern = exhibit.on_patches(0, layer, head)
    said = f"a{layer}.h{head}" + (f"  {pattern.sum():.2f}" if exhibit.n_prefix else "")
    return png_uri(attention_image(exhibit.clean[0], pattern)), said


def _framed(content: list[str], width: float, height: float) -> str:
    size = f'width="{text(width)}" height="{text(height)}" viewBox="0 0 {text(width)} {text(height)}"'
    return f'<svg class="vc" {size}>{"".join(content)}</svg>'


def answers(report: Report, exhibit: Exhibit, circuit: Circuit) -> list[tuple[str, list[dict[str, Any]]]]:
    """The circuit's answer beside the model's, image by image: those that it is furthest off on, and the closest.

    What is said of each comes from the report's table of images, the picture from the exhibit: heading -> `uri`,
    `lines` and whether the two answers differ (`other`).
    """
    rows = [row for row in image_rows(report) if image_number(row) in exhibit.pictures]
    names = {side: named(circuit.task.get(f"{side}_name", side)) for side in ("target", "foil")}
    groups = {"Furthest off": rows[:WORST], "Closest": rows[WORST:][-BEST:][::-1]}
    return [
        (heading, [_answer(row, exhibit.pictures[image_number(row)], names) for row in some])
        for heading, some in groups.items()
        if some
    ]


def _answer(row: Sequence[str], picture: NDArray[np.float32], names: dict[str, str]) -> dict[str, Any]:
    """A row of the table of images: image, shows, what model and circuit say, m of both, range over partners."""
    image, shows, model, circuit, m_model, m_circuit, spread = row
    lines = (
        f"{image}: shows {shortened(names.get(shows, shows), 18)}",
        f"model: {shortened(model, 16)}, m = {m_model}",
        f"circuit: {shortened(circuit, 16)}, m = {m_circuit}",
        f"({spread})",
    )
    return {"uri": thumbnail_uri(picture), "lines": lines, "other": model != circuit}


def thumbnail_uri(picture: NDArray[np.float32]) -> str:
    """A picture in [0, 1], (height, width, 1 or 3), as a small PNG data URI; small ones keep their pixels sharp."""
    from PIL import Image

    image = _picture(picture)
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return _uri(image, max(1, THUMBNAIL // max(image.size)))


_SIDE = 1.5  # inches of a picture


@dataclass(frozen=True, eq=False)
class _Column:
    """One column of pictures.

    Args:
        title: Stands above.
        images: Shape (image, height, width, channel).
        captions: Under each picture.
        tokens: Patches to outline, shape (image, row, column).
    """

    title: str
    images: NDArray[np.floating]
    captions: tuple[str, ...]
    tokens: NDArray[np.bool_] | None = None


def draw_partners(exhibit: PartnerExhibit, path: str | Path, *, title: str = "") -> Path:
    """Draws a row for each clean image to an .svg, .pdf or .png, and returns the path.

    Args:
        exhibit: What `gather_partners` found.
        path: Where to.
        title: Stands above.

    Raises:
        FormatError: The ending is not known, or the file cannot be written.
    """
    columns = _columns(exhibit)
    n_rows, (height, width) = len(exhibit.clean), exhibit.clean.shape[1:3]

    def fill(figure: Figure) -> None:
        every: Any = figure.subplots(n_rows, len(columns), squeeze=False)
        for row, place in np.ndindex(every.shape):
            _panel(every[row, place], columns[place], row)
        if title:
            head(figure, title)

    size = len(columns) * (_SIDE * width / height + 0.1), n_rows * (_SIDE + 0.17) + 0.35 + 0.35 * bool(title)
    return draw_plot(path, "partners", size, fill)


def _columns(exhibit: PartnerExhibit) -> list[_Column]:
    columns = [_Column("clean", exhibit.clean, exhibit.captions["clean"])]
    last: NDArray[np.bool_] | None = None
    for name, images in exhibit.partners.items():
        columns.append(_Column(name, images, exhibit.captions[name]))
        if name not in exhibit.changed:
            continue
        changed, tokens = exhibit.changed[name], exhibit.tokens[name]
        if not tokens.all() and not (last is not None and np.array_equal(tokens, last)):
            share = [f"{some.sum()} of {some.size} patches" for some in tokens]
            columns.append(_Column("changed", _paled(exhibit.clean, changed), tuple(share), tokens))
            last = tokens
    return columns


def _paled(clean: NDArray[np.floating], changed: NDArray[np.bool_]) -> NDArray[np.floating]:
    return np.where(changed[..., None], clean, 0.25 * clean + 0.75 * 0.9)


def _panel(axes: Axes, column: _Column, row: int) -> None:
    image = np.clip(column.images[row], 0, 1)
    image = np.repeat(image, 3, -1) if image.shape[-1] == 1 else image
    axes.imshow(image, interpolation="nearest")
    if column.tokens is not None:
        _outline(axes, column.tokens[row], image.shape[0], image.shape[1])
    if row == 0:
        axes.set_title(shortened(column.title, 22), fontsize=9, color=INK, parse_math=False)
    caption = legible(shortened(column.captions[row], 24))
    axes.set_xlabel(caption, fontsize=7, color=LABEL, labelpad=2, parse_math=False)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color(FRAME)
    axes.spines[:].set_linewidth(0.4)


def _outline(axes: Axes, tokens: NDArray[np.bool_], height: int, width: int) -> None:
    """The border of the marked patches."""
    tall, wide = height / tokens.shape[0], width / tokens.shape[1]
    padded = np.pad(tokens, 1)
    for row, column in np.argwhere(padded[1:, :] != padded[:-1, :]).tolist():  # a line between two rows
        left, y = (column - 1) * wide - 0.5, row * tall - 0.5
        axes.plot([left, left + wide], [y, y], color=ORANGE, linewidth=0.9, solid_capstyle="projecting")
    for row, column in np.argwhere(padded[:, 1:] != padded[:, :-1]).tolist():
        top, x = (row - 1) * tall - 0.5, column * wide - 0.5
        axes.plot([x, x], [top, top + tall], color=ORANGE, linewidth=0.9, solid_capstyle="projecting")
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylim(height - 0.5, -0.5)
