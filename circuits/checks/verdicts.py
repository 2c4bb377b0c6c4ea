"""Verdicts in words, and the gate that each of them passes: a constant may win none.

What every test claims is that the circuit does the model's work. On a crossed task that is void for a circuit that does
not read the image: its transmission (`transmission.py`) is undefined or its 95% interval reaches below .1. What would
have passed then fails, and says so. On a one-sided task no test can tell a circuit from a constant, and says that.
"""

from __future__ import annotations

from ..report import Figure, Verdict
from ..transmission import READS_IN_PART
from .bench import Bench, Findings
from .statistics import Tested

CANNOT_TELL = "one-sided pairs: a constant cannot be told from a circuit here"
NO_INTERVAL = "a permutation test has a p-value and no interval"


def verdict(
    name: str,
    bench: Bench,
    passed: bool | None,
    words: str,
    found: Tested,
    n: int,
    null: str,
    method: str,
    level: float | None = None,
) -> Findings:
    """What a test found, behind the gate."""
    reason = "" if found.low is not None else NO_INTERVAL
    statistic = Figure(found.statistic, "", found.low, found.high, reason)
    threshold = bench.settings.level if level is None else level
    passed, words = gated(bench, passed, words)
    return Findings(verdicts={name: Verdict(passed, words, statistic, found.p_value, n, threshold, null, method)})


def untested(name: str, bench: Bench, why: str, null: str, method: str) -> Findings:
    """A test that nothing was to be tested by."""
    passed, words = gated(bench, None, why)
    statistic, n = Figure(None, reason=why), len(bench.units)
    return Findings(verdicts={name: Verdict(passed, words, statistic, None, n, bench.settings.level, null, method)})


def gated(bench: Bench, passed: bool | None, words: str) -> tuple[bool | None, str]:
    """The verdict and its words once it is known whether the circuit reads the image.

    What passed fails unless the circuit is shown to read; what is undecided fails where it is shown not to.
    """
    if not bench.sided:
        return passed, f"{words}; {CANNOT_TELL}"
    found = bench.transmission
    if passed is False or (found.low is not None and found.low >= READS_IN_PART):
        return passed, words
    if passed is None and (found.high is None or found.high >= READS_IN_PART):
        return None, words
    if found.value is None:
        return False, f"{words}; void all the same: transmission is undefined ({found.reason})"
    if found.low is None:
        return None, f"{words}; left open: whether the circuit reads the image is not known (T = {found})"
    return False, f"{words}; void all the same: the circuit does not read the image (T = {found})"
