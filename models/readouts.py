"""From the last residual to the logits: final norm, pooling, head."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from .norms import Norm


@dataclass(frozen=True, eq=False)
class Readout:
    """A classifier head over one token or an average of tokens.

    Args:
        tokens: The tokens it looks at.
        norm: Norm of each token.
        fc_norm: Norm of the pooled vector.
        head: From the pooled vector to the logits.
    """

    tokens: tuple[int, ...]
    norm: Norm
    fc_norm: Norm
    head: nn.Module

    @property
    def read(self) -> slice:
        """The tokens that are read: they stand next to one another."""
        return slice(self.tokens[0], self.tokens[-1] + 1)

    def select(self, residual: Float[Tensor, "*batch token model"]) -> Float[Tensor, "*batch read model"]:
        """The tokens that are read (a view)."""
        return residual[..., self.read, :]

    def __call__(
        self, read: Float[Tensor, "*batch read model"], *, freeze_norm: bool = False
    ) -> Float[Tensor, "*batch class"]:
        """Logits from the residual at the read tokens.

        Args:
            read: What `select` gives.
            freeze_norm: Treat both norms' standard deviations as constants in the backward pass.
        """
        normed = self.norm.frozen(read) if freeze_norm else self.norm(read)
        pooled = normed[..., 0, :] if len(self.tokens) == 1 else normed.mean(-2)
        return self.head(self.fc_norm.frozen(pooled) if freeze_norm else self.fc_norm(pooled))

    def logits(self, residual: Float[Tensor, "*batch token model"]) -> Float[Tensor, "*batch class"]:
        """Logits from the whole last residual."""
        return self(self.select(residual))
