"""From the last residual to the logits: final norm, pooling, head."""

from __future__ import annotations

from collections.abc import Callable
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
        second_head: Of distilled models: `head` reads the first token and this one the second, and the logits are
            their mean.
    """

    tokens: tuple[int, ...]
    norm: Norm
    fc_norm: Norm
    head: nn.Module
    second_head: nn.Module | None = None

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
        if freeze_norm:
            return self.after_norm(self.norm.frozen(read), fc_norm=self.fc_norm.frozen)
        return self.after_norm(self.norm(read))

    def after_norm(
        self,
        normed: Float[Tensor, "*batch read model"],
        *,
        fc_norm: Callable[[Tensor], Tensor] | None = None,
    ) -> Float[Tensor, "*batch class"]:
        """Logits from the normed tokens that are read.

        Args:
            normed: Behind the norm of each token.
            fc_norm: What to do in place of the pooled vector's norm.
        """
        if self.second_head is not None:
            return (self.head(normed[..., 0, :]) + self.second_head(normed[..., 1, :])) / 2
        pooled = normed[..., 0, :] if len(self.tokens) == 1 else normed.mean(-2)
        return self.head((fc_norm or self.fc_norm)(pooled))

    def logits(self, residual: Float[Tensor, "*batch token model"]) -> Float[Tensor, "*batch class"]:
        """Logits from the whole last residual."""
        return self(self.select(residual))
