"""The circuit's answer beside the model's, image by image: those that it is furthest off on, and the closest.

What is said of each image comes from the report's table of images; the picture from the exhibit.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..circuit import Circuit
from ..exhibit import Exhibit
from ..report import Report
from ..report_words import BEST, WORST, image_number, image_rows
from .words import named, shortened, tag, text

_SIDE = 112  # px, of a thumbnail
Answer = Sequence[str]
"""A row of the table of images: image, shows, what model and circuit say, m of both, range over partners."""


def answers(report: Report, exhibit: Exhibit, circuit: Circuit) -> str:
    """Thumbnails in two groups; empty where no picture was gathered."""
    rows = [row for row in image_rows(report) if image_number(row) in exhibit.pictures]
    if not rows:
        return ""
    worst, best = rows[:WORST], rows[WORST:][-BEST:]
    names = {side: named(circuit.task.get(f"{side}_name", side)) for side in ("target", "foil")}
    note = (
        "m is the metric, which speaks for the target where it is high; of the circuit its mean over partners, and in "
        "brackets the range over them: a circuit that reads the image answers alike whatever the partner. An orange "
        "frame: circuit and model name different classes."
    )
    groups = [tag("p", text(note)), _group("Furthest off", worst, exhibit, names)]
    if best:
        groups.append(_group("Closest", best[::-1], exhibit, names))
    return "".join(groups)


def _group(heading: str, rows: Sequence[Answer], exhibit: Exhibit, names: dict[str, str]) -> str:
    figures = [_figure(row, exhibit.pictures[image_number(row)], names) for row in rows]
    return tag("h3", text(heading)) + tag("div", *figures, class_="gallery answers")


def _figure(row: Answer, picture: NDArray[np.float32], names: dict[str, str]) -> str:
    image, shows, model, circuit, m_model, m_circuit, spread = row
    lines = (
        f"{image}: shows {shortened(names.get(shows, shows), 18)}",
        f"model: {shortened(model, 16)}, m = {m_model}",
        f"circuit: {shortened(circuit, 16)}, m = {m_circuit}",
        f"({spread})",
    )
    shown = f'<img alt="{text(lines[0])}" src="{thumbnail_uri(picture)}">'
    said = tag("figcaption", "<br>".join(map(text, lines)))
    return tag("figure", shown, said, class_=None if model == circuit else "other")


def thumbnail_uri(picture: NDArray[np.float32]) -> str:
    """A picture in [0, 1], (height, width, 1 or 3), as a small PNG data URI; small ones keep their pixels sharp."""
    from PIL import Image

    pixels = (np.clip(np.nan_to_num(picture), 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    factor = max(1, _SIDE // max(image.size))
    image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
