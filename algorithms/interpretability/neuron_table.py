"""What is known of each MLP neuron: printed, as a table, and as a contact sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Float64, Int
from numpy.typing import NDArray

from ...circuits.judging.bootstrap import wilson
from ...circuits.report import Figure, Table, Tabular
from ...circuits.shown import drawable
from ...models.errors import GraphError

if TYPE_CHECKING:
    import pandas

_ROWS = 24  # neurons of the table that is printed


@dataclass(frozen=True, eq=False)
class Alarms:
    """The class that each neuron fires for; arrays of shape (neuron,).

    Args:
        classes: Index of the class.
        threshold: Activation at or above which an image is an alarm.
        false: Alarms that are of other classes.
        alarms: All alarms.
        chance: Share of false alarms of a neuron that fires at random.
        null: False alarms over chance of the best neuron in each shuffle of the labels, (shuffle,).
    """

    classes: Int[np.ndarray, " neuron"]
    threshold: Float64[np.ndarray, " neuron"]
    false: Float64[np.ndarray, " neuron"]
    alarms: Float64[np.ndarray, " neuron"]
    chance: Float64[np.ndarray, " neuron"]
    null: Float64[np.ndarray, " shuffle"]

    @classmethod
    def joined(cls, parts: Sequence[Alarms]) -> Alarms:
        """Those of several layers; in each shuffle the best of all of them."""
        names = [f.name for f in fields(cls) if f.name != "null"]
        every = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        return cls(**every, null=np.min([part.null for part in parts], axis=0))

    @property
    def share(self) -> Float64[np.ndarray, " neuron"]:
        """Share of the alarms that are false."""
        return self.false / self.alarms

    @property
    def ratio(self) -> Float64[np.ndarray, " neuron"]:
        """That over chance: 0 for no false alarm, about 1 for a neuron that does not know the class."""
        return self.share / self.chance

    @property
    def level(self) -> float:
        """The ratio that the best neuron gets in one of 20 shuffles; 0 without shuffles."""
        return float(np.quantile(self.null, 0.05)) if len(self.null) else 0.0


@dataclass(frozen=True, eq=False)
class NeuronPictures:
    """What a neuron is shown by.

    Args:
        row: Which neuron.
        crops: Pixels around its highest patches in [0, 1], (patch, height, width, channel).
        boxes: Where the patch is in its crop: left, top, width, height as shares.
    """

    row: int
    crops: tuple[NDArray[np.float32], ...]
    boxes: tuple[tuple[float, float, float, float], ...]


@dataclass(frozen=True, eq=False, repr=False)
class NeuronCatalogue(Tabular):
    """What makes each neuron fire.

    Args:
        model: The model's name.
        grid: Rows and columns of patches.
        neurons: Their names, such as `m5.n12`.
        mean: Of the activation over images, (neuron,).
        std: Its standard deviation, (neuron,).
        scores: The highest activations, (neuron, k).
        places: Image x patches + patch of each, (neuron, k).
        histograms: Images in each bin from the neuron's lowest to its highest activation, (neuron, 2, bin): of its
            class (all of them without labels), and of others.
        classes: Names of the classes; none without labels.
        alarms: What each neuron fires for; None without labels.
        method: `n_images`, `at`, `recall`, `n_shuffles`, `seed`, in plain values.
        pictures: Of the neurons that are drawn.
    """

    caveat: ClassVar[str] = (  # type: ignore[override]
        "What makes a neuron fire most is a small part of what makes it fire: look at its histogram and its false "
        "alarms. Nothing of this says what the neuron does."
    )

    model: str
    grid: tuple[int, int]
    neurons: tuple[str, ...]
    mean: Float64[np.ndarray, " neuron"]
    std: Float64[np.ndarray, " neuron"]
    scores: Float64[np.ndarray, "neuron k"]
    places: Int[np.ndarray, "neuron k"]
    histograms: Int[np.ndarray, "neuron 2 bin"]
    classes: tuple[str, ...]
    alarms: Alarms | None
    method: Mapping[str, Any]
    pictures: tuple[NeuronPictures, ...] = ()

    def with_pictures(self, pictures: Sequence[NeuronPictures]) -> NeuronCatalogue:
        """The same with pictures of some neurons."""
        return replace(self, pictures=tuple(pictures))

    @property
    def headline(self) -> str:
        """What was looked at, and how many neurons know a class."""
        where = "patches" if self.method["at"] == "patches" else "the token that gathers"
        said = f"{self.model}: {len(self.neurons):,} neurons at {where} on {self.method['n_images']:,} images"
        if self.alarms is None:
            return said
        n = int((self.alarms.ratio < self.alarms.level).sum())
        return f"{said}; {n:,} have fewer false alarms than the best of all in 95% of shuffles"

    @property
    def peak(self) -> Float64[np.ndarray, " neuron"]:
        """How many standard deviations the highest activation is above the mean; 0 for a neuron that never changes."""
        rise = self.scores[:, 0] - self.mean
        return np.divide(rise, self.std, out=np.zeros_like(rise), where=self.std > 1e-6 * np.abs(self.mean))

    def order(self) -> list[int]:
        """Neurons by false alarms over chance, the fewest first; without labels by their peaks."""
        key = -self.peak if self.alarms is None else self.alarms.ratio
        return np.argsort(key, kind="stable").tolist()

    def row(self, neuron: str) -> int:
        """The place of a neuron in the arrays.

        Raises:
            GraphError: It is not in the catalogue.
        """
        if neuron not in self.neurons:
            raise GraphError(f"{neuron!r} is not in the catalogue: it has {self.neurons[0]!r} to {self.neurons[-1]!r}.")
        return self.neurons.index(neuron)

    def patches(self, neuron: str | int) -> tuple[tuple[float, int, int, int], ...]:
        """The highest activations of a neuron, each of another image: activation, image, row and column of the patch.

        Raises:
            GraphError: It is not in the catalogue.
        """
        row = self.row(neuron) if isinstance(neuron, str) else neuron
        n, columns = self.grid[0] * self.grid[1], self.grid[1]
        places = [divmod(int(place), n) for place in self.places[row]]
        pairs = zip(self.scores[row].tolist(), places, strict=True)
        return tuple((score, image, *divmod(patch, columns)) for score, (image, patch) in pairs)

    def false_alarms(self, neuron: str | int) -> Figure:
        """Share of a neuron's alarms that are false, with Wilson's interval over alarms.

        Raises:
            GraphError: It is not in the catalogue.
        """
        if self.alarms is None:
            return Figure(None, "share", reason="no labels were given")
        row = self.row(neuron) if isinstance(neuron, str) else neuron
        share, n = float(self.alarms.share[row]), int(self.alarms.alarms[row])
        method = f"of {n} images at or above the threshold for recall {self.method['recall']}"
        return Figure(share, "share", *wilson(share, n), method=method)

    def table(self) -> Table:
        """The first neurons of `order()`: what they fire for, and on which images and patches most."""
        rows = []
        for row in self.order()[:_ROWS]:
            said: tuple[str | Figure, ...] = (f"{self.peak[row]:.1f} sd",)
            if self.alarms is not None:
                name, chance = self.classes[self.alarms.classes[row]], f"{self.alarms.chance[row]:.2f}"
                said = (name, self.false_alarms(row), chance, f"{self.alarms.threshold[row]:.2f}", *said)
            whole = self.method["at"] == "cls"
            places = ", ".join(f"{i}" if whole else f"{i}:r{r}c{c}" for _, i, r, c in self.patches(row)[:3])
            rows.append((self.neurons[row], *said, places))
        with_class = ("fires for", "false alarms", "by chance", "threshold") if self.alarms is not None else ()
        columns = ("neuron", *with_class, "peak", "highest images")
        return Table(columns, tuple(rows), f"{self.headline}. {self.caveat}")

    def frame(self) -> pandas.DataFrame:
        """One row per neuron."""
        import pandas

        columns: dict[str, Any] = {"model": self.model, "neuron": self.neurons, "mean": self.mean, "std": self.std}
        columns |= {"max": self.scores[:, 0], "peak": self.peak}
        if (alarms := self.alarms) is not None:
            columns |= {"class": np.array(self.classes)[alarms.classes], "threshold": alarms.threshold}
            columns |= {"false_alarms": alarms.share, "alarms": alarms.alarms.astype(int), "chance": alarms.chance}
        every = [self.patches(row) for row in range(len(self.neurons))]
        columns["highest"] = [" ".join(f"{image}:r{r}c{c}" for _, image, r, c in places) for places in every]
        return pandas.DataFrame(columns)

    @drawable
    def draw(self, path: str | Path, *, title: str = "") -> Path:
        """Draws a contact sheet to an .svg, .pdf or .png: the histogram and the highest patches of the first neurons.

        Blue counts images of the class that a neuron fires for (all images without labels), grey those of others; the
        counts are drawn as their square roots, so that a few high images are seen beside many low ones.

        Raises:
            FormatError: The ending is not known, or the file cannot be written.
        """
        from ...circuits.draw.contact_sheet import SheetCard, draw_contact_sheet

        cards = []
        for shown in self.pictures:
            said = f"highest {self.scores[shown.row, 0]:.1f}, {self.peak[shown.row]:.1f} sd above its mean"
            title_of = self.neurons[shown.row]
            if self.alarms is not None:
                title_of += f"  {self.classes[self.alarms.classes[shown.row]]}"
                said = f"false alarms {self.alarms.share[shown.row]:.2f} (chance {self.alarms.chance[shown.row]:.2f})"
            strong = self.alarms is not None and bool(self.alarms.ratio[shown.row] < self.alarms.level)
            bars = self.histograms[shown.row].astype(np.float64)
            cards.append(SheetCard(title_of, said, (), shown.crops, shown.boxes, strong, bars))
        headings = ("histogram", "fires most")
        return draw_contact_sheet(cards, path, headings=headings, title=title or self.headline)
