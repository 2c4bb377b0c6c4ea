"""How circuits are found: one file per algorithm, one shape of call: (graph, task, *, options) -> Scores."""

from typing import TYPE_CHECKING

from ..models.lazy import lazy_names

if TYPE_CHECKING:
    from .direct import LogitAttribution as LogitAttribution
    from .direct import direct_logit_attribution as direct_logit_attribution
    from .direct import logit_attribution as logit_attribution
    from .discovery import acdc as acdc
    from .exact import exact_effects as exact_effects
    from .gradients import eap as eap
    from .gradients import eap_ig as eap_ig
    from .registry import ALGORITHMS as ALGORITHMS
    from .registry import run_algorithm as run_algorithm

__all__ = [
    "ALGORITHMS",
    "LogitAttribution",
    "acdc",
    "direct_logit_attribution",
    "eap",
    "eap_ig",
    "exact_effects",
    "logit_attribution",
    "run_algorithm",
]

_HOMES = {
    "ALGORITHMS": ".registry",
    "LogitAttribution": ".direct",
    "acdc": ".discovery",
    "direct_logit_attribution": ".direct",
    "eap": ".gradients",
    "eap_ig": ".gradients",
    "exact_effects": ".exact",
    "logit_attribution": ".direct",
    "run_algorithm": ".registry",
}
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
