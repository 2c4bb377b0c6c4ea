"""The highest of many scores, batch by batch, so that nothing else is kept."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Top:
    """The k highest scores of each row so far, highest first, and where they were; of equals the first.

    Args:
        scores: Minus infinity where there were fewer than k.
        places: Whatever the caller numbers; -1 where there were fewer.
    """

    scores: Float[Tensor, "row k"]
    places: Int[Tensor, "row k"]

    @classmethod
    def of(cls, n_rows: int, k: int) -> Top:
        """Nothing yet."""
        return cls(
            torch.full((n_rows, k), -torch.inf, dtype=torch.float64, device="cpu"),
            torch.full((n_rows, k), -1, device="cpu"),
        )

    def with_more(self, scores: Float[Tensor, "row n"], places: Int[Tensor, "*row n"]) -> Top:
        """The same with a batch of scores, whose places are behind those seen before."""
        every = torch.cat([self.scores, scores.double().cpu()], 1)
        where = torch.cat([self.places, places.cpu().expand(scores.shape)], 1)
        order = every.sort(dim=1, descending=True, stable=True).indices[:, : self.scores.shape[1]]
        return Top(every.gather(1, order), where.gather(1, order))

    def row(self, row: int) -> tuple[tuple[float, int], ...]:
        """Scores and places of a row, as far as there are any."""
        pairs = zip(self.scores[row].tolist(), self.places[row].tolist(), strict=True)
        return tuple((score, place) for score, place in pairs if place >= 0)
