"""Activation patching: one activation of a run is replaced by another run's, and the rest is computed again.

    noising:   the clean run takes an ablated activation    effect = m(clean) - m(patched)
    denoising: the corrupted run takes a clean activation   effect = m(patched) - m(corrupted)

(causal tracing, Meng et al. 2022; directions as in Heimersheim and Nanda 2024.) A head's write at CLS, in one call:
`activation_patch(graph, task, what="head_out", tokens="cls")`.

Both runs go through the model block by block, side by side, so what lies before a patch is shared and one layer of
activations is held at a time. From there on candidates (head, tokens) run in batches, a head by itself, and the last
block only for the tokens that the readout looks at.

Not by the engine of exact changes (`engines/pruned_run`), for two reasons. What is patched (z, q, k, v, a pattern, a
residual, each at any set of tokens) is no edge of a graph. And where it is all edges that leave a node, the plain walk
costs less: it goes on by fused blocks, where the engine sets up each layer's heads and tells their changes apart. In
forward passes' worth of work beside the runs of both ends (`work.py`, digits-2l): 8 heads 1.92 against 2.11, 2 MLPs .10
against .41.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...circuits.baseline import DEFAULT_MEMORY, Baseline, make_baseline
from ...circuits.effect_table import Direction, PatchTable, require_direction
from ...circuits.graph import Graph
from ...circuits.memory import batch_size_for, chunk_size
from ...circuits.run import require_model
from ...circuits.tasks.task import Pairs, Task
from ...circuits.tokens import TokenColumns, token_columns
from ...models import processes
from ...models.config import VitConfig
from ...models.watching import progress_bar
from .patch_points import (
    PER_HEAD,
    PatchPoint,
    PatchValues,
    RunContrast,
    What,
    clean_embedded,
    contrasted,
    make_patch_values,
    patch_points,
    require_what,
    write_change,
)

MOST_RUNS = 64  # in one batch; more no longer runs faster on a CPU


def activation_patch(
    graph: Graph,
    task: Task,
    what: What | str = "z",
    *,
    tokens: str | Sequence[str] = "all",
    direction: Direction | str = "noising",
    pairs: Pairs | None = None,
    memory: int = DEFAULT_MEMORY,
    progress: bool | None = None,
) -> PatchTable:
    """How much of the metric each activation carries at each choice of tokens.

    The corrupted run is the model's on the partner (or on another image), and under `mean`, `zero` and `noise` the
    model run on from the ablated input; denoising restores into it. Under noising these three replace what heads and
    MLPs write by what removed edges carry, a residual by the sum of all ablated writes, and q, k, v, pattern and z by
    their own mean, by zero, or by noise of their own spread over the reference images.

    Costs two runs, and for every layer, head and choice of tokens one run of what comes after.

    Args:
        graph: A graph of the model; only its sizes are used.
        task: Its model, metric, ablation and discovery pairs.
        what: `z` (weighted values of a head), `q`, `k`, `v`, `pattern` (all per head), `head_out` (what a head writes),
            `mlp_out`, or `resid` (in front of each block, and behind the last).
        tokens: Which are patched: `all` at once, `each` on its own, by `role`, or a name or names such as "cls" or
            "r2c3", each on its own. For `k` and `v` they are source tokens, for `pattern` rows, that is target tokens.
        direction: `noising` or `denoising`.
        pairs: Other pairs than the discovery pairs; of crossed ones those of two classes are taken.
        memory: Bytes to hold at once.
        progress: Show a bar on stderr; None where somebody watches.

    Raises:
        TaskError: A choice is not known, or makes no sense (noise for a pattern).
        GraphError: A token is not known, or the graph was compiled for another model.
    """
    require_model(task.vit, graph)
    require_what(what)
    if what in ("q", "k", "v", "pattern"):
        task.vit.require_separate_heads(f"patches of {what}")
    require_direction(direction)
    columns = token_columns(task.vit.cfg.tokens, tokens)
    pairs = contrasted(task, pairs)
    values, flips, clean, corrupt = _measure(_Patches(task, what, direction, columns), pairs, memory, progress)
    values[:, ~_exists(task.vit.cfg, what)] = np.nan
    return PatchTable(
        what=what,
        tokens=columns.names,
        values=values,
        flips=flips,
        clean=clean,
        corrupt=corrupt,
        direction=direction,
        unit=task.metric.unit,
        ablation=task.ablation,
        task=task.info,
        design=pairs.design,
    )


def _exists(cfg: VitConfig, what: str) -> np.ndarray:
    """Which (layer, head) there is something to patch at: a block may have fewer heads than another, or no MLP."""
    if what == "mlp_out":
        return np.array([[cfg.has_mlp(layer)] for layer in range(cfg.n_layers)])
    if what in PER_HEAD:
        return np.arange(cfg.n_heads) < np.array([[cfg.heads_of(layer)] for layer in range(cfg.n_layers)])
    return np.ones((cfg.n_layers + 1, 1), dtype=bool)


def _measure(patches: _Patches, pairs: Pairs, memory: int, progress: bool | None) -> Iterator[np.ndarray]:
    """Effects and flips (pair, layer, head, column), and the metric of both runs (pair,)."""
    task, what, vit = patches.task, patches.what, patches.task.vit
    baseline = make_baseline(vit, task.ablation, task.reference, memory=memory)
    donor = make_patch_values(vit, what, patches.direction, baseline, memory)
    size = min(batch_size_for(vit, memory // 2, copies=4), MOST_RUNS // 2)
    n_runs = min(batch_size_for(vit, memory // 2, copies=0.5), MOST_RUNS)
    total = patches.n_places * len(pairs) // processes.count()

    def one(batch: Pairs) -> tuple[np.ndarray, ...]:
        return patches.batch(batch, baseline, donor, max(1, n_runs // len(batch)), bar.update)

    with torch.no_grad(), vit.borrowed(), progress_bar(what, total, progress, "run") as bar:
        found = list(processes.in_order(one, list(pairs.batches(chunk_size(vit, len(pairs), size)))))
    return (np.concatenate(parts) for parts in zip(*found, strict=True))


@dataclass(frozen=True, eq=False)
class _Patches:
    """What is patched."""

    task: Task
    what: str
    direction: str
    columns: TokenColumns

    @property
    def n_places(self) -> int:
        """Layers x heads x columns."""
        cfg = self.task.vit.cfg
        n_heads = cfg.n_heads if self.what in PER_HEAD else 1
        return (cfg.n_layers + (self.what == "resid")) * n_heads * len(self.columns)

    def batch(
        self, batch: Pairs, baseline: Baseline, donor: PatchValues, at_once: int, done: Callable[[int], object]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Of one batch of pairs: effects and flips (pair, layer, head, column), the metric of both runs (pair,)."""
        vit = self.task.vit
        clean, corrupt = clean_embedded(vit, batch), baseline.start(batch)
        contrast = RunContrast.of(self.task, batch, clean, corrupt, self.direction)
        base = clean if self.direction == "noising" else corrupt
        values, flips = [], []
        for point, donated in zip(patch_points(vit, base, self.what), donor(batch), strict=True):
            found = torch.cat(list(self._logits(point, donated, at_once, done)), 1)  # pair, candidate, class
            for parts, part in zip((values, flips), contrast(found), strict=True):
                parts.append(part.unflatten(1, (-1, len(self.columns))))
        effects, sides = (torch.stack(parts, 1).cpu().numpy() for parts in (values, flips))
        return effects, sides, *contrast.ends()

    def _logits(
        self, point: PatchPoint, donated: Tensor, at_once: int, done: Callable[[int], object]
    ) -> Iterator[Float[Tensor, "pair candidate class"]]:
        """Of every head and column of one place, a few at a time."""
        vit = self.task.vit
        member: Bool[Tensor, "column token"] = torch.from_numpy(self.columns.member).to(vit.device)
        n_pairs, n_heads = point.activation.shape[:2]
        heads = torch.arange(n_heads, device=vit.device).repeat_interleave(len(member))
        rows = torch.arange(len(member), device=vit.device).repeat(n_heads)
        for some, at in zip(heads.split(at_once), rows.split(at_once), strict=True):
            changed = point.residual[:, None] + write_change(point, self.what, donated, some, member[at])
            found = vit.finish(changed.flatten(0, 1), start=point.layer, skip_attention=point.skip_attention)
            done(len(found))
            yield found.view(n_pairs, len(some), -1)
