"""Graph similarity of circuits by Weisfeiler and Lehman's colours (Shervashidze et al. 2011).

1. Every node starts with a label: here the kind of component and its token group, so that neither a head's number nor
   its layer counts, and circuits of any models can be compared.
2. Again and again each node's new label stands for its own and the sorted labels of its neighbours, each with what the
   edge to it is called (q, k, v) and which way it goes. After h rounds a label stands for a neighbourhood h edges deep.
3. The kernel counts common labels, k(G, H) = sum over rounds and labels of count_G * count_H, and is normalised:
   k(G, H) / sqrt(k(G, G) k(H, H)) is 1 for a circuit with itself and with any relabelled copy, and at least 0.

It looks at which edges there are and not at scores. Two circuits that differ in one early edge share few deep labels,
so more rounds make the measure stricter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...models.errors import GraphError

if TYPE_CHECKING:
    from ..circuit import Circuit

ROUNDS = 3


@dataclass(frozen=True)
class Labelled:
    """A graph with names on its nodes and on its arcs.

    Args:
        labels: First label of each node.
        arcs: (node, neighbour, label): what each node sees. An undirected edge is two arcs.
    """

    labels: tuple[str, ...]
    arcs: tuple[tuple[int, int, str], ...]

    @classmethod
    def of(cls, circuit: Circuit) -> Labelled:
        """A circuit's components; parallel q, k and v edges are one arc with their letters together."""
        whole = circuit.to_networkx()
        place = {name: index for index, name in enumerate(whole.nodes)}
        labels = tuple(f"{node['kind']}@{node.get('group', '')}" for _, node in whole.nodes(data=True))
        letters: dict[tuple[int, int], set[str]] = {}
        for source, destination, edge in whole.edges(data=True):
            said = edge.get("port", "") + "|" * edge["inside"]
            letters.setdefault((place[source], place[destination]), set()).add(said)
        arcs = []
        for (source, destination), found in letters.items():
            said = ",".join(sorted(found))
            arcs += [(destination, source, f"<{said}"), (source, destination, f">{said}")]
        return cls(labels, tuple(arcs))


def wl_colours(graphs: Sequence[Labelled], *, rounds: int = ROUNDS) -> list[NDArray[np.int64]]:
    """The colour of every node after 0, 1, ..., `rounds` rounds, one array (round, node) per graph.

    Colours mean the same in all graphs of one call: two nodes of one colour have equal neighbourhoods so deep.

    Raises:
        GraphError: `rounds` is negative.
    """
    if rounds < 0:
        raise GraphError(f"rounds={rounds} is not possible: pass 0 or more, such as rounds={ROUNDS}.")
    known: dict[Any, int] = {}
    colours = [[[known.setdefault(("start", label), len(known)) for label in graph.labels]] for graph in graphs]
    for depth in range(rounds):
        for graph, found in zip(graphs, colours, strict=True):
            found.append([known.setdefault((depth, key), len(known)) for key in _keys(graph, found[-1])])
    return [np.array(found, dtype=np.int64).reshape(rounds + 1, -1) for found in colours]


def _keys(graph: Labelled, now: list[int]) -> list[tuple[int, tuple[tuple[str, int], ...]]]:
    seen: list[list[tuple[str, int]]] = [[] for _ in now]
    for node, neighbour, label in graph.arcs:
        seen[node].append((label, now[neighbour]))
    return [(own, tuple(sorted(around))) for own, around in zip(now, seen, strict=True)]


def wl_kernel(graphs: Sequence[Labelled], *, rounds: int = ROUNDS) -> NDArray[np.float64]:
    """Normalised kernel of each two graphs, shape (graph, graph); graphs without nodes are like one another only."""
    colours = wl_colours(graphs, rounds=rounds)
    n = 1 + max((int(found.max()) for found in colours if found.size), default=0)
    counts = np.array([np.bincount(found.ravel(), minlength=n) for found in colours], dtype=np.float64)
    products = counts @ counts.T
    own = np.sqrt(np.diag(products))
    scale = np.outer(own, own)
    alike = np.where(scale > 0, products / np.where(scale > 0, scale, 1.0), np.equal.outer(own, own).astype(float))
    return alike.round(12)


def wl_similarity(circuits: Sequence[Circuit], *, rounds: int = ROUNDS) -> NDArray[np.float64]:
    """Normalised Weisfeiler-Lehman kernel of each two circuits, shape (circuit, circuit)."""
    return wl_kernel([Labelled.of(circuit) for circuit in circuits], rounds=rounds)
