"""What a removed edge carries instead: one frozen description, the same in discovery and in evaluation.

The values themselves are computed by what runs the model (`baseline.py`), so a description can be printed, saved and
compared without one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from ..models.errors import TaskError

Kind = Literal["partner", "another", "mean", "zero", "noise"]


@dataclass(frozen=True)
class Ablation:
    """What a source carries on a removed edge.

    - `partner`: its value on the corrupted partner of the pair (interchange, resample ablation).
    - `another`: its value on an image drawn from the reference images, one for each pair.
    - `mean`: its mean over the reference images.
    - `zero`: nothing.
    - `noise`: Gaussian noise with its own mean and standard deviation over the reference images, drawn once per
      source and pair.

    The reference images are the task's discovery images, clean and corrupted, in discovery and evaluation alike.

    Args:
        kind: One of the above.
        over: For `mean` and `noise`: statistics for each `token`, or one over all `tokens`.
        seed: For `another` and `noise`.

    Raises:
        TaskError: A choice is not known.
    """

    kind: Kind | str = "partner"
    over: Literal["token", "tokens"] | str = "token"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise TaskError(
                f"ablation {self.kind!r} is not known: pass one of {', '.join(map(repr, get_args(Kind)))}, "
                f'such as Ablation("mean").'
            )
        if self.over not in ("token", "tokens"):
            raise TaskError(f'over={self.over!r} is not known: pass over="token" or over="tokens".')

    def __str__(self) -> str:
        if self.kind in ("mean", "noise"):
            return f"{self.kind} ({'per token' if self.over == 'token' else 'over tokens'})"
        return self.kind

    @property
    def needs_reference(self) -> bool:
        """Whether its values depend on reference images beside the pair."""
        return self.kind in ("another", "mean", "noise")

    def as_dict(self) -> dict[str, Any]:
        """Plain fields, which `Ablation(**fields)` reads back."""
        return asdict(self)


def as_ablation(ablation: Ablation | str) -> Ablation:
    """An ablation, or the one that a word such as `mean` names."""
    return ablation if isinstance(ablation, Ablation) else Ablation(ablation)  # type: ignore[arg-type]
