"""How circuits are found: one file per algorithm, one shape of call: (graph, task, *, options) -> Scores or Circuit."""

from typing import TYPE_CHECKING

from ..models.lazy import lazy_names

if TYPE_CHECKING:
    from .activation_patching import activation_patch as activation_patch
    from .benchmark import run_benchmark as run_benchmark
    from .direct import LogitAttribution as LogitAttribution
    from .direct import direct_logit_attribution as direct_logit_attribution
    from .direct import logit_attribution as logit_attribution
    from .discovery import acdc as acdc
    from .exact import exact_effects as exact_effects
    from .gradients import eap as eap
    from .gradients import eap_ig as eap_ig
    from .patch_table import PatchTable as PatchTable
    from .path_patching import path_patch as path_patch
    from .path_table import PathTable as PathTable
    from .registry import ALGORITHMS as ALGORITHMS
    from .registry import run_algorithm as run_algorithm

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
    "path_patch",
    "run_algorithm",
    "run_benchmark",
]

_HOMES = {
    "ALGORITHMS": ".registry",
    "LogitAttribution": ".direct",
    "PatchTable": ".patch_table",
    "PathTable": ".path_table",
    "acdc": ".discovery",
    "activation_patch": ".activation_patching",
    "direct_logit_attribution": ".direct",
    "eap": ".gradients",
    "eap_ig": ".gradients",
    "exact_effects": ".exact",
    "logit_attribution": ".direct",
    "path_patch": ".path_patching",
    "run_algorithm": ".registry",
    "run_benchmark": ".benchmark",
}
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
