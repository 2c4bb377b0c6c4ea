"""RelP, relevance patching (arXiv 2508.21258): edge attribution whose gradient follows relevance rules.

    score[u, v] = (a_u(clean) - a'_u) . coefficient at x_v

summed over tokens and channels, for each pair. The coefficient is the gradient of the model that layer-wise relevance
propagation makes linear at the clean image (`relevance.py`): norms' standard deviations, activations' factors
f(x) / x and, by default, ... are constants.
"""

from __future__ import annotations

from ...circuits.baseline import DEFAULT_MEMORY
from ...circuits.graph import Graph
from ...circuits.scores import Scores
from ...circuits.task import Task
from .path import PathPlan
from .plan import require_slope_at_clean
from .relevance import Attention, RelevanceRules


def relp(
    graph: Graph,
    task: Task,
    *,
    attention: Attention = "pattern",
    memory: int = DEFAULT_MEMORY,
    progress: bool = False,
) -> Scores:
    """How much of the metric each edge carries in the model that relevance rules make linear at the clean image.

    Args:
        graph: The graph.
        task: Its discovery pairs are used.
        attention: `pattern`, `half` or `gradient`.
        memory: Bytes to hold at once, above the model and the images; at least one pair is held.
        progress: Show a bar on stderr.

    Raises:
        TaskError: The metric has no gradient at the clean image (kl) or none at all (accuracy).
        ModelError: An MLP is of a kind whose activation is not reached.
        GraphError: The graph was compiled for another model.
    """
    require_slope_at_clean(task, "relp")
    rules = RelevanceRules(task.vit, attention)
    plan = PathPlan(graph, task, True, memory, progress, "relp", form=attention, rules=rules)
    return plan.run().moments.scores(task, "relp", {"attention": attention})
