"""How circuits are found: one file per algorithm, one shape of call: (graph, task, *, options) -> Scores."""

from typing import TYPE_CHECKING

from ..models.lazy import lazy_names

if TYPE_CHECKING:
    from .benchmark import run_benchmark as run_benchmark
    from .direct import LogitAttribution as LogitAttribution
    from .direct import direct_logit_attribution as direct_logit_attribution
    from .direct import logit_attribution as logit_attribution
    from .exact import exact_effects as exact_effects
    from .gradients import eap as eap
    from .gradients import eap_ig as eap_ig
    from .registry import ALGORITHMS as ALGORITHMS
    from .registry import run_algorithm as run_algorithm

__all__ = [
    "ALGORITHMS",
    "LogitAttribution",
    "direct_logit_attribution",
    "eap",
    "eap_ig",
    "exact_effects",
    "logit_attribution",
    "run_algorithm",
    "run_benchmark",
]

_HOMES = {
    "ALGORITHMS": ".registry",
    "LogitAttribution": ".direct",
    "direct_logit_attribution": ".direct",
    "eap": ".gradients",
    "eap_ig": ".gradients",
    "exact_effects": ".exact",
    "logit_attribution": ".direct",
    "run_algorithm": ".registry",
    "run_benchmark": ".benchmark",
}
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
