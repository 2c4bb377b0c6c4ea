"""What chance gets: circuits drawn at random, labels of seeds swapped, and many comparisons at once.

- Two random sets of a and b of N edges share X ~ hypergeometric: mean a b / N, variance
  a b (N - a)(N - b) / (N^2 (N - 1)); their Jaccard index is X / (a + b - X).
- Permutation: were the two kinds of model one kind, then any division of all seeds into groups of these sizes would be
  as likely as the one seen. p = share of the divisions with a statistic at least as large. All are tried where
  there are few (p is exact); else some are drawn, and p = (1 + as large) / (1 + drawn), so that it is never 0 and the
  test keeps its level (Phipson and Smyth 2010). Few seeds allow no small p: three against three end at .1.
- Holm (1979): p-values of m comparisons, corrected so that the chance of any false claim stays at the level, whatever
  their dependence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb, sqrt
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...models.errors import GraphError

if TYPE_CHECKING:
    from ..circuit import Circuit

Floats = NDArray[np.float64]

MOST_DIVISIONS = 20_000
"""More divisions than this are drawn from rather than all tried."""
DRAWS = 9_999

_SAME_BY_CONSTRUCTION = ("edges", "share of graph", "effective edges")
_ROUNDING = 1e-9  # relative; divisions with the same statistic but for rounding count as equal


@dataclass(frozen=True)
class ChanceOverlap:
    """What two random sets of edges share.

    Args:
        mean: Mean number of shared edges.
        std: Its standard deviation.
        jaccard: Mean Jaccard index.
        jaccard_std: Its standard deviation.
    """

    mean: float
    std: float
    jaccard: float
    jaccard_std: float


def chance_overlap(n_graph: int, first: int, second: int) -> ChanceOverlap:
    """The overlap of random sets of `first` and `second` of `n_graph` edges.

    Raises:
        GraphError: A set is larger than the graph.
    """
    shared, chance = _shared(n_graph, first, second)
    union = first + second - shared
    index = np.where(union > 0, shared / np.maximum(union, 1), 1.0)
    mean, jaccard = float(shared @ chance), float(index @ chance)
    std, jaccard_std = (sqrt((values - middle) ** 2 @ chance) for values, middle in ((shared, mean), (index, jaccard)))
    return ChanceOverlap(mean, std, jaccard, jaccard_std)


def overlap_p_value(n_graph: int, first: int, second: int, shared: int) -> float:
    """Chance that two random sets share at least so many edges."""
    numbers, chance = _shared(n_graph, first, second)
    return float(min(1.0, chance[numbers >= shared].sum()))


def _shared(n_graph: int, first: int, second: int) -> tuple[NDArray[np.int64], Floats]:
    """Possible numbers of shared edges and their chances."""
    from scipy.stats import hypergeom

    if not (0 <= first <= n_graph and 0 <= second <= n_graph):
        raise GraphError(f"sets of {first} and {second} edges don't fit into a graph of {n_graph} edges.")
    numbers = np.arange(max(0, first + second - n_graph), min(first, second) + 1)
    return numbers, np.ones(1) if len(numbers) == 1 else hypergeom.pmf(numbers, n_graph, first, second)


@dataclass(frozen=True)
class Permuted:
    """What swapping the labels of seeds gives.

    Args:
        statistic: Of the labels as they are.
        p_value: Share of the divisions with a statistic at least as large.
        smallest: The smallest p-value that so many seeds allow.
        n_divisions: Divisions that were looked at.
        exact: Whether these are all there are.
    """

    statistic: float
    p_value: float
    smallest: float
    n_divisions: int
    exact: bool

    def __str__(self) -> str:
        how = f"all {self.n_divisions} divisions" if self.exact else f"{self.n_divisions} divisions drawn"
        return f"p = {self.p_value:.3g} ({how}, at least {self.smallest:.2g})"


def permutation_test(first: Sequence[float], second: Sequence[float], *, n: int = DRAWS, seed: int = 0) -> Permuted:
    """Two-sided test of a difference of means, |mean(first) - mean(second)|, one number per seed.

    Args:
        first: Numbers of the one kind.
        second: Numbers of the other.
        n: Divisions to draw where there are too many to try all.
        seed: Draws them.

    Raises:
        GraphError: A group is empty, or holds NaN.
    """
    values = np.array([*first, *second], dtype=np.float64)
    if not len(first) or not len(second) or np.isnan(values).any():
        raise GraphError(f"{list(first)} and {list(second)} cannot be compared: each needs a number, and none NaN.")
    member, exact = divisions(len(first), len(second), n=n, seed=seed)
    centred = values - values.mean()  # for rounding
    sums = member @ centred
    found = np.abs(sums / len(first) - (centred.sum() - sums) / len(second))
    return _judged(found, float(np.abs(values).max()), len(first), len(second), exact)


def distinctness_test(similarity: Floats, n_first: int, *, n: int = DRAWS, seed: int = 0) -> Permuted | None:
    """Are circuits of one kind more alike than circuits of two kinds? None where no kind has two circuits.

    The statistic is the mean similarity within kinds less that between them.

    Args:
        similarity: Of each two circuits, shape (circuit, circuit), those of the first kind first.
        n_first: Circuits of the first kind.
        n: Divisions to draw where there are too many to try all.
        seed: Draws them.
    """
    n_second = len(similarity) - n_first
    if max(n_first, n_second) < 2 or min(n_first, n_second) < 1:
        return None
    member, exact = divisions(n_first, n_second, n=n, seed=seed)
    rows, columns = np.triu_indices(len(similarity), 1)
    together = member[:, rows] == member[:, columns]
    values = similarity[rows, columns]
    within = (together * values).sum(1) / together.sum(1)
    between = (~together * values).sum(1) / (~together).sum(1)
    return _judged(within - between, float(np.abs(values).max()), n_first, n_second, exact)


def divisions(n_first: int, n_second: int, *, n: int = DRAWS, seed: int = 0) -> tuple[NDArray[np.bool_], bool]:
    """Divisions of all seeds into two groups, shape (division, seed), the given one first; and whether that is all."""
    total = n_first + n_second
    if comb(total, n_first) <= MOST_DIVISIONS:
        chosen = list(combinations(range(total), n_first))  # the first is 0, 1, ..., n_first - 1
        member = np.zeros((len(chosen), total), dtype=bool)
        member[np.arange(len(chosen))[:, None], np.array(chosen)] = True
        return member, True
    rng = np.random.default_rng(seed)
    given = np.arange(total) < n_first
    return np.array([given, *(rng.permutation(given) for _ in range(n))]), False


def _judged(found: Floats, scale: float, n_first: int, n_second: int, exact: bool) -> Permuted:
    reached = int((found >= found[0] - _ROUNDING * max(scale, 1e-300)).sum())  # the one given is among them
    twice = 2 if n_first == n_second else 1  # with equal groups a division and its mirror image say the same
    smallest = min(1.0, twice / len(found)) if exact else 1 / len(found)
    return Permuted(float(found[0]), reached / len(found), smallest, len(found), exact)


def beyond_by_chance(n_first: int, n_second: int, *, n: int = 20_000) -> float:
    """How often kinds that are alike differ in their means by more than any two seeds of one kind do.

    For normally distributed figures, simulated: .22 with two seeds each, .05 with three, .01 with four, .002 with five.
    """
    seeds = np.random.default_rng(0).normal(size=(n, n_first + n_second))
    first, second = seeds[:, :n_first], seeds[:, n_first:]
    within = np.maximum(np.ptp(first, axis=1), np.ptp(second, axis=1))
    return float((np.abs(first.mean(1) - second.mean(1)) > within).mean())


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for their number, in the same order."""
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(order), 0, -1)
    stepped = np.minimum(1.0, np.maximum.accumulate(np.array(p_values, dtype=np.float64)[order] * factors))
    corrected = np.empty(len(order))
    corrected[order] = stepped
    return corrected.tolist()


def random_figures(circuit: Circuit, drawn: Sequence[Circuit], *, seed: int = 0) -> list[dict[str, float]]:
    """The anatomy of random circuits of the circuit's size, as `Anatomy.flat` names it.

    They carry the circuit's own strengths, dealt out anew: only where edges are differs from the circuit. Figures that
    are therefore the circuit's own (its size, and the effective number of edges) are left out.

    Args:
        circuit: The circuit.
        drawn: Random circuits, such as those of `nodes.matched_masks`.
        seed: Deals out the strengths.
    """
    from ..reach import prune
    from .anatomy import describe, strengths

    own, found = strengths(circuit)[prune(circuit.graph, circuit.mask)], []
    for draw, random in enumerate(drawn):
        kept = np.flatnonzero(random.mask)
        dealt = np.zeros(len(circuit.graph))
        dealt[kept] = np.random.default_rng([seed, draw, 3]).permutation(np.resize(own, len(kept)))
        built = describe(random, strength=dealt).flat()
        found.append({name: value for name, value in built.items() if name not in _SAME_BY_CONSTRUCTION})
    return found
