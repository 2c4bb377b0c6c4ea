from .measure import finder_of as finder_of
from .measure import measure_curves as measure_curves
from .measure import measure_subjects as measure_subjects
from .measure import resampled_circuits as resampled_circuits
from .pairs_in_common import CommonPairs as CommonPairs
from .pairs_in_common import common_pairs as common_pairs
