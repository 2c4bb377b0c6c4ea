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
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..models.errors import FormatError, TaskError
from .ablation import Ablation
from .bootstrap import FLOOR, Resamples, percentiles, share
from .formats.plain import plain, write_text_atomic
from .words import task_words

if TYPE_CHECKING:
    import pandas

    from .design import Design

Direction = Literal["noising", "denoising"]
Shown = Literal["effect", "normalised", "flips"]

_CHUNK = 2048  # places whose bootstrap draws are held at once


@dataclass(frozen=True, eq=False, kw_only=True)
class EffectTable(ABC):
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
        flip, with Wilson's interval `flips_low` to `flips_high`; `normalised`, effect / (m(clean) - m(corrupted)), a
        ratio of means (NaN where |m(clean) - m(corrupted)| is below 1e-6).

        Args:
            n_bootstrap: Bootstrap draws of the pairs, or images; 0 leaves the interval NaN.
            seed: Draws them.
        """
        values = self.values.reshape(self.n_pairs, -1)
        n = self.n_pairs
        error = values.std(0, ddof=1) / np.sqrt(n) if n > 1 else np.full(values.shape[1], np.nan)
        low, high = _intervals(values, self._resamples(n_bootstrap, seed))
        figures = [share(hits, "") for hits in self.flips.reshape(n, -1).T]
        flips = self.shown("flips").ravel()
        flips_low, flips_high = np.array([(f.low, f.high) for f in figures], dtype=float).reshape(-1, 2).T
        normalised = self.shown("normalised").ravel()
        return {
            "effect": self._mean(values),
            "std_err": error,
            "low": low,
            "high": high,
            "flips": flips,
            "flips_low": flips_low,
            "flips_high": flips_high,
            "normalised": normalised,
        }

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

    @abstractmethod
    def frame(self, *, n_bootstrap: int = 1000, seed: int = 0) -> pandas.DataFrame:
        """One row per place with what `measured` gives.

        Args:
            n_bootstrap: Bootstrap draws of the pairs.
            seed: Draws them.
        """

    def save(self, path: str | Path) -> Path:
        """Writes `frame()` to a .csv, whole or not at all, and returns the path.

        Raises:
            FormatError: The ending is not .csv, or the file cannot be written.
        """
        if Path(path).suffix.lower() != ".csv":
            raise FormatError(
                f"cannot tell a format from the ending of {str(path)!r}: a table of effects is written as .csv, such "
                f'as table.save("effects.csv"). Pictures are drawn by table.draw("effects.svg").'
            )
        return write_text_atomic(path, self.frame().to_csv(index=False, lineterminator="\n"))


def _intervals(values: NDArray[np.float64], resamples: Resamples) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bootstrap intervals of the means over pairs, (pair, place) -> two of (place,); NaN stays NaN."""
    low, high = np.full((2, values.shape[1]), np.nan)
    known = np.flatnonzero(~np.isnan(values).any(0))
    if len(resamples.weights):
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
