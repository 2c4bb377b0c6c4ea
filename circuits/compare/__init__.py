"""Circuits of several models, tasks or seeds set side by side: what they share, how they are built.

`compare(circuits)` gives the report. Holds numpy, networkx and scipy only, except `circuit_batch`
(torch-geometric) and `gather_heads` (which gathers attention patterns and direct effects from models).
"""

from typing import TYPE_CHECKING

from ...models.lazy import lazy_names

if TYPE_CHECKING:
    from ..figure_data import gather_heads as gather_heads
    from .anatomy import Anatomy as Anatomy
    from .anatomy import describe as describe
    from .comparison import compare as compare
    from .findings import Finding as Finding
    from .matching import HeadFeatures as HeadFeatures
    from .matching import Matching as Matching
    from .matching import match_heads as match_heads
    from .matching import matched_overlap as matched_overlap
    from .null import holm as holm
    from .null import permutation_test as permutation_test
    from .result import Comparison as Comparison
    from .similarity import rank_biased_overlap as rank_biased_overlap
    from .similarity import wl_similarity as wl_similarity
    from .subject import PairCurve as PairCurve
    from .subject import Subject as Subject
    from .subject import circuit_batch as circuit_batch

_HOMES = {
    "Anatomy": ".anatomy",
    "Comparison": ".result",
    "Finding": ".findings",
    "HeadFeatures": ".matching",
    "Matching": ".matching",
    "PairCurve": ".subject",
    "Subject": ".subject",
    "circuit_batch": ".subject",
    "compare": ".comparison",
    "describe": ".anatomy",
    "gather_heads": "..figure_data",
    "holm": ".null",
    "match_heads": ".matching",
    "matched_overlap": ".matching",
    "permutation_test": ".null",
    "rank_biased_overlap": ".similarity",
    "wl_similarity": ".similarity",
}
__all__ = [*_HOMES]  # pyright: ignore[reportUnsupportedDunderAll]
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
