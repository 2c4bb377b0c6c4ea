"""Interpretability in numbers: models beside one another, each number with what it does not say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...circuits.judging.bootstrap import Resamples
from ...circuits.report import Figure, Table, Tabular
from ...models.errors import TaskError
from .factor_table import FactorTable
from .lens import LensTable
from .texts import TextTable

if TYPE_CHECKING:
    import pandas

_DRAWS = 1000
_NOT_MEASURED = "it was not measured"
_SIZE_CAVEAT = (
    "A circuit that is smaller is easier to look through; that its parts are easier to understand is not said."
)


@dataclass(frozen=True, eq=False)
class ModelNumbers:
    """What was measured of one model; what was not is said to be missing.

    Args:
        name: What the model is called.
        factors: Its heads against factors, best of the circuit's heads: `head_factors(..., heads=circuit)`.
        texts: Its heads against texts.
        lens: The lens by layer.
        sizes: Name -> circuit size at equal faithfulness, such as `edges for faithfulness .8`, from a comparison.
    """

    name: str
    factors: FactorTable | None = None
    texts: TextTable | None = None
    lens: LensTable | None = None
    sizes: Mapping[str, Figure] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, repr=False)
class SideBySide(Tabular):
    """One row per number and one column per model.

    Args:
        models: Names of the models.
        rows: Name of the number -> a figure per model.
        caveats: Name of the number -> what it does not say.
    """

    models: tuple[str, ...]
    rows: Mapping[str, tuple[Figure, ...]]
    caveats: Mapping[str, str]

    def table(self) -> Table:
        """The numbers, a model per column, and behind them the caveats."""
        rows = tuple((name, *figures, self.caveats[name]) for name, figures in self.rows.items())
        method = "intervals of means over heads are over heads; a difference counts where it exceeds that of two seeds"
        return Table(("number", *self.models, "what it does not say"), rows, method)

    def frame(self) -> pandas.DataFrame:
        """One row per number and model: `value`, `low`, `high`, `unit`, `method`, `reason` and `caveat`."""
        import pandas

        rows = [
            {
                "number": name, "model": model, "value": found.value, "low": found.low, "high": found.high,
                "unit": found.unit, "method": found.method, "reason": found.reason, "caveat": self.caveats[name],
            }
            for name, figures in self.rows.items()
            for model, found in zip(self.models, figures, strict=True)
        ]  # fmt: skip
        return pandas.DataFrame(rows)


def side_by_side(models: Sequence[ModelNumbers]) -> SideBySide:
    """The numbers of some models beside one another; a number that none of them has is left out.

    Raises:
        TaskError: There is no model, two have one name, or factors and texts were measured in different ways.
    """
    names = tuple(model.name for model in models)
    if not models or len(set(names)) < len(names):
        raise TaskError(f"models are called {names}: pass one ModelNumbers or more, each with a name of its own.")
    _require_same(models)
    rows: dict[str, tuple[Figure, ...]] = {}
    caveats: dict[str, str] = {}
    missing = Figure(None, reason=_NOT_MEASURED)
    for size in dict.fromkeys(size for model in models for size in model.sizes):
        rows[size] = tuple(model.sizes.get(size, missing) for model in models)
        caveats[size] = _SIZE_CAVEAT
    for name, (part, number, caveat) in _NUMBERS.items():
        tables = [getattr(model, part) for model in models]
        if any(table is not None for table in tables):
            rows[name] = tuple(missing if table is None else number(table) for table in tables)
            caveats[name] = caveat
    return SideBySide(names, rows, caveats)


def _require_same(models: Sequence[ModelNumbers]) -> None:
    """Numbers are beside one another only if they were made in one way."""
    for part, keys in (
        ("factors", ("of", "at", "n_images", "n_folds")),
        ("texts", ("n_texts", "n", "pick", "n_images")),
    ):
        tables = [table for model in models if (table := getattr(model, part)) is not None]
        for key in keys:
            if len({table.method[key] for table in tables}) > 1:
                found = {table.model: table.method[key] for table in tables}
                raise TaskError(f"the models' {part} differ in {key}, {found}: measure all in the same way.")


def _over_heads(values: NDArray[np.float64], method: str) -> Figure:
    """The mean over heads, with an interval over heads."""
    known = values[np.isfinite(values)]
    if not len(known):
        return Figure(None, "share", reason="no head writes anything that differs between images")
    found = Resamples.draw(len(known), _DRAWS, seed=0).mean(known, "share", method)
    how = found.method.replace("bootstrap over pairs", "bootstrap over heads")
    why = found.reason.replace("at least two pairs", "at least two heads")
    return Figure(found.value, found.unit, found.low, found.high, why, how)


def _best_r2(table: FactorTable) -> Figure:
    r2 = table.fits.r2  # a head is NaN in all columns or in none
    return _over_heads(np.maximum(r2.max(1), 0), "mean over heads of the best factor's R^2")


def _selectivity(table: FactorTable) -> Figure:
    return _gaps([table.best(head)[-1] for head in table.heads], "mean over heads of the best R^2 less the second")


def _described(table: FactorTable) -> Figure:
    shares = np.maximum(table.fits.share.max(1), 0)
    return _over_heads(shares, "mean over heads of the largest share of the write that one factor accounts for")


def _apart(table: FactorTable) -> Figure:
    method = "mean over heads of the largest share of the write less the second largest"
    return _gaps([table.described(head)[-1] for head in table.heads], method)


def _gaps(figures: Sequence[Figure], method: str) -> Figure:
    return _over_heads(np.array([figure.value for figure in figures], dtype=np.float64), method)  # None: NaN


def _text_gain(table: TextTable) -> Figure:
    gains = [
        head.explained[-1] - head.random.mean() if head.texts and len(head.random) else np.nan for head in table.heads
    ]
    return _over_heads(np.array(gains), "mean over heads of what texts explain less random directions")


def _lens_middle(table: LensTable) -> Figure:
    return table.figures()["kappa"][(len(table.layers) - 1) // 2]


_NUMBERS: dict[str, tuple[str, Callable[[Any], Figure], str]] = {
    "R^2 of a head's best factor": ("factors", _best_r2, FactorTable.caveat),
    "selectivity of heads": (
        "factors",
        _selectivity,
        "A head that holds two factors well scores as low as one that holds none; factors that go together stand in "
        "for one another.",
    ),
    "share of a head's write by one factor": (
        "factors",
        _described,
        "What the factors that are known do not account for may be a factor that is not known.",
    ),
    "that share less the second factor's": (
        "factors",
        _apart,
        "All heads may be about one and the same factor: look at which.",
    ),
    "texts above random directions": ("texts", _text_gain, TextTable.caveat),
    "lens agreement at half depth, beyond chance": ("lens", _lens_middle, LensTable.caveat),
}
"""Name -> what of a model it is read off, how, and what it does not say."""
