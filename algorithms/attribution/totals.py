"""Per-pair scores of one batch, added up over several passes before their spread over the pairs is taken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from ...circuits.edge_blocks import EdgeBlock
from ...circuits.graph import Graph
from ...models.hooked import HookedViT
from .moments import Moments


class Totals:
    """A dense array (pair, row, group, column) for each edge block.

    Args:
        graph: The graph.
        vit: The opened model, whose dtype and device the sums have.
        n_pairs: Pairs in the batch.
    """

    def __init__(self, graph: Graph, vit: HookedViT, n_pairs: int) -> None:
        self._graph = graph
        place = {"dtype": vit.dtype, "device": vit.device}
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

    def into(self, moments: Moments) -> None:
        """Hands the sums over."""
        for block in self._graph.blocks:
            moments.add(block, self[block])
