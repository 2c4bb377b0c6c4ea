"""A sceptical reader's checks: one row each, name -> the function that makes it, in the order in which they run.

A check takes a `MaskEvaluator` and returns `Findings`. Adding one is a function and a row.
"""

CHECKS = {
    "completeness": "single_parts.completeness",
    "local_minimality": "single_parts.local_minimality",
    "equivalence": "hypotheses.check_equivalence",
    "independence": "hypotheses.check_independence",
    "minimality": "hypotheses.check_minimality",
    "sufficiency": "hypotheses.check_sufficiency",
    "partial_necessity": "hypotheses.check_partial_necessity",
    "spread": "robustness.check_spread",
}
