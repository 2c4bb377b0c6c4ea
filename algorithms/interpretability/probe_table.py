"""What probes read: a row per place and group of tokens, drawn by layer, and maps of what each patch holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float64, Int

from ...circuits.judging.bootstrap import Resamples, share
from ...circuits.report import Figure, Table, Tabular
from ...circuits.shown import drawable
from ...models.errors import DataError, GraphError

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class PatchMaps:
    """How much of each class each patch holds, by the probe of the mean patch that left its image out.

    Args:
        scores: What the probe says of each patch; their mean over patches is what it says of the image.
        labels: Index of each image's class.
        objects: Which patches are object, where masks were given.
    """

    scores: Float64[np.ndarray, "place image row column class"]
    labels: Int[np.ndarray, " image"]
    objects: Bool[np.ndarray, "image row column"] | None

    @property
    def margins(self) -> Float64[np.ndarray, "place image row column"]:
        """What each patch says for its image's class, less the mean of what it says for the others."""
        n = self.scores.shape[-1]
        own = np.eye(n)[self.labels][None, :, None, None]
        return (self.scores * (own - (1 - own) / (n - 1))).sum(-1)


@dataclass(frozen=True, eq=False, repr=False)
class ProbeTable(Tabular):
    """How well the class of the image can be read off the residual.

    Args:
        model: The model's name.
        places: `input`, `block 0 mid`, `block 0` (behind it), ...
        groups: Groups of tokens.
        classes: Names of the classes.
        hits: Whether each image was answered rightly by the probe that left it out.
        null: Share of right answers where labels are dealt out anew.
        method: `n_images`, `n_folds`, `n_shuffles`, `seed`, in plain values.
        maps: What each patch holds; None where it was not asked.
    """

    caveat: ClassVar[str] = (  # type: ignore[override]
        "A probe says what can be read off the residual by a linear map, not what the model reads. Shuffled: labels "
        "dealt to other images, the share that 95% of shuffles stay below."
    )

    model: str
    places: tuple[str, ...]
    groups: tuple[str, ...]
    classes: tuple[str, ...]
    hits: Bool[np.ndarray, "place group image"]
    null: Float64[np.ndarray, "shuffle place group"]
    method: Mapping[str, Any]
    maps: PatchMaps | None

    @property
    def headline(self) -> str:
        """What was probed."""
        n, said = self.method["n_images"], ", ".join(self.classes[:4]) + ", ..." * (len(self.classes) > 4)
        return f"{self.model}: ridge probes for {said} at {len(self.places)} places, {n:,} images, each left out"

    def accuracy(self, place: str, group: str) -> Figure:
        """Share of images that are answered rightly, with Wilson's interval.

        Raises:
            GraphError: The place or the group is not in the table.
        """
        return share(self.hits[self._at(place, group)], "right answers of the probe that left the image out")

    def _at(self, place: str, group: str) -> tuple[int, int]:
        for one, known in ((place, self.places), (group, self.groups)):
            if one not in known:
                raise GraphError(f"{one!r} is not in the table: it has {', '.join(map(repr, known))}.")
        return self.places.index(place), self.groups.index(group)

    def _level(self, place: int, group: int) -> float:
        return float(np.quantile(self.null[:, place, group], 0.95)) if len(self.null) else np.nan

    def gain(self, place: str, group: str, *, over: str = "input", n_bootstrap: int = 1000) -> Figure:
        """How much more is read at a place than at another one, on the same images, with a bootstrap interval.

        Raises:
            GraphError: A place or the group is not in the table.
        """
        more, less = (self.hits[self._at(one, group)].astype(np.float64) for one in (place, over))
        draws = Resamples.draw(len(more), n_bootstrap, seed=int(self.method["seed"]))
        return draws.mean(more - less, "share", f"accuracy at {place} less that at {over}")

    def holds_from(self, group: str, *, over: str = "input") -> str:
        """The first place from which on a group holds more of the class than at the input; empty if it never does.

        At the input a patch holds what it shows itself, so from there on it holds what came from elsewhere. More: the
        interval of `gain` is above 0 at this place and every later one, and 95% of shuffles stay below.

        Raises:
            GraphError: The group, or `over`, is not in the table.
        """
        found = ""
        for place, name in list(enumerate(self.places))[::-1]:
            gain, column = self.gain(name, group, over=over), self.groups.index(group)
            above = self.hits[place, column].mean() > np.nan_to_num(self._level(place, column), nan=-1)
            if not above or gain.low is None or gain.low <= 0:
                return found
            found = name
        return found

    def table(self) -> Table:
        """One row per place, and the accuracy of each group; of many groups the first."""
        groups = self.groups[:8]
        rows = []
        for row, place in enumerate(self.places):
            cells: list[str | Figure] = [place]
            for column, group in enumerate(groups):
                cells += [self.accuracy(place, group), f"{self._level(row, column):.2f}"]
            rows.append(tuple(cells))
        names = [name for group in groups for name in (group, "shuffled")]
        return Table(("place", *names), tuple(rows), f"{self.headline}. {self.caveat}")

    def frame(self) -> pandas.DataFrame:
        """One row per place and group: `accuracy` with the ends of its interval, `null` (95% of shuffles) and `p`."""
        import pandas

        rows = []
        for (row, place), (column, group) in ((p, g) for p in enumerate(self.places) for g in enumerate(self.groups)):
            found, dealt = self.accuracy(place, group), self.null[:, row, column]
            p = (1 + int((dealt >= found.value).sum())) / (1 + len(dealt))
            ends = {"accuracy": found.value, "accuracy_low": found.low, "accuracy_high": found.high}
            rows.append({"model": self.model, "place": place, "group": group, **ends,
                         "null": self._level(row, column), "p": p})  # fmt: skip
        return pandas.DataFrame(rows)

    def by_patch(self) -> dict[str, tuple[Figure, ...]]:
        """Mean over images of what patches say for their image's class less the others' mean, by place.

        Above 0 they speak for it: 1 is what labels of 1 and 0 would say. `object` and `background` where masks were
        given, else `patch`.

        Raises:
            DataError: No maps were kept.
        """
        maps = self._maps()
        margins = maps.margins
        draws = Resamples.draw(margins.shape[1], 1000, seed=int(self.method["seed"]))
        parts = {"patch": np.ones(margins.shape[1:], bool)}
        if maps.objects is not None:
            parts = {"object": maps.objects, "background": ~maps.objects}
        found = {}
        for name, member in parts.items():
            means = (margins * member).sum((2, 3)) / member.sum((1, 2))
            found[name] = tuple(draws.mean(row, "", "margin of the probe of the mean patch") for row in means)
        return found

    def _maps(self) -> PatchMaps:
        if self.maps is None:
            raise DataError("no maps were kept: call probe(..., maps=True).")
        return self.maps

    @drawable
    def draw(self, path: str | Path, *, title: str = "") -> Path:
        """Draws accuracy by place, a line per group and one for the shuffled labels, to an .svg, .pdf or .png.

        Raises:
            FormatError: The ending is not known, or the file cannot be written.
        """
        from ...circuits.draw.intervals import Line, Panel, draw_panels

        groups = self.groups[:5]
        lines = [Line(group, tuple(self.accuracy(place, group) for place in self.places)) for group in groups]
        dealt = np.quantile(self.null[:, :, : len(groups)].max(2), 0.95, axis=0) if len(self.null) else []
        if len(dealt):
            lines.append(Line("shuffled, 95% below", tuple(Figure(float(one), "share") for one in dealt)))
        panels = [Panel("right answers, images left out", tuple(lines))]
        if self.maps is not None:
            panels.append(Panel("what a patch says for the class", self._margin_lines()))
        return draw_panels(panels, path, ticks=self.places, axis="place", title=title or f"{self.model}: probes")

    def _margin_lines(self) -> tuple[Any, ...]:
        from ...circuits.draw.intervals import Line

        order = {group: place for place, group in enumerate(self.groups[:5])}
        found = self.by_patch()
        named = sorted(found, key=lambda name: order.get(name, len(order)))
        return tuple(Line(name, found[name]) for name in named)

    @drawable
    def draw_maps(self, path: str | Path, *, images: Sequence[int] = (0, 1, 2, 3), target: int = 0, foil: int = 1,
                  title: str = "") -> Path:  # fmt: skip
        """Draws how much of one class against another each patch holds, images downwards and places across.

        Blue speaks for the target, orange for the foil; each map has a scale of its own.

        Raises:
            DataError: No maps were kept.
            FormatError: The ending is not known, or the file cannot be written.
        """
        from ...circuits.draw.contact_sheet import SheetCard, draw_contact_sheet

        maps = self._maps()
        shown = [place for place, name in enumerate(self.places) if not name.endswith("mid")][-14:]
        cards = []
        for image in images:
            held = maps.scores[shown, image][..., target] - maps.scores[shown, image][..., foil]
            said = f"image {image}: {self.classes[maps.labels[image]]}"
            cards.append(SheetCard(said, f"{self.classes[target]} less {self.classes[foil]}", list(held), (), ()))
        headings = [self.places[place] for place in shown]
        return draw_contact_sheet(cards, path, headings=headings, title=title or f"{self.model}: what each patch holds")
