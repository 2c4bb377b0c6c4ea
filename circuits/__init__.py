"""The graph over an opened ViT, and what a circuit is: run, judged, drawn and exported."""

from typing import TYPE_CHECKING

from ..models.lazy import lazy_names

if TYPE_CHECKING:
    from .ablation import Ablation as Ablation
    from .certificate import verify_planted as verify_planted
    from .checks.bench import CheckSettings as CheckSettings
    from .checks.spread import evaluate_spread as evaluate_spread
    from .circuit import Circuit as Circuit
    from .contrast import class_contrast as class_contrast
    from .contrasts import partner_contrasts as partner_contrasts
    from .evaluation import evaluate as evaluate
    from .graph import Graph as Graph
    from .graph import compile_graph as compile_graph
    from .names import Edge as Edge
    from .node_scores import NodeScores as NodeScores
    from .nodes import jaccard as jaccard
    from .nodes import node_circuit as node_circuit
    from .partners.partner import Partner as Partner
    from .planted import planted_task as planted_task
    from .report import Report as Report
    from .run import run_circuit as run_circuit
    from .scores import Scores as Scores
    from .task import Pairs as Pairs
    from .task import Task as Task
    from .truth import judge as judge
    from .truth import truth_mask as truth_mask

__all__ = [
    "Ablation",
    "CheckSettings",
    "Circuit",
    "Edge",
    "Graph",
    "NodeScores",
    "Pairs",
    "Partner",
    "Report",
    "Scores",
    "Task",
    "class_contrast",
    "compile_graph",
    "evaluate",
    "evaluate_spread",
    "jaccard",
    "judge",
    "node_circuit",
    "partner_contrasts",
    "planted_task",
    "run_circuit",
    "truth_mask",
    "verify_planted",
]

_HOMES = {
    "Ablation": ".ablation",
    "CheckSettings": ".checks.bench",
    "Circuit": ".circuit",
    "Edge": ".names",
    "Graph": ".graph",
    "NodeScores": ".node_scores",
    "Pairs": ".task",
    "Partner": ".partners.partner",
    "Report": ".report",
    "Scores": ".scores",
    "Task": ".task",
    "class_contrast": ".contrast",
    "compile_graph": ".graph",
    "evaluate": ".evaluation",
    "evaluate_spread": ".checks.spread",
    "jaccard": ".nodes",
    "judge": ".truth",
    "partner_contrasts": ".contrasts",
    "node_circuit": ".nodes",
    "planted_task": ".planted",
    "run_circuit": ".run",
    "truth_mask": ".truth",
    "verify_planted": ".certificate",
}
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
