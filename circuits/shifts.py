"""Learned constants of an optimal ablation: how far from its mean each source's constant lies."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..models.errors import TaskError

_STORED = "<f4"  # the same bytes on every machine


@dataclass(frozen=True, eq=False)
class Shifts:
    """One vector for each source and token role (CLS, registers, patches), added to the source's mean.

    Args:
        values: Shape (source, role, model), in the order of the graph's sources and of `group_tokens(layout, "role")`.

    Raises:
        TaskError: They have another shape or type, or are not finite.
    """

    values: NDArray[np.float32]

    def __post_init__(self) -> None:
        found = self.values
        if found.ndim != 3 or found.dtype != np.float32 or not np.isfinite(found).all():
            raise TaskError(
                f"shifts have shape {found.shape} and type {found.dtype}: pass finite float32 numbers of shape "
                f"(source, role, model), as optimal_ablation(circuit, task) makes them."
            )
        object.__setattr__(self, "values", found.copy())
        self.values.setflags(write=False)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Shifts):
            return NotImplemented
        return self.values.shape == other.values.shape and self._bytes == other._bytes

    def __hash__(self) -> int:
        return hash((self.values.shape, self._bytes))

    def __repr__(self) -> str:
        return f"Shifts(shape={self.values.shape}, sha256={self.digest[:12]})"

    @property
    def _bytes(self) -> bytes:
        return self.values.astype(_STORED).tobytes()

    @property
    def digest(self) -> str:
        """A hash of the numbers and their shape, for records."""
        return hashlib.sha256(str(self.values.shape).encode() + self._bytes).hexdigest()

    def as_dict(self) -> dict[str, Any]:
        """Plain fields without loss, which `Shifts.from_dict` reads back."""
        text = base64.b64encode(self._bytes).decode()
        return {"shape": list(self.values.shape), "dtype": "float32", "base64": text}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Shifts:
        """What `as_dict` described.

        Raises:
            ValueError: The fields don't fit each other.
        """
        if fields["dtype"] != "float32":
            raise ValueError(f"shifts are of type {fields['dtype']!r}; wanted 'float32'")
        stored = base64.b64decode(fields["base64"], validate=True)
        values = np.frombuffer(stored, dtype=_STORED).reshape(fields["shape"])
        return cls(values.astype(np.float32))
