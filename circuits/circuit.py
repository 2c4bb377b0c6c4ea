"""A circuit: the edges that were kept, with the scores, the task and the provenance that led to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..models.errors import GraphError
from .ablation import Ablation
from .formats.plain import plain
from .graph import Graph
from .names import Edge
from .reach import prune
from .scores import Scores

if TYPE_CHECKING:
    import networkx
    import torch_geometric.data


@dataclass(frozen=True, eq=False)
class Circuit:
    """A set of kept edges of a graph.

    Args:
        graph: The graph.
        mask: Which edges are kept, shape (edge,), in the graph's order.
        scores: The scores that it was selected by, if there are any.
        ablation: What a removed edge carries.
        task: The task in plain values; with `readout`, what the readout is where it is not the model's own.
        provenance: The algorithm, its options and the selection, in plain values.
    """

    graph: Graph
    mask: NDArray[np.bool_]
    scores: Scores | None = None
    ablation: Ablation = Ablation()
    task: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.mask.shape != (len(self.graph),) or self.mask.dtype != np.bool_:
            raise GraphError(
                f"mask has shape {self.mask.shape} and type {self.mask.dtype}, but {self.graph} needs "
                f"({len(self.graph)},) booleans: one entry per edge."
            )
        if self.scores is not None:
            self.graph.require_same(self.scores.graph, "scores")
        self.mask.setflags(write=False)
        for name in ("task", "provenance"):  # plain from the start, so that what is loaded is equal
            object.__setattr__(self, name, plain(getattr(self, name), non_finite="keep"))

    @classmethod
    def from_edges(cls, graph: Graph, edges: Iterable[str], **fields: Any) -> Circuit:
        """The circuit of the edges with these names, less those on no path from input to logits.

        Raises:
            GraphError: A name does not parse or is not in the graph.
        """
        mask = np.zeros(len(graph), dtype=bool)
        mask[[graph.index(name) for name in edges]] = True
        return cls(graph, prune(graph, mask), **fields)

    @classmethod
    def full(cls, graph: Graph, **fields: Any) -> Circuit:
        """All edges kept."""
        return cls(graph, np.ones(len(graph), dtype=bool), **fields)

    @classmethod
    def empty(cls, graph: Graph, **fields: Any) -> Circuit:
        """No edge kept."""
        return cls(graph, np.zeros(len(graph), dtype=bool), **fields)

    @classmethod
    def load(cls, path: str | Path) -> Circuit:
        """The circuit in a `circuit.json` or in the run folder that holds one, equal to the one that was saved.

        Raises:
            FormatError: There is no such file, or it is not a circuit.
        """
        from .formats.json import load_circuit

        return load_circuit(path)

    def __len__(self) -> int:
        return int(self.mask.sum())

    def __iter__(self) -> Iterator[Edge]:
        return (self.graph.edge(int(index)) for index in self.indices)

    def __str__(self) -> str:
        share = 100 * len(self) / len(self.graph)
        return f"Circuit of {len(self)} edges ({share:.1f}%) in {self.graph}"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Circuit):
            return NotImplemented
        plain = ("graph", "scores", "ablation", "task", "provenance")
        return all(getattr(self, name) == getattr(other, name) for name in plain) and np.array_equal(
            self.mask, other.mask
        )

    @property
    def indices(self) -> NDArray[np.intp]:
        """Indices of the kept edges, ascending."""
        return np.flatnonzero(self.mask)

    def edge_names(self) -> list[str]:
        """Names of the kept edges in the graph's order."""
        return [edge.name for edge in self]

    def save(self, path: str | Path) -> Path:
        """Writes the circuit, the format chosen by the ending: .json (lossless), .csv, .graphml or .dot.

        Raises:
            FormatError: The ending is not known, or the file cannot be written.
        """
        from .formats import save_circuit

        return save_circuit(self, path)

    def draw(self, path: str | Path, **options: Any) -> Path:
        """Draws the circuit to an .svg (always works), or a .dot, .png or .pdf (the last two call Graphviz' `dot`).

        Raises:
            FormatError: The ending is not known, `dot` is missing, or the file cannot be written.
        """
        from .formats import draw_circuit

        return draw_circuit(self, path, **options)

    def to_networkx(self) -> networkx.MultiDiGraph:
        """The kept edges as a networkx multigraph over heads, MLPs, input and logits."""
        from .formats.graphs import to_networkx

        return to_networkx(self)

    def to_pyg(self) -> torch_geometric.data.Data:
        """The kept edges as torch-geometric data that keeps parallel q, k and v edges apart."""
        from .formats.graphs import to_pyg

        return to_pyg(self)
