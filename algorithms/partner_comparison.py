"""What a comparison of partners found: how much circuits share, and how each carries the behaviour under the others.

Everything is indexed by partner, in the order of `names`. Holds numpy arrays and circuits only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..circuits.circuit import Circuit
from ..circuits.formats.plain import plain
from ..circuits.judging.bootstrap import NAMES
from ..circuits.report import Figure, Table, Tabular
from ..circuits.shown import drawable

if TYPE_CHECKING:
    import pandas

SCHEMA = "vitcircuits.partners/1"
NO_INTERVAL = "one search per partner; its spread would need searches on resampled pairs"


@dataclass(frozen=True, eq=False, repr=False)
class PartnerComparison(Tabular):
    """Circuits of one behaviour, one for each kind of partner.

    Args:
        names: The partners.
        circuits: What was found with each.
        jaccard: Edges that two circuits share over edges that either has, shape (circuit, circuit).
        chance: The same between a circuit and random circuits of the other's size, made of whole paths and matched by
            layer and kind, shape (circuit, circuit).
        rank_correlation: Spearman's, between the scores of all edges, shape (circuit, circuit); NaN without scores.
        kept: What each circuit (outer) keeps of the behaviour under each partner (inner), on held-out pairs:
            transmission on crossed tasks, faithfulness on one-sided ones (`measure`).
        random_kept: Under each partner, of random circuits as large as the one found with it.
        leakage: As `kept`: how much of the partner's class the circuit lets through, where partners have one.
        empty: Under each partner, T0, the transmission of no edge: what partners show of the class themselves.
        dropped: Clean images that were left out under each partner, by split and reason.
        method: How everything was obtained, in plain values.
    """

    names: tuple[str, ...]
    circuits: tuple[Circuit, ...]
    jaccard: NDArray[np.float64]
    chance: NDArray[np.float64]
    rank_correlation: NDArray[np.float64]
    kept: tuple[tuple[Figure, ...], ...]
    random_kept: tuple[Figure, ...]
    leakage: tuple[tuple[Figure, ...], ...]
    empty: tuple[Figure, ...]
    dropped: Mapping[str, Mapping[str, Mapping[str, int]]]
    method: Mapping[str, Any] = field(default_factory=dict)

    @property
    def headline(self) -> str:
        """What was searched, and on how many pairs."""
        method = self.method
        return (
            f"{method['algorithm']}, {len(self.circuits[0].graph):,} edges, {method['n_discovery']} discovery and "
            f"{method['n_evaluation']} evaluation pairs"
        )

    def table(self) -> Table:
        """What each circuit keeps under each partner: a row for the circuit found with each, and for random ones."""
        rows = [(name, str(size), *row) for (name, size), row in zip(self.sizes.items(), self.kept, strict=True)]
        rows.append(("random", "", *self.random_kept))
        said = f"{self.measure} under each kind of partner, on held-out pairs"
        return Table(("found with", "edges", *self.names), tuple(rows), said)

    def __str__(self) -> str:
        width = max(map(len, (*self.names, "random")))
        lines = [
            self.headline,
            f"{'found with':<{width}}  {'edges':>6}  held-out {self.measure} under {', '.join(self.names)}",
        ]
        for name, circuit, row in zip(self.names, self.circuits, self.kept, strict=True):
            lines.append(f"{name:<{width}}  {len(circuit):>6}  {'  '.join(map(str, row))}")
        lines.append(f"{'random':<{width}}  {'':>6}  {'  '.join(map(str, self.random_kept))}")
        if self.crossed:
            lines.append(f"{'T0':<{width}}  {'':>6}  {'  '.join(map(str, self.empty))}")
        for first, second in zip(*np.triu_indices(len(self.names), 1), strict=True):
            lines.append(
                f"{self.names[first]} and {self.names[second]}: Jaccard {self.jaccard[first, second]:.2f} (by chance "
                f"{self.chance[first, second]:.2f}), rank correlation {self.rank_correlation[first, second]:.2f}"
            )
        return "\n".join(lines)

    @property
    def crossed(self) -> bool:
        """Whether the tasks were crossed."""
        return self.method.get("sides", "one") == "both"

    @property
    def measure(self) -> str:
        """What the share that circuits keep is called."""
        return NAMES["both" if self.crossed else "one"]

    @property
    def sizes(self) -> dict[str, int]:
        """Edges of each circuit, all on paths from input to logits."""
        return {name: len(circuit) for name, circuit in zip(self.names, self.circuits, strict=True)}

    def frame(self) -> pandas.DataFrame:
        """One row per figure: `measure`, `circuit` (the partner it was found with), `partner`, `value`, `low`, `high`,
        `note`.

        `partner` is the one it was judged under for what it keeps and lets through, and the other circuit's for what
        two circuits share. Of no edge, `circuit` is `none`.
        """
        import pandas

        columns = ["measure", "circuit", "partner", "value", "low", "high", "note"]
        return pandas.DataFrame(list(self._rows()), columns=columns)

    def _rows(self) -> Iterator[tuple[Any, ...]]:
        for name, size in self.sizes.items():
            yield "edges", name, "", size, None, None, "counted"
        rows = [(self.measure, name, row) for name, row in zip(self.names, self.kept, strict=True)]
        rows.append((self.measure, "random", self.random_kept))
        if self.crossed:
            rows.append((self.measure, "none", self.empty))
            rows += [("leakage", name, row) for name, row in zip(self.names, self.leakage, strict=True)]
        for measure, name, figures in rows:
            for partner, figure in zip(self.names, figures, strict=True):
                yield measure, name, partner, figure.value, figure.low, figure.high, figure.reason
        for measure in ("jaccard", "chance", "rank_correlation"):
            for (place, other), value in np.ndenumerate(getattr(self, measure)):
                yield measure, self.names[place], self.names[other], float(value), None, None, NO_INTERVAL
        for name, splits in self.dropped.items():
            for split, counts in splits.items():
                for reason, count in counts.items():
                    yield f"dropped: {reason}", name, split, count, None, None, "counted"

    def save(self, folder: str | Path) -> list[Path]:  # type: ignore[override]
        """Writes `partners.csv`, `.json`, `.svg` and `.png`, each whole or not at all, and returns their paths.

        Raises:
            FormatError: The folder cannot be written.
        """
        return self.save_all(folder, "partners")

    def record(self) -> dict[str, Any]:
        """Everything but the circuits; what is undefined is null."""
        record = {
            "schema": SCHEMA,
            "names": self.names,
            "sizes": self.sizes,
            self.measure: self.kept,
            f"random_{self.measure}": self.random_kept,
            **({"leakage": self.leakage, "empty_transmission": self.empty} if self.crossed else {}),
            "jaccard": self.jaccard,
            "chance": self.chance,
            "rank_correlation": self.rank_correlation,
            "no_interval": dict.fromkeys(("jaccard", "chance", "rank_correlation"), NO_INTERVAL),
            "dropped": self.dropped,
            "method": self.method,
        }
        return plain(record, non_finite="null")

    @drawable
    def draw(self, path: str | Path, *, title: str = "") -> Path:
        """Draws grids of what is kept, Jaccard and rank correlation to an .svg, .pdf or .png, and returns the path.

        Raises:
            FormatError: The ending is not known, or the file cannot be written.
        """
        from ..circuits.draw.heatmap import draw_grids

        every = [*self.kept, self.random_kept]
        kept = np.array(
            [[(cell.value, cell.low, cell.high) for cell in row] for row in every], dtype=float
        )  # None: NaN
        empty = np.full((1, len(self.names)), np.nan)
        panels = {
            f"held-out {self.measure}": kept[..., 0],
            "Jaccard of edges": np.concatenate([self.jaccard, self.chance.mean(0, keepdims=True)]),
            "rank correlation": np.concatenate([self.rank_correlation, empty]),
        }
        rows = [*(f"found with {name}, {size} edges" for name, size in self.sizes.items()), "random circuits"]
        return draw_grids(panels, rows, list(self.names), path, intervals={f"held-out {self.measure}": kept[..., 1:]})
