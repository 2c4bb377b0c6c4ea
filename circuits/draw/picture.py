"""Images as a picture needs them: PNG data URIs, the patch grid drawn over them, attention as a heat over the image."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray

from ...models.config import TokenLayout
from ..exhibit import Exhibit
from .words import shortened, tag, text

CHIPS = 34.0  # px; room for the chips at an image's left
_CRISP = 160  # px; smaller images are enlarged by whole factors so that their pixels stay sharp
_THUMBNAIL = 112  # px


def png_uri(image: NDArray[np.floating]) -> str:
    """An image in [0, 1], shape (height, width, channel), 1 or 3 channels, as a PNG data URI."""
    from PIL import Image

    pixels = (np.clip(np.nan_to_num(image), 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    factor = max(1, -(-_CRISP // max(picture.size)))
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
    stride = max(1, max(image.shape[:2]) // _THUMBNAIL)
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
