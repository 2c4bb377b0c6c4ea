"""Several circuits as one torch-geometric batch, with the statistics of each on it: input for graph learning.

A batch holds the disjoint union of the circuits' graphs (`to_pyg`), whatever models they come from.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..formats.pyg import to_pyg
from .subject import Circuits, as_subjects

if TYPE_CHECKING:
    from torch_geometric.data import Batch


def circuit_batch(circuits: Circuits, *, figures: Sequence[str] | None = None) -> Batch:
    """The circuits as one batch.

    Beside what `to_pyg` gives each graph, and `batch` and `ptr`:

    - `statistics` (circuit, figure): float64; NaN where a figure is not known of a circuit.
    - `kind` (circuit,): index into `kind_names`.
    - `circuit_name`, one per circuit; `figure_names` and `kind_names`, once for all.

    Args:
        circuits: As `compare` takes them.
        figures: Which figures; all by default.

    Raises:
        GraphError: There is no circuit.
    """
    with warnings.catch_warnings():  # torch-geometric's own use of torch warns on import
        warnings.simplefilter("ignore")
        import torch
        from torch_geometric.data import Batch

    subjects = as_subjects(circuits)
    names = list(figures or dict.fromkeys(name for subject in subjects for name in subject.figures))
    kinds = list(dict.fromkeys(subject.kind for subject in subjects))
    graphs = []
    for subject in subjects:
        data = to_pyg(subject.circuit)
        data.statistics = torch.tensor([[_value(subject.figures, name) for name in names]], dtype=torch.float64)
        data.kind = torch.tensor([kinds.index(subject.kind)])
        data.circuit_name = subject.name
        graphs.append(data)
    batch = Batch.from_data_list(graphs)
    for name, values in (("figure_names", names), ("kind_names", kinds)):
        setattr(batch, name, values)
    return batch


def _value(figures: Mapping[str, float], name: str) -> float:
    return figures.get(name, float("nan"))
