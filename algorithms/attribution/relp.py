"""RelP, relevance patching (arXiv 2508.21258): edge attribution with relevance coefficients in place of gradients.

    score[u, v] = (a_u(clean) - a'_u) . coefficient at x_v

summed over tokens and channels, for each pair. The coefficient is the gradient of the model that layer-wise relevance
propagation makes linear at the clean image (`relevance.py`): norms' standard deviations and activations' factors
f(x) / x are constants, and attention follows one of three rules.
"""

from __future__ import annotations

from typing import Annotated, Literal

from ...circuits.baseline import DEFAULT_MEMORY
from ...circuits.graph import Graph
from ...circuits.scores import Scores
from ...circuits.task import Task
from ..registry import Option, algorithm, chosen
from .path import PathPlan
from .plan import require_slope_at_clean
from .relevance import RelevanceRules


@algorithm
def relp(
    graph: Graph,
    task: Task,
    *,
    attention: Annotated[
        Literal["half", "pattern", "gradient"],
        Option("products share relevance by halves, patterns are constants, or plain derivatives"),
    ] = "half",
    memory: int = DEFAULT_MEMORY,
    progress: bool = False,
) -> Scores:
    """How much of the metric each edge carries in the model that relevance rules make linear at the clean image.

    Costs what EAP costs: two forward passes, one backward pass and one sum over edges.

    Attention. `pattern` is the paper's AH rule (table 1): the pattern is a constant, relevance is conserved, and edges
    into queries and keys score 0. `half` shares the products q.k and pattern.v by halves, as the paper does for gates,
    so that queries and keys score too. `gradient` leaves attention its derivatives, as the example in the authors'
    repository does. The default was chosen by measurement. DeiT-Tiny, cats against dogs, 10 pairs, held-out
    faithfulness with 5 / 10 / 20% of the edges: half .41 / .45 / .51, pattern .34 / .33 / .49, gradient .30 / .37 / .40
    (EAP .25 / .38 / .26, EAP-IG .31 / .41 / .36). Planted circuits, ROC-AUC: 1.0 with soft attention for half and
    gradient where pattern has .81; on digit-pairs .997, .999 and .88.

    Like EAP it sees nothing through a saturated softmax: .75 on bright-column and .81 on neighbour-xor, whatever the
    rule. Even functions get relevance that ablation does not confirm.

    Args:
        graph: The graph.
        task: Its discovery pairs are used.
        attention: `half`, `pattern` or `gradient`, as above.
        memory: Bytes to hold at once, above the model and the images; at least one pair is held.
        progress: Show a bar on stderr.

    Raises:
        TaskError: The metric has no gradient at the clean image (kl) or none at all (accuracy).
        ModelError: An MLP is of a kind whose activation cannot be reached.
        GraphError: The graph was compiled for another model.
    """
    require_slope_at_clean(task, "relp")
    rules = RelevanceRules(task.vit, attention)
    patterns = graph.cfg.n_heads * graph.cfg.tokens.n_tokens / graph.cfg.d_model  # one layer's, in residuals
    kept = 3 + 3 * patterns if attention == "half" else 0.0
    plan = PathPlan(graph, task, True, memory, progress, "relp", form=attention, rules=rules, kept=kept)
    return plan.run().moments.scores(task, "relp", chosen("relp", locals()).record())
