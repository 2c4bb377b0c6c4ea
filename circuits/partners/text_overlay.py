"""A word painted on pictures: where it stands, and how it looks at the size and in the colours of a model's input.

The word is drawn large in Pillow's own font, cut to its ink, and shrunk into its box, so that it is as legible as the
pixels allow: on digits of 28 x 28 pixels letters seven pixels high can be read, on 8 x 8 none can. So the plate is at
least nine pixels high, or half of a picture that is smaller than that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...models.errors import TaskError
from ...models.preprocess import Preprocess

PLACES = {
    "centre": (0.5, 0.5),
    "top": (0.0, 0.5),
    "bottom": (1.0, 0.5),
    "left": (0.5, 0.0),
    "right": (0.5, 1.0),
    "top-left": (0.0, 0.0),
    "top-right": (0.0, 1.0),
    "bottom-left": (1.0, 0.0),
    "bottom-right": (1.0, 1.0),
}
_LARGE = 160  # pixels of the font before it is shrunk
_LEAST = 9  # pixels, the height of a plate whose letters can still be read
_MARGIN = 0.15  # of the letters' height, between the letters and the end of their plate


@dataclass(frozen=True)
class Lettering:
    """How a word is painted.

    Args:
        word: What is written.
        place: One of `PLACES`, or row and column as shares of the room that is left, (0, 0) being the top left.
        size: Height of the plate as a share of the picture's; words that would be wider than the picture are shrunk
            until they fit.
        colour: Of the letters: a name or #rrggbb. Grey pictures take its brightness.
        plate: Colour behind the letters; None paints the letters on the picture itself.

    Raises:
        TaskError: There is nothing to write, or a choice is not known.
    """

    word: str
    place: str | tuple[float, float] = "bottom"
    size: float = 0.2
    colour: str = "white"
    plate: str | None = "black"

    def __post_init__(self) -> None:
        if not self.word.strip():
            raise TaskError('there is no word to paint: pass one, such as Partner("word", word="dog").')
        if not 0 < self.size <= 1:
            raise TaskError(f"size={self.size} of a word is not possible: pass a share of the height, such as 0.2.")
        rgb(self.colour)
        if self.plate is not None:
            rgb(self.plate)
        self.corner_shares()

    def corner_shares(self) -> tuple[float, float]:
        """Where the word stands in the room that it leaves, row and column between 0 and 1."""
        place = PLACES.get(self.place) if isinstance(self.place, str) else self.place
        if place is None or len(place) != 2 or not all(0 <= part <= 1 for part in place):
            raise TaskError(
                f"place={self.place!r} is not known: pass one of {', '.join(map(repr, PLACES))}, or row and column "
                f"between 0 and 1, such as (0.8, 0.5)."
            )
        return place


def rgb(colour: str) -> tuple[float, float, float]:
    """Red, green and blue between 0 and 1.

    Raises:
        TaskError: It is no colour.
    """
    from PIL import ImageColor

    try:
        red, green, blue = ImageColor.getrgb(colour)[:3]
    except ValueError as error:
        raise TaskError(f"{colour!r} is no colour: pass a name such as 'white', or '#rrggbb'.") from error
    return red / 255, green / 255, blue / 255


def word_box(lettering: Lettering, size: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of a picture of this height and width that the word and its plate take."""
    ink = _ink(lettering.word)
    margin = 2 * _MARGIN
    wide_over_high = (ink.shape[1] / ink.shape[0] + margin) / (1 + margin)
    wanted = max(lettering.size * size[0], min(_LEAST, size[0] / 2))
    high = max(1, round(min(wanted, size[1] / wide_over_high)))
    wide = min(size[1], max(1, round(high * wide_over_high)))
    row, column = lettering.corner_shares()
    top, left = round(row * (size[0] - high)), round(column * (size[1] - wide))
    return slice(top, top + high), slice(left, left + wide)


def paint_word(
    images: Float[Tensor, "image channel height width"], lettering: Lettering, preprocess: Preprocess
) -> Float[Tensor, "image channel height width"]:
    """The images with the word on them; pixels outside its box are left bit for bit.

    Args:
        images: Preprocessed images, on which colours stand for what the model's normalisation makes of them.
        lettering: What is written, where and how.
        preprocess: The normalisation.
    """
    rows, columns = word_box(lettering, (images.shape[-2], images.shape[-1]))
    cover = _cover(lettering.word, rows.stop - rows.start, columns.stop - columns.start).to(images)
    painted, letters = images.clone(), _ready(lettering.colour, preprocess, images)
    ground = images[..., rows, columns] if lettering.plate is None else _ready(lettering.plate, preprocess, images)
    painted[..., rows, columns] = ground + cover * (letters - ground)
    return painted


def _ready(colour: str, preprocess: Preprocess, images: Tensor) -> Tensor:
    """A colour as a model's input, shape (channel, 1, 1)."""
    pixel = torch.tensor(rgb(colour), dtype=images.dtype, device=images.device)[:, None, None]
    if preprocess.channels == 1:
        pixel = (pixel * torch.tensor([0.299, 0.587, 0.114], device="cpu").to(pixel)[:, None, None]).sum(
            0, keepdim=True
        )
    return preprocess.normalise(pixel)


def _ink(word: str) -> np.ndarray:
    """How far each pixel of the large word is covered, 0 to 255, cut to the ink."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(_LARGE)
    left, top, right, bottom = (round(side) for side in font.getbbox(word))
    picture = Image.new("L", (max(1, right - left), max(1, bottom - top)))
    ImageDraw.Draw(picture).text((-left, -top), word, fill=255, font=font)
    box = picture.getbbox()
    return np.asarray(picture if box is None else picture.crop(box))


def _cover(word: str, high: int, wide: int) -> Tensor:
    """How far the letters cover each pixel of the box, shape (high, wide), 0 to 1."""
    from PIL import Image

    ink = _ink(word)
    margin = round(_MARGIN * ink.shape[0])
    large = Image.fromarray(np.pad(ink, margin))
    # each pixel is the mean of what it covers, which never overshoots
    small = large.resize((wide, high), Image.Resampling.BOX)
    cover = np.asarray(small).astype(np.float32)
    # letters thinner than a pixel cover none wholly; stretched, they still come out in their own colour
    return torch.from_numpy(cover / max(1.0, float(cover.max())))
