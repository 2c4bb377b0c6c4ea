"""Completeness (Wang et al. 2022, section 4): does anything outside the circuit do its work as well?

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
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..nodes import leaving, node_names
from ..report import Figure
from .bench import Bench, Findings

Bools = NDArray[np.bool_]


def completeness(bench: Bench) -> Findings:
    """`complement` and the incompleteness over nodes, random subsets and a greedy search, as shares of the behaviour.

    Costs two runs per subset, and one for the complement.
    """
    rng, nodes = np.random.default_rng([bench.seed, 3]), _node_parts(bench)
    limit, chosen = bench.settings.most_nodes, nodes
    if len(nodes) > limit:
        chosen = [nodes[place] for place in sorted(rng.choice(len(nodes), limit, replace=False))]
    subsets = [_random_subset(bench, rng) for _ in range(bench.settings.n_random)] if bench.own.any() else []
    over = f"{len(chosen)} of {len(nodes)} nodes" + f" (a random sample; most_nodes={limit})" * (
        len(chosen) < len(nodes)
    )
    figures = {"complement": _complement(bench)}
    figures |= _figures(bench, "nodes", chosen, f"{over}, K the circuit's edges that leave one")
    figures |= _figures(bench, "random", subsets, f"{len(subsets)} random subsets K of the circuit's edges")
    return Findings(figures | {"incompleteness_greedy": _greedy(bench, nodes, rng)})


def _complement(bench: Bench) -> Figure:
    left = bench.outputs([~bench.own], "complement")[0]
    value, drawn = bench.shares(left - bench.none)
    return bench.share(
        value[()], drawn, f"{bench.letter}(E without C): what is left without the circuit, 0 if complete"
    )


def _node_parts(bench: Bench) -> list[Bools]:
    """The circuit's edges that leave each of its nodes."""
    found = [leaving(bench.graph, name) & bench.own for name in node_names(bench.graph)]
    return [part for part in found if part.any()]


def _random_subset(bench: Bench, rng: np.random.Generator) -> Bools:
    """Some of the circuit's edges: every number of them is as likely, at least one."""
    edges = np.flatnonzero(bench.own)
    mask = np.zeros_like(bench.own)
    mask[rng.choice(edges, int(rng.integers(1, len(edges) + 1)), replace=False)] = True
    return mask


def _torn(bench: Bench, parts: list[Bools], label: str) -> NDArray[np.float64]:
    """Output of the circuit without each part, less that of the model without it, shape (part, pair)."""
    masks = [bench.own & ~part for part in parts] + [~part for part in parts]
    outputs = bench.outputs(masks, label)
    return outputs[: len(parts)] - outputs[len(parts) :]


def _size(bench: Bench, parts: list[Bools]) -> NDArray[np.float64]:
    """How much of the behaviour, in the metric's unit, circuit and model differ by without each part, shape (part,)."""
    return np.abs(np.asarray(bench.resamples.behaviour(_torn(bench, parts, "completeness, greedy"))))


def _figures(bench: Bench, name: str, parts: list[Bools], over: str) -> dict[str, Figure]:
    """Mean and largest incompleteness over parts."""
    found, difference = {}, _torn(bench, parts, f"completeness, {name}")
    value, drawn = bench.shares(difference)
    for kind, fold in {"mean": np.mean, "max": np.max}.items():
        method = f"{kind} of |m(C without K) - m(E without K)| / |m(E) - m(none)| over {over}"
        if not parts:
            figure = Figure(None, "share", reason="there is no such K: the circuit is empty", method=method)
        else:
            figure = bench.share(fold(np.abs(value)), fold(np.abs(drawn), axis=-1), method)
        found[f"incompleteness_{name}_{kind}"] = figure
    return found


def _greedy(bench: Bench, nodes: list[Bools], rng: np.random.Generator) -> Figure:
    """The largest incompleteness that a greedy search over nodes finds, the empty K among those tried."""
    settings = bench.settings
    best, best_size = np.zeros_like(bench.own), -1.0
    now, left, tried = best, list(range(len(nodes))), 0
    for _ in range(1 + min(settings.greedy_steps, len(nodes))):
        found = _size(bench, [now])[0]
        if found > best_size:
            best, best_size = now, float(found)
        if not left:
            break
        some = rng.choice(left, min(settings.greedy_candidates, len(left)), replace=False).tolist()
        torn = _size(bench, [now | nodes[place] for place in some])
        step = some[int(torn.argmax())]
        now, tried = now | nodes[step], tried + len(some)
        left.remove(step)
    value, drawn = bench.shares(_torn(bench, [best], "completeness, greedy")[0])
    method = f"largest incompleteness of a greedy search over nodes, {tried} subsets K tried; a lower bound"
    return bench.share(np.abs(value), np.abs(drawn), method)
