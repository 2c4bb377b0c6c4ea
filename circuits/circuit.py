"""A circuit: the edges that were kept, with the scores, the task and the provenance that led to it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..models.errors import GraphError, MissingEdgeError
from .ablation import Ablation
from .formats import draw_circuit, found, save_circuit
from .formats.plain import plain
from .graph import Graph
from .names import Edge
from .reach import prune
from .scores import SCORED, Scores
from .shown import Glance, Shown, drawable

if TYPE_CHECKING:
    import networkx
    import pandas
    import torch_geometric.data

    from .figure_data import Exhibit
    from .patch_effects import PatchEffects
    from .report import Report


@dataclass(frozen=True, eq=False, repr=False)
class Circuit(Shown):
    """A set of kept edges of a graph.

    `len` counts them, iteration gives them with their scores in the graph's order, `"m1->logits" in circuit` asks for
    one, and `circuit["m1->logits"]` is that edge, its `score` with it.

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
    def load(cls, path: str | Path, *, graph: Graph | None = None) -> Circuit:
        """The circuit in a `circuit.json` or in the run folder that holds one, equal to the one that was saved.

        Args:
            path: The file or the folder; or a file of EAP-IG or MIB (`formats/mib.py`).
            graph: Its graph, which files of EAP-IG and MIB don't hold, such as `compile_graph(vit)`.

        Raises:
            FormatError: There is no such file, it is not a circuit, or it needs a graph.
            GraphError: The file has edges that the graph has not.
        """
        return found("formats.json.load_circuit")(path, graph)

    def __len__(self) -> int:
        return int(self.mask.sum())

    def __iter__(self) -> Iterator[Edge]:
        return map(self.edge, self.indices.tolist())

    def __contains__(self, edge: object) -> bool:
        return str(edge) in self.graph and bool(self.mask[self.graph.index(str(edge))])

    def __getitem__(self, name: str | Edge) -> Edge:
        """The kept edge of this name, with its score where the circuit has scores.

        Raises:
            MissingEdgeError: There is no such edge, or the circuit does not keep it. It is a GraphError and a KeyError.
        """
        index = self.graph.index(str(name))
        if not self.mask[index]:
            near = difflib.get_close_matches(str(name), self.edge_names(), n=3)
            hint = f" Kept are such as {', '.join(near)}." if near else ""
            raise MissingEdgeError(
                f"{str(name)!r} is in the graph, but not among the {len(self):,} edges that the circuit keeps: ask "
                f"{str(name)!r} in circuit first.{hint}"
            )
        return self.edge(index)

    def edge(self, index: int) -> Edge:
        """An edge of the graph by its index, with its score where the circuit has scores.

        Raises:
            GraphError: The index is out of range.
        """
        return self.graph.edge(index) if self.scores is None else self.scores.edge(index)

    def __str__(self) -> str:
        share = 100 * len(self) / len(self.graph)
        return f"Circuit of {len(self)} edges ({share:.1f}%) in {self.graph}"

    def glance(self, most: int) -> Glance:
        """Its size, its highest edges, and what is to be known of how it was selected."""
        indices = found("formats.tables.ranked_indices")(self)[:most].tolist()
        columns, rows = ("edge",), [(str(self.edge(index)),) for index in indices]
        if self.scores is not None:
            columns, rows = SCORED, self.scores.rows(indices)
        chosen = found("words.selection_told")(self)
        return Glance(str(self), columns, rows, len(self), chosen)

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
        return [self.graph.edge(index).name for index in self.indices.tolist()]

    def save(self, path: str | Path) -> Path:
        """Writes the circuit, the format chosen by the ending, and returns the path.

        - `.json`: all of it; what `load` reads.
        - `.csv`, `.parquet`: the table of kept edges (`frame`).
        - `.graphml`, `.gexf`: for networkx, yEd, Cytoscape; for Gephi.
        - `.mib.json`: for EAP-IG and the MIB benchmark; `load` reads it too.
        - `.neuronpedia.json`: for circuit-tracer's and Neuronpedia's pages.
        - `.dot`: for Graphviz.

        What each cannot hold is told by `FORMATS` in `formats/__init__.py` and by `vitcircuits export --help`.

        Raises:
            FormatError: The ending is not known, it cannot hold this circuit, or the file cannot be written.
        """
        return save_circuit(self, path)

    def frame(self) -> pandas.DataFrame:
        """The kept edges in rank order, as a .csv holds them (the columns: `formats/tables.py`)."""
        return found("formats.tables.edges_table")(self)

    @drawable
    def draw(self, path: str | Path, **options: Any) -> Path:
        """Draws the circuit to an .svg (always works), or a .dot, .png or .pdf (the last two call Graphviz' `dot`).

        Without a path returns a `Drawing`, which a notebook shows. `options` are those of `formats.draw_circuit`.

        Raises:
            FormatError: The ending is not known, `dot` is missing, or the file cannot be written.
        """
        return draw_circuit(self, path, **options)

    def to_html(
        self,
        *,
        report: Report | None = None,
        exhibit: Exhibit | None = None,
        patch_effects: PatchEffects | None = None,
    ) -> str:
        """The page to explore it in as text, one file that needs no network; `draw` writes it to an .html.

        Args:
            report: Figures with their intervals, and the curve under the slider.
            exhibit: Images and attention, from `figure_data.gather`.
            patch_effects: What each patch carries, laid over the images, from `patch_effects`.
        """
        return found("draw.pages.to_html")(self, report=report, exhibit=exhibit, patch_effects=patch_effects)

    def _repr_html_(self) -> str:
        """The page in a frame of its own for notebooks; where it would swell them, its highest edges as a table."""
        return found("draw.pages.framed")(self) or super()._repr_html_()

    def to_networkx(self) -> networkx.MultiDiGraph:
        """The kept edges as a networkx multigraph over heads, MLPs, input and logits."""
        return found("formats.graphs.to_networkx")(self)

    def to_pyg(self) -> torch_geometric.data.Data:
        """The kept edges as torch-geometric data that keeps parallel q, k and v edges apart (`formats/pyg.py`)."""
        return found("formats.pyg.to_pyg")(self)

    def to_hetero(self) -> torch_geometric.data.HeteroData:
        """The kept edges as torch-geometric data of several kinds of node, and of edge by port (`formats/pyg.py`)."""
        return found("formats.pyg.to_hetero")(self)
