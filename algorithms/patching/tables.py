"""From the logits of patched runs to effects and flips, and the tables that they are given in.

On a crossed task an effect is turned so that it says how much of the metric's speaking for what the clean image shows
a place carries (`Task.signs`), the metric of both runs likewise, and a pair flips if its answer leaves what is shown.
Only pairs of two classes are taken (`Pairs.opposed`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from ...circuits.effect_table import EffectTable, Shown
from ...circuits.metrics import Metric
from ...circuits.pairs import Pairs
from ...circuits.task import Task

if TYPE_CHECKING:
    import pandas

    from ...circuits.draw.heatmap import Heatmap


MOST_PANELS = 6
"""Token columns up to which each gets a panel of its own."""


def contrasted(task: Task, pairs: Pairs | None) -> Pairs:
    """The pairs that effects are taken over: given ones, or the discovery's, as the ablation needs them."""
    return (task.discovery if pairs is None else pairs).under(task.ablation).opposed


@dataclass(frozen=True, eq=False)
class Contrast:
    """The clean and the corrupted run of a batch, between which patched runs lie.

    Args:
        metric: The task's.
        clean: Logits of the clean run, (pair, class).
        corrupt: Logits of the corrupted run.
        direction: `noising` or `denoising`.
        signs: 1 where a higher metric speaks for what the clean image shows, -1 where a lower one does.
        shows_foil: Where the clean image shows the foil.
    """

    metric: Metric
    clean: Float[Tensor, "pair class"]
    corrupt: Float[Tensor, "pair class"]
    direction: str
    signs: Float[Tensor, " pair"]
    shows_foil: Bool[Tensor, " pair"]

    @classmethod
    def of(
        cls,
        task: Task,
        pairs: Pairs,
        clean: Float[Tensor, "pair token model"],
        corrupt: Float[Tensor, "pair token model"],
        direction: str,
    ) -> Contrast:
        """From the pairs and the residuals in front of block 0."""
        vit = task.vit
        ends = [vit.readout.logits(vit.run_blocks(embedded)) for embedded in (clean, corrupt)]
        signs, shown = task.signs(pairs).to(vit.device), (pairs.sign < 0).to(vit.device)
        return cls(task.metric, ends[0], ends[1], direction, signs, shown)

    def __call__(self, patched: Float[Tensor, "pair candidate class"]) -> tuple[Tensor, Tensor]:
        """Effects in float64 and flips, each (pair, candidate)."""
        noising = self.direction == "noising"
        base = (self.clean if noising else self.corrupt)[:, None]
        moved = self._metric(patched) - self._metric(base)
        before, after = (self.metric.prefers_target(run) ^ self.shows_foil[:, None] for run in (base, patched))
        return (-moved, before & ~after) if noising else (moved, ~before & after)

    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """The metric of the clean and of the corrupted run, turned as effects are, each (pair,)."""
        clean, corrupt = (self._metric(run[:, None])[:, 0].cpu().numpy() for run in (self.clean, self.corrupt))
        return clean, corrupt

    def _metric(self, logits: Float[Tensor, "pair candidate class"]) -> Float[Tensor, "pair candidate"]:
        return self.signs[:, None] * self.metric(logits, self.clean[:, None].expand_as(logits)).double()


@dataclass(frozen=True, eq=False, kw_only=True)
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

    def draw(self, path: str | Path, *, show: Shown | str = "effect", title: str = "") -> Path:
        """Draws a heat map to an .svg, .pdf or .png, and returns the path.

        Layers go upwards. Across go heads, one panel for each column of tokens while these are few; for `resid` and
        `mlp_out`, and where there are many columns, across go the tokens.

        Args:
            path: Where to.
            show: `effect`, `normalised` or `flips` (the share of pairs that flip).
            title: Stands above instead of a sentence of its own.

        Raises:
            TaskError: `show` is not known.
            FormatError: The ending is not known, or the file cannot be written.
        """
        from ...circuits.draw.heatmap import draw_heatmap

        return draw_heatmap(self._heatmap(show, title), path)

    def _heatmap(self, show: str, title: str) -> Heatmap:
        from ...circuits.draw.heatmap import Heatmap

        values = self.shown(show)  # layer, head, token
        layers, heads, tokens = values.shape
        rows, panels = [str(layer) for layer in range(layers)], ()
        if not self.per_head:
            grids, columns, axes = values[:, 0][None], self.tokens, ("layer", "token")
        elif tokens > MOST_PANELS:
            rows = [f"a{layer}.h{head}" for layer in range(layers) for head in range(heads)]
            grids, columns, axes = values.reshape(1, layers * heads, tokens), self.tokens, ("head", "token")
        else:
            columns, axes = [str(head) for head in range(heads)], ("layer", "head")
            grids, panels = np.moveaxis(values, 2, 0), self.tokens if tokens > 1 else ()
        where = f" at {self.tokens[0]}" if len(self.tokens) == 1 and self.tokens != ("all",) else ""
        words = title or self.context, f"{self.what}{where}, {self.method}"
        return Heatmap(grids, rows, columns, *axes, self.unit_of(show), panels, *words, show == "flips")


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
