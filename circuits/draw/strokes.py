"""Which edges of a circuit are drawn, in what order and with what ink.

Blue helps, orange hurts and is dashed as well, so that the sign survives a black-and-white print; width is linear in
|score|. Every writer (SVG, DOT, HTML) takes its edges and its ink from here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..circuit import Circuit
from ..formats.rows import ranked_indices
from ..names import Edge

POSITIVE, NEGATIVE, UNSCORED = "#2b6cb0", "#d9622b", "#6b7280"
DASH = "5 3"


@dataclass(frozen=True)
class Stroke:
    """An edge as it is drawn.

    Args:
        edge: The edge.
        rank: Its place among the kept edges by what selected them, from 1.
        score: Signed mean over pairs; None where there is none.
        std_err: Its standard error; None where there is none.
        mean_abs: Mean of absolute values; None where there is none.
        exact: Whether it was measured by ablating the edge; None where there is no score.
        share: |score| as a share of the largest in the circuit.
    """

    edge: Edge
    rank: int
    score: float | None = None
    std_err: float | None = None
    mean_abs: float | None = None
    exact: bool | None = None
    share: float = 0.0

    @property
    def sign(self) -> str:
        """`positive`, `negative`, or `unscored` (which includes a score of exactly zero)."""
        if not self.score:
            return "unscored"
        return "positive" if self.score > 0 else "negative"

    @property
    def colour(self) -> str:
        """Blue, orange or grey."""
        return {"positive": POSITIVE, "negative": NEGATIVE, "unscored": UNSCORED}[self.sign]

    @property
    def marker(self) -> str:
        """Which arrowhead it has inside a head."""
        return self.sign

    @property
    def width(self) -> float:
        """Width in pixels, linear in |score|."""
        return width_of(self.share)

    @property
    def opacity(self) -> float:
        """Weak edges recede behind strong ones."""
        return 0.5 + 0.45 * self.share**0.5

    @property
    def tooltip(self) -> str:
        """Name, score and rank in one line."""
        if self.score is None:
            return self.edge.name
        error = "" if self.std_err is None else f" ± {number(self.std_err)}"
        return f"{self.edge.name}   score {number(self.score, signed=True)}{error}   rank {self.rank}"


def width_of(share: float) -> float:
    """Width in pixels of an edge with this share of the largest |score|."""
    return 0.9 + 5.1 * share


def number(value: float, *, signed: bool = False) -> str:
    """Three significant digits."""
    text = f"{value:+.3g}" if signed else f"{value:.3g}"
    return text.replace("-", "\N{MINUS SIGN}") if "e" not in text else text


def strokes(circuit: Circuit, *, limit: int | None = None) -> tuple[Stroke, ...]:
    """The circuit's edges, best rank first; with a limit only that many, the largest by |score|.

    Without scores there is nothing to choose by, and a limit takes edges evenly spaced in the graph's order.
    """
    order = ranked_indices(circuit)
    ranks = np.arange(1, len(order) + 1)
    scores = circuit.scores
    if scores is None:
        if limit is not None and len(order) > limit:
            chosen = np.linspace(0, len(order) - 1, limit).astype(np.intp)
            order, ranks = order[chosen], ranks[chosen]
        return tuple(Stroke(circuit.graph.edge(int(i)), int(rank)) for i, rank in zip(order, ranks, strict=True))
    size = np.nan_to_num(np.abs(scores.values[order]), nan=0.0, posinf=0.0)
    largest = float(size.max(initial=0.0)) or 1.0
    if limit is not None and len(order) > limit:
        chosen = np.sort(np.argsort(-size, kind="stable")[:limit])
        order, ranks, size = order[chosen], ranks[chosen], size[chosen]
    return tuple(
        _scored(circuit, int(index), int(rank), float(share))
        for index, rank, share in zip(order, ranks, size / largest, strict=True)
    )


def _scored(circuit: Circuit, index: int, rank: int, share: float) -> Stroke:
    scores = circuit.scores
    assert scores is not None

    def finite(array: NDArray[np.float64]) -> float | None:
        return float(array[index]) if np.isfinite(array[index]) else None

    return Stroke(
        edge=circuit.graph.edge(index),
        rank=rank,
        score=finite(scores.values),
        std_err=finite(scores.std_err),
        mean_abs=finite(scores.mean_abs),
        exact=bool(scores.exact[index]),
        share=share,
    )
