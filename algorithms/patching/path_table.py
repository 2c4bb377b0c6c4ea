"""The table that path patching gives: source x destination."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...circuits.effect_table import EffectTable, Shown

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False, kw_only=True)
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

    def draw(self, path: str | Path, *, show: Shown | str = "effect", title: str = "") -> Path:
        """Draws a heat map of sources (upwards) by destinations to an .svg, .pdf or .png, and returns the path.

        Those that have no edge here at all are left out.

        Args:
            path: Where to.
            show: `effect`, `normalised` or `flips` (the share of pairs that flip).
            title: Stands above instead of the model and the task.

        Raises:
            TaskError: `show` is not known.
            FormatError: The ending is not known, or the file cannot be written.
        """
        from ...circuits.draw.heatmap import Heatmap, draw_heatmap

        rows, columns = (np.flatnonzero(self.n_edges.any(axis)) for axis in (1, 0))
        grid = self.shown(show)[None][:, rows][:, :, columns]
        names = [self.sources[row] for row in rows], [self.destinations[column] for column in columns]
        words = title or self.context, f"paths, {self.method}"
        unit = self.unit_of(show)
        return draw_heatmap(Heatmap(grid, *names, "source", "destination", unit, (), *words, show == "flips"), path)
