"""What patching does, pair by pair, and what that says over the pairs.

An effect is how far a patch moves the metric away from the run that it is made in, towards the run that it takes
values from, so that a positive effect always says: this place carries the behaviour.

    noising:   the clean run takes an ablated value      effect = m(clean) - m(patched)
    denoising: the corrupted run takes a clean value     effect = m(patched) - m(corrupted)

On a crossed task the metric is turned, so that higher speaks for what the clean image shows, target or foil; means
count every cell of pairs alike, and intervals draw images (`design.py`).

A pair *flips* if the patch moves its answer from the one side to the other: from target to foil under noising, from
foil to target under denoising (`Metric.prefers_target`); with a clean image of the foil the other way round. Holds
numpy arrays only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..models.errors import TaskError
from .ablation import Ablation
from .formats.plain import plain
from .judging.bootstrap import FLOOR, Resamples, percentiles, standard_error, wilson
from .report import Figure, Table, Tabular
from .shown import drawable
from .words import task_words

if TYPE_CHECKING:
    import pandas

    from .draw.heatmap import Heatmap
    from .tasks.design import Design


Direction = Literal["noising", "denoising"]
Shown = Literal["effect", "normalised", "flips"]
Effects = TypeVar("Effects", bound="EffectTable")

MEASURED = ("effect", "std_err", "low", "high", "flips", "flips_low", "flips_high", "normalised")
"""Columns of a frame beside those that name the place."""
_CHUNK = 2048  # places whose bootstrap draws are held at once


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class EffectTable(Tabular, ABC):
    """Effects of patches at a number of places; NaN where there is nothing to patch.

    Args:
        values: Effect on each pair in the metric's unit, shape (pair, *place).
        flips: Whether a pair's answer changes sides, shape (pair, *place).
        clean: Metric of the clean run, shape (pair,).
        corrupt: Metric of the corrupted run: the model run on from the ablated input, shape (pair,).
        direction: `noising` or `denoising`.
        unit: The metric's unit.
        ablation: What stands in for clean values.
        task: The task in plain values.
        design: Classes and images of the pairs of a crossed task.
    """

    values: NDArray[np.float64]
    flips: NDArray[np.bool_]
    clean: NDArray[np.float64]
    corrupt: NDArray[np.float64]
    direction: Direction | str
    unit: str = "logits"
    ablation: Ablation = Ablation()
    task: Mapping[str, Any] = field(default_factory=dict)
    design: Design | None = None

    def __post_init__(self) -> None:
        for array in (self.values, self.flips, self.clean, self.corrupt):
            array.setflags(write=False)
        object.__setattr__(self, "task", plain(self.task, non_finite="keep"))

    @property
    def n_pairs(self) -> int:
        """Number of pairs."""
        return len(self.values)

    @property
    def effect(self) -> NDArray[np.float64]:
        """Mean effect over the pairs, shape (*place)."""
        return self._mean(self.values)

    def of_pairs(self: Effects, rows: Sequence[int]) -> Effects:
        """Only some of the pairs, such as those whose clean image shows one breed."""
        arrays = {name: getattr(self, name)[list(rows)] for name in ("values", "flips", "clean", "corrupt")}
        return replace(self, **arrays, design=None if self.design is None else self.design.select(list(rows)))

    def _resamples(self, n: int, seed: int) -> Resamples:
        return Resamples.of_design(self.design, self.n_pairs, n, seed=seed)

    def _mean(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Mean over the pairs, (pair, *place) -> (*place)."""
        if self.design is None:
            return np.asarray(values.mean(0))
        return np.tensordot(self._resamples(0, 0).whole, values, 1)

    def shown(self, what: Shown | str = "effect") -> NDArray[np.float64]:
        """Mean over the pairs of the `effect`, of the `normalised` effect or of the `flips`, shape (*place).

        Raises:
            TaskError: The choice is not known.
        """
        if what == "effect":
            return self.effect
        if what == "normalised":
            gap = float(self._mean(self.clean - self.corrupt))
            return self.effect / gap if abs(gap) >= FLOOR else np.full(self.effect.shape, np.nan)
        if what == "flips":
            return np.where(np.isnan(self.effect), np.nan, self._mean(self.flips.astype(np.float64)))
        raise TaskError(f"show={what!r} is not known: pass show='effect', 'normalised' or 'flips'.")

    def measured(self, n_bootstrap: int = 1000, seed: int = 0) -> dict[str, NDArray[np.float64]]:
        """The columns of a table, each with one entry per place, in the order of the flattened axes.

        `effect`, `std_err` over pairs and the 95% bootstrap interval `low` to `high`; `flips`, the share of pairs that
        flip, with Wilson's interval `flips_low` to `flips_high` on as many as there are clean images; `normalised`,
        effect / (m(clean) - m(corrupted)), a ratio of means (NaN where |m(clean) - m(corrupted)| is below 1e-6).

        Args:
            n_bootstrap: Bootstrap draws of the pairs, or images; 0 leaves the interval NaN.
            seed: Draws them.
        """
        values = self.values.reshape(self.n_pairs, -1)
        low, high = _intervals(values, self._resamples(n_bootstrap, seed))
        n = self.n_pairs if self.design is None else self.design.n_images
        flips = self.shown("flips").ravel()
        ends = np.full((2, len(flips)), np.nan)
        for place in np.flatnonzero(~np.isnan(flips)):
            ends[:, place] = wilson(float(flips[place]), n)
        normalised = self.shown("normalised").ravel()
        columns = (self._mean(values), standard_error(values), low, high, flips, *ends, normalised)
        return dict(zip(MEASURED, columns, strict=True))

    def unit_of(self, what: Shown | str) -> str:
        """What the numbers of `shown` are, for pictures."""
        words = {"normalised": "share of m(clean) \N{MINUS SIGN} m(corrupted)", "flips": "share of pairs that flip"}
        return words.get(what, f"effect on the metric ({self.unit})")

    @property
    def context(self) -> str:
        """The model and what the task tells apart, as far as they are known."""
        return ": ".join(part for part in (str(self.task.get("model", "")), task_words(self.task)) if part)

    @property
    def method(self) -> str:
        """Direction, pairs and ablation in a few words."""
        return f"{self.direction}, {self.n_pairs} pairs, ablation {self.ablation}"

    @property
    def headline(self) -> str:
        """The model, the task and the method."""
        return ", ".join(filter(None, (self.context, self.method)))

    def table(self) -> Table:
        """A row per place, the largest effects first: effect, and share of pairs that flip."""
        frame = self.frame()
        places = [str(name) for name in frame.columns if name not in MEASURED]
        rows = frame.sort_values("effect", key=abs, ascending=False, kind="stable").to_dict("records")
        known = ("effect", "flips")[: 1 + bool(frame["flips"].notna().any())]
        cells = tuple((*(str(row[name]) for name in places), *self._figures(row)[: len(known)]) for row in rows)
        return Table((*places, *known), cells, self.method)

    @drawable
    def draw(self, path: str | Path, *, show: Shown | str = "effect", title: str = "") -> Path:  # type: ignore[override]
        """Draws a heat map to an .svg, .pdf or .png, and returns the path.

        Of activations layers go upwards, and across go heads, one panel for each column of tokens while these are few;
        for `resid` and `mlp_out` across go the tokens. Where many are patches, each layer or head is a map of the
        image, with tokens without a place apart, on a scale of their own. Of paths sources go upwards and destinations
        across; those that have no edge here at all are left out.

        Args:
            path: Where to.
            show: `effect`, `normalised` or `flips` (the share of pairs that flip).
            title: Stands above instead of the model and the task.

        Raises:
            TaskError: `show` is not known.
            FormatError: The ending is not known, or the file cannot be written.
        """
        return self._draw(path, show, title)

    @abstractmethod
    def _draw(self, path: str | Path, show: str, title: str) -> Path: ...

    def _figures(self, row: Mapping[Hashable, Any]) -> tuple[Figure, Figure]:
        why = "no interval was drawn"
        effect = Figure(row["effect"], self.unit, *_known(row["low"], row["high"]), reason=why)
        return effect, Figure(row["flips"], "share", *_known(row["flips_low"], row["flips_high"]), reason=why)


def _known(*ends: float) -> list[float | None]:
    return [None if np.isnan(end) else end for end in ends]


def _intervals(values: NDArray[np.float64], resamples: Resamples) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bootstrap intervals of the means over pairs, (pair, place) -> two of (place,); NaN stays NaN.

    NaN too where there are too few images for an interval.
    """
    low, high = np.full((2, values.shape[1]), np.nan)
    known = np.flatnonzero(~np.isnan(values).any(0))
    if len(resamples.weights) and resamples.enough:
        for start in range(0, len(known), _CHUNK):
            places = known[start : start + _CHUNK]
            low[places], high[places] = percentiles(resamples.means(values[:, places].T), resamples.tail)
    return low, high


def require_direction(direction: str) -> None:
    """Does nothing if the direction is known.

    Raises:
        TaskError: It is not.
    """
    if direction not in ("noising", "denoising"):
        raise TaskError(
            f"direction={direction!r} is not known: pass direction='noising' (the clean run takes ablated values) or "
            f"direction='denoising' (the corrupted run takes clean values)."
        )


MOST_PANELS = 6
"""Token columns up to which each gets a panel of its own."""


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class PatchTable(EffectTable):
    """Effects of patched activations; the places are (layer, head, token), head having one entry where there is none.

    A head or an MLP that a block does not have is NaN, and has no row in `frame`.

    For `resid`, layer i is the residual in front of block i, and the last one that behind the last block.

    Args:
        what: The activation that was patched.
        tokens: Names of the token columns.
    """

    what: str
    tokens: tuple[str, ...]

    def __str__(self) -> str:
        layers, heads = self.values.shape[1:3]
        places = f"{layers} layers, {heads} heads" if self.per_head else f"{layers} layers"
        return (
            f"{self.direction} {self.what}: {places}, {len(self.tokens)} token columns, {self.n_pairs} pairs, "
            f"ablation {self.ablation}"
        )

    @property
    def per_head(self) -> bool:
        """Whether heads are told apart."""
        return self.what not in ("resid", "mlp_out")

    def frame(self, *, n_bootstrap: int = 1000, seed: int = 0) -> pandas.DataFrame:
        """One row per place: `layer`, `head` (-1 where there is none), `token`, and what `measured` gives.

        Args:
            n_bootstrap: Bootstrap draws of the pairs.
            seed: Draws them.
        """
        import pandas

        layer, head, token = (axis.ravel() for axis in np.indices(self.values.shape[1:]))
        places = {"layer": layer, "head": head if self.per_head else head - 1, "token": np.array(self.tokens)[token]}
        table = pandas.DataFrame({**places, **self.measured(n_bootstrap, seed)})
        return table.dropna(subset=["effect"]).reset_index(drop=True)

    def _draw(self, path: str | Path, show: str, title: str) -> Path:
        from .draw.heatmap import draw_heatmap
        from .draw.image_maps import draw_token_maps, places_of

        places = places_of(self.tokens) if len(self.tokens) > MOST_PANELS else {}
        if not places:
            return draw_heatmap(self._heatmap(self.shown(show), self.tokens, show, title), path)
        values = self.shown(show)  # layer, head, token
        rest = [at for at in range(len(self.tokens)) if at not in places]
        names = tuple(self.tokens[at] for at in rest)
        others = self._heatmap(values[..., rest], names, show, "") if rest else None
        heat = self._heatmap(values, self.tokens, show, title)
        return draw_token_maps(values, places, heat, others, path, heads=self.per_head)

    def _heatmap(self, values: NDArray[np.float64], names: tuple[str, ...], show: str, title: str) -> Heatmap:
        """Effects (layer, head, token) at some tokens as grids of cells."""
        from .draw.heatmap import Heatmap

        layers, heads, tokens = values.shape
        rows, panels = [str(layer) for layer in range(layers)], ()
        if not self.per_head:
            grids, columns, axes = values[:, 0][None], names, ("layer", "token")
        elif tokens > MOST_PANELS:
            rows = [f"a{layer}.h{head}" for layer in range(layers) for head in range(heads)]
            grids, columns, axes = values.reshape(1, layers * heads, tokens), names, ("head", "token")
        else:
            columns, axes = [str(head) for head in range(heads)], ("layer", "head")
            grids, panels = np.moveaxis(values, 2, 0), names if tokens > 1 else ()
        where = f" at {names[0]}" if len(names) == 1 and names != ("all",) else ""
        words = title or self.context, f"{self.what}{where}, {self.method}"
        return Heatmap(grids, rows, columns, *axes, self.unit_of(show), panels, *words, show == "flips")


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class PathTable(EffectTable):
    """Effects of the direct paths from sources to destinations; NaN where there is no edge.

    Args:
        sources: Names of the sources.
        destinations: Names of the destinations.
        n_edges: How many edges of the graph were patched, shape (source, destination).
    """

    sources: tuple[str, ...]
    destinations: tuple[str, ...]
    n_edges: NDArray[np.int64]

    def __str__(self) -> str:
        shape = f"{len(self.sources)} sources, {len(self.destinations)} destinations"
        return f"{self.direction} paths: {shape}, {self.n_pairs} pairs, ablation {self.ablation}"

    def frame(self, *, n_bootstrap: int = 1000, seed: int = 0) -> pandas.DataFrame:
        """One row per source and destination with edges between them: their names, `n_edges`, and `measured`.

        Args:
            n_bootstrap: Bootstrap draws of the pairs.
            seed: Draws them.
        """
        import pandas

        source, destination = (axis.ravel() for axis in np.indices(self.n_edges.shape))
        names = {"source": np.array(self.sources)[source], "destination": np.array(self.destinations)[destination]}
        columns = {**names, "n_edges": self.n_edges.ravel(), **self.measured(n_bootstrap, seed)}
        return pandas.DataFrame(columns).query("n_edges > 0").reset_index(drop=True)

    def _draw(self, path: str | Path, show: str, title: str) -> Path:
        from .draw.heatmap import Heatmap, draw_heatmap

        rows, columns = (np.flatnonzero(self.n_edges.any(axis)) for axis in (1, 0))
        grid = self.shown(show)[None][:, rows][:, :, columns]
        names = [self.sources[row] for row in rows], [self.destinations[column] for column in columns]
        words = title or self.context, f"paths, {self.method}"
        unit = self.unit_of(show)
        heat = Heatmap(grid, *names, "source", "destination", unit, (), *words, show == "flips")
        return draw_heatmap(heat, path)
