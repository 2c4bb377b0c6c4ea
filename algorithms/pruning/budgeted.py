"""Budgeted pruning: down to a size, or to a level of faithfulness, with effects measured anew as the circuit shrinks.

ACDC's threshold bounds each step, not their sum. Here the loss of the whole circuit is what counts,

    squared         mean over pairs of (m(C) - m(E))^2            the default
    faithfulness    (mean m(C) - mean m(E))^2
    kl              mean over pairs of KL(p of the full model || p of the circuit)

1. Foresee the loss without each kept edge: measured exactly (`engines/flips`), or on large graphs to first order, pair
   by pair, from one forward and one backward pass of the pruned run (`engines/gated_run`).
2. Drop the least harmful, a share of them at once; if together they do much more harm than one by one (redundancy),
   half as many; on large graphs the next round starts from as many, or from twice that if they did no more harm, and of
   two orders (what an edge adds to the loss, or would add without the circuit's error) the better one counts. Edges
   that lost their path go with them.
3. At the size asked for: fill up with the absent edges that lower the loss most; on large graphs take half as many
   edges back in as there are and prune again, as long as that lowers the loss by 2%; then swap a kept edge for an
   absent one (on large graphs several at once) until no swap helps.

Pruning while the behaviour is kept is Vi-CD's idea (arXiv 2604.14477); re-measuring attributions in the pruned run is
iterative pruning as known from weights (Han et al. 2015).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, overload

import numpy as np

from ...circuits.baseline import DEFAULT_MEMORY
from ...circuits.circuit import Circuit
from ...circuits.graph import Graph
from ...circuits.memory import require_memory
from ...circuits.run import require_model
from ...circuits.sizes import Size, edges_of
from ...circuits.tasks.task import Task
from ...models.settings import FROM_NONE, Range
from ..registry import algorithm, chosen, least_memory
from .budget_loss import BudgetPlan
from .budget_search import BudgetSearch


@overload
def budgeted_pruning(graph: Graph, task: Task, *, size: Size = ..., **options: Any) -> Circuit: ...
@overload
def budgeted_pruning(graph: Graph, task: Task, *, size: Sequence[Size], **options: Any) -> list[Circuit]: ...
@algorithm
def budgeted_pruning(
    graph: Graph,
    task: Task,
    *,
    size: Size | Sequence[Size] = 0.05,
    faithfulness: Annotated[float, Range(least=0, most=1)] = 0.0,
    start: Literal["full", "eap_ig"] = "full",
    objective: Literal["squared", "faithfulness", "kl"] = "squared",
    measure: Literal["auto", "exact", "slopes"] = "auto",
    share: Annotated[float, Range(above=0, below=1)] = 0.1,
    regrow_rounds: Annotated[int, FROM_NONE] = 4,
    swaps: Annotated[int, FROM_NONE] = 8,
    journal: str | Path | None = None,
    memory: int = DEFAULT_MEMORY,
    progress: bool | None = None,
) -> Circuit | list[Circuit]:
    """The circuit of a size (or the smallest found at a level of faithfulness) that stays nearest to the full model.

    Its scores are the effects of the kept edges around the circuit (exact, or slopes where those are used); edges
    outside score 0, so they rank nothing but the circuit itself. On large graphs a round takes about as long as 6
    forward passes over all discovery pairs, whatever the number of edges.

    Weak spots: greedy, so a set of edges that only helps together is not found once it has been pruned away (a dead
    head needs an edge in and one out to come back, and swaps try one at a time). First-order foresight is blind to
    steps and even functions; on graphs that are screened so, a step's edges can be dropped before they are ever
    measured. A few pairs are overfitted, which the value on discovery pairs does not show.

    Args:
        graph: The graph.
        task: Its discovery pairs are used, all of them.
        size: A share of the graph below 1, or a number of edges from 1 on, after edges on no path are gone. Several
            give several circuits in one descent. The circuit is smaller where no further edge lowers the loss.
        faithfulness: Above 0: prune while normalised faithfulness on the discovery pairs stays at least this, whatever
            the size, to one circuit.
        start: From the `full` graph, or from EAP-IG's strongest edges (`eap_ig`: eight times the largest size).
        objective: What is kept small: see above.
        measure: Candidates measured by `exact` runs, or foreseen by `slopes`; `auto`: exact up to 500 edges.
        share: Of the kept edges that a round drops, at most.
        regrow_rounds: At each size, at most so many times edges are taken back in and pruned anew (only with slopes).
        swaps: 0 for none. With exact measures all kept edges are tried against all absent ones until no swap helps;
            with slopes at most so many times up to as many of the weakest are exchanged for the strongest absent ones.
        journal: A file that every step is written to. The same call goes on from what is there.
        memory: Bytes to hold at once.
        progress: Show a bar on stderr; None where somebody watches.

    Raises:
        TaskError: An option makes no sense, or slopes of a metric without a gradient are asked for.
        GraphError: The graph belongs to another model, or a size is not possible.
        FormatError: The journal is another search's, or cannot be written.
    """
    several = isinstance(size, Sequence | np.ndarray)
    sizes = edges_of(size, graph)
    require_model(task.vit, graph)
    plan = BudgetPlan(graph, task, sizes, memory, chosen("budgeted_pruning", locals()))
    least = least_memory(start, graph, task)
    require_memory(memory, f"budgeted_pruning of {graph.cfg.name}", *plan.asked(), least=least)
    found = BudgetSearch(plan, journal, progress).circuits()
    return found if several else found[0]
