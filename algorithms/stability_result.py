"""What a test of stability found: circuits, how alike they are, and the consensus circuit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..circuits.circuit import Circuit
from ..circuits.compare.similarity import rank_correlations
from ..circuits.judging.bootstrap import middle, wilson
from ..circuits.nodes import jaccard, overlap
from ..circuits.reach import prune
from ..circuits.report import Figure, Table, Tabular
from ..circuits.shown import drawable
from ..circuits.words import short
from ..models.errors import GraphError

if TYPE_CHECKING:
    import pandas

SAME = 0.6
"""Jaccard index from which most of a circuit is found again: what Vi-CD reports of its circuits is .6 to .8."""

SCHEMA = "vitcircuits.stability/1"

RECURS = 0.9
"""Share of the resamples from which an edge recurs."""

Circuits = Circuit | NDArray[np.bool_]


@dataclass(frozen=True, eq=False, repr=False)
class Stability(Tabular):
    """How much of a circuit stays when the pairs and the seeds change.

    Args:
        whole: The circuit found on all discovery pairs.
        resampled: The circuits found on bootstrap resamples of the pairs.
        shares: Share of the resamples that keep each edge, shape (edge,).
        figures: Jaccard indices and rank correlations, by name.
        share: The consensus circuit keeps edges above it, unless told otherwise.
        method: How the figures were obtained, in plain values.
        kept: What each of the resampled circuits keeps of the behaviour on the evaluation pairs.
    """

    whole: Circuit
    resampled: tuple[Circuit, ...]
    shares: NDArray[np.float64]
    figures: Mapping[str, Figure]
    share: float
    method: Mapping[str, Any]
    kept: tuple[Figure, ...] = ()

    def __getitem__(self, name: str) -> Figure:
        return self.figures[name]

    @property
    def headline(self) -> str:
        """What was searched again, and how large the circuits are."""
        sizes = sorted(len(circuit) for circuit in self.resampled)
        return (
            f"{self.method['algorithm']}, edge circuits of {sizes[0]} to {sizes[-1]} edges, "
            f"{self.method['n_resamples']} resamples of {self.drawn}"
        )

    @property
    def verdict(self) -> str:
        """How much of the circuit is found again, beside what chance would find, in one sentence."""
        again, chance = self.figures["jaccard_resamples"], self.figures["jaccard_chance"]
        if again.value is None or chance.value is None:
            return "nothing is known of how much is found again"
        kept = "most of it is found again" if again.value >= SAME else "part of it is found again"
        if again.low is not None and again.low <= chance.value:
            kept = "no more of it is found again than chance would find: search with more images or a smaller size"
        return f"Jaccard {short(again)} between circuits of other images, {chance.value:.2f} by chance: {kept}"

    @property
    def caveat(self) -> str:
        """How large the consensus circuit is."""
        return f"  the consensus circuit (share above {self.share:g}) has {len(self.consensus())} edges"

    def __str__(self) -> str:
        width = max(map(len, self.figures))
        lines = (f"  {name:<{width}}  {figure}" for name, figure in self.figures.items())
        return "\n".join([self.headline, *lines, self.caveat])

    def table(self) -> Table:
        """A row per figure."""
        return Table(("figure", "value"), tuple(self.figures.items()))

    def frame(self) -> pandas.DataFrame:
        """A row per edge that was ever kept, the most frequent first: `edge`, `share`, and the interval's ends."""
        import pandas

        graph, (low, high) = self.whole.graph, self.intervals()
        order = [int(edge) for edge in np.argsort(-self.shares, kind="stable") if self.shares[edge] > 0]
        names = [graph.edge(edge).name for edge in order]
        return pandas.DataFrame({"edge": names, "share": self.shares[order], "low": low[order], "high": high[order]})

    @property
    def drawn(self) -> str:
        """What was drawn again: so many pairs, or the clean images of so many."""
        pairs = f"{self.method['n_pairs']} pairs"
        return pairs if "n_images" not in self.method else f"{self.method['n_images']} images, {pairs}"

    def consensus(self, share: float | None = None) -> Circuit:
        """The circuit of the edges that more than a share of the resamples keep, less those on no path.

        It carries no scores: what ranks its edges is `shares`.

        Raises:
            GraphError: The share is not in [0, 1).
        """
        share = self.share if share is None else share
        if not 0 <= share < 1:
            raise GraphError(f"share={share} is not possible: pass a number from 0 up to, but not, 1, such as .5.")
        base = self.whole
        provenance = {
            "algorithm": self.method["algorithm"],
            "options": self.method["options"],
            "selection": "consensus",
            "share": share,
            "n_resamples": len(self.resampled),
            "n_pairs": self.method["n_pairs"],
        }
        mask = prune(base.graph, self.shares > share)
        return Circuit(base.graph, mask, None, base.ablation, dict(base.task), provenance)

    def intervals(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Ends of Wilson's 95% interval of each edge's share, each of shape (edge,).

        The resamples count as independent draws: it is the interval of the share that more of them would give.
        """
        ends = [wilson(float(share), len(self.resampled)) for share in self.shares]
        low, high = np.array(ends, dtype=np.float64).reshape(-1, 2).T
        return low, high

    def record(self) -> dict[str, Any]:
        """Every figure, and the share of every edge that was ever kept."""
        return {
            "schema": SCHEMA,
            "method": dict(self.method),
            "share": self.share,
            "figures": {name: asdict(figure) for name, figure in self.figures.items()},
            "kept": [asdict(figure) for figure in self.kept],
            "circuit": self.whole.edge_names(),
            "consensus": self.consensus().edge_names(),
            "edges": self.frame().to_dict("records"),
        }

    @drawable
    def draw(self, path: str | Path, *, title: str = "") -> Path:
        """Draws the Jaccard indices, and the share of each edge, to an .svg, .pdf or .png, and returns the path.

        Raises:
            FormatError: The ending is not known, or the file cannot be written.
        """
        from ..circuits.draw.intervals import draw_stability

        shown = {
            name.removeprefix("jaccard_"): figure
            for name, figure in self.figures.items()
            if name.startswith("jaccard_") and figure.value is not None
        }
        names, title = self.whole.graph.edge_names(), title or f"{self.method['algorithm']}: what stays on other pairs"
        return draw_stability(shown, names, self.shares, self.intervals(), path, level=self.share, title=title)


def alike(pairs: Sequence[tuple[Circuits, Circuits]], what: str, why_none: str = "") -> Figure:
    """Mean Jaccard index of pairs of circuits; the interval holds the middle 95% of the pairs."""
    found = [
        jaccard(first, second) if isinstance(first, Circuit) and isinstance(second, Circuit) else overlap(first, second)  # type: ignore[arg-type]
        for first, second in pairs
    ]
    return _spread_figure(found, f"Jaccard index of {what}", why_none)


def recurring(whole: Circuit, shares: NDArray[np.float64]) -> Figure:
    """Share of a circuit's edges that nearly all resamples find again."""
    method = f"share of the edges of the circuit of all pairs that at least {RECURS:.0%} of the resamples keep"
    if not len(whole):
        return Figure(None, "share", reason="the circuit of all pairs has no edge", method=method)
    value = float(np.mean(shares[whole.mask] >= RECURS))
    return Figure(value, "share", reason="counted over the edges of one circuit", method=method)


def correlated(pairs: Sequence[tuple[Circuit, Circuit]], what: str, why_none: str = "") -> Figure:
    """Mean Spearman correlation of the scores behind pairs of circuits, over all edges."""
    method, found = f"Spearman's rank correlation of the scores of all edges, {what}", []
    for first, second in pairs:
        if first.scores is None or second.scores is None:
            return Figure(None, reason="the algorithm returns circuits without scores", method=method)
        values = (first.scores.values, second.scores.values)
        if any(np.ptp(one) == 0 for one in values):
            return Figure(None, reason="all edges score the same", method=method)
        found.append(float(rank_correlations(np.array(values))[0, 1]))
    return _spread_figure(found, method, why_none)


def _spread_figure(found: Sequence[float], method: str, why_none: str) -> Figure:
    if not found:
        return Figure(None, reason=why_none or "nothing was compared", method=method)
    if len(found) < 2:
        return Figure(found[0], reason="a single comparison", method=method)
    method += f"; interval: the middle 95% of {len(found)} comparisons (their spread, not the error of the mean)"
    return middle(np.array(found), "", method)
