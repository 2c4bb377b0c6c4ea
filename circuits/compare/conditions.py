"""Under what conditions circuits were found, and in which of them they differ.

A comparison of two models is only about the models if everything else is the same. What is not is found here and said;
nothing is refused, because sometimes the difference is the question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..circuit import Circuit
from ..nodes import granularity, kept_nodes
from ..reach import prune
from ..words import task_words
from .subject import Subject

_ABOUT = "-"  # what a circuit does not record
ALIKE = 1.1  # sizes that differ by less than a tenth, as edges on no path make them, don't matter


@dataclass(frozen=True)
class Difference:
    """A condition that is not the same for all.

    Args:
        condition: Such as `metric`.
        values: Of each circuit, in order.
        names: What the circuits are called.
        matters: Whether circuits are not comparable in size or score because of it, and why; empty where it only has to
            be known.
    """

    condition: str
    values: tuple[str, ...]
    names: tuple[str, ...]
    matters: str = ""

    def __str__(self) -> str:
        groups: dict[str, list[str]] = {}
        for name, value in zip(self.names, self.values, strict=True):
            groups.setdefault(value, []).append(name)
        said = "; ".join(f"{value} ({', '.join(names)})" for value, names in groups.items())
        return f"{self.condition} differs: {said}" + (f". {self.matters}" if self.matters else "")


_MATTERS = {
    "task": "These are circuits of different behaviours.",
    "data": "The images are not the same.",
    "readout": "The logits come from other heads.",
    "partners": "An edge carries what differs between an image and its partner, so partners decide what is found.",
    "clean images": "Where clean images show the target alone, one that says so whatever it sees is found faithful.",
    "ablation": "Removed edges carried different things, so sizes and what is kept are not comparable.",
    "metric": "Scores have different meanings, so sizes, CPR and CMD are not comparable.",
    "granularity": "Equal shares of nodes and of edges are different sizes.",
    "tokens": "The graphs have other edges.",
    "ports": "The graphs have other edges.",
    "budget": "Circuits of different sizes overlap less than equal ones can: read the overlap at equal rank.",
    "ranked by": "Edges were ranked by different numbers.",
    "algorithm": "Two algorithms differ on one model already.",
    "graph edges": "The models have different shapes: edges are compared only after heads are matched.",
}


def conditions(circuit: Circuit) -> dict[str, str]:
    """Everything that a circuit records about how it was found, as text; `-` where it does not."""
    task, provenance, graph = dict(circuit.task), circuit.provenance, circuit.graph
    kept = int(prune(graph, circuit.mask).sum())
    size = f"{len(kept_nodes(circuit))} nodes" if granularity(circuit) == "node" else f"{kept} edges"
    found: Mapping[str, Any] = {
        "model": task.get("model") or graph.cfg.name,
        "readout": dict(task.get("readout") or {}).get("kind") or "the model's own head",
        "task": task_words(task),
        "data": task.get("data"),
        "partners": _several(task, "corruption", "mask", "word", "mask_coordinates"),
        "clean images": {"both": "of target and foil", "one": "of the target"}.get(str(task.get("sides"))),
        "ablation": str(circuit.ablation),
        "metric": task.get("metric"),
        "granularity": granularity(circuit),
        "tokens": graph.groups.kind,
        "ports": graph.ports,
        "graph edges": len(graph),
        "algorithm": _several(provenance, "algorithm", "options"),
        "budget": size,
        "selection": _several(provenance, "selection", "level", "tau"),
        "ranked by": provenance.get("by"),
        "discovery pairs": task.get("n_discovery"),
        "seed of the pairs": task.get("seed"),
    }
    return {name: _ABOUT if value in (None, "") else str(value) for name, value in found.items()}


def _several(record: Mapping[str, Any], *names: str) -> str:
    """Some entries of a record as text: the first by itself, the others with their names."""
    said = [str(record.get(names[0]) or "")]
    for name in names[1:]:
        value = record.get(name)
        if isinstance(value, Mapping):
            said += [f"{key} {item}" for key, item in value.items()]
        elif value:
            said.append(f"{name} {value}")
    return ", ".join(filter(None, said))


def _matters(condition: str, subjects: Sequence[Subject]) -> str:
    sizes = [len(subject.circuit) for subject in subjects]
    if condition == "budget" and max(sizes) <= ALIKE * min(sizes):
        return ""
    return _MATTERS.get(condition, "")


def differences(subjects: Sequence[Subject]) -> tuple[Difference, ...]:
    """The conditions in which circuits differ, those that matter first; the model is what is compared, so not it."""
    every = [conditions(subject.circuit) for subject in subjects]
    names = tuple(subject.name for subject in subjects)
    found = []
    for condition in every[0]:
        values = tuple(one[condition] for one in every)
        if condition != "model" and len(set(values)) > 1:
            found.append(Difference(condition, values, names, _matters(condition, subjects)))
    found += _of_curves(subjects, names)
    return tuple(sorted(found, key=lambda one: not one.matters))


def _of_curves(subjects: Sequence[Subject], names: tuple[str, ...]) -> list[Difference]:
    """Areas that begin at other sizes: on large graphs at MIB's smallest share, on small ones at none."""
    every = [[float(c.share[c.on_grid].min()) for c in subject.curves.values()] for subject in subjects]
    starts = [min(some, default=-1.0) for some in every]
    if len(set(starts)) == 1 or min(starts) < 0:
        return []
    values = tuple(f"from {start:g} of the edges" for start in starts)
    return [Difference("area of CPR and CMD", values, names, "The areas leave out different parts of the curve.")]


def same_shape(subjects: Sequence[Subject]) -> bool:
    """Whether all circuits are of graphs with the same edges."""
    return len({subject.circuit.graph.signature for subject in subjects}) == 1
