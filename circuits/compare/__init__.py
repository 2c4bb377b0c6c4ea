"""Circuits of several models, tasks or seeds set side by side: what they share, how they are built.

`compare(circuits)` gives the report. Holds numpy, networkx and scipy only, except `batch` (torch-geometric) and `heads`
(which gathers attention patterns and direct effects from models).
"""

from typing import TYPE_CHECKING

from ...models.lazy import lazy_names

if TYPE_CHECKING:
    from .anatomy import Anatomy as Anatomy
    from .anatomy import describe as describe
    from .batch import circuit_batch as circuit_batch
    from .comparison import compare as compare
    from .findings import Finding as Finding
    from .heads import gather_heads as gather_heads
    from .matching import HeadFeatures as HeadFeatures
    from .matching import Matching as Matching
    from .matching import match_heads as match_heads
    from .matching import matched_overlap as matched_overlap
    from .null import holm as holm
    from .null import permutation_test as permutation_test
    from .pair_curve import PairCurve as PairCurve
    from .ranks import rank_biased_overlap as rank_biased_overlap
    from .result import Comparison as Comparison
    from .subject import Subject as Subject
    from .weisfeiler_lehman import wl_similarity as wl_similarity

_HOMES = {
    "Anatomy": ".anatomy",
    "Comparison": ".result",
    "Finding": ".findings",
    "HeadFeatures": ".matching",
    "Matching": ".matching",
    "PairCurve": ".pair_curve",
    "Subject": ".subject",
    "circuit_batch": ".batch",
    "compare": ".comparison",
    "describe": ".anatomy",
    "gather_heads": ".heads",
    "holm": ".null",
    "match_heads": ".matching",
    "matched_overlap": ".matching",
    "permutation_test": ".null",
    "rank_biased_overlap": ".ranks",
    "wl_similarity": ".weisfeiler_lehman",
}
__all__ = [*_HOMES]  # pyright: ignore[reportUnsupportedDunderAll]
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
