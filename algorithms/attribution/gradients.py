"""Edge attribution: EAP and EAP-IG from plain fused passes.

    score[u, v] = (a_u(clean) - a'_u) . d metric / d x_v

summed over tokens and channels, for each pair: a first-order estimate of how much of the metric the edge carries. EAP
(Syed et al. 2023, section 3) takes the gradient at the clean image. EAP-IG (Hanna et al. 2024, arXiv 2403.17806)
averages it over points on the straight path from the ablated input to the clean one, which runs in the residual in
front of block 0.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import numpy as np

from ...circuits.baseline import DEFAULT_MEMORY
from ...circuits.graph import Graph
from ...circuits.scores import Scores
from ...circuits.tasks.task import Task
from ..registry import Range, algorithm, chosen
from .gradient_method import PathGradients, path_points, require_slope_at_clean


@algorithm
def eap(
    graph: Graph,
    task: Task,
    *,
    freeze_norm: bool = True,
    softmax: Literal["linear", "exact"] = "linear",
    memory: int = DEFAULT_MEMORY,
    progress: bool | None = None,
) -> Scores:
    """First-order estimate of how much of the metric each edge carries, the gradient taken at the clean image.

    Costs two forward passes and one backward pass per batch, however many edges there are, and one sum over edges.
    It sees nothing through a saturated softmax or a step, and ranks edges by slope where the effect is a difference.

    Args:
        graph: The graph.
        task: Its discovery pairs are used.
        freeze_norm: Treat each norm's standard deviation as a constant in the backward pass.
        softmax: Edges between token groups inside heads: `linear`, or `exact` in the pattern.
        memory: Bytes to hold at once, above the model and the images; at least one pair is held.
        progress: Show a bar on stderr; None where somebody watches.

    Raises:
        TaskError: The metric has no gradient at the clean image (kl) or none at all (accuracy).
        GraphError: The graph was compiled for another model.
    """
    require_slope_at_clean(task, "eap")
    options = chosen("eap", locals()).record()
    method = PathGradients(graph, task, freeze_norm, memory, progress, "eap", form=softmax)
    return method.run().scores(task, "eap", options)


@algorithm
def eap_ig(
    graph: Graph,
    task: Task,
    *,
    steps: Annotated[int, Range(least=1, most=10_000)] = 5,
    rule: Literal["midpoint", "left"] = "midpoint",
    freeze_norm: bool = True,
    report_error: bool = False,
    memory: int = DEFAULT_MEMORY,
    progress: bool | None = None,
) -> Scores:
    """How much of the metric each edge carries, the gradient averaged along the path from ablated to clean input.

    Costs two forward passes, `steps` forward and backward passes, and one sum over edges. With unfrozen norms the
    scores of all edges that leave `input` add up to m(clean) - m(ablated input) as steps grow; what is missing is
    reported in `diagnostics["completeness_gap"]` as a share. Blind to even functions, whose value is the same at both
    ends.

    Args:
        graph: The graph.
        task: Its discovery pairs are used.
        steps: Points on the path.
        rule: `midpoint`, or `left` (EAP-IG's own: the path's start is a point, its end is not).
        freeze_norm: Treat each norm's standard deviation as a constant in the backward pass.
        report_error: Also run with twice the steps, and report the mean absolute difference of scores over their mean
            absolute value in `diagnostics["error_vs_double"]`.
        memory: Bytes to hold at once, above the model and the images; at least one pair is held.
        progress: Show a bar on stderr; None where somebody watches.

    Raises:
        TaskError: The metric has no gradient (accuracy), or the steps or the rule make no sense.
        GraphError: The graph was compiled for another model.
    """
    options = chosen("eap_ig", locals()).record()
    method = PathGradients(graph, task, freeze_norm, memory, progress, "eap_ig", points=path_points(steps, rule))
    moments = method.run()
    diagnostics = method.completeness(moments)
    if report_error:
        finer = replace(method, points=path_points(2 * steps, rule)).run().mean
        diagnostics["error_vs_double"] = float(np.abs(moments.mean - finer).sum() / max(np.abs(finer).sum(), 1e-30))
    return moments.scores(task, "eap_ig", options, diagnostics=diagnostics)
