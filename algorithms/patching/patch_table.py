"""The table that activation patching gives: layer x head x tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...circuits.effect_table import EffectTable, Shown

if TYPE_CHECKING:
    import pandas

    from ...circuits.draw.heatmap import Heatmap

MOST_PANELS = 6
"""Token columns up to which each gets a panel of its own."""


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
