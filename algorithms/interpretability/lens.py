"""The lenses in numbers: how soon the layers' readings agree with the answer, of arrays alone.

Each layer's residual is read by the model's own readout as if it were the last (nostalgebraist 2020). Against the final
logits, for each image:

    agreement    whether the two have the same highest class; with it, beyond chance, Cohen's kappa
    KL           sum p log(p / q) in nats, p the final probabilities and q the lens's
    rank         of the target class in the lens's logits: 1 is the highest, classes that tie share their places' mean
    calibration  expected calibration error: images in ten bins by the lens's highest probability; the mean over images
                 of |share of the bin with the final answer - mean probability in the bin| (Guo et al. 2017, section 2,
                 with the model's answer in the place of the label)

Where tokens are read one by one, each is compared with its own reading at the output, and an image's figure is the mean
over its tokens. A lens that was fitted stands beside its control: the same maps, each at another layer than its own.

Caveat: the readout's basis is the last layer's. A layer that disagrees may hold the answer in another basis, which
later layers turn (Belrose et al. 2023), so a low agreement does not say that the answer is not there. KL grows with
the scale of the logits: between models, compare agreement and rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float64, Int
from numpy.typing import NDArray

from ...circuits.judging.bootstrap import Resamples, divide, share
from ...circuits.report import Figure, Table, Tabular
from ...circuits.shown import drawable
from ...models.errors import DataError, FormatError
from ...models.files import write_text_atomic

if TYPE_CHECKING:
    import pandas

    from ...circuits.draw.intervals import Panel
    from ...circuits.draw.lens_view import LensView
    from .token_readings import TokenReadings


Logits = Float64[np.ndarray, "layer image class"]


@dataclass(frozen=True, eq=False)
class LensReadings:
    """Each layer's reading of each image, (layer, image); or of each token, those of an image next to one another.

    Args:
        answers: The highest class.
        kl: KL divergence of the final probabilities from the lens's, in nats.
        ranks: Rank of the target, from 1.
        confidence: The highest probability.
    """

    answers: Int[np.ndarray, "layer image"]
    kl: Float64[np.ndarray, "layer image"]
    ranks: Float64[np.ndarray, "layer image"]
    confidence: Float64[np.ndarray, "layer image"]

    @classmethod
    def joined(cls, parts: Sequence[LensReadings]) -> LensReadings:
        """Readings of several batches as those of one."""
        return cls(*(np.concatenate([vars(part)[field.name] for part in parts], axis=1) for field in fields(cls)))

    @property
    def agreement(self) -> Bool[np.ndarray, "layer image"]:
        """Whether the highest class is the final one's."""
        return self.answers == self.answers[-1]


def read_lens(logits: Logits, targets: Int[np.ndarray, " image"] | None = None) -> LensReadings:
    """Agreement, KL and rank of every layer's logits against the last one's.

    Args:
        logits: Of each layer, the last being the model's own.
        targets: The class whose rank is wanted; by default the one that the model answers.

    Raises:
        DataError: There are other numbers of targets than images, or a target is no class.
    """
    final = logits[-1]
    answers = final.argmax(-1)
    wanted = answers if targets is None else targets
    require_targets(wanted, len(answers), final.shape[-1])
    log_q, log_p = log_softmax(logits), log_softmax(final)
    kl = np.maximum((np.exp(log_p) * (log_p - log_q)).sum(-1), 0)
    own = np.take_along_axis(logits, np.broadcast_to(wanted[None, :, None], (*logits.shape[:2], 1)), -1)
    ranks = (logits > own).sum(-1) + ((logits == own).sum(-1) + 1) / 2
    return LensReadings(logits.argmax(-1), kl, ranks, np.exp(log_q.max(-1)))


def require_targets(targets: Int[np.ndarray, " target"], n_images: int, n_classes: int) -> None:
    """Does nothing if there is one class for each image.

    Raises:
        DataError: There is not.
    """
    if len(targets) != n_images or not bool(((targets >= 0) & (targets < n_classes)).all()):
        raise DataError(
            f"there are {len(targets)} targets for {n_images} images and {n_classes} classes: pass the index of one "
            f"class per image."
        )


def kappas(
    answers: Int[np.ndarray, " image"], final: Int[np.ndarray, " image"], weights: Float64[np.ndarray, "draw image"]
) -> Float64[np.ndarray, " draw"]:
    """Agreement beyond chance, (agreement - chance) / (1 - chance), for images weighted in different ways.

    Chance is how often two would agree that give each class as often as these do, independently (Cohen 1960). NaN where
    both always give one class, so that they could not but agree.
    """
    kinds = np.unique(np.concatenate([answers, final]))
    shares = [weights @ (given[:, None] == kinds) for given in (answers, final)]  # draw, class
    chance = (shares[0] * shares[1]).sum(1)
    return divide(weights @ (answers == final) - chance, 1 - chance)


def calibration_errors(
    confidence: Float64[np.ndarray, " image"],
    hits: Bool[np.ndarray, " image"],
    weights: Float64[np.ndarray, "draw image"],
    n_bins: int = 10,
) -> Float64[np.ndarray, " draw"]:
    """Expected calibration error, for images weighted in different ways; bins are equally wide."""
    bins = np.minimum((confidence * n_bins).astype(np.int64), n_bins - 1)
    off = (hits - confidence)[:, None] * (bins[:, None] == np.arange(n_bins))
    return np.abs(weights @ off).sum(1)


def log_softmax(logits: Float64[np.ndarray, "*batch class"]) -> Float64[np.ndarray, "*batch class"]:
    """Logarithms of the probabilities, in nats."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


NAMES = ("agreement", "kappa", "kl", "rank", "calibration")
_CONTROLLED = ("agreement", "kl")
_TITLES = {
    "agreement": "same answer as the output",
    "kappa": "the same beyond chance",
    "kl": "KL from the output (nats)",
    "rank": "rank of the target",
    "calibration": "calibration error",
}


@dataclass(frozen=True, eq=False, repr=False)
class LensTable(Tabular):
    """What the lens reads at each layer.

    Args:
        model: The model's name.
        layers: What was read: `input`, the residual in front of block 0, then that behind each block; or the points
            in front of blocks or between attention and MLP, and the `output`.
        readings: Of each layer and image, or token.
        n_classes: Number of classes: a rank drawn blindly is half of it on average.
        method: `targets`, `pooling`, `at`, `lens`, `n_bootstrap` and `seed`, in plain values.
        tokens: What stands at each token: classes and their probabilities.
        control: Readings by a fitted lens whose maps stand at other layers than their own.
    """

    caveat: ClassVar[str] = (  # type: ignore[override]
        "The readout's basis is the last layer's: a layer that disagrees may hold the answer in another basis, "
        "which later layers turn; KL grows with the scale of the logits."
    )

    model: str
    layers: tuple[str, ...]
    readings: LensReadings
    n_classes: int
    method: Mapping[str, Any]
    tokens: TokenReadings | None = None
    control: LensReadings | None = None

    @property
    def n_images(self) -> int:
        """How many images were read."""
        return self.readings.kl.shape[1] // self.n_tokens

    @property
    def n_tokens(self) -> int:
        """How many tokens of each were read."""
        return int(self.method.get("n_tokens", 1))

    @property
    def headline(self) -> str:
        """What was read, on how many images."""
        note = f"; {self.method['pooling']}" if self.method["pooling"] else ""
        where = f" at {self.n_tokens} tokens" if self.n_tokens > 1 else ""
        return (
            f"{self.model}: {self.method.get('lens', 'logit lens')} of {len(self.layers)} layers{where} on "
            f"{self.n_images:,} images, {self.n_classes} classes, target: {self.method['targets']}{note}"
        )

    def figures(self) -> dict[str, tuple[Figure, ...]]:
        """`agreement` (a share, Wilson's interval), `kappa` (beyond chance), `kl` (nats), `rank`, `calibration`.

        One per layer. Beside a lens that was fitted, `control_agreement` and `control_kl`.
        """
        found = self.readings
        resamples = Resamples.draw(self.n_images, int(self.method["n_bootstrap"]), seed=int(self.method["seed"]))
        said = "share of images with the output's highest class", f"mean rank of {self.method['targets']}"
        figures = {
            "agreement": tuple(self._share(hits, resamples, said[0]) for hits in found.agreement),
            "kappa": tuple(_kappa(answers, found.answers[-1], resamples) for answers in found.answers),
            "kl": tuple(self._mean(row, resamples, "nats", "mean KL of the output from the lens") for row in found.kl),
            "rank": tuple(self._mean(row, resamples, "", said[1]) for row in found.ranks),
            "calibration": tuple(map(partial(_calibration, resamples), found.confidence, found.agreement)),
        }
        if self.control is not None:
            hits, kl = self.control.answers == found.answers[-1], self.control.kl
            told = "the same, by the map of another layer"
            figures["control_agreement"] = tuple(self._share(row, resamples, told) for row in hits)
            figures["control_kl"] = tuple(self._mean(row, resamples, "nats", told) for row in kl)
        return figures

    def _mean(self, row: NDArray[np.float64], resamples: Resamples, unit: str, method: str) -> Figure:
        return resamples.mean(row.reshape(self.n_images, -1).mean(1), unit, method)

    def _share(self, hits: NDArray[np.bool_], resamples: Resamples, method: str) -> Figure:
        if self.n_tokens == 1:
            return share(hits, method)
        return self._mean(hits.astype(np.float64), resamples, "share", method.replace("images", "tokens"))

    def agrees_from(self, level: float = 0.9) -> str:
        """The first layer from which on the agreement is at least `level` at every layer."""
        means = self.readings.agreement.mean(1)
        below = [place for place, mean in enumerate(means.tolist()) if mean < level]
        return self.layers[min(below[-1] + 1 if below else 0, len(self.layers) - 1)]

    def table(self) -> Table:
        """One row per layer."""
        figures = self.figures()
        rows = zip(self.layers, *figures.values(), strict=True)
        return Table(("layer", *figures), tuple(rows), f"{self.headline}. {self.caveat}")

    def frame(self) -> pandas.DataFrame:
        """One row per layer: each number with `_low` and `_high`, the ends of its 95% interval."""
        import pandas

        columns: dict[str, Any] = {"model": self.model, "layer": self.layers}
        for name, row in self.figures().items():
            columns[name] = [figure.value for figure in row]
            columns[f"{name}_low"] = [figure.low for figure in row]
            columns[f"{name}_high"] = [figure.high for figure in row]
        return pandas.DataFrame(columns)

    @drawable
    def draw(self, path: str | Path, *, beside: Sequence[LensTable] = (), title: str = "") -> Path:  # type: ignore[override]
        """Draws the numbers against the layer to an .svg, .pdf or .png.

        Args:
            path: Where to.
            beside: Other models or lenses, drawn into the same panels; across goes the share of the depth where that
                differs.
            title: Stands above.

        Raises:
            FormatError: The ending is not known, or the file cannot be written.
        """
        from ...circuits.draw.intervals import draw_panels

        tables = (self, *beside)
        same = len({table.layers for table in tables}) == 1
        ticks = self.layers if same else ()
        kind = f"{self.kind[0].upper()}{self.kind[1:]}" if len({one.kind for one in tables}) == 1 else "Lenses"
        title = title or kind + f": {self.model}" * (len({one.model for one in tables}) == 1)
        return draw_panels(
            _panels(tables), path, ticks=ticks, axis="layer" if same else "share of the depth", title=title
        )

    @drawable
    def draw_patches(
        self, path: str | Path, *, image: int = 0, emoji: str | Path | None = None, title: str = ""
    ) -> Path:
        """Draws what each layer names at each patch over an image, all layers in one, to an .svg, .pdf or .png.

        Args:
            path: Where to.
            image: Which of the first images, whose pictures are kept.
            emoji: A .json of class index or name -> emoji; drawn where an installed font has them, else colours are.
            title: Stands above.

        Raises:
            DataError: No patches were read, the image is not kept, or the file of emoji does not fit.
            FormatError: The ending is not known, or the file cannot be written.
        """
        from ...circuits.draw.lens_view import draw_view

        return draw_view(self._view(emoji, title), path, image=image)

    def to_html(self, *, emoji: str | Path | None = None, title: str = "") -> str:
        """The page that shows what each patch says at each layer, as text.

        Args:
            emoji: A .json of class index or name -> emoji, drawn by the browser; else classes have colours.
            title: Stands above.

        Raises:
            DataError: No patches were read, or the file of emoji does not fit.
        """
        from ...circuits.draw.lens_view import to_html

        return to_html(self._view(emoji, title), self.table())

    def _view(self, emoji: str | Path | None, title: str) -> LensView:
        if self.tokens is None:
            raise DataError("no patches were read, so there is nothing to draw over an image: pass at='patches'.")
        return self.tokens.view(title or f"{self.kind[0].upper()}{self.kind[1:]}: {self.model}", emoji)

    def save(self, path: str | Path, *, emoji: str | Path | None = None) -> Path:
        """Writes the page to an .html (where patches were read), or the figures to a .csv, and returns the path.

        Raises:
            DataError: As `to_html`.
            FormatError: The ending is not known, or the file cannot be written.
        """
        if Path(path).suffix.lower() in (".html", ".htm"):
            return write_text_atomic(path, self.to_html(emoji=emoji))
        if Path(path).suffix.lower() != ".csv":
            raise FormatError(
                f"cannot tell a format from the ending of {str(path)!r}: a lens is written as .html (what patches say) "
                f"or .csv (its figures), and drawn by lens.draw_patches or lens.draw to an .svg, .pdf or .png."
            )
        return super().save(path)

    def _repr_html_(self) -> str:
        if self.tokens is None or self.tokens.pictures is None:
            return super()._repr_html_()
        from ...circuits.draw.pages import in_frame

        return in_frame(self.to_html())

    @property
    def kind(self) -> str:
        """Which lens: `logit lens`, or what the maps in front of the readout are called."""
        return str(self.method.get("lens", "logit lens"))


def _kappa(answers: NDArray[np.int64], final: NDArray[np.int64], resamples: Resamples) -> Figure:
    """Agreement beyond chance, with its interval."""
    method = "Cohen's kappa of lens and output"
    value = float(kappas(answers, final, np.full((1, len(final)), 1 / len(final)))[0])
    if np.isnan(value):
        return Figure(None, "", reason="lens and output give one class to all images", method=method)
    return resamples.figure(value, kappas(answers, final, _per_reading(resamples, len(final))), "", method)


def _calibration(resamples: Resamples, confidence: NDArray[np.float64], hits: NDArray[np.bool_]) -> Figure:
    """The expected calibration error, with its interval."""
    method = "expected calibration error against the output's highest class, ten bins"
    (value,) = calibration_errors(confidence, hits, np.full((1, len(hits)), 1 / len(hits)))
    drawn = calibration_errors(confidence, hits, _per_reading(resamples, len(hits)))
    return resamples.figure(float(value), drawn, "", method)


def _per_reading(resamples: Resamples, n: int) -> NDArray[np.float64]:
    """Weights of images as weights of the readings of their tokens."""
    each = n // len(resamples.whole)
    return resamples.weights if each == 1 else np.repeat(resamples.weights / each, each, axis=1)


def _panels(tables: Sequence[LensTable]) -> list[Panel]:
    from ...circuits.draw.intervals import Line, Panel

    figures = [table.figures() for table in tables]
    one_model = len({table.model for table in tables}) == 1
    names = [table.kind if one_model and len(tables) > 1 else table.model for table in tables]
    panels = []
    for name in NAMES:
        lines = [Line(said, found[name]) for said, found in zip(names, figures, strict=True)]
        shuffled = [
            (t.kind, f[f"control_{name}"])
            for t, f in zip(tables, figures, strict=True)
            if t.control and name in _CONTROLLED
        ]
        lines += [Line(f"{kind}, layers shuffled", row) for kind, row in shuffled]
        panels.append(Panel(_TITLES[name], tuple(lines)))
    return panels
