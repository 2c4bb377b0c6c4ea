"""The logit lens in numbers: how soon the layers' readings agree with the answer, of arrays alone.

Each layer's residual is read by the model's own readout as if it were the last (nostalgebraist 2020). Against the final
logits, for each image:

    agreement   whether the two have the same highest class; with it, beyond chance, Cohen's kappa
    KL          sum p log(p / q) in nats, p the final probabilities and q the lens's
    rank        of the target class in the lens's logits: 1 is the highest, classes that tie share their places' mean

Caveat: the readout's basis is the last layer's. A layer that disagrees may hold the answer in another basis, which
later layers turn (Belrose et al. 2023), so a low agreement does not say that the answer is not there. KL grows with
the scale of the logits: between models, compare agreement and rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float64, Int
from numpy.typing import NDArray

from ...circuits.judging.bootstrap import Resamples, divide, share
from ...circuits.report import Figure, Table, Tabular
from ...circuits.shown import drawable
from ...models.errors import DataError

if TYPE_CHECKING:
    import pandas

    from ...circuits.draw.intervals import Panel


Logits = Float64[np.ndarray, "layer image class"]


@dataclass(frozen=True, eq=False)
class LensReadings:
    """Each layer's reading of each image, (layer, image).

    Args:
        answers: The highest class.
        kl: KL divergence of the final probabilities from the lens's, in nats.
        ranks: Rank of the target, from 1.
    """

    answers: Int[np.ndarray, "layer image"]
    kl: Float64[np.ndarray, "layer image"]
    ranks: Float64[np.ndarray, "layer image"]

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
    if wanted.shape != answers.shape or not bool(((wanted >= 0) & (wanted < final.shape[-1])).all()):
        raise DataError(
            f"there are {len(wanted)} targets for {len(answers)} images and {final.shape[-1]} classes: pass the index "
            f"of one class per image."
        )
    log_q, log_p = log_softmax(logits), log_softmax(final)
    kl = np.maximum((np.exp(log_p) * (log_p - log_q)).sum(-1), 0)
    own = np.take_along_axis(logits, np.broadcast_to(wanted[None, :, None], (*logits.shape[:2], 1)), -1)
    ranks = (logits > own).sum(-1) + ((logits == own).sum(-1) + 1) / 2
    return LensReadings(logits.argmax(-1), kl, ranks)


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


def log_softmax(logits: Float64[np.ndarray, "*batch class"]) -> Float64[np.ndarray, "*batch class"]:
    """Logarithms of the probabilities, in nats."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


NAMES = ("agreement", "kappa", "kl", "rank")
_TITLES = {
    "agreement": "same answer as the output",
    "kappa": "the same beyond chance",
    "kl": "KL from the output (nats)",
    "rank": "rank of the target",
}


@dataclass(frozen=True, eq=False, repr=False)
class LensTable(Tabular):
    """What the lens reads at each layer.

    Args:
        model: The model's name.
        layers: What was read: `input`, the residual in front of block 0, then that behind each block.
        readings: Of each layer and image.
        n_classes: Number of classes: a rank drawn blindly is half of it on average.
        method: `targets`, `pooling`, `n_bootstrap` and `seed`, in plain values.
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

    @property
    def headline(self) -> str:
        """What was read, on how many images."""
        note = f"; {self.method['pooling']}" if self.method["pooling"] else ""
        return (
            f"{self.model}: logit lens of {len(self.layers)} layers on {self.readings.kl.shape[1]:,} images, "
            f"{self.n_classes} classes, target: {self.method['targets']}{note}"
        )

    def figures(self) -> dict[str, tuple[Figure, ...]]:
        """`agreement` (a share, Wilson's interval), `kappa` (beyond chance), `kl` (nats) and `rank`, one per layer."""
        found, n_images = self.readings, self.readings.kl.shape[1]
        resamples = Resamples.draw(n_images, int(self.method["n_bootstrap"]), seed=int(self.method["seed"]))
        said = "share of images with the output's highest class", f"mean rank of {self.method['targets']}"
        return {
            "agreement": tuple(share(hits, said[0]) for hits in found.agreement),
            "kappa": tuple(_kappa(answers, found.answers[-1], resamples) for answers in found.answers),
            "kl": tuple(resamples.mean(row, "nats", "mean KL of the output from the lens") for row in found.kl),
            "rank": tuple(resamples.mean(row, "", said[1]) for row in found.ranks),
        }

    def agrees_from(self, level: float = 0.9) -> str:
        """The first layer from which on the agreement is at least `level` at every layer."""
        means = self.readings.agreement.mean(1)
        below = [place for place, mean in enumerate(means.tolist()) if mean < level]
        return self.layers[min(below[-1] + 1 if below else 0, len(self.layers) - 1)]

    def table(self) -> Table:
        """One row per layer."""
        figures = self.figures()
        rows = zip(self.layers, *(figures[name] for name in NAMES), strict=True)
        return Table(("layer", *NAMES), tuple(rows), f"{self.headline}. {self.caveat}")

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
            beside: Other models, drawn into the same panels; across goes the share of the depth where that differs.
            title: Stands above.

        Raises:
            FormatError: The ending is not known, or the file cannot be written.
        """
        from ...circuits.draw.intervals import draw_panels

        tables = (self, *beside)
        same = len({table.layers for table in tables}) == 1
        ticks = self.layers if same else ()
        title = title or "Logit lens" + f": {self.model}" * (len(tables) == 1)
        return draw_panels(
            _panels(tables), path, ticks=ticks, axis="layer" if same else "share of the depth", title=title
        )


def _kappa(answers: NDArray[np.int64], final: NDArray[np.int64], resamples: Resamples) -> Figure:
    """Agreement beyond chance, with its interval."""
    method = "Cohen's kappa of lens and output"
    value = float(kappas(answers, final, np.full((1, len(final)), 1 / len(final)))[0])
    if np.isnan(value):
        return Figure(None, "", reason="lens and output give one class to all images", method=method)
    return resamples.figure(value, kappas(answers, final, resamples.weights), "", method)


def _panels(tables: Sequence[LensTable]) -> list[Panel]:
    from ...circuits.draw.intervals import Line, Panel

    figures = [table.figures() for table in tables]
    return [
        Panel(_TITLES[name], tuple(Line(t.model, found[name]) for t, found in zip(tables, figures, strict=True)))
        for name in NAMES
    ]
