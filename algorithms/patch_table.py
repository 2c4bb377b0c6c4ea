"""The table that activation patching gives: layer x head x tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..circuits.effect_table import EffectTable, Shown

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False, kw_only=True)
class PatchTable(EffectTable):
    """Effects of patched activations; the places are (layer, head, token), head having one entry where there is none.

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
        return pandas.DataFrame({**places, **self.measured(n_bootstrap, seed)})

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
        raise NotImplementedError
