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
    from .attribution.exact import node_effects as node_effects
    from .attribution.gradients import eap as eap
    from .attribution.gradients import eap_ig as eap_ig
    from .attribution.hybrid import hybrid as hybrid
    from .attribution.relp import relp as relp
    from .benchmark import run_benchmark as run_benchmark
    from .control_result import ControlSearches as ControlSearches
    from .control_search import control_searches as control_searches
    from .interpretability.factor_table import FactorTable as FactorTable
    from .interpretability.lens_table import LensTable as LensTable
    from .interpretability.measure import head_factors as head_factors
    from .interpretability.measure import head_texts as head_texts
    from .interpretability.measure import logit_lens as logit_lens
    from .interpretability.side_by_side import ModelNumbers as ModelNumbers
    from .interpretability.side_by_side import SideBySide as SideBySide
    from .interpretability.side_by_side import side_by_side as side_by_side
    from .interpretability.text_table import TextTable as TextTable
    from .optimal import optimal_ablation as optimal_ablation
    from .partner_comparison import PartnerComparison as PartnerComparison
    from .partners import compare_partners as compare_partners
    from .patching.activation_patching import activation_patch as activation_patch
    from .patching.path_patching import path_patch as path_patch
    from .patching.tables import PatchTable as PatchTable
    from .patching.tables import PathTable as PathTable
    from .patching.token_ablation import TokenEffect as TokenEffect
    from .patching.token_ablation import ablate_registers as ablate_registers
    from .patching.token_ablation import ablate_tokens as ablate_tokens
    from .patching.token_ablation import token_effect as token_effect
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
    "ControlSearches",
    "FactorTable",
    "LensTable",
    "LogitAttribution",
    "ModelNumbers",
    "PartnerComparison",
    "PatchTable",
    "PathTable",
    "SideBySide",
    "TextTable",
    "TokenEffect",
    "ablate_registers",
    "ablate_tokens",
    "acdc",
    "activation_patch",
    "atp_star",
    "budgeted_pruning",
    "ceap",
    "compare_partners",
    "control_searches",
    "direct_logit_attribution",
    "eap",
    "eap_ig",
    "eap_ig_activations",
    "exact_effects",
    "head_factors",
    "head_texts",
    "hybrid",
    "learned_masks",
    "logit_attribution",
    "logit_lens",
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
    "side_by_side",
    "token_effect",
]

_HOMES = {
    "ALGORITHMS": ".registry",
    "ControlSearches": ".control_result",
    "FactorTable": ".interpretability.factor_table",
    "LensTable": ".interpretability.lens_table",
    "ModelNumbers": ".interpretability.side_by_side",
    "SideBySide": ".interpretability.side_by_side",
    "LogitAttribution": ".attribution.direct",
    "PartnerComparison": ".partner_comparison",
    "PatchTable": ".patching.tables",
    "PathTable": ".patching.tables",
    "TokenEffect": ".patching.token_ablation",
    "ablate_registers": ".patching.token_ablation",
    "ablate_tokens": ".patching.token_ablation",
    "TextTable": ".interpretability.text_table",
    "acdc": ".pruning.acdc",
    "activation_patch": ".patching.activation_patching",
    "compare_partners": ".partners",
    "control_searches": ".control_search",
    "atp_star": ".attribution.atp_star",
    "ceap": ".attribution.ceap",
    "budgeted_pruning": ".pruning.budgeted",
    "direct_logit_attribution": ".attribution.direct",
    "eap": ".attribution.gradients",
    "eap_ig": ".attribution.gradients",
    "eap_ig_activations": ".attribution.activations",
    "exact_effects": ".attribution.exact",
    "head_factors": ".interpretability.measure",
    "head_texts": ".interpretability.measure",
    "learned_masks": ".pruning.masks",
    "hybrid": ".attribution.hybrid",
    "logit_attribution": ".attribution.direct",
    "logit_lens": ".interpretability.measure",
    "mean_ranks": ".attribution.ensemble",
    "measure_stability": ".stability",
    "node_effects": ".attribution.exact",
    "optimal_ablation": ".optimal",
    "path_patch": ".patching.path_patching",
    "rank_ensemble": ".attribution.ensemble",
    "read_sweep": ".sweeps.read",
    "relp": ".attribution.relp",
    "run_algorithm": ".registry",
    "run_benchmark": ".benchmark",
    "token_effect": ".patching.token_ablation",
    "side_by_side": ".interpretability.side_by_side",
    "run_sweep": ".sweeps.sweep",
}
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
