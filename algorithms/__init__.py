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
    from .attribution.node_effects import node_effects as node_effects
    from .benchmark import run_benchmark as run_benchmark
    from .patching.activation_patching import activation_patch as activation_patch
    from .patching.patch_table import PatchTable as PatchTable
    from .patching.path_patching import path_patch as path_patch
    from .patching.path_table import PathTable as PathTable
    from .pruning.acdc import acdc as acdc
    from .registry import ALGORITHMS as ALGORITHMS
    from .registry import run_algorithm as run_algorithm
    from .stability import measure_stability as measure_stability

__all__ = [
    "ALGORITHMS",
    "LogitAttribution",
    "PatchTable",
    "PathTable",
    "acdc",
    "activation_patch",
    "direct_logit_attribution",
    "eap",
    "eap_ig",
    "exact_effects",
    "logit_attribution",
    "measure_stability",
    "node_effects",
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
    "direct_logit_attribution": ".attribution.direct",
    "eap": ".attribution.gradients",
    "eap_ig": ".attribution.gradients",
    "exact_effects": ".attribution.exact",
    "logit_attribution": ".attribution.direct",
    "measure_stability": ".stability",
    "node_effects": ".attribution.node_effects",
    "path_patch": ".patching.path_patching",
    "run_algorithm": ".registry",
    "run_benchmark": ".benchmark",
}
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
