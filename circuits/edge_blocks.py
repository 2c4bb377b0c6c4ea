"""Dense runs of a graph's edges, as index arithmetic.

edge index = block.start + (place of (row, group) among those present) * block.n_columns + place of the column
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class EdgeBlock:
    """A dense run of edges.

    Args:
        kind: `attention`, `inside`, `mlp` or `logits`.
        layer: The block's index in the model; -1 for the logits.
        start: Index of the first edge.
        width: Columns of the dense array: sources, or for `inside` source groups.
        present: Which (row, group) exist, shape (row, group).
        columns: Which columns exist, shape (column,).
    """

    kind: str
    layer: int
    start: int
    width: int
    present: NDArray[np.bool_]
    columns: NDArray[np.bool_]

    @property
    def key(self) -> tuple[str, int]:
        """Kind and layer, which tell it from the graph's other blocks; an empty block has the next one's start."""
        return self.kind, self.layer

    @cached_property
    def _places(self) -> NDArray[np.intp]:
        return np.argwhere(self.present)

    @cached_property
    def n_columns(self) -> int:
        """Columns that exist: edges for each destination at a group."""
        return int(self.columns.sum())

    @cached_property
    def _all_columns(self) -> bool:
        return self.n_columns == self.width

    @property
    def stop(self) -> int:
        """Index after the last edge."""
        return self.start + int(self.present.sum()) * self.n_columns

    @property
    def exists(self) -> NDArray[np.bool_]:
        """Which (row, group, column) are edges."""
        return np.broadcast_to(self.present[:, :, None], self.dense_shape) & self.columns

    @property
    def dense_shape(self) -> tuple[int, int, int]:
        """Rows, groups, columns."""
        return (*self.present.shape, self.width)  # type: ignore[return-value]

    def locate(self, index: int) -> tuple[int, int, int]:
        """Row, group and column of an edge."""
        place, column = divmod(index - self.start, self.n_columns)
        row, group = self._places[place]
        return int(row), int(group), column if self._all_columns else int(np.flatnonzero(self.columns)[column])

    def index(self, row: int, group: int, column: int) -> int | None:
        """Index of the edge at a row, group and column; None where there is none."""
        rows, groups = self.present.shape
        inside = 0 <= row < rows and 0 <= group < groups and 0 <= column < self.width
        if not inside or not self.present[row, group] or not self.columns[column]:
            return None
        place = int(self.present.ravel()[: row * groups + group].sum())
        return self.start + place * self.n_columns + int(self.columns[:column].sum())

    def unpack(self, values: NDArray) -> NDArray:
        """One entry per edge of the graph -> dense (row, group, column); zero where there is no edge."""
        dense = np.zeros(self.dense_shape, dtype=values.dtype)
        found = values[self.start : self.stop].reshape(-1, self.n_columns)
        if self._all_columns:
            dense[self.present] = found
        else:
            dense[self.exists] = found.ravel()
        return dense

    def pack(self, dense: NDArray, out: NDArray) -> None:
        """Dense (row, group, column) -> its place in `out`, one entry per edge of the graph."""
        found = dense[self.present]
        out[self.start : self.stop] = (found if self._all_columns else found[:, self.columns]).ravel()


@dataclass(frozen=True)
class LayerBlocks:
    """The edge blocks of one transformer block; `inside` is None with one token group."""

    attention: EdgeBlock
    inside: EdgeBlock | None
    mlp: EdgeBlock
