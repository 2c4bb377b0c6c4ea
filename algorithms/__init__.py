"""How circuits are found: one file per algorithm, one shape of call: (graph, task, *, options) -> Scores or Circuit."""

from typing import TYPE_CHECKING

from ..models.lazy import lazy_names

if TYPE_CHECKING:
    from .attribution.activations import eap_ig_activations as eap_ig_activations
    from .attribution.atp_star import atp_star as atp_star
    from .attribution.ceap import ceap as ceap
    from .attribution.direct import LogitAttribution as LogitAttribution
    from .attribution.direct import direct_logit_attribution as direct_logit_attribution
    from .attribution.direct import logit_attribution as logit_attribution
    from .attribution.ensemble import mean_ranks as mean_ranks
    from .attribution.ensemble import rank_ensemble as rank_ensemble
    from .attribution.exact import exact_effects as exact_effects
    from .attribution.gradients import eap as eap
    from .attribution.gradients import eap_ig as eap_ig
    from .attribution.hybrid import hybrid as hybrid
    from .attribution.node_effects import node_effects as node_effects
    from .attribution.relp import relp as relp
    from .benchmark import run_benchmark as run_benchmark
    from .partner_comparison import PartnerComparison as PartnerComparison
    from .partners import compare_partners as compare_partners
    from .patching.activation_patching import activation_patch as activation_patch
    from .patching.patch_table import PatchTable as PatchTable
    from .patching.path_patching import path_patch as path_patch
    from .patching.path_table import PathTable as PathTable
    from .pruning.acdc import acdc as acdc
    from .pruning.budgeted import budgeted_pruning as budgeted_pruning
    from .pruning.masks import learned_masks as learned_masks
    from .registry import ALGORITHMS as ALGORITHMS
    from .registry import run_algorithm as run_algorithm
    from .stability import measure_stability as measure_stability
    from .sweeps.read import read_sweep as read_sweep
    from .sweeps.sweep import run_sweep as run_sweep

__all__ = [
    "ALGORITHMS",
    "LogitAttribution",
    "PartnerComparison",
    "PatchTable",
    "PathTable",
    "acdc",
    "activation_patch",
    "atp_star",
    "budgeted_pruning",
    "ceap",
    "compare_partners",
    "direct_logit_attribution",
    "eap",
    "eap_ig",
    "eap_ig_activations",
    "exact_effects",
    "hybrid",
    "learned_masks",
    "logit_attribution",
    "mean_ranks",
    "measure_stability",
    "node_effects",
    "path_patch",
    "rank_ensemble",
    "read_sweep",
    "relp",
    "run_algorithm",
    "run_benchmark",
    "run_sweep",
]

_HOMES = {
    "ALGORITHMS": ".registry",
    "LogitAttribution": ".attribution.direct",
    "PartnerComparison": ".partner_comparison",
    "PatchTable": ".patching.patch_table",
    "PathTable": ".patching.path_table",
    "acdc": ".pruning.acdc",
    "activation_patch": ".patching.activation_patching",
    "compare_partners": ".partners",
    "atp_star": ".attribution.atp_star",
    "ceap": ".attribution.ceap",
    "budgeted_pruning": ".pruning.budgeted",
    "direct_logit_attribution": ".attribution.direct",
    "eap": ".attribution.gradients",
    "eap_ig": ".attribution.gradients",
    "eap_ig_activations": ".attribution.activations",
    "exact_effects": ".attribution.exact",
    "learned_masks": ".pruning.masks",
    "hybrid": ".attribution.hybrid",
    "logit_attribution": ".attribution.direct",
    "mean_ranks": ".attribution.ensemble",
    "measure_stability": ".stability",
    "node_effects": ".attribution.node_effects",
    "path_patch": ".patching.path_patching",
    "rank_ensemble": ".attribution.ensemble",
    "read_sweep": ".sweeps.read",
    "relp": ".attribution.relp",
    "run_algorithm": ".registry",
    "run_benchmark": ".benchmark",
    "run_sweep": ".sweeps.sweep",
}
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
