"""What comparing circuits has to run models for: pairs that are valid for all, curves pair by pair, other resamples."""

from typing import TYPE_CHECKING

from ...models.lazy import lazy_names

if TYPE_CHECKING:
    from .curves import measure_curves as measure_curves
    from .measure import measure_subjects as measure_subjects
    from .pairs_in_common import CommonPairs as CommonPairs
    from .pairs_in_common import common_pairs as common_pairs
    from .resampled import finder_of as finder_of
    from .resampled import resampled_circuits as resampled_circuits

__all__ = ["CommonPairs", "common_pairs", "finder_of", "measure_curves", "measure_subjects", "resampled_circuits"]

_HOMES = {
    "CommonPairs": ".pairs_in_common",
    "common_pairs": ".pairs_in_common",
    "measure_curves": ".curves",
    "measure_subjects": ".measure",
    "finder_of": ".resampled",
    "resampled_circuits": ".resampled",
}
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
