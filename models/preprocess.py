"""How a picture becomes a model's input, and back: short side resized, centre cropped, normalised per channel.

The same steps, in the same order and with the same rounding, as timm's evaluation transform, so that a model's
accuracy here is its accuracy there. A clip is an image whose channels are those of all its frames, one frame behind the
other, so that whatever takes a batch of images takes a batch of clips: tasks, corruptions, algorithms, drawings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

Interpolation = Literal["nearest", "bilinear", "bicubic"]


@dataclass(frozen=True)
class Preprocess:
    """A model's input: size, channels, and what is subtracted from and divided out of pixels in [0, 1].

    Args:
        size: Height and width in pixels.
        channels: 1 (grey) or 3 (RGB).
        mean: One number per channel, subtracted.
        std: One number per channel, divided by.
        crop_pct: The part of the resized picture's side that the centre crop keeps.
        interpolation: How pixels are resized.
        squash: Whether the picture is resized to the size as it is, whatever its shape, instead of cropped.

    Raises:
        DataError: The numbers contradict each other.
    """

    size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float = 1.0
    interpolation: Interpolation | str = "bicubic"
    squash: bool = False

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise DataError(f"Preprocess got channels={self.channels}, but pictures are grey (1) or RGB (3).")
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise DataError(
                f"Preprocess got {self.channels} channels but mean={self.mean} and std={self.std}: each channel needs "
                f"its own, such as mean=(0.5,) * {self.channels}, std=(0.5,) * {self.channels}."
            )
        if min(self.std) <= 0 or min(self.size) < 1 or not 0 < self.crop_pct <= 1:
            raise DataError(
                f"Preprocess wants std above 0, a size of at least 1 pixel and 0 < crop_pct <= 1, but got "
                f"std={self.std}, size={self.size}, crop_pct={self.crop_pct}."
            )
        if self.interpolation not in get_args(Interpolation):
            raise DataError(
                f"Preprocess got interpolation={self.interpolation!r}, but knows {', '.join(get_args(Interpolation))}."
            )

    @classmethod
    def from_timm(cls, module: nn.Module) -> Preprocess:
        """The preprocessing that a timm model was trained with.

        Size and channels are the module's own where its patch embedding states them: timm's configuration describes
        the pretrained weights, and a module built by hand has none. Mean and std are then timm's default (ImageNet's),
        averaged for grey.
        """
        from timm.data.config import resolve_model_data_config

        config = resolve_model_data_config(module)
        channels, *size = config["input_size"]
        embed = getattr(module, "patch_embed", None)
        size = getattr(embed, "img_size", None) or size
        channels = getattr(getattr(embed, "proj", None), "in_channels", channels)
        known = config["interpolation"] in get_args(Interpolation)
        return cls(
            size=(int(size[0]), int(size[1])),
            channels=channels,
            mean=_per_channel(config["mean"], channels),
            std=_per_channel(config["std"], channels),
            crop_pct=float(config["crop_pct"]),
            interpolation=config["interpolation"] if known else "bicubic",
        )

    def __call__(self, image: Image) -> Float[Tensor, "channel height width"]:
        """The picture as a model's input."""
        from torchvision.transforms.functional import to_tensor

        converted = image.convert("L" if self.channels == 1 else "RGB")
        return self.normalise(to_tensor(self._resize_and_crop(converted, converted.height, converted.width)))

    def fit(
        self, pixels: Float[Tensor, "image channel height width"]
    ) -> Float[Tensor, "image model_channel model_height model_width"]:
        """Pixels in [0, 1] of any size and of 1 or 3 channels as a model's input; resized only where needed."""
        channels, height, width = pixels.shape[-3:]
        if channels != self.channels:
            # ITU-R 601 luma, the weights that PIL's "L" uses
            luma = torch.tensor([0.299, 0.587, 0.114], dtype=pixels.dtype, device=pixels.device)[:, None, None]
            grey = pixels if channels == 1 else (pixels * luma).sum(-3, keepdim=True)
            pixels = grey.expand(*grey.shape[:-3], self.channels, height, width)
        if (height, width) != self.size:
            # bicubic overshoots beside sharp edges
            pixels = self._resize_and_crop(pixels, height, width).clamp(0, 1)
        return self.normalise(pixels)

    def normalise(self, pixels: Float[Tensor, "*batch channel height width"]) -> Float[Tensor, "*batch c h w"]:
        """Pixels in [0, 1] as a model's input: minus mean, over std."""
        mean, std = self._statistics(pixels)
        return (pixels - mean) / std

    def denormalise(self, images: Float[Tensor, "*batch channel height width"]) -> Float[Tensor, "*batch c h w"]:
        """A model's input as pixels that can be drawn, clamped to [0, 1]."""
        mean, std = self._statistics(images)
        return (images * std + mean).clamp(0, 1)

    def _statistics(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if images.ndim < 3 or images.shape[-3] != self.channels:
            raise DataError(
                f"Images have shape {tuple(images.shape)}, but {self.channels} channels are wanted: "
                f"[..., {self.channels}, height, width]."
            )
        mean, std = torch.tensor([self.mean, self.std], dtype=images.dtype, device=images.device)[..., None, None]
        return mean, std

    def places(self, height: int, width: int) -> tuple[Float[Tensor, " row"], Float[Tensor, " column"]]:
        """Where in a picture the centres of the input's pixels lie: rows and columns, in the picture's own pixels.

        The picture's first row covers 0 to 1, so its centre is at .5. What is drawn on the picture in these
        coordinates, such as a box, is found again at the right pixels of the input.

        Args:
            height: Of the picture before it is resized and cropped.
            width: Likewise.
        """
        found = []
        for side, resized, kept in zip((height, width), self._resized(height, width), self.size, strict=True):
            cut = round((resized - kept) / 2)  # as torchvision's center_crop rounds
            found.append((torch.arange(kept, dtype=torch.float64, device="cpu") + 0.5 + cut) * side / resized)
        return found[0], found[1]

    def _resize_and_crop(self, image: Any, height: int, width: int) -> Any:
        """A PIL picture or a tensor: resized, then the centre."""
        from torchvision.transforms.functional import InterpolationMode, center_crop, resize

        resized = resize(image, self._resized(height, width), InterpolationMode(self.interpolation))
        return center_crop(resized, list(self.size))

    def _resized(self, height: int, width: int) -> list[int]:
        """The smallest size of the same shape that covers size / crop_pct; the size itself if it is to be squashed."""
        if self.squash:
            return list(self.size)
        want_height, want_width = (math.floor(side / self.crop_pct) for side in self.size)
        # int(want * long / short) is torchvision's rounding of the long side
        if want_height * width >= want_width * height:
            return [want_height, max(want_width, int(want_height * width / height))]
        return [max(want_height, int(want_width * height / width)), want_width]


def _per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    if len(values) == channels:
        return tuple(float(value) for value in values)
    return (sum(values) / len(values),) * channels


def clips_to_images(
    clips: Float[Tensor, "batch frame channel height width"],
) -> Float[Tensor, "batch channels height width"]:
    """Clips as images of frame x channel channels, the first frame's first: what a video model is handed here.

    `torch.stack([vit.preprocess(frame) for frame in frames])[None]` is a clip, for a ViT with `cfg.clip_frames` frames.
    """
    if clips.ndim != 5:
        raise DataError(
            f"clips have shape {tuple(clips.shape)}, but (batch, frame, channel, height, width) was wanted. For a "
            f"single clip pass clip[None]."
        )
    return clips.flatten(1, 2)


def images_to_clips(
    images: Float[Tensor, "batch channels height width"], frames: int
) -> Float[Tensor, "batch frame channel height width"]:
    """The clips again.

    Args:
        images: What `clips_to_images` gave.
        frames: Frames of a clip, a ViT's `cfg.clip_frames`.
    """
    if images.ndim != 4 or images.shape[1] % frames:
        raise DataError(
            f"images have shape {tuple(images.shape)}, but (batch, {frames} frames x channels, height, width) was "
            f"wanted: make them by clips_to_images."
        )
    return images.unflatten(1, (frames, -1))
