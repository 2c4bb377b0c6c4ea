"""The figures of merit: one row each, from which reports, pages, sweeps and comparisons read what to call it and show.

Adding one is a function that measures it, which puts it into a report under a name, and a row here under that name. A
figure without a row stands in the report, and on its page under "Further checks".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from typing import Literal

from .report import Figure, Report

READS = "Reads the image? On images that the model gets right"
ALL_IMAGES = "All images, the model's mistakes included"
SIZES = "Over all sizes"
CONTROLS = "Controls"
FURTHER = "Further checks"
OLDER = "The older, one-sided figures, which a constant can win"
HEADINGS = (READS, ALL_IMAGES, SIZES, CONTROLS, FURTHER, OLDER)
"""What figures of a crossed task answer, in the order in which a page shows them."""

_ALL = "_all_images"


@dataclass(frozen=True)
class Merit:
    """What is known of a figure before it is measured.

    Args:
        name: In reports; `*` stands for anything.
        title: On a page; by default the name.
        heading: What it answers on a page.
        column: Heading of its column in a sweep; a sweep's tables have none where it is empty.
        label: In the lines that a report says first; not among them where it is empty.
        said: What that line says, `{}` being the figure and `{worst}` the name of the lowest cell.
        sides: On crossed tasks (`both`) or one-sided ones (`one`): which reports say it.
        tested: Whether `compare` tests whether kinds of model differ in it.
        compared: What `compare` calls it; by default as a sweep does, where it says what a circuit reads.
    """

    name: str
    title: str = ""
    heading: str = FURTHER
    column: str = ""
    label: str = ""
    said: str = "{}"
    sides: Literal["both", "one"] = "both"
    tested: bool = False
    compared: str = ""

    @property
    def beside(self) -> str:
        """What `compare` calls it; empty where it shows none."""
        return self.compared or (self.column if self.heading in (READS, SIZES) else "")


_R2 = "R\N{SUPERSCRIPT TWO}"
FIGURES = (
    Merit("edges for faithfulness 0.8", tested=True),
    Merit("transmission", "T, transmission", READS, "transmission"),
    Merit("transmission_raw", "T before T0 is taken off", READS),
    Merit("transmission_empty", "T0, with no edge", READS),
    Merit("leakage", "L, leakage", READS, "leakage", "leakage", "L = {}: 0 is right, 1 with no edge kept"),
    Merit("leakage_within", "L within", READS),
    Merit("offset", "", READS, "", "offset", "{}: the circuit's mean over the model's", compared="offset"),
    Merit("transmission_within", "T within", READS, "", "T within",
          "{}: 1 follows the model image by image, inside each class", compared="T within"),
    Merit("correlation_within", "", READS),
    Merit("reproduced_variation", _R2, READS, _R2, "R^2", "{} of the model's variation is reproduced"),
    Merit("reproduced_variation_raw", f"{_R2} before R0 is taken off", READS),
    Merit("reproduced_variation_empty", "R0, with no edge", READS),
    Merit("right", "right, lowest cell", READS, "right", "right", "{} in the lowest cell, {worst}"),
    Merit("random_transmission", "", CONTROLS, "T of random circuits"),
    Merit("cpr", "CPR", SIZES, "CPR", tested=True),
    Merit("cmd", "CMD", SIZES, "CMD"),
    Merit("cpr_log", "CPR over log k", SIZES),
    Merit("cpr_random", "CPR of random rankings", CONTROLS),
    Merit("kl", "KL", READS, "KL (nats)", "KL", "{}: 0 is best"),
    Merit("other_classes", "other classes", READS, "", "other classes", "R^2 = {}", compared=f"{_R2} on other classes"),
    Merit("transmission_all_images", "T, transmission", ALL_IMAGES, "", "all images",
          "T = {}, the model's mistakes included"),
    Merit("m_clean", "m of the model", READS),
    Merit("m_circuit", "m of the circuit", READS),
    Merit("accuracy_retained", "", FURTHER, "accuracy kept"),
    Merit("random_faithfulness", "", CONTROLS, "f of random circuits", "random circuits", sides="one"),
    Merit("faithfulness", "", FURTHER, "faithfulness (one-sided)", compared="faithfulness (one-sided)"),
    Merit("accuracy", label="accuracy", sides="one"),
    Merit("kl", label="KL", sides="one"),
    Merit("no_opinion", "f of equal logits", OLDER),
    Merit("one_sided_sham", "f of the sham", OLDER),
    Merit("one_sided_*", "", OLDER),
    Merit("random_*", "", CONTROLS),
    Merit("dealt_*", "", CONTROLS),
    Merit("renamed_*", "", CONTROLS),
    Merit("selectivity*", "", CONTROLS),
    Merit("control_*", "", CONTROLS),
    Merit("right*", "", READS),
    Merit("effective edges", tested=True),
    Merit("depth read", tested=True),
    Merit("path length", tested=True),
    Merit("modularity", tested=True),
)  # fmt: skip
COLUMNS = {merit.name: merit.column for merit in FIGURES if merit.column}
"""The figures of a sweep, what reads the image first, with the headings of their columns."""
TESTED = tuple(merit.beside or merit.name for merit in FIGURES if merit.tested)
"""Figures that are tested by default: is it smaller, deeper, more modular? Few, because each costs the others power.

Where curves are of crossed tasks, the first is the size for a transmission."""

_ELSEWHERE = {"faithfulness": "one_sided_faithfulness"}
"""What crossed tasks call a figure of one-sided ones."""


def told(figures: Mapping[str, Figure]) -> dict[str, Figure]:
    """Those that a report of a crossed task says first, beside T."""
    names = [one.name for one in FIGURES if one.label and one.sides == "both"]
    return {name: figures[name] for name in names if name in figures}


@cache
def merit(name: str) -> Merit:
    """The row of a figure; of a figure over all images that of the same over right ones, under another heading."""
    exact = next((one for one in FIGURES if one.name == name), None)
    if exact is None and name.endswith(_ALL):
        return Merit(name, title(name.removesuffix(_ALL)), ALL_IMAGES)
    return exact or next((one for one in FIGURES if fnmatchcase(name, one.name)), Merit(name))


def title(name: str) -> str:
    """What a figure is called on a page."""
    return merit(name).title or name.replace("_", " ")


def figure_of(report: Report, name: str) -> Figure | None:
    """A figure of a report, under its name in a sweep's table; None where the report has none."""
    return report.figures.get(name, report.figures.get(_ELSEWHERE.get(name, name)))


def compared_figures(report: Report) -> dict[str, Figure]:
    """The figures of a report that `compare` shows, as it calls them."""
    return {one.beside: report.figures[one.name] for one in FIGURES if one.beside and one.name in report.figures}


def main_figure(report: Report) -> Figure | None:
    """The share of the behaviour that the circuit keeps: transmission, or one-sided faithfulness."""
    return report.figures.get("transmission", report.figures.get("faithfulness"))


def grouped(report: Report) -> Mapping[str, Mapping[str, Figure]]:
    """Heading -> title -> figure, in the report's order; under one empty heading where the task was one-sided."""
    if report.method.get("sides") != "both":
        return {"": {title(name): figure for name, figure in report.figures.items()}}
    found: dict[str, dict[str, Figure]] = {heading: {} for heading in HEADINGS}
    for name, figure in report.figures.items():
        found[merit(name).heading][title(name)] = figure
    return {heading: figures for heading, figures in found.items() if figures}


def told_figures(report: Report, sides: str) -> Iterator[tuple[Merit, Figure]]:
    """The figures of a report that it says first, with their rows, in order."""
    for one in FIGURES:
        if one.label and one.sides == sides and one.name in report.figures:
            yield one, report.figures[one.name]
