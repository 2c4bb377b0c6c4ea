"""Exact effects of heads and MLPs: what ablating a whole node does to the metric.

    effect[v] = m(clean run) - m(clean run with everything that v writes ablated)

All edges that leave the node carry the ablation's value, in every place that reads it. One run per node, so it is cheap
beside exact effects of edges, and coarser: a node can matter through one edge and hurt through another. As with single
edges, nodes that stand in for one another are not seen.
"""

from __future__ import annotations

import numpy as np

from ...circuits.baseline import DEFAULT_MEMORY, make_baseline
from ...circuits.graph import Graph
from ...circuits.mask_runs import run_masks
from ...circuits.node_scores import NodeScores
from ...circuits.nodes import leaving, node_names
from ...circuits.run import require_model
from ...circuits.task import Task


def node_effects(graph: Graph, task: Task, *, memory: int = DEFAULT_MEMORY, progress: bool = False) -> NodeScores:
    """The exact effect of every head and MLP alone, on the discovery pairs; positive: it carries the behaviour.

    Costs one clean run, the ablation's runs, and one run for each node.

    Args:
        graph: The graph; its token groups and ports don't change the effects.
        task: The model, the metric, the pairs and the ablation.
        memory: Bytes to hold at once.
        progress: Show a bar on stderr.

    Raises:
        GraphError: The graph belongs to another model.
    """
    require_model(task.vit, graph)
    masks = [~leaving(graph, name) for name in node_names(graph)]
    baseline = make_baseline(task.vit, task.ablation, task.reference, memory=memory)
    pairs = task.searched
    runs = run_masks(task.vit, graph, masks, task.metric, pairs, baseline, memory=memory, progress=progress)
    effects, n = task.signs(pairs).numpy() * (runs.clean_outputs - runs.outputs), len(pairs)  # node, pair
    error = effects.std(-1, ddof=1) / np.sqrt(n) if n > 1 else np.full(len(effects), np.nan)
    return NodeScores(graph, effects.mean(-1), error, True, n, "node_effects", {}, task.ablation, dict(task.info))
