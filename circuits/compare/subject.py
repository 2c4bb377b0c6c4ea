"""One circuit under comparison, with what was measured about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...models.errors import GraphError
from ..bootstrap import Resamples
from ..circuit import Circuit
from .anatomy import Anatomy, describe
from .pair_curve import PairCurve, curve_figures

if TYPE_CHECKING:
    from .matching import HeadFeatures

Circuits = Sequence["Circuit | Subject"] | Mapping[str, "Circuit | Subject | Sequence[Circuit | Subject]"]
"""What `compare` takes: circuits, or kind -> the circuits of its seeds."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A circuit, and what was measured about it; `measure_subjects` in `algorithms/comparing` fills it in.

    Args:
        circuit: The circuit.
        name: What to call it.
        kind: The kind of model that it is one seed of.
        curves: Ranking -> what is kept by size, on each pair.
        heads: What the model's heads do, for matching.
        resampled: The circuits found on bootstrap resamples of the discovery pairs, for intervals.
    """

    circuit: Circuit
    name: str = ""
    kind: str = ""
    curves: Mapping[str, PairCurve] = field(default_factory=dict)
    heads: HeadFeatures | None = None
    resampled: tuple[Circuit, ...] = ()

    @property
    def by(self) -> str:
        """What the circuit's edges were ranked by."""
        return str(self.circuit.provenance.get("by", "signed"))

    @cached_property
    def anatomy(self) -> Anatomy:
        """How the circuit is built."""
        return describe(self.circuit)

    @cached_property
    def figures(self) -> dict[str, float]:
        """Every number that is known about the circuit by itself."""
        read = {name: float(value) for name, value in curve_figures(self.curves, self.by).items()}
        return {**self.anatomy.flat(), **read}

    def drawn(self, resamples: Resamples | None) -> dict[str, NDArray[np.float64]]:
        """The same on resamples of the pairs, (draw,): figures of the curve on the evaluation pairs given, figures of
        the anatomy on the circuits that were found again on resamples of the discovery pairs."""
        read = curve_figures(self.curves, self.by, resamples) if self.curves and resamples is not None else {}
        again = [describe(circuit).flat() for circuit in self.resampled]
        built = {name: np.array([one[name] for one in again]) for name in (again[0] if again else {})}
        return {**built, **read}


def as_subjects(circuits: Circuits) -> list[Subject]:
    """Subjects with names and kinds; circuits in a list are a kind each.

    Raises:
        GraphError: There is none, or two have one name.
    """
    if isinstance(circuits, Mapping):
        groups: dict[str, Any] = dict(circuits)
    else:
        groups = {_own_name(one) or _letter(place): one for place, one in enumerate(circuits)}
        if len(groups) < len(circuits):
            raise GraphError(
                "two subjects have one name: give each its own, such as Subject(circuit, 'clip 2', 'clip')."
            )
    found = []
    for kind, members in groups.items():
        every = [members] if isinstance(members, Circuit | Subject) else list(members)
        for place, one in enumerate(every):
            name = str(kind) if len(every) == 1 else f"{kind} {place + 1}"
            found.append(_named(one, name, str(kind)))
    if not found:
        raise GraphError("there are no circuits to compare: pass some, such as compare([first, second]).")
    return found


def _own_name(one: Circuit | Subject) -> str:
    return one.name if isinstance(one, Subject) else ""


def _letter(place: int) -> str:
    return chr(ord("A") + place) if place < 26 else f"circuit {place + 1}"


def _named(one: Circuit | Subject, name: str, kind: str) -> Subject:
    if isinstance(one, Circuit):
        return Subject(one, name, kind)
    return Subject(one.circuit, one.name or name, one.kind or kind, one.curves, one.heads, one.resampled)
