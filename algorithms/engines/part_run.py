"""What `PrunedRun` does for a search, for the pairs of one partition where token groups differ from pair to pair.

The search prunes the whole graph. Each partition has edges of its own among those, and its run is made anew from what
is kept of them whenever it is asked for, so a batch of trials costs one masked run more.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ...circuits.edge_blocks import EdgeBlock
from ...circuits.token_parts import Part
from ...models.hooked import HookedViT
from .edge_mask import Destination, EdgeMask
from .flips import changeable, measure_changes
from .pruned_run import PrunedRun, Trial
from .source_deltas import Ends


class PartRun:
    """The run of a part's pairs under the kept edges of the whole graph; call everything under `vit.borrowed()`.

    Args:
        vit: The opened model.
        edges: The kept edges of the whole graph; whoever prunes changes them, this class only reads them.
        part: Its graph is run.
        ends: Where the run starts, and what removed edges carry.
        cache: Bytes for what is held while a batch of trials is measured.
    """

    def __init__(self, vit: HookedViT, edges: EdgeMask, part: Part, ends: Ends, cache: int) -> None:
        self.vit, self.edges, self.part, self.ends, self.cache = vit, edges, part, ends, cache

    @property
    def logits(self) -> Float[Tensor, "pair class"]:
        """Logits of the kept edges."""
        return self._run().logits

    def _run(self) -> PrunedRun:
        kept = self.edges.mask[self.part.edges]
        return PrunedRun(self.vit, EdgeMask(self.part.graph, kept), self.ends, self.cache)

    def measure(self, block: EdgeBlock, trials: Sequence[Trial]) -> Float[Tensor, "variant pair class"]:
        """Logits of every trial, all of them changes at destinations of one edge block."""
        changes, before = [], ()
        for trial in trials:
            edges = (*before, *trial.edges)
            before = edges if trial.lasts else before
            changes.append(self.part.own(np.array(edges)))
        run = self._run()
        able, found = changeable(self.part.graph, run.edges.mask), run.logits.repeat(len(trials), 1, 1)
        matter = [place for place, edges in enumerate(changes) if able[edges].any()]
        for some, logits in measure_changes(run, [tuple(changes[place].tolist()) for place in matter], len(trials)):
            found[[matter[place] for place in some]] = logits
        return found

    def commit(self, destination: Destination) -> Float[Tensor, "pair class"]:
        """Logits of the kept edges."""
        return self.logits

    def begin(self, place: int) -> None:
        """Nothing is held from place to place."""

    def open(self, destination: Destination) -> None:
        """Nothing is held at a destination."""

    def drop(self, destination: Destination, columns: Sequence[int]) -> None:
        """What is kept is read when it is needed."""

    settle = open
