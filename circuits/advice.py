"""What a reader has to know about what was found, and what to try next: one row each, the weightiest first.

A row looks at a circuit and its report, and says nothing where all is well. Adding one is a function and a row in
`ROWS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

from ..models.files import another_folder
from .circuit import Circuit
from .figures import main_figure
from .report import Report
from .tasks.task_config import DATA
from .tokens import group_tokens
from .words import READS_IT, fewer_told, first_size, is_crossed

MOST = 0.5
"""Above this share of the edges a circuit says little about which parts matter."""

FEW_IMAGES = 16
"""Clean images of each class in discovery below which single images decide what is found."""

Task = Mapping[str, Any]
"""A task in plain values."""

_SIZES = (0.2, 0.4, 0.6, 0.8)


@dataclass(frozen=True)
class Advice:
    """One thing to know.

    Args:
        said: The sentence.
        settings: What to change in the search, by name; empty where no setting mends it.
    """

    said: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def next(self, run: Path | None = None) -> str:
        """What tries the settings: a command that goes on from a run's `run.json`, or without one what to change.

        Args:
            run: A run folder's `run.json`.
        """
        if run is None:
            return f"the same with {', '.join(f'{name}={value!r}' for name, value in self.settings.items())}"
        flags = " ".join(f"--{name} {value}" for name, value in self.settings.items())
        return f"vitcircuits discover --config {quote(str(run))} {flags} --out {quote(str(another_folder(run.parent)))}"


def advice(circuit: Circuit, report: Report | None = None, judged: Task | None = None) -> list[Advice]:
    """What a reader has to know about a circuit, the weightiest first.

    Args:
        circuit: The circuit.
        report: Its judgement, where there is one.
        judged: The task that it is judged on, in plain values; by default the one that it was found on.
    """
    rows = (row(circuit, report, circuit.task if judged is None else judged) for row in ROWS)
    return [one for one in rows if one is not None]


def told(found: Sequence[Advice], run: Path | None = None) -> list[str]:
    """Sentences, and as the last line the command that the first of them leads to.

    Args:
        found: What there is to know.
        run: A `run.json` that the command goes on from.
    """
    tries = [f"Try: {one.next(run)}" for one in found if one.settings]
    return [*(f"Note: {one.said}." for one in found), *tries[:1]]


def _other_weights(circuit: Circuit, _: Report | None, judged: Task) -> Advice | None:
    found, now = circuit.task.get("weights"), judged.get("weights")
    if not found or not now or found == now:
        return None
    return Advice(
        "the circuit was found on other weights of the same shape: what follows says whether it holds on these"
    )


def _split_anew(circuit: Circuit, _: Report | None, judged: Task) -> Advice | None:
    found = circuit.task
    if judged.get("seed") == found.get("seed") or judged.get("data") != found.get("data") or judged.get("data") in DATA:
        return None
    if not found.get("data_digest") or judged.get("data_digest") == found["data_digest"]:
        return None
    return Advice(
        f"seed {judged.get('seed')} divides the images of {judged.get('data')} otherwise than seed "
        f"{found.get('seed')}, with which the circuit was found: some that it was found on may judge it here"
    )


def _empty(circuit: Circuit, _: Report | None, __: Task) -> Advice | None:
    if len(circuit):
        return None
    if said := fewer_told(circuit):
        return Advice(f"the circuit is empty: {said}", _size_of_first(circuit))
    if circuit.provenance.get("selection") == "threshold":
        tau = circuit.provenance.get("tau")
        return Advice(
            f"the circuit is empty: edges that score at least {tau:g} make up no path from input to logits",
            _size_of_first(circuit),
        )
    return Advice("the circuit is empty: no edge was kept on a path from input to logits", _next(circuit))


def _size_of_first(circuit: Circuit) -> dict[str, Any]:
    """The first path that a ranking completes, else the smallest circuit that reads the image."""
    first = first_size(circuit)
    edge = {"granularity": "edge"} if circuit.provenance.get("granularity") == "node" else {}
    return {**edge, "size": first} if first else {**edge, "level": 0.8}


def _mostly_wrong(_: Circuit, report: Report | None, __: Task) -> Advice | None:
    if report is None or not is_crossed(report):
        return None
    images = sum(report.method[f"n_{side}_images"] for side in ("target", "foil"))
    wrong = images - sum(report.method[f"n_{side}_images_right"] for side in ("target", "foil"))
    if 2 * wrong <= images:
        return None
    return Advice(
        f"the model itself gets {wrong} of {images} images wrong: look whether target and foil name the model's own "
        f"classes, and whether its weights and preprocessing are the ones it was trained with"
    )


def _other_images(_: Circuit, __: Report | None, judged: Task) -> Advice | None:
    trained, data = judged.get("trained_on"), judged.get("data")
    if not trained or data not in DATA or trained == data:  # a folder may hold the same images
        return None
    settings = {} if trained == "mnist" else {"data": trained}  # whose files lie nobody knows where
    return Advice(f"the model was trained on {trained} and is shown {data}", settings)


def _few_images(circuit: Circuit, _: Report | None, __: Task) -> Advice | None:
    counts = (circuit.task.get("images") or {}).get("discovery", {})
    n = min((counts[side] for side in ("target", "foil") if counts.get(side)), default=FEW_IMAGES)
    if n >= FEW_IMAGES:
        return None
    return Advice(
        f"found with {n} images of a class, few enough for single ones to decide: `vitcircuits stability` says how "
        f"much of it is found again, and --pairs asks for more where the data have them"
    )


def _level_missed(circuit: Circuit, _: Report | None, __: Task) -> Advice | None:
    if circuit.provenance.get("reached", True):
        return None
    return Advice("no size that was tried reaches the level", _next(circuit))


def _does_not_read(circuit: Circuit, report: Report | None, _: Task) -> Advice | None:
    if report is None or not is_crossed(report) or report.method["verdict"] == READS_IT:
        return None
    empty = report.figures.get("transmission_empty")  # which no other graph changes
    shown = report["transmission"].value is None and empty is not None and empty.value is not None
    return Advice(
        f"on images that it was not found on, {_subject(report)}", {"ablation": "mean"} if shown else _next(circuit)
    )


def _subject(report: Report) -> str:
    known = report["transmission"].value is not None
    return f"the circuit {report.method['verdict']}" if known else report.method["verdict"]


def _like_random(circuit: Circuit, report: Report | None, _: Task) -> Advice | None:
    if report is None or not len(circuit) or circuit.mask.all():
        return None
    figure = main_figure(report)
    chance = report.figures.get("random_transmission", report.figures.get("random_faithfulness"))
    if figure is None or chance is None or figure.value is None or chance.value is None:
        return None
    if figure.value > (chance.value if chance.high is None else chance.high):
        return None
    return Advice("random circuits of the same size do as well", _next(circuit))


def _most_edges(circuit: Circuit, _: Report | None, __: Task) -> Advice | None:
    share = len(circuit) / len(circuit.graph)
    asked = "n" in circuit.provenance and "level" not in circuit.provenance  # a size that was asked for is no finding
    if share <= MOST or asked:
        return None
    return Advice(
        f"the circuit holds {share:.0%} of all edges, which says little about which parts matter", _next(circuit)
    )


ROWS: Sequence[Callable[[Circuit, Report | None, Task], Advice | None]] = (
    _other_weights,
    _split_anew,
    _mostly_wrong,
    _other_images,
    _empty,
    _level_missed,
    _does_not_read,
    _like_random,
    _most_edges,
    _few_images,
)


def _next(circuit: Circuit) -> dict[str, Any]:
    """A search that does better where this one did badly: CLS and patches apart, under means, by learned masks, larger.

    The order is that of the tables in docs/faithfulness.md: on photographs the same share of the edges transmits more
    where CLS and the patches have edges of their own, fewer edges read the image under means than under other
    photographs, and masks that are learned keep fewer than any ranking of single edges, but take longer.
    """
    graph, share = circuit.graph, len(circuit) / len(circuit.graph)
    if len(group_tokens(graph.cfg.tokens, "role")) > len(graph.groups):
        return {"tokens": "role", **_same_share(circuit)}
    if circuit.ablation.kind in ("partner", "another"):
        return {"ablation": "mean"}
    edge = {"granularity": "edge"} if circuit.provenance.get("granularity") == "node" else {}
    if circuit.provenance.get("algorithm") != "learned_masks":
        return {**edge, "algorithm": "learned_masks", "size": 0.4}
    larger = next((size for size in _SIZES if size > share + 0.05), None)
    return {"size": larger} if larger else {}


def _same_share(circuit: Circuit) -> dict[str, Any]:
    """The size that was asked for as a share, since a number of edges is less of a larger graph."""
    n = circuit.provenance.get("n")
    if n is None or "level" in circuit.provenance:
        return {}
    return {"size": float(f"{min(n / len(circuit.graph), 0.99):.2g}")}
