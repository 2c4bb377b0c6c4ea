"""Per-pair scores of a chunk, and over chunks their mean, mean of absolute values and standard error, in float64."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ...circuits.edge_blocks import EdgeBlock
from ...circuits.graph import Graph
from ...circuits.scores import Scores
from ...circuits.tasks.task import Task
from ...circuits.token_parts import Part
from ...models.hooked import HookedViT


class ChunkSums:
    """Sums over the pairs of one chunk, from zero, one entry per edge of their part's graph.

    Args:
        graph: The part's graph.
        signs: What scores are multiplied by, (pair,); None leaves them as they are.
    """

    def __init__(self, graph: Graph, signs: Float[Tensor, " pair"] | None) -> None:
        self.sums = np.zeros((3, len(graph)))  # of scores, of absolute scores, of squares
        self.drop = 0.0  # of m(clean) - m(the run from the ablated input), where it was measured
        self.signs = signs
        self._seen: dict[tuple[str, int], int] = {}  # pairs whose scores of a block have come

    def add(self, block: EdgeBlock, scores: Float[Tensor, "pair row group column"]) -> None:
        """Adds scores of one edge block, of all pairs or of the next few of them."""
        values = scores.double()
        if self.signs is not None:
            first = self._seen.get(block.key, 0)
            self._seen[block.key] = first + len(values)
            signs = self.signs[first : first + len(values)]
            values = values * signs.to(values)[:, None, None, None]
        for total, dense in zip(self.sums, (values, values.abs(), values.square()), strict=True):
            total[block.start : block.stop] += dense.sum(0).cpu().numpy()[block.exists]

    def add_drop(self, drops: Float[Tensor, " pair"]) -> None:
        """Adds the drops of the metric, each with its pair's sign as its scores have it."""
        self.drop += float((drops.double() if self.signs is None else drops.double() * self.signs.to(drops)).sum())


class Moments:
    """Running sums over pairs, one entry per edge; each is divided by the pairs in which the edge occurs."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._sums = np.zeros((3, len(graph)))  # of scores, of absolute scores, of squares
        self._counts = np.zeros(len(graph) if graph.groups.per_pair else 1, dtype=np.intp)
        self.n_pairs, self.drop = 0, 0.0

    def chunk(self, part: Part, signs: Float[Tensor, " pair"]) -> ChunkSums:
        """What takes the scores of some pairs of a part."""
        return ChunkSums(part.graph, signs)

    def take(self, part: Part, n_pairs: int, chunk: ChunkSums) -> None:
        """Adds what was summed over some pairs of a part."""
        self._sums[:, part.edges] += chunk.sums
        self._counts[part.edges] += n_pairs
        self.n_pairs += n_pairs
        self.drop += chunk.drop

    @property
    def total(self) -> np.ndarray:
        """Sum over pairs, shape (edge,)."""
        return self._sums[0]

    @property
    def mean(self) -> np.ndarray:
        """Signed mean, shape (edge,)."""
        return self._sums[0] / np.maximum(self._counts, 1)

    def scores(
        self,
        task: Task,
        algorithm: str,
        options: Mapping[str, Any],
        *,
        diagnostics: Mapping[str, float] | None = None,
    ) -> Scores:
        """The scores, with their spread over the pairs."""
        n = np.maximum(self._counts, 1)
        variance = np.maximum(self._sums[2] / n - self.mean**2, 0) * (n / np.maximum(n - 1, 1))
        std_err = np.where(n > 1, np.sqrt(variance / n), np.nan)
        found = EffectStatistics(self.mean, self._sums[1] / n, std_err)
        return scores_of(self._graph, task, algorithm, options, found, n_pairs=self.n_pairs, diagnostics=diagnostics)


class EffectStatistics(NamedTuple):
    """Mean over pairs, mean of absolute values and the mean's standard error, each (edge,)."""

    values: NDArray[np.float64]
    mean_abs: NDArray[np.float64]
    std_err: NDArray[np.float64]


def spread(effects: NDArray[np.float64]) -> EffectStatistics:
    """Of effects (pair, edge), NaN where an edge does not occur in a pair; the standard error of one pair is NaN."""
    n = len(effects)
    occurs = ~np.isnan(effects)
    if not occurs.all():
        n = np.maximum(occurs.sum(0), 1)
        mean, mean_abs = (np.where(occurs, values, 0).sum(0) / n for values in (effects, np.abs(effects)))
        squares = np.where(occurs, np.square(effects - mean), 0).sum(0)
        return EffectStatistics(mean, mean_abs, np.where(n > 1, np.sqrt(squares / np.maximum(n - 1, 1) / n), np.nan))
    std_err = effects.std(0, ddof=1) / np.sqrt(n) if n > 1 else np.full(effects.shape[1], np.nan)
    return EffectStatistics(effects.mean(0), np.abs(effects).mean(0), std_err)


def scores_of(
    graph: Graph,
    task: Task,
    algorithm: str,
    options: Mapping[str, Any],
    found: EffectStatistics,
    *,
    exact: bool | NDArray[np.bool_] = False,
    n_pairs: int | None = None,
    diagnostics: Mapping[str, float] | None = None,
) -> Scores:
    """Scores with what a task says of them; of all its discovery pairs unless `n_pairs` says otherwise."""
    return Scores(
        graph,
        *found,
        exact=np.broadcast_to(np.asarray(exact, dtype=bool), found.values.shape).copy(),
        n_pairs=len(task.searched) if n_pairs is None else n_pairs,
        algorithm=algorithm,
        options=dict(options),
        ablation=task.ablation,
        task=dict(task.info),
        diagnostics=dict(diagnostics or {}),
    )


def sum_groups(values: Float[Tensor, "pair token *rest"], graph: Graph) -> Float[Tensor, "pair group *rest"]:
    """Sums over the tokens of each group."""
    if graph.groups.apart:
        return values
    member = torch.tensor(graph.groups.one_hot(), dtype=values.dtype, device=values.device)
    return torch.einsum("gt,bt...->bg...", member, values)


class Totals:
    """A dense array (pair, row, group, column) for each edge block.

    Args:
        graph: The graph.
        vit: The opened model, whose dtype and device the sums have.
        n_pairs: Pairs in the batch.
    """

    def __init__(self, graph: Graph, vit: HookedViT, n_pairs: int) -> None:
        self._graph = graph
        place = {"dtype": vit.sum_dtype, "device": vit.device}
        self._dense = {block.key: torch.zeros(n_pairs, *block.dense_shape, **place) for block in graph.blocks}

    def __getitem__(self, block: EdgeBlock) -> Float[Tensor, "pair row group column"]:
        return self._dense[block.key]

    def add(self, found: Iterable[tuple[EdgeBlock, Tensor]], *, columns: slice = slice(None)) -> None:
        """Adds scores that come block by block, each block's for a few pairs at a time.

        Args:
            found: Blocks and scores.
            columns: The sources that count.
        """
        done: Counter[tuple[str, int]] = Counter()
        for block, scores in found:
            first = done[block.key]
            done[block.key] += len(scores)
            self[block][first : first + len(scores), ..., columns] += scores[..., columns]

    def into(self, sums: ChunkSums) -> None:
        """Hands the sums over."""
        for block in self._graph.blocks:
            sums.add(block, self[block])
