"""What a run found, and how it is told in a few lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..circuits.shown import Glance, Shown
from ..models.model_config import describe_readout

if TYPE_CHECKING:
    from ..circuits.advice import Advice
    from ..circuits.circuit import Circuit
    from ..circuits.report import Report
    from ..circuits.tasks.task import Task


@dataclass(frozen=True, eq=False, repr=False)
class Discovered(Shown):
    """What a run found.

    Args:
        task: The task.
        circuit: The circuit.
        report: Its judgement on the evaluation pairs.
        files: Paths written.
        seconds: By stage.
        again: Whether the record of the run says all that decides it, so that a command can go on from it.
    """

    task: Task
    circuit: Circuit
    report: Report
    files: list[Path]
    seconds: dict[str, float]
    again: bool = False

    def rows(self) -> list[tuple[str, str]]:
        """What was asked, and what the report says first, in two columns."""
        from ..circuits.words import selection_told, told

        task, circuit = self.task, self.circuit
        chosen = selection_told(circuit)
        options = circuit.provenance.get("options", {})
        said = ", ".join(f"{name}={value}" for name, value in options.items())
        name = circuit.provenance.get("algorithm", "not recorded")  # a function of one's own may say nothing
        return [
            ("model", str(task.vit)),
            *([("readout", describe_readout(task.vit.readout.info))] if task.vit.readout.info else []),
            ("task", f"{task.info.get('target_name')} against {task.info.get('foil_name')}, {task.metric.kind}"),
            ("ablation", f"{task.ablation}; partners by {_partners(task)}"),
            *_pairs(task),
            ("algorithm", f"{name} ({said})" if said else name),
            *([("selection", chosen)] if chosen else []),
            *told(self.report),
            ("seconds", ", ".join(f"{name} {value:.1f}" for name, value in self.seconds.items())),
        ]

    @property
    def verdict(self) -> str:
        """Whether the circuit reads the image, in one sentence."""
        from ..circuits.words import verdict

        return verdict(self.report)

    def glance(self, most: int) -> Glance:
        """What was asked, what was found, and the verdict."""
        rows = self.rows()
        return Glance(self.verdict, ("", ""), rows[:most], len(rows), rest="print() shows all")

    def table(self) -> str:
        """The rows in two columns."""
        rows = self.rows()
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)

    @property
    def advice(self) -> list[Advice]:
        """What a reader has to know, and what to try next; empty where all is well."""
        from ..circuits.advice import advice

        return advice(self.circuit, self.report)

    def ending(self) -> str:
        """The verdict, what a reader has to know beside it, and the next command where the result is poor."""
        from ..circuits.advice import told

        run = next((path for path in self.files if self.again and path.name == "run.json"), None)
        return "\n".join([f"{self.verdict}.", *told(self.advice, run)])

    def __str__(self) -> str:
        return f"{self.table()}\n\n{self.ending()}"


def _pairs(task: Task) -> list[tuple[str, str]]:
    """How many images and pairs there are, and what was left out."""
    n = {"discovery": len(task.discovery), "evaluation": len(task.evaluation)}
    if "images" not in task.info:  # drawn pair by pair
        dropped = "; ".join(f"{name}: {_counts(counts)}" for name, counts in task.info.get("dropped", {}).items())
        said = f"{n['discovery']} one-sided for discovery, {n['evaluation']} for evaluation"
        return [("pairs", said), *([("dropped pairs", dropped)] if dropped else [])]
    images = task.info["images"]
    parts = [
        f"{name}: {counts['target'] + counts['foil']} clean images that the model gets right, in {n[name]} pairs"
        + (f" ({counts['no_mask']} images without a usable mask left out)" if counts.get("no_mask") else "")
        for name, counts in images.items()
    ]
    wrong = images["discovery"]["target_wrong"] + images["discovery"]["foil_wrong"]
    left_out = f"{wrong} images of discovery that the model gets wrong were left out"
    return [("images", parts[0]), ("", left_out), ("", f"{parts[1]}, its mistakes among them")]


def _counts(counts: Mapping[str, int]) -> str:
    text = f"{counts['clean_wrong']} misclassified, {counts['partner_not_lower']} with a partner that is not lower"
    return f"{text}, {counts['no_mask']} without a usable mask" if "no_mask" in counts else text


def _partners(task: Task) -> str:
    mask, word = task.info.get("mask"), task.info.get("word")
    under = "under" if str(task.info.get("corruption")).startswith("object_") else "with objects by"
    detail = f" {under} {mask}" if mask else f" {word!r}" if word else ""
    chosen = task.info.get("mask_chosen_by")
    return f"{task.info.get('corruption')}{detail}" + (f" (chosen by {chosen})" if chosen else "")
