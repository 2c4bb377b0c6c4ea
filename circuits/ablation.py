"""What a removed edge carries instead: one frozen description, the same in discovery and in evaluation.

The values themselves are computed by what runs the model (`baseline.py`), so a description can be printed, saved and
compared without one.

Learned constants of an optimal ablation: how far from its mean each source's constant lies.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..models.errors import TaskError

Kind = Literal["partner", "another", "mean", "zero", "noise", "optimal"]


@dataclass(frozen=True)
class Ablation:
    """What a source carries on a removed edge.

    - `partner`: its value on the corrupted partner of the pair (interchange, resample ablation).
    - `another`: its value on an image drawn from the reference images, one for each pair.
    - `mean`: its mean over the reference images.
    - `zero`: nothing.
    - `noise`: Gaussian noise with its own mean and standard deviation over the reference images, drawn once per
      source and pair.
    - `optimal`: a constant learned so that one circuit comes as close to the full model as constants let it
      (`optimal_ablation`): the mean, and for each token role a shift.

    The reference images are the task's discovery images, clean and corrupted, in discovery and evaluation alike.

    Args:
        kind: One of the above.
        over: For `mean`, `noise` and `optimal`: statistics for each `token`, or one over all `tokens`.
        seed: For `another` and `noise`.
        shifts: For `optimal`: what was learned. Without it the ablation is a wish, and has no values yet.

    Raises:
        TaskError: A choice is not known, or there are shifts where none are wanted.
    """

    kind: Kind | str = "partner"
    over: Literal["token", "tokens"] | str = "token"
    seed: int = 0
    shifts: Shifts | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise TaskError(
                f"ablation {self.kind!r} is not known: pass one of {', '.join(map(repr, get_args(Kind)))}, "
                f'such as Ablation("mean").'
            )
        if self.over not in ("token", "tokens"):
            raise TaskError(f'over={self.over!r} is not known: pass over="token" or over="tokens".')
        if self.shifts is not None and self.kind != "optimal":
            raise TaskError(f'the ablation {self.kind!r} takes no shifts: leave them out, or pass kind="optimal".')

    def __str__(self) -> str:
        if self.kind in ("mean", "noise"):
            return f"{self.kind} ({'per token' if self.over == 'token' else 'over tokens'})"
        return self.kind if self.shifts is None else f"{self.kind} (learned)"

    @property
    def needs_reference(self) -> bool:
        """Whether its values depend on reference images beside the pair."""
        return self.kind in ("another", "mean", "noise", "optimal")

    def as_dict(self) -> dict[str, Any]:
        """Plain fields without loss, which `Ablation.from_dict` reads back."""
        learned = {} if self.shifts is None else {"shifts": self.shifts.as_dict()}
        return {**self._chosen, **learned}

    def as_record(self) -> dict[str, Any]:
        """The same for reports and journals: a hash in place of what was learned."""
        learned = {} if self.shifts is None else {"shifts": self.shifts.digest}
        return {**self._chosen, **learned}

    @property
    def _chosen(self) -> dict[str, Any]:
        return {"kind": self.kind, "over": self.over, "seed": self.seed}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Ablation:
        """What `as_dict` described."""
        learned = {"shifts": Shifts.from_dict(fields["shifts"])} if "shifts" in fields else {}
        return cls(**{**fields, **learned})


def as_ablation(ablation: Ablation | str) -> Ablation:
    """An ablation, or the one that a word such as `mean` names."""
    return ablation if isinstance(ablation, Ablation) else Ablation(ablation)  # type: ignore[arg-type]


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
