"""Exact effects: each edge alone is ablated (or restored), and the metric is compared.

    noising:   effect = m(clean run) - m(clean run whose edge carries the ablated value)
    denoising: effect = m(corrupted run whose edge carries the clean value) - m(corrupted run)

Both are the run of a circuit: noising's lacks one edge, denoising's is the corrupted run with one edge restored. The
corrupted run is the model's run on the partner (or on another image), or for ablations without an image the model's run
from the ablated input on. The run in front of an edge's destination is shared, and what the last block writes is
computed only for the tokens that the readout looks at (`engines/flips`). On average an edge costs a quarter of a
forward pass.

Exact effects of heads and MLPs: what ablating a whole node does to the metric.

    effect[v] = m(clean run) - m(clean run with everything that v writes ablated)

All edges that leave the node carry the ablation's value, in every place that reads it. A run of what comes behind each
node, so it is cheap beside exact effects of edges, and coarser: a node can matter through one edge and hurt through
another. As with single edges, nodes that stand in for one another are not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ...circuits.baseline import DEFAULT_MEMORY, Baseline, make_baseline
from ...circuits.graph import Graph, compile_graph
from ...circuits.memory import chunk_size, require_memory
from ...circuits.nodes import NodeScores
from ...circuits.run import require_model
from ...circuits.scores import Scores
from ...circuits.tasks.task import Pairs, Task
from ...circuits.token_parts import where_occurring
from ...models import processes
from ...models.watching import progress_bar
from ..engines.flips import flips_sizes, make_run, measure_flips, trial_sizes
from ..engines.source_deltas import Ends
from ..registry import algorithm
from .accumulate import scores_of, spread

Direction = Literal["noising", "denoising"]


@algorithm
def exact_effects(
    graph: Graph,
    task: Task,
    *,
    direction: Literal["noising", "denoising"] = "noising",
    memory: int = DEFAULT_MEMORY,
    progress: bool | None = None,
) -> Scores:
    """The exact effect of every edge alone, on the discovery pairs; positive: it carries the behaviour.

    Noising asks which edges the behaviour needs, denoising which suffice to bring it back. It is the ground truth that
    gradients estimate; noising is blind under redundancy, where no single edge matters, and denoising where several
    edges must come together.

    Args:
        graph: The graph.
        task: Its discovery pairs are used; any metric.
        direction: `noising` ablates each edge in the clean run, `denoising` restores it in the corrupted run.
        memory: Bytes to hold at once.
        progress: Show a bar on stderr; None where somebody watches.

    Raises:
        GraphError: The graph was compiled for another model.
        TaskError: The direction is not known, or the memory is too little.
    """
    require_model(task.vit, graph)
    asked = flips_sizes(task.vit, graph, task.ablation, len(task.searched))
    require_memory(memory, f"exact_effects of {graph.cfg.name}", *asked)
    every = np.arange(len(graph))
    total = len(graph) * len(task.searched) // processes.count()
    with progress_bar("exact_effects", total, progress, "run") as bar:
        effects = single_effects(graph, task, every, direction=direction, memory=memory, done=bar.update)
    return scores_of(graph, task, "exact_effects", {"direction": direction}, spread(effects), exact=True)


def single_effects(
    graph: Graph,
    task: Task,
    edges: Sequence[int] | NDArray[np.intp],
    *,
    direction: str = "noising",
    baseline: Baseline | None = None,
    memory: int = DEFAULT_MEMORY,
    done: Callable[[int], object] = lambda count: None,
) -> NDArray[np.float64]:
    """The exact effects of some edges alone, shape (pair, edge), in the order in which they were asked for.

    NaN where an edge does not occur in a pair.

    Args:
        graph: The graph.
        task: Its discovery pairs are used.
        edges: Which edges.
        direction: `noising` or `denoising`.
        baseline: What removed edges carry, where it is at hand.
        memory: Bytes to hold at once.
        done: Called with edges x pairs as they are finished.
    """
    restore, pairs = direction == "denoising", task.searched
    baseline = baseline or make_baseline(task.vit, task.ablation, task.reference, memory=memory)
    found = measure_flips(
        task.vit,
        graph,
        np.ones(len(graph), dtype=bool),
        edges,
        task.metric,
        pairs,
        baseline,
        restore=restore,
        memory=memory,
        done=done,
    )
    effects = (found.flipped - found.now if restore else found.now - found.flipped).T
    return task.signs(pairs).numpy()[:, None] * where_occurring(graph, pairs, effects, edges)


def node_effects(graph: Graph, task: Task, *, memory: int = DEFAULT_MEMORY, progress: bool | None = None) -> NodeScores:
    """The exact effect of every head and MLP alone, on the discovery pairs; positive: it carries the behaviour.

    Costs one clean run, the ablation's runs, and for each node one run of what comes behind it.

    Args:
        graph: The graph; its token groups and ports don't change the effects.
        task: The model, the metric, the pairs and the ablation.
        memory: Bytes to hold at once.
        progress: Show a bar on stderr; None where somebody watches.

    Raises:
        GraphError: The graph belongs to another model.
    """
    require_model(task.vit, graph)
    vit, pairs = task.vit, task.searched
    run_on = compile_graph(graph.cfg, ports=graph.ports) if graph.groups.per_pair else graph
    whole = np.ones(len(run_on), dtype=bool)
    baseline = make_baseline(vit, task.ablation, task.reference, memory=memory)
    nodes = np.flatnonzero(graph.source_exists)[1:].tolist()
    _, most = trial_sizes(vit, run_on, whole, baseline, len(pairs), memory)
    chunks = list(pairs.batches(chunk_size(vit, len(pairs), most)))

    def one(batch: Pairs) -> NDArray[np.float64]:
        run = make_run(vit, run_on, whole, Ends.of(vit, batch, baseline), memory)
        wanted = batch.wanted(run.logits)
        moved = np.zeros((len(batch), graph.n_sources))
        for source, logits in run.without_each(nodes):
            found = task.metric(run.logits, wanted) - task.metric(logits, wanted)
            moved[:, source] = found.double().cpu().numpy()
            bar.update(len(batch))
        return task.signs(batch).numpy()[:, None] * moved[:, nodes]

    total = len(nodes) * len(pairs) // processes.count()
    with torch.no_grad(), vit.borrowed(), progress_bar("node_effects", total, progress, "run") as bar:
        effects = list(processes.in_order(one, chunks))
    found = spread(np.concatenate(effects))
    info = dict(task.info)
    return NodeScores(graph, found.values, found.std_err, True, len(pairs), "node_effects", {}, task.ablation, info)
