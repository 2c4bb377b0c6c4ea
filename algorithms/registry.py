"""The algorithms by name, with their options as data, so that the command line needs no list of its own.

Nothing here imports torch: an algorithm's module is imported when it is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from ..models.errors import TaskError

if TYPE_CHECKING:
    from ..circuits.circuit import Circuit
    from ..circuits.graph import Graph
    from ..circuits.scores import Scores
    from ..circuits.task import Task


@dataclass(frozen=True)
class Option:
    """One option of an algorithm.

    Args:
        default: Its value unless told otherwise; also its type.
        help: What it does.
        choices: The values that it can take, where they are few.
    """

    default: Any
    help: str
    choices: tuple[Any, ...] | None = None


@dataclass(frozen=True)
class AlgorithmEntry:
    """An algorithm that can be called by name.

    Args:
        name: Its name, and its function's.
        module: The module that defines it, inside this package.
        summary: One line for help texts.
        options: Its options beside `memory` and `progress`.
        finds: Scores that a circuit is selected by, or the circuit itself (which also takes a `journal`).
    """

    name: str
    module: str
    summary: str
    options: Mapping[str, Option] = field(default_factory=dict)
    finds: Literal["scores", "circuit"] = "scores"


_FREEZE = Option(True, "treat each norm's standard deviation as a constant in the backward pass", (True, False))
_SIZE = Option(0.05, "edges of the circuit: a share of the graph below 1, or a number from 1 on")

ALGORITHMS: dict[str, AlgorithmEntry] = {
    entry.name: entry
    for entry in (
        AlgorithmEntry(
            "eap",
            ".attribution.gradients",
            "edge attribution, gradient at the clean image (2 forwards, 1 backward)",
            {
                "freeze_norm": _FREEZE,
                "softmax": Option("linear", "edges inside heads: first order, or exact softmax", ("linear", "exact")),
            },
        ),
        AlgorithmEntry(
            "eap_ig",
            ".attribution.gradients",
            "edge attribution with gradients averaged from ablated to clean input",
            {
                "steps": Option(5, "points on the path"),
                "rule": Option("midpoint", "where the points are", ("midpoint", "left")),
                "freeze_norm": _FREEZE,
                "report_error": Option(False, "also run with twice the steps and report the difference", (True, False)),
            },
        ),
        AlgorithmEntry(
            "eap_ig_activations",
            ".attribution.activations",
            "the same, with one layer's activations at a time on their way from ablated to clean",
            {
                "steps": Option(5, "points on each path"),
                "rule": Option("midpoint", "where the points are", ("midpoint", "left")),
                "freeze_norm": _FREEZE,
            },
        ),
        AlgorithmEntry(
            "ceap",
            ".attribution.ceap",
            "edge attribution by conductance: sources move along the path as gradients do",
            {"steps": Option(5, "steps of the path"), "freeze_norm": _FREEZE},
        ),
        AlgorithmEntry(
            "relp",
            ".attribution.relp",
            "edge attribution with relevance rules in place of derivatives (2 forwards, 1 backward)",
            {
                "attention": Option(
                    "half",
                    "products share relevance by halves, patterns are constants, or plain derivatives",
                    ("half", "pattern", "gradient"),
                )
            },
        ),
        AlgorithmEntry(
            "atp_star",
            ".attribution.atp_star",
            "edge attribution with heads recomputed exactly for edges into queries and keys",
            {
                "grad_drop": Option(False, "mean of absolute scores without each layer's gradient", (True, False)),
                "freeze_norm": _FREEZE,
            },
        ),
        AlgorithmEntry(
            "rank_ensemble",
            ".attribution.ensemble",
            "mean signed rank under several algorithms",
            {"of": Option("eap_ig,ceap", "algorithms that return scores, with commas between them")},
        ),
        AlgorithmEntry(
            "exact_effects",
            ".attribution.exact",
            "every edge ablated or restored alone (one run of the rest of the model per edge)",
            {
                "direction": Option(
                    "noising",
                    "ablate edges in the clean run, or restore them in the corrupted run",
                    ("noising", "denoising"),
                )
            },
        ),
        AlgorithmEntry(
            "acdc",
            ".pruning.acdc",
            "prune from the logits back every edge whose loss the metric hardly feels",
            {
                "tau": Option(0.01, "largest worsening that is let pass, in the metric's unit"),
                "metric": Option("kl", "what is watched", ("kl", "logit_difference", "task")),
                "order": Option("paper", "last source first, or by the scores of an algorithm, such as eap"),
                "worsening": Option(
                    "signed", "drop what worsens the metric, or moves it, by less", ("signed", "absolute")
                ),
                "batch": Option(64, "most trials at once; 1 is the sequential algorithm"),
            },
            finds="circuit",
        ),
        AlgorithmEntry(
            "learned_masks",
            ".pruning.masks",
            "a gate on every edge, learned so that few edges stay close to the full model",
            {
                "size": _SIZE,
                "steps": Option(300, "for each size"),
                "batch": Option(8, "pairs in a step"),
                "learning_rate": Option(0.3, "of the gates"),
                "objective": Option(
                    "auto",
                    "squared difference of the metric to the full model's, KL, or both; auto: both on crossed tasks",
                    ("auto", "both", "metric", "kl"),
                ),
                "partners": Option(
                    "auto",
                    "whose ablated values an image meets: its own partner's, or another pair's at every step",
                    ("auto", "given", "shuffled"),
                ),
                "start": Option(
                    "auto",
                    "all edges (none), or an algorithm whose scores open the gates; auto: eap_ig on crossed tasks",
                ),
                "derivative": Option(
                    "auto",
                    "through the gates, or each edge flipped; auto: up to 500 edges",
                    ("auto", "pathwise", "measured"),
                ),
                "polish": Option("auto", "end with measured swaps; auto: up to 500 edges", ("auto", "yes", "no")),
                "augment": Option("auto", "photographs mirrored and cropped anew at every step", ("auto", "yes", "no")),
                "seed": Option(0, "draws gates, batches and partners"),
            },
            finds="circuit",
        ),
        AlgorithmEntry(
            "hybrid",
            ".attribution.hybrid",
            "gradient scores, and exact runs of the edges whose place is in doubt",
            {
                "first": Option("eap_ig", "the gradient scores", ("eap_ig", "eap")),
                "budget": Option(0.5, "runs as a share of the edges, single edges and group tests together"),
            },
        ),
        AlgorithmEntry(
            "budgeted_pruning",
            ".pruning.budgeted",
            "prune to a size, effects measured anew as the circuit shrinks, until no swap helps",
            {
                "size": _SIZE,
                "faithfulness": Option(0.0, "above 0: prune while faithfulness on discovery pairs is at least this"),
                "start": Option("full", "the full graph, or EAP-IG's strongest edges", ("full", "eap_ig")),
                "objective": Option("squared", "what is kept small", ("squared", "faithfulness", "kl")),
                "measure": Option("auto", "exact runs, or slopes to screen by", ("auto", "exact", "slopes")),
                "share": Option(0.1, "of the kept edges that a round drops, at most"),
                "breaths": Option(4, "times that edges are taken back in at each size (with slopes)"),
                "swaps": Option(8, "edges that are tried in swaps (with slopes); 0 for no swaps"),
            },
            finds="circuit",
        ),
        AlgorithmEntry(
            "direct_logit_attribution", ".attribution.direct", "what each source adds to the logits by itself"
        ),
    )
}


def run_algorithm(name: str, graph: Graph, task: Task, **options: Any) -> Scores | Circuit:
    """What an algorithm called by name finds: scores, or a circuit.

    Args:
        name: A key of `ALGORITHMS`.
        graph: The graph.
        task: The task.
        **options: The algorithm's own, and `memory`, `progress`; where it finds a circuit also `journal`.

    Raises:
        TaskError: There is no such algorithm or option.
    """
    if name not in ALGORITHMS:
        raise TaskError(f"there is no algorithm {name!r}: pass one of {', '.join(ALGORITHMS)}.")
    entry = ALGORITHMS[name]
    for option in options:
        shared = ("memory", "progress", *(["journal"] if entry.finds == "circuit" else []))
        if option not in entry.options and option not in shared:
            known = ", ".join(entry.options) or "none"
            raise TaskError(f"{name} has no option {option!r}: its options are {known}.")
    return getattr(import_module(entry.module, __package__), name)(graph, task, **options)
