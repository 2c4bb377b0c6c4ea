"""What a lens reads at every token of every layer, as arrays: the highest classes, and those that were asked for.

Logits of all classes at all tokens of all layers are large (DeiT-Tiny: 10 MB an image), so only some are kept, beside
the logarithm of each reading's sum of exponentials, with which their probabilities are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from ...models.errors import DataError, ModelError

if TYPE_CHECKING:
    import pandas

    from ...circuits.draw.lens_view import LensView
    from ...models.hooked import HookedViT

Kept = Float[np.ndarray, "layer image token kept"]


@dataclass(frozen=True, eq=False)
class TokenReadings:
    """Readings of each token at each layer.

    Args:
        layers: Names of the layers.
        tokens: Names of the tokens: `cls`, `reg0`, `r0c0` ..., or what the readout reads.
        grid: Rows and columns of the patches among them; (0, 0) if there are none.
        class_names: Of all classes.
        classes: Indices of those whose logits are kept.
        logits: Of these.
        normaliser: log sum exp of all classes' logits.
        top: Indices of the highest classes, highest first.
        top_logits: Their logits.
        answers: The class that the model answers to each image.
        pictures: The first images in [0, 1], where patches are read.
        names: What images are called.
    """

    layers: tuple[str, ...]
    tokens: tuple[str, ...]
    grid: tuple[int, int]
    class_names: tuple[str, ...]
    classes: tuple[int, ...]
    logits: Kept
    normaliser: Float[np.ndarray, "layer image token"]
    top: Int[np.ndarray, "layer image token k"]
    top_logits: Float[np.ndarray, "layer image token k"]
    answers: Int[np.ndarray, " image"]
    pictures: Float[np.ndarray, "shown height width channel"] | None = None
    names: tuple[str, ...] = ()

    def __repr__(self) -> str:
        layers, images, tokens, _ = self.top.shape
        return (
            f"TokenReadings: {layers} layers, {images} images, {tokens} tokens, the {self.top.shape[-1]} highest of "
            f"{len(self.class_names)} classes, {len(self.classes)} kept"
        )

    @property
    def probabilities(self) -> Kept:
        """Of the classes that are kept."""
        return np.exp(self.logits - self.normaliser[..., None])

    @property
    def top_probabilities(self) -> Float[np.ndarray, "layer image token k"]:
        """Of the highest classes."""
        return np.exp(self.top_logits - self.normaliser[..., None])

    @property
    def patches(self) -> slice:
        """Where the patches stand among the tokens: last of all."""
        return slice(len(self.tokens) - self.grid[0] * self.grid[1], len(self.tokens))

    def logit(self, of: int | str) -> Float[np.ndarray, "layer image token"]:
        """Logits of one class that was kept.

        Raises:
            DataError: It was not.
        """
        place = self.class_names.index(of) if isinstance(of, str) and of in self.class_names else of
        if place not in self.classes:
            raise DataError(f"logits of class {of!r} were not kept: pass classes=[{of!r}] to the lens.")
        return self.logits[..., self.classes.index(int(place))]

    def frame(self) -> pandas.DataFrame:
        """A row for each image, layer, token and rank: `image`, `layer`, `token`, `rank`, `class`, `probability`."""
        import pandas

        shape = self.top.shape
        layer, image, token, rank = (axis.ravel() for axis in np.indices(shape))
        return pandas.DataFrame(
            {
                "image": image,
                "layer": np.array(self.layers)[layer],
                "token": np.array(self.tokens)[token],
                "rank": rank + 1,
                "class": np.array(self.class_names)[self.top.ravel()],
                "probability": self.top_probabilities.ravel(),
            }
        )

    @classmethod
    def joined(cls, parts: Sequence[TokenReadings]) -> TokenReadings:
        """Readings of several batches as those of one."""
        arrays = {"logits": 1, "normaliser": 1, "top": 1, "top_logits": 1, "answers": 0}
        found = {name: np.concatenate([getattr(part, name) for part in parts], axis) for name, axis in arrays.items()}
        return replace(parts[0], **found)

    def view(self, title: str, emoji: str | Path | None = None) -> LensView:
        """What can be drawn: the images that pictures were kept of.

        Raises:
            DataError: No patches were read, or the file of emoji does not fit.
        """
        from ...circuits.draw.lens_view import LensView, read_emoji

        if self.pictures is None:
            raise DataError("no patches were read, so there is nothing to draw over an image: pass at='patches'.")
        shown = slice(0, len(self.pictures))
        names = self.names or tuple(f"image {place}" for place in range(len(self.pictures)))
        answers = self.answers[shown].tolist()
        return LensView(
            title=title,
            layers=self.layers,
            tokens=self.tokens,
            grid=self.grid,
            class_names=self.class_names,
            top=self.top[:, shown],
            probabilities=self.top_probabilities[:, shown],
            pictures=self.pictures,
            said=tuple(f"{name}: read as {self.class_names[one]}" for name, one in zip(names, answers, strict=False)),
            answers=tuple(answers),
            emoji={} if emoji is None else read_emoji(emoji, self.class_names),
        )


def class_indices(vit: HookedViT, classes: Sequence[int | str] | str | None) -> tuple[int, ...]:
    """Indices of classes by name or index; `all` is every class, None is none.

    Raises:
        ModelError: A class is not known.
    """
    names = vit.class_names
    if classes is None or classes == "all":
        return tuple(range(len(names))) if classes == "all" else ()
    wanted = [classes] if isinstance(classes, str) else classes
    found = [names.index(one) if isinstance(one, str) and one in names else one for one in wanted]
    for one in found:
        if isinstance(one, str) or not 0 <= one < len(names):
            raise ModelError(
                f"{vit.cfg.name} has no class {one!r}: pass indices from 0 to {len(names) - 1}, names such as "
                f"{names[0]!r}, or classes='all'."
            )
    return tuple(int(one) for one in found)
