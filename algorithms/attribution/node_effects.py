"""Exact effects of heads and MLPs: what ablating a whole node does to the metric.

    effect[v] = m(clean run) - m(clean run with everything that v writes ablated)

All edges that leave the node carry the ablation's value, in every place that reads it. A run of what comes behind each
node, so it is cheap beside exact effects of edges, and coarser: a node can matter through one edge and hurt through
another. As with single edges, nodes that stand in for one another are not seen.
"""

from __future__ import annotations

import numpy as np
import torch

from ...circuits.baseline import DEFAULT_MEMORY, make_baseline
from ...circuits.graph import Graph
from ...circuits.node_scores import NodeScores
from ...circuits.run import require_model
from ...circuits.task import Task
from ..engines.flips import make_run, trial_sizes
from ..engines.source_deltas import Ends
from ..progress import progress_bar
from .moments import spread


def node_effects(graph: Graph, task: Task, *, memory: int = DEFAULT_MEMORY, progress: bool = False) -> NodeScores:
    """The exact effect of every head and MLP alone, on the discovery pairs; positive: it carries the behaviour.

    Costs one clean run, the ablation's runs, and for each node one run of what comes behind it.

    Args:
        graph: The graph; its token groups and ports don't change the effects.
        task: The model, the metric, the pairs and the ablation.
        memory: Bytes to hold at once.
        progress: Show a bar on stderr.

    Raises:
        GraphError: The graph belongs to another model.
    """
    require_model(task.vit, graph)
    vit, pairs, whole = task.vit, task.searched, np.ones(len(graph), dtype=bool)
    baseline = make_baseline(vit, task.ablation, task.reference, memory=memory)
    nodes = np.flatnonzero(graph.source_exists)[1:].tolist()
    _, size = trial_sizes(vit, graph, whole, baseline, len(pairs), memory)
    effects, total = [], len(nodes) * len(pairs)
    with torch.no_grad(), vit.borrowed(), progress_bar("node_effects", total, progress, "run") as bar:
        for batch in pairs.batches(size):
            run = make_run(vit, graph, whole, Ends.of(vit, batch, baseline), memory)
            wanted = batch.wanted(run.logits)
            moved = np.zeros((len(batch), graph.n_sources))
            for source, logits in run.without_each(nodes):
                found = task.metric(run.logits, wanted) - task.metric(logits, wanted)
                moved[:, source] = found.double().cpu().numpy()
                bar.update(len(batch))
            effects.append(task.signs(batch).numpy()[:, None] * moved[:, nodes])
    found = spread(np.concatenate(effects))
    info = dict(task.info)
    return NodeScores(
        graph, found["values"], found["std_err"], True, len(pairs), "node_effects", {}, task.ablation, info
    )
