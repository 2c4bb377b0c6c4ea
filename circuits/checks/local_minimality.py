"""Local minimality on the data: which single edges of a circuit can go without loss?

For every edge e of C (of a node circuit: every node), one run gives f(C without e), and

    loss(e) = f(C) - f(C without e)

(on a crossed task T in place of f) with a bootstrap interval, the same draws for both. An edge *can go* if the whole
interval lies at or below the tolerance, *is needed* if it lies above, and is *undecided* otherwise: too few pairs. So
an edge is flagged only on evidence, and what rests on few pairs flags little. Without an interval (a single pair) the
loss itself decides.

Each edge is taken out alone. Flagged edges that stand in for one another cannot all go: one more run takes all of them
out together and says what is left. An edge whose removal raises f can go as well; loss is negative then.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..bootstrap import percentiles
from ..nodes import among, kept_nodes
from ..reach import prune
from ..report import Figure, Table
from .bench import Bench, Findings

CAN_GO, NEEDED, UNDECIDED = "can go", "needed", "undecided"
TABLE = "local_minimality"


def local_minimality(bench: Bench) -> Findings:
    """The table `local_minimality`, and how much of the circuit can go.

    Costs one run per edge, and one for all that are flagged. Of a circuit with more than `most_parts` edges a random
    sample is taken out, which leaves the share of edges that can go unbiased; the table's method says so.
    """
    parts = bench.parts()
    total, limit = len(parts), bench.settings.most_parts
    if total > limit:
        places = np.random.default_rng([bench.seed, 4]).choice(total, limit, replace=False)
        parts = [parts[place] for place in sorted(places)]
    sampled = f" (a random sample of {limit}, since one run each for all takes long: most_parts={limit})"
    over = f"{len(parts)} of {total} {bench.part}s" + sampled * (len(parts) < total)
    if not parts or bench.undefined:
        why = bench.undefined or "the circuit is empty"
        return Findings({name: Figure(None, "share", reason=why, method=over) for name in _FIGURES})
    outputs = bench.outputs([mask for _, mask in parts], "local minimality")
    losses, drawn = bench.shares(bench.kept - outputs)
    words = _words(losses, drawn, bench.settings.tolerance)
    names = [name for name, _ in parts]
    can_go, together = _FIGURES
    figures = {can_go: _share(bench, losses, drawn, words, over), together: _together(bench, names, words)}
    return Findings(figures, tables={TABLE: _table(bench, names, outputs, losses, drawn, words, over)})


_FIGURES = ("can_go", "faithfulness_without_all_that_can_go")  # on a crossed task transmission without them


def flagged(table: Table) -> list[str]:
    """Names of the edges (or nodes) that a local minimality table says can go."""
    return [str(row[0]) for row in table.rows if row[-1] == CAN_GO]


def _words(losses: NDArray[np.float64], drawn: NDArray[np.float64], tolerance: float) -> list[str]:
    low, high = percentiles(drawn) if len(drawn) else (losses, losses)
    return [
        CAN_GO if above <= tolerance else NEEDED if below > tolerance else UNDECIDED
        for below, above in zip(np.atleast_1d(low), np.atleast_1d(high), strict=True)
    ]


def _share(
    bench: Bench, losses: NDArray[np.float64], drawn: NDArray[np.float64], words: list[str], over: str
) -> Figure:
    """Share of the edges whose loss is at most the tolerance; the interval is over pairs, or images."""
    tolerance = bench.settings.tolerance
    counts = {word: words.count(word) for word in (CAN_GO, NEEDED, UNDECIDED)}
    method = (
        f"share of {over} without which {bench.letter} falls by at most {tolerance:g}, one at a time; by interval: "
    )
    method += ", ".join(f"{count} {word}" for word, count in counts.items())
    return bench.share((losses <= tolerance).mean(), (drawn <= tolerance).mean(-1), method)


def _together(bench: Bench, names: list[str], words: list[str]) -> Figure:
    """f without all edges that can go one by one."""
    gone = {name for name, word in zip(names, words, strict=True) if word == CAN_GO}
    if bench.part == "node":
        mask = prune(bench.graph, among(bench.graph, [name for name in kept_nodes(bench.circuit) if name not in gone]))
    else:
        mask = bench.own.copy()
        mask[[bench.graph.index(name) for name in gone]] = False
    method = f"{bench.letter} of the circuit without all {len(gone)} {bench.part}s that can go at once"
    value, drawn = bench.shares(bench.outputs([mask], "local minimality")[0] - bench.none)
    return bench.share(value[()], drawn, method)


def _table(
    bench: Bench,
    names: list[str],
    outputs: NDArray[np.float64],
    losses: NDArray[np.float64],
    drawn: NDArray[np.float64],
    words: list[str],
    over: str,
) -> Table:
    """A row per edge, those that can go first."""
    left, left_drawn = bench.shares(outputs - bench.none)
    rows = []
    for place in np.argsort(losses, kind="stable"):
        without = bench.share(left[place], left_drawn[:, place], "")
        loss = bench.share(losses[place], drawn[:, place], "")
        rows.append((names[place], _bare(without), _bare(loss), words[place]))
    tolerance, share = bench.settings.tolerance, bench.letter
    method = (
        f"{share}(C) - {share}(C without one {bench.part}), {over}; can go: the whole 95% interval (bootstrap over "
        f"{bench.resamples.unit}) is at most {tolerance:g}; needed: all of it is above; one at a time"
    )
    return Table((bench.part, f"{share} without it", "loss", "verdict"), tuple(rows), method)


def _bare(figure: Figure) -> Figure:
    """The figure without its method, which the table says once."""
    return Figure(figure.value, figure.unit, figure.low, figure.high, figure.reason)
