"""Lenses with an affine map per layer in front of the readout, and how they are kept in a file.

    reading[l, t] = readout(W_l h_l[t] + b_l)

The control of such a lens is itself with each map at another layer than its own: what is left of its figures there is
not owed to what the layer holds. A file is safetensors: `weights` (layer, model, model), `biases` (layer, model), and
as metadata a card: model, data, seed, how it was fitted, and its figures on images that it was not fitted on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...circuits.report import Figure, Table, Tabular
from ...models.errors import FormatError, ModelError
from ...models.files import require_file, user_path, write_bytes_atomic
from ...models.scrambled import cycle

if TYPE_CHECKING:
    from ...models.hooked import HookedViT

SCHEMA = "vitcircuits.lens/1"
_WANTED = "a lens that lens.save('lens.safetensors') wrote"


@dataclass(frozen=True, eq=False, repr=False)
class FittedLens(Tabular):
    """An affine map per layer in front of the readout.

    Args:
        kind: `tuned lens` or `Jacobian lens`.
        weights: From each layer's residual into the last one's.
        biases: What is added.
        card: What it was fitted on and how, in plain values: `model`, `digest`, `at`, `points`, `layers`, `seed`,
            `data`, `images_sha256`, `n_images`, and `figures`, a row per layer.
    """

    kind: str
    weights: Float[Tensor, "layer model model"]
    biases: Float[Tensor, "layer model"]
    card: Mapping[str, Any]

    @property
    def caveat(self) -> str:
        """What has to be known to read it."""
        if self.kind == "Jacobian lens":
            return "Nothing is fitted to the output; a mean of derivatives need not say what one image does."
        return (
            "A map that was fitted to the output can find what the model itself never reads there; compare with the "
            "control, the maps at other layers."
        )

    def __call__(
        self, row: int, residual: Float[Tensor, "*batch model"], *, pooled: bool = False
    ) -> Float[Tensor, "*batch model"]:
        """The residual of a layer, mapped; the last token stays as it is where it is attention pooling's own."""
        mapped = residual @ self.weights[row].T.to(residual) + self.biases[row].to(residual)
        return torch.cat([mapped[..., :-1, :], residual[..., -1:, :]], -2) if pooled else mapped

    def shuffled(self, seed: int = 0) -> FittedLens:
        """The control: each map stands at another layer, in an order drawn by chance."""
        order = cycle(len(self.weights), torch.Generator().manual_seed(seed))
        return replace(self, weights=self.weights[order], biases=self.biases[order])

    def require(self, vit: HookedViT, at: str, points: str) -> None:
        """Does nothing if it was fitted on this model, at this place.

        Raises:
            ModelError: It was not.
        """
        if self.card["digest"] != vit.digest():
            raise ModelError(
                f"the lens was fitted on {self.card['model']}, and {vit.cfg.name} has other weights or another "
                f"readout: fit one, by tuned_lens(vit, images)."
            )
        if (self.card["at"], self.card["points"]) != (at, points):
            raise ModelError(
                f"the lens was fitted at={self.card['at']!r}, points={self.card['points']!r}, but at={at!r}, "
                f"points={points!r} is wanted: read it there, or fit another by tuned_lens(vit, images, at={at!r}, "
                f"points={points!r})."
            )

    @property
    def headline(self) -> str:
        """What it is, and how much it was fitted on."""
        card = self.card
        return (
            f"{card['model']}: {self.kind} of {len(self.weights)} layers at {card['at']}, fitted on "
            f"{card['n_fitted']:,} images, figures on {card['n_held_out']:,} others"
        )

    def table(self) -> Table:
        """Per layer KL from the output and agreement with it on images it was not fitted on, plain and mapped."""
        rows = [
            (str(row["layer"]), *(Figure(*row[name]) for name in ("kl_plain", "kl", "agreement_plain", "agreement")))
            for row in self.card["figures"]
        ]
        columns = ("layer", "KL plain", "KL", "agreement plain", "agreement")
        return Table(columns, tuple(rows), f"{self.headline}. {self.caveat}")

    def save(self, path: str | Path) -> Path:
        """Writes the maps and their card to a .safetensors, or the figures to a .csv, and returns the path.

        Raises:
            FormatError: The ending is not known, or the file cannot be written.
        """
        if Path(path).suffix.lower() != ".safetensors":
            return super().save(path)
        from safetensors.torch import save

        tensors = self._tensors()
        card = {"schema": SCHEMA, "kind": self.kind, "sha256": _digest(tensors), **self.card}
        text = json.dumps(card, ensure_ascii=False, sort_keys=True, allow_nan=False)
        return write_bytes_atomic(path, save(tensors, metadata={"vitcircuits": text}))

    def _tensors(self) -> dict[str, Tensor]:
        both = {"weights": self.weights, "biases": self.biases}
        return {name: value.detach().cpu().contiguous().clone() for name, value in both.items()}


def load_lens(path: str | Path) -> FittedLens:
    """A lens from a .safetensors that `FittedLens.save` wrote.

    Raises:
        FormatError: There is no such file, or it holds something else, or was edited.
    """
    from safetensors import SafetensorError, safe_open

    require_file(path, _WANTED, FormatError)
    try:
        with safe_open(user_path(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            card = json.loads((file.metadata() or {})["vitcircuits"])
        schema, kind, digest = (card.pop(name) for name in ("schema", "kind", "sha256"))
        lens = FittedLens(kind, tensors["weights"], tensors["biases"], card)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"{path} is no lens ({error}): pass the path of {_WANTED}.") from error
    if schema != SCHEMA or digest != _digest(tensors):
        raise FormatError(f"{path} does not hold what its card says: it was edited; save the lens again.")
    return lens


def _digest(tensors: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        found.update(f"{name} {tuple(value.shape)} {value.dtype}".encode() + value.numpy().tobytes())
    return found.hexdigest()
