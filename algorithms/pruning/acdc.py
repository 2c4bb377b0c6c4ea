"""ACDC (Conmy et al. 2023, section 3): prune from the logits back every edge whose loss the metric hardly feels.

Destinations are visited from the logits to the input. At each, its edges are tried one after the other; with m the
metric of what is kept so far and m' that without the edge too, the edge is dropped for good if

    m - m' < tau        (worsening="signed")        |m - m'| < tau        (worsening="absolute")

The result here is that of this sequential algorithm, decision by decision, without its wait:

1. Upstream of the destination everything is still the full model, so it is never run again (`engines/pruned_run`).
2. Trials are speculative: "drop the first", "drop the first two", ... are measured in one batch. All decisions up to
   the first edge that must stay are those of the sequential algorithm; what was measured after it is thrown away.
3. A worsening that is closer to tau than rounding is decided anew by running the two whole masks in one canonical
   way (`run_pairs`), which does not depend on batches.

How many trials go into a batch depends on the decisions so far alone, never on the clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, overload

import numpy as np

from ...circuits.baseline import DEFAULT_MEMORY
from ...circuits.circuit import Circuit
from ...circuits.graph import Graph
from ...circuits.run import require_model
from ...circuits.scores import Scores
from ...circuits.tasks.task import Task
from ...models.settings import COUNTS, Range
from ..registry import algorithm, chosen, least_memory, scored_by
from .acdc_batches import require_acdc_memory
from .acdc_search import AcdcPlan, AcdcSearch


@overload
def acdc(graph: Graph, task: Task, *, tau: float = ..., **options: Any) -> Circuit: ...
@overload
def acdc(graph: Graph, task: Task, *, tau: Sequence[float], **options: Any) -> list[Circuit]: ...
@algorithm
def acdc(
    graph: Graph,
    task: Task,
    *,
    tau: Annotated[float | Sequence[float], Range(above=0)] = 0.01,
    metric: Literal["kl", "logit_difference", "task"] = "kl",
    order: Scores | str = "paper",
    worsening: Literal["signed", "absolute"] = "signed",
    batch: Annotated[int, COUNTS] = 64,
    journal: str | Path | None = None,
    memory: int = DEFAULT_MEMORY,
    progress: bool | None = None,
) -> Circuit | list[Circuit]:
    """The circuit that ACDC leaves, or one for each of several thresholds.

    Its scores are the worsenings that were measured when each edge was decided (mean over pairs, in the metric's unit);
    edges that nothing read any more were dropped without a run and score 0. Tau bounds each step, not their sum, and
    redundant edges are dropped one after the other until the last that counts.

    Args:
        graph: The graph.
        task: Its discovery pairs are used, all of them.
        tau: Above 0, in the metric's unit: nats for `kl`, logits for `logit_difference`. Several give several circuits.
        metric: `kl` to the full model's logits (the paper's), `logit_difference`, or the task's own.
        order: In which a destination's edges are tried: `paper`, from the last source to the first, or by scores (or
            the name of the algorithm that is to make them, such as `eap`), the lowest first.
        worsening: Drop an edge if the metric falls by less than tau (`signed`, the paper's, lets the metric drift
            upwards), or if it moves by less than tau either way (`absolute`).
        batch: At most so many trials at once; 1 is the sequential algorithm with the runs before and after reused.
        journal: A file that every decision is written to. The same call goes on from what is there. With several
            thresholds each has a file of its own, named after it.
        memory: Bytes to hold at once.
        progress: Show a bar on stderr; None where somebody watches.

    Raises:
        TaskError: tau is not above 0, another option makes no sense, or the pairs don't fit into `memory`.
        GraphError: The graph or the scores belong to another model.
        FormatError: The journal is another search's, or cannot be written.
    """
    if isinstance(tau, Sequence | np.ndarray):
        several = [float(value) for value in tau]
        files = [_named(journal, value) for value in several]
    else:
        several, files = [float(tau)], [journal]
    require_model(task.vit, graph)
    require_acdc_memory(graph, task, memory, least_memory(order, graph, task))
    ranked = scored_by(order, "order", "paper", graph, task, memory=memory, progress=progress)
    found = []
    for value, file in zip(several, files, strict=True):
        plan = AcdcPlan(graph, task, value, ranked, memory, chosen("acdc", locals()))
        found.append(AcdcSearch(plan, file, progress).circuit())
    return found if isinstance(tau, Sequence | np.ndarray) else found[0]


def _named(journal: str | Path | None, tau: float) -> Path | None:
    return None if journal is None else Path(journal).with_stem(f"{Path(journal).stem}-{tau:g}")
