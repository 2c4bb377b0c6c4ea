"""How alike two rankings of the same things are, from the top down.

- The overlap at rank k: Jaccard index of the first k of each. A curve, so that no size has to be chosen.
- Rank-biased overlap (Webber, Moffat and Zobel 2010): a reader goes down both lists and stops after each rank with
  probability 1 - p; RBO is the share that the lists have in common where the reader stops, on average. The first
  d = 1 / (1 - p) ranks have most of the weight.
- Spearman's rank correlation of the scores, where all ranks weigh the same.

Rankings hold indices, best first, each at most once. Ties are the caller's to break; `Scores.ranking` breaks them in
the graph's order, so edges that all score exactly zero look alike: that matters for correlations of sparse scores, and
little for RBO, which hardly looks so far down.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...models.errors import GraphError

Floats = NDArray[np.float64]
Ints = NDArray[np.integer]

RBO_P = 0.98
"""Default of `p`: 1 / (1 - p) = 50 ranks are looked at on average."""


def places(ranking: Ints, n: int) -> Ints:
    """The place of each of n things in a ranking, from 0; things that are not ranked stand behind all, at n."""
    found = np.full(n, n, dtype=np.int64)
    found[ranking] = np.arange(len(ranking))
    return found


def overlap_curve(first: Ints, second: Ints) -> Floats:
    """Jaccard index of the things that have appeared by each rank, shape (rank,) for the ranks 1, 2, ..., n.

        overlap[k - 1] = |A_k and B_k| / |A_k or B_k|,    A_k = things with a place below k

    Args:
        first: Place of each thing in the first ranking, from 0, as `places` gives it; shape (thing,). Several things
            may appear at one rank (the two ends of an edge).
        second: The same in the second ranking.
    """
    n = len(first)
    both = np.cumsum(np.bincount(np.maximum(first, second), minlength=n)[:n])
    either = np.cumsum(np.bincount(np.minimum(first, second), minlength=n)[:n])
    return np.where(either > 0, both / np.maximum(either, 1), 1.0)


def rank_biased_overlap(first: Ints, second: Ints, *, p: float = RBO_P) -> float:
    """Extrapolated rank-biased overlap of two rankings that may differ in length, from 0 to 1 (Webber et al., eq. 32).

    With X_d things shared by the first d ranks of both, s and l the shorter and the longer length,

        RBO = (1 - p) / p (sum_d=1..l X_d / d p^d  +  sum_d=s+1..l X_s (d - s) / (s d) p^d)
              + ((X_l - X_s) / l + X_s / s) p^l

    which assumes that below their ends the lists go on to agree as much as they did. Two equal lists get 1.

    Args:
        first: Indices, best first.
        second: The same.
        p: Chance of going on to the next rank, in (0, 1).

    Raises:
        GraphError: p is not in (0, 1), or one ranking is empty and the other is not.
    """
    if not 0 < p < 1:
        raise GraphError(f"p={p} is not possible: pass a number between 0 and 1, such as p={RBO_P}.")
    short, long = sorted((first, second), key=len)
    if not len(long):
        return 1.0
    if not len(short):
        raise GraphError("one of the two rankings is empty: rank-biased overlap needs at least one rank in each.")
    shared = _shared(short, long)
    s, n = len(short), len(long)
    depth = np.arange(1, n + 1)
    weights = np.exp(depth * np.log(p))
    summed = (shared / depth * weights).sum()
    below = depth[s:]
    summed += (shared[s - 1] * (below - s) / (s * below) * weights[s:]).sum()
    tail = (shared[-1] - shared[s - 1]) / n + shared[s - 1] / s
    return float((1 - p) / p * summed + tail * weights[-1])


def _shared(short: Ints, long: Ints) -> Ints:
    """X_d for each depth of the longer ranking; the shorter one ends before."""
    n = int(max(short.max(), long.max())) + 1
    in_both = np.maximum(places(short, n), places(long, n))
    ends = np.intersect1d(short, long)
    return np.cumsum(np.bincount(in_both[ends], minlength=len(long))[: len(long)])


def rank_correlations(values: Floats) -> Floats:
    """Spearman's correlation of each two rows, ties at their mean rank, (row, thing) -> (row, row).

    NaN for rows that hold NaN and for rows that rank nothing because all values are equal.
    """
    from scipy.stats import rankdata

    ranks = np.full(values.shape, np.nan)
    known = ~np.isnan(values).any(1)
    ranks[known] = rankdata(values[known], axis=1) if known.any() else ranks[known]
    centred = ranks - ranks.mean(1, keepdims=True)
    lengths = np.sqrt((centred**2).sum(1))
    products = np.outer(lengths, lengths)
    usable = products > 0
    found = np.where(usable, centred @ centred.T / np.where(usable, products, 1.0), np.nan)
    return found.round(12)  # a ranking's correlation with itself is 1
