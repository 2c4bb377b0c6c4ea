"""What a circuit lacks, and what it could do without, part by part.

*Completeness* (Wang et al. 2022, section 4): does anything outside the circuit do its work as well?

A circuit is complete if it stays like the model whatever is taken out of both. For a part K of the circuit C,

    incompleteness(K) = |m(C without K) - m(E without K)| / |m(E) - m(none)|

taken for single nodes (K: the circuit's edges that leave one head or MLP), for random subsets of the circuit's edges,
and for K from a greedy search that adds, node by node, what tears the two furthest apart. Beside them stands
f(E without C), what is left when the circuit is ablated: 0 for a complete one. It sees redundancy that faithfulness
cannot: a backup outside C keeps f(E without C) high.

On a crossed task m is the clean contrast (`bootstrap.py`) and f the transmission T: what a circuit answers to all
images alike is no part of it.

Weak spots: a maximum over subsets that were looked at is a lower bound of the largest; and its interval is that of the
subset's own pairs, not of the search. An edge that hurts and is left out of C raises f(E without C) above 0 too.

*Local minimality* on the data: which single edges of a circuit can go without loss?

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

from ..judging.bootstrap import percentiles
from ..nodes import among, kept_nodes, leaving, node_names
from ..reach import prune
from ..report import Figure, Table
from .mask_evaluator import Findings, MaskEvaluator

Bools = NDArray[np.bool_]


def completeness(evaluator: MaskEvaluator) -> Findings:
    """`complement` and the incompleteness over nodes, random subsets and a greedy search, as shares of the behaviour.

    Costs two runs per subset, and one for the complement.
    """
    rng, nodes = np.random.default_rng([evaluator.seed, 3]), _node_parts(evaluator)
    limit, chosen = evaluator.settings.most_nodes, nodes
    if len(nodes) > limit:
        chosen = [nodes[place] for place in sorted(rng.choice(len(nodes), limit, replace=False))]
    subsets = (
        [_random_subset(evaluator, rng) for _ in range(evaluator.settings.n_random)] if evaluator.own.any() else []
    )
    over = f"{len(chosen)} of {len(nodes)} nodes" + f" (a random sample; most_nodes={limit})" * (
        len(chosen) < len(nodes)
    )
    figures = {"complement": _complement(evaluator)}
    figures |= _figures(evaluator, "nodes", chosen, f"{over}, K the circuit's edges that leave one")
    figures |= _figures(evaluator, "random", subsets, f"{len(subsets)} random subsets K of the circuit's edges")
    return Findings(figures | {"incompleteness_greedy": _greedy(evaluator, nodes, rng)})


def _complement(evaluator: MaskEvaluator) -> Figure:
    left = evaluator.outputs([~evaluator.own], "complement")[0]
    value, drawn = evaluator.shares(left - evaluator.none)
    return evaluator.share(
        value[()], drawn, f"{evaluator.letter}(E without C): what is left without the circuit, 0 if complete"
    )


def _node_parts(evaluator: MaskEvaluator) -> list[Bools]:
    """The circuit's edges that leave each of its nodes."""
    found = [leaving(evaluator.graph, name) & evaluator.own for name in node_names(evaluator.graph)]
    return [part for part in found if part.any()]


def _random_subset(evaluator: MaskEvaluator, rng: np.random.Generator) -> Bools:
    """Some of the circuit's edges: every number of them is as likely, at least one."""
    edges = np.flatnonzero(evaluator.own)
    mask = np.zeros_like(evaluator.own)
    mask[rng.choice(edges, int(rng.integers(1, len(edges) + 1)), replace=False)] = True
    return mask


def _torn(evaluator: MaskEvaluator, parts: list[Bools], label: str) -> NDArray[np.float64]:
    """Output of the circuit without each part, less that of the model without it, shape (part, pair)."""
    masks = [evaluator.own & ~part for part in parts] + [~part for part in parts]
    outputs = evaluator.outputs(masks, label)
    return outputs[: len(parts)] - outputs[len(parts) :]


def _size(evaluator: MaskEvaluator, parts: list[Bools]) -> NDArray[np.float64]:
    """How much of the behaviour, in the metric's unit, circuit and model differ by without each part, shape (part,)."""
    return np.abs(np.asarray(evaluator.resamples.behaviour(_torn(evaluator, parts, "completeness, greedy"))))


def _figures(evaluator: MaskEvaluator, name: str, parts: list[Bools], over: str) -> dict[str, Figure]:
    """Mean and largest incompleteness over parts."""
    found, difference = {}, _torn(evaluator, parts, f"completeness, {name}")
    value, drawn = evaluator.shares(difference)
    for kind, fold in {"mean": np.mean, "max": np.max}.items():
        method = f"{kind} of |m(C without K) - m(E without K)| / |m(E) - m(none)| over {over}"
        if not parts:
            figure = Figure(None, "share", reason="there is no such K: the circuit is empty", method=method)
        else:
            figure = evaluator.share(fold(np.abs(value)), fold(np.abs(drawn), axis=-1), method)
        found[f"incompleteness_{name}_{kind}"] = figure
    return found


def _greedy(evaluator: MaskEvaluator, nodes: list[Bools], rng: np.random.Generator) -> Figure:
    """The largest incompleteness that a greedy search over nodes finds, the empty K among those tried."""
    settings = evaluator.settings
    best, best_size = np.zeros_like(evaluator.own), -1.0
    now, left, tried = best, list(range(len(nodes))), 0
    for _ in range(1 + min(settings.greedy_steps, len(nodes))):
        found = _size(evaluator, [now])[0]
        if found > best_size:
            best, best_size = now, float(found)
        if not left:
            break
        some = rng.choice(left, min(settings.greedy_candidates, len(left)), replace=False).tolist()
        torn = _size(evaluator, [now | nodes[place] for place in some])
        step = some[int(torn.argmax())]
        now, tried = now | nodes[step], tried + len(some)
        left.remove(step)
    value, drawn = evaluator.shares(_torn(evaluator, [best], "completeness, greedy")[0])
    method = f"largest incompleteness of a greedy search over nodes, {tried} subsets K tried; a lower bound"
    return evaluator.share(np.abs(value), np.abs(drawn), method)


CAN_GO, NEEDED, UNDECIDED = "can go", "needed", "undecided"
TABLE = "local_minimality"


def local_minimality(evaluator: MaskEvaluator) -> Findings:
    """The table `local_minimality`, and how much of the circuit can go.

    Costs one run per edge, and one for all that are flagged. Of a circuit with more than `most_parts` edges a random
    sample is taken out, which leaves the share of edges that can go unbiased; the table's method says so.
    """
    parts = evaluator.parts()
    total, limit = len(parts), evaluator.settings.most_parts
    if total > limit:
        places = np.random.default_rng([evaluator.seed, 4]).choice(total, limit, replace=False)
        parts = [parts[place] for place in sorted(places)]
    sampled = f" (a random sample of {limit}, since one run each for all takes long: most_parts={limit})"
    over = f"{len(parts)} of {total} {evaluator.part}s" + sampled * (len(parts) < total)
    if not parts or evaluator.undefined:
        why = evaluator.undefined or "the circuit is empty"
        return Findings({name: Figure(None, "share", reason=why, method=over) for name in _FIGURES})
    outputs = evaluator.outputs([mask for _, mask in parts], "local minimality")
    losses, drawn = evaluator.shares(evaluator.kept - outputs)
    words = _words(losses, drawn, evaluator.settings.tolerance)
    names = [name for name, _ in parts]
    can_go, together = _FIGURES
    figures = {can_go: _share(evaluator, losses, drawn, words, over), together: _together(evaluator, names, words)}
    return Findings(figures, tables={TABLE: _table(evaluator, names, outputs, losses, drawn, words, over)})


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
    evaluator: MaskEvaluator, losses: NDArray[np.float64], drawn: NDArray[np.float64], words: list[str], over: str
) -> Figure:
    """Share of the edges whose loss is at most the tolerance; the interval is over pairs, or images."""
    tolerance = evaluator.settings.tolerance
    counts = {word: words.count(word) for word in (CAN_GO, NEEDED, UNDECIDED)}
    method = (
        f"share of {over} without which {evaluator.letter} falls by at most {tolerance:g}, one at a time; by interval: "
    )
    method += ", ".join(f"{count} {word}" for word, count in counts.items())
    return evaluator.share((losses <= tolerance).mean(), (drawn <= tolerance).mean(-1), method)


def _together(evaluator: MaskEvaluator, names: list[str], words: list[str]) -> Figure:
    """f without all edges that can go one by one."""
    gone = {name for name, word in zip(names, words, strict=True) if word == CAN_GO}
    if evaluator.part == "node":
        mask = prune(
            evaluator.graph,
            among(evaluator.graph, [name for name in kept_nodes(evaluator.circuit) if name not in gone]),
        )
    else:
        mask = evaluator.own.copy()
        mask[[evaluator.graph.index(name) for name in gone]] = False
    method = f"{evaluator.letter} of the circuit without all {len(gone)} {evaluator.part}s that can go at once"
    value, drawn = evaluator.shares(evaluator.outputs([mask], "local minimality")[0] - evaluator.none)
    return evaluator.share(value[()], drawn, method)


def _table(
    evaluator: MaskEvaluator,
    names: list[str],
    outputs: NDArray[np.float64],
    losses: NDArray[np.float64],
    drawn: NDArray[np.float64],
    words: list[str],
    over: str,
) -> Table:
    """A row per edge, those that can go first."""
    left, left_drawn = evaluator.shares(outputs - evaluator.none)
    rows = []
    for place in np.argsort(losses, kind="stable"):
        without = evaluator.share(left[place], left_drawn[:, place], "")
        loss = evaluator.share(losses[place], drawn[:, place], "")
        rows.append((names[place], _bare(without), _bare(loss), words[place]))
    tolerance, share = evaluator.settings.tolerance, evaluator.letter
    method = (
        f"{share}(C) - {share}(C without one {evaluator.part}), {over}; can go: the whole 95% interval (bootstrap over "
        f"{evaluator.resamples.unit}) is at most {tolerance:g}; needed: all of it is above; one at a time"
    )
    return Table((evaluator.part, f"{share} without it", "loss", "verdict"), tuple(rows), method)


def _bare(figure: Figure) -> Figure:
    """The figure without its method, which the table says once."""
    return Figure(figure.value, figure.unit, figure.low, figure.high, figure.reason)
