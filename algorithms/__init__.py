"""How circuits are found: one file per algorithm, one shape of call: (graph, task, *, options) -> Scores or Circuit."""

from typing import TYPE_CHECKING

from ..models.lazy import lazy_names

if TYPE_CHECKING:
    from .attribution.direct import LogitAttribution as LogitAttribution
    from .attribution.direct import direct_logit_attribution as direct_logit_attribution
    from .attribution.direct import logit_attribution as logit_attribution
    from .attribution.exact import exact_effects as exact_effects
    from .attribution.gradients import eap as eap
    from .attribution.gradients import eap_ig as eap_ig
    from .attribution.hybrid import hybrid as hybrid
    from .benchmark import run_benchmark as run_benchmark
    from .patching.activation_patching import activation_patch as activation_patch
    from .patching.patch_table import PatchTable as PatchTable
    from .patching.path_patching import path_patch as path_patch
    from .patching.path_table import PathTable as PathTable
    from .pruning.acdc import acdc as acdc
    from .pruning.budgeted import budgeted_pruning as budgeted_pruning
    from .registry import ALGORITHMS as ALGORITHMS
    from .registry import run_algorithm as run_algorithm

__all__ = [
    "ALGORITHMS",
    "LogitAttribution",
    "PatchTable",
    "PathTable",
    "acdc",
    "activation_patch",
    "budgeted_pruning",
    "direct_logit_attribution",
    "eap",
    "eap_ig",
    "exact_effects",
    "hybrid",
    "logit_attribution",
    "path_patch",
    "run_algorithm",
    "run_benchmark",
]

_HOMES = {
    "ALGORITHMS": ".registry",
    "LogitAttribution": ".attribution.direct",
    "PatchTable": ".patching.patch_table",
    "PathTable": ".patching.path_table",
    "acdc": ".pruning.acdc",
    "activation_patch": ".patching.activation_patching",
    "budgeted_pruning": ".pruning.budgeted",
    "direct_logit_attribution": ".attribution.direct",
    "eap": ".attribution.gradients",
    "eap_ig": ".attribution.gradients",
    "exact_effects": ".attribution.exact",
    "hybrid": ".attribution.hybrid",
    "logit_attribution": ".attribution.direct",
    "path_patch": ".patching.path_patching",
    "run_algorithm": ".registry",
    "run_benchmark": ".benchmark",
}
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
