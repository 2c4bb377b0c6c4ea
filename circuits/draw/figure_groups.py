"""The figures of a report in groups, each under what it answers, in the report's order."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..report import Figure, Report
from ..words import is_crossed

_NAMES = {
    "cpr": "CPR",
    "cmd": "CMD",
    "cpr_log": "CPR over log k",
    "cpr_random": "CPR of random rankings",
    "kl": "KL",
    "transmission": "T, transmission",
    "transmission_raw": "T before T0 is taken off",
    "transmission_empty": "T0, with no edge",
    "transmission_within": "T within",
    "leakage": "L, leakage",
    "leakage_within": "L within",
    "reproduced_variation": "R\N{SUPERSCRIPT TWO}",
    "reproduced_variation_raw": "R\N{SUPERSCRIPT TWO} before R0 is taken off",
    "reproduced_variation_empty": "R0, with no edge",
    "right": "right, lowest cell",
    "other_classes": "other classes",
    "m_clean": "m of the model",
    "m_circuit": "m of the circuit",
    "no_opinion": "f of equal logits",
    "one_sided_sham": "f of the sham",
}
_ALL = "_all_images"
_GROUPS = (  # the first that fits
    ("All images, the model's mistakes included", rf".*{_ALL}"),
    ("The older, one-sided figures, which a constant can win", r"one_sided_.*|no_opinion"),
    ("Controls", r"random_.*|cpr_random|selectivity.*|control_.*"),
    ("Over all sizes", r"cpr|cmd|cpr_log"),
    ("Reads the image? On images that the model gets right", r"transmission.*|leakage.*|offset|correlation_within|"
     r"reproduced_.*|right.*|kl|other_classes|m_clean|m_circuit"),
)  # fmt: skip
_ORDER = (4, 0, 3, 2, 1)
_REST = "Further checks"


def grouped(report: Report) -> Mapping[str, Mapping[str, Figure]]:
    """Heading -> name in words -> figure; all under one empty heading where the task was one-sided."""
    if not is_crossed(report):
        return {"": {_in_words(name): figure for name, figure in report.figures.items()}}
    found: dict[str, dict[str, Figure]] = {_GROUPS[place][0]: {} for place in _ORDER[:-1]}
    found |= {_REST: {}, _GROUPS[_ORDER[-1]][0]: {}}
    for name, figure in report.figures.items():
        heading = next((heading for heading, fits in _GROUPS if re.fullmatch(fits, name)), _REST)
        found[heading][_in_words(name.removesuffix(_ALL))] = figure
    return {heading: figures for heading, figures in found.items() if figures}


def _in_words(name: str) -> str:
    return _NAMES.get(name, name.replace("_", " "))
