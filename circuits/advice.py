"""What a reader has to know about what was found, and what to try next: one row each, the weightiest first.

A row looks at a circuit and its report, and says nothing where all is well. Adding one is a function and a row in
`ROWS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .circuit import Circuit
from .figures import main_figure
from .report import Figure, Report
from .words import READS_IT, fewer_told, first_size, is_crossed

MOST = 0.5
"""Above this share of the edges a circuit says little about which parts matter."""

FEW_IMAGES = 16
"""Clean images of each class in discovery below which single images decide what is found."""

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
        return f"vitcircuits discover --config {run} {flags} --out {run.parent}-2"


def advice(circuit: Circuit, report: Report | None = None, *, weights: str = "") -> list[Advice]:
    """What a reader has to know about a circuit, the weightiest first.

    Args:
        circuit: The circuit.
        report: Its judgement, where there is one.
        weights: Digest of the weights that it is run on, where they may be others than it was found on.
    """
    rows = (row(circuit, report, weights) for row in ROWS)
    return [one for one in rows if one is not None]


def told(found: Sequence[Advice], run: Path | None = None) -> list[str]:
    """Sentences, and as the last line the command that the first of them leads to.

    Args:
        found: What there is to know.
        run: A `run.json` that the command goes on from.
    """
    tries = [f"Try: {one.next(run)}" for one in found if one.settings]
    return [*(f"Note: {one.said}." for one in found), *tries[:1]]


def _other_weights(circuit: Circuit, _: Report | None, weights: str) -> Advice | None:
    found = circuit.task.get("weights")
    if not found or not weights or found == weights:
        return None
    return Advice(
        "the circuit was found on other weights of the same shape: what follows says whether it holds on these"
    )


def _empty(circuit: Circuit, _: Report | None, __: str) -> Advice | None:
    if len(circuit):
        return None
    said, first = fewer_told(circuit), first_size(circuit)
    if said:
        return Advice(f"the circuit is empty: {said}", {"size": first} if first else {"level": 0.8})
    if circuit.provenance.get("selection") == "threshold":
        tau = circuit.provenance.get("tau")
        return Advice(
            f"the circuit is empty: edges that score at least {tau:g} make up no path from input to logits",
            {"size": first} if first else {"level": 0.8},
        )
    return Advice("the circuit is empty: no edge was kept on a path from input to logits", _next(circuit))


def _mostly_wrong(_: Circuit, report: Report | None, __: str) -> Advice | None:
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


def _other_images(circuit: Circuit, _: Report | None, __: str) -> Advice | None:
    trained, data = circuit.task.get("trained_on"), circuit.task.get("data")
    if not trained or not data or trained == data:
        return None
    return Advice(f"the model was trained on {trained} and is shown {data}", {"data": trained})


def _few_images(circuit: Circuit, _: Report | None, __: str) -> Advice | None:
    counts = (circuit.task.get("images") or {}).get("discovery", {})
    n = min((counts[side] for side in ("target", "foil") if side in counts), default=FEW_IMAGES)
    if n >= FEW_IMAGES:
        return None
    return Advice(
        f"found with {n} images of a class, few enough for single ones to decide: `vitcircuits stability` says how "
        f"much of it is found again",
        {"pairs": 48},
    )


def _level_missed(circuit: Circuit, _: Report | None, __: str) -> Advice | None:
    if circuit.provenance.get("reached", True):
        return None
    return Advice("no size that was tried reaches the level", _next(circuit))


def _does_not_read(circuit: Circuit, report: Report | None, _: str) -> Advice | None:
    if report is None or not is_crossed(report) or report.method["verdict"] == READS_IT:
        return None
    return Advice(f"on images that it was not found on, {_subject(report)}", _next(circuit))


def _subject(report: Report) -> str:
    known = report["transmission"].value is not None
    return f"the circuit {report.method['verdict']}" if known else report.method["verdict"]


def _like_random(circuit: Circuit, report: Report | None, _: str) -> Advice | None:
    if report is None or not len(circuit) or circuit.mask.all():
        return None
    figure = main_figure(report)
    chance = report.figures.get("random_transmission", report.figures.get("random_faithfulness"))
    if not _known(figure) or not _known(chance) or figure.value > (chance.high or chance.value):  # type: ignore[union-attr,operator]
        return None
    return Advice("random circuits of the same size do as well", _next(circuit))


def _known(figure: Figure | None) -> bool:
    return figure is not None and figure.value is not None


def _most_edges(circuit: Circuit, _: Report | None, __: str) -> Advice | None:
    share = len(circuit) / len(circuit.graph)
    if share <= MOST or circuit.provenance.get("selection") == "top":  # a size that was asked for is no finding
        return None
    return Advice(
        f"the circuit holds {share:.0%} of all edges, which says little about which parts matter", _next(circuit)
    )


ROWS: Sequence[Callable[[Circuit, Report | None, str], Advice | None]] = (
    _other_weights,
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
    """A search that does better where this one did badly: under means, then by masks that are learned, then larger.

    The order is that of the tables in docs/faithfulness.md: on photographs, fewer edges read the image under means than
    under other photographs, and masks that are learned keep fewer than any ranking of single edges.
    """
    if circuit.ablation.kind in ("partner", "another"):
        return {"ablation": "mean"}
    share = len(circuit) / len(circuit.graph)
    if circuit.provenance.get("algorithm") != "learned_masks":
        return {"algorithm": "learned_masks", "size": 0.4}
    return {"size": next((size for size in _SIZES if size > share + 0.05), 0.9)}
