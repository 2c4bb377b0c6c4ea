from .curves import measure_curves as measure_curves
from .measure import measure_subjects as measure_subjects
from .pairs_in_common import CommonPairs as CommonPairs
from .pairs_in_common import common_pairs as common_pairs
from .resampled import finder_of as finder_of
from .resampled import resampled_circuits as resampled_circuits
