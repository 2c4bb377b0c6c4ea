"""The algorithms by name. Their options are declared once, by the functions that take them:

    @algorithm
    def ceap(graph, task, *, steps: Annotated[int, Range(least=1)] = 5, ..., memory=..., progress=False):
        \"""...
        Args:
            steps: Steps of the path.
        \"""

Every keyword but memory, progress and journal is an option. From the signature come its default, its type, the values
that it can take and what a circuit records; from the docstring what it does. Both are read from the source, so that
nothing here imports torch: an algorithm's module is imported when it is called.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

from ..models import settings
from ..models.errors import MemoryTooSmallError, TaskError
from ..models.settings import Range, short

if TYPE_CHECKING:
    from ..circuits.circuit import Circuit
    from ..circuits.graph import Graph
    from ..circuits.scores import Scores
    from ..circuits.tasks.task import Task

P = ParamSpec("P")
R = TypeVar("R")


SHARED = ("memory", "progress", "journal")
"""Keywords that are no options: they decide nothing about the result."""


@dataclass(frozen=True)
class Option:
    """One option of an algorithm.

    Args:
        default: Its value unless told otherwise; also its type.
        help: What it does.
        choices: The values that it can take, where they are few.
        range: The numbers that make sense, where not all do.
    """

    default: Any
    help: str = ""
    choices: tuple[Any, ...] | None = None
    range: Range | None = None

    def check(self, name: str, value: Any) -> None:
        """Does nothing if the value makes sense; several values are looked at one by one.

        Raises:
            TaskError: It does not.
        """
        if self.choices is not None and value not in self.choices:
            raise TaskError(f"{name}={short(value)} is not known: pass one of {', '.join(map(repr, self.choices))}.")
        for one in [] if self.range is None else value if isinstance(value, Sequence) else [value]:
            if self.range is not None and one not in self.range:
                raise TaskError(f"{name}={short(one)}: pass {self.range}, such as {name}={self.default}.")


@dataclass(frozen=True)
class AlgorithmEntry:
    """An algorithm that can be called by name.

    Args:
        name: Its name, and its function's.
        module: The module that defines it, inside this package.
        summary: One line for help texts.
        finds: Scores that a circuit is selected by, or the circuit itself (which also takes a `journal`).
        passes: Its options and the graph -> about as long as how many forward passes of an image it takes for each pair
            (`per_pair`), or altogether. Timed on DeiT-Tiny and toy/mnist-2l on one core.
        per_pair: Which of the two.
    """

    name: str
    module: str
    summary: str
    finds: Literal["scores", "circuit"] = "scores"
    passes: Callable[[Mapping[str, Any], Graph], float] = lambda _options, _graph: 5
    per_pair: bool = True

    @cached_property
    def options(self) -> Mapping[str, Option]:
        """Its options beside `memory` and `progress`, as its signature declares them."""
        spec = find_spec(self.module, __package__)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(f"{self.name} stands in {self.module}, which is not there")
        return read_options(Path(spec.origin).read_text(encoding="utf-8"), self.name)


def read_options(source: str, function: str) -> dict[str, Option]:
    """The options of a function, from the text of its module."""
    defined = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == function]
    signature, told = defined[-1].args, _arguments(ast.get_docstring(defined[-1]) or "")  # overloads come before
    found = {}
    for argument, default in zip(signature.kwonlyargs, signature.kw_defaults, strict=True):
        name, kind = argument.arg, argument.annotation
        if name not in SHARED and default is not None and kind is not None:
            value = ast.literal_eval(default)
            found[name] = Option(value, told.get(name, ""), *_values(kind))
    return found


def _values(kind: ast.expr) -> tuple[tuple[Any, ...] | None, Range | None]:
    """The values that an annotation allows."""
    word = ast.unparse(kind.value) if isinstance(kind, ast.Subscript) else ast.unparse(kind)
    if word == "Literal":
        assert isinstance(kind, ast.Subscript)
        values = ast.literal_eval(kind.slice)
        return values if isinstance(values, tuple) else (values,), None
    if word != "Annotated":
        return (True, False) if word == "bool" else None, None
    assert isinstance(kind, ast.Subscript) and isinstance(kind.slice, ast.Tuple)
    declared = kind.slice.elts[1]
    if isinstance(declared, ast.Name):
        return None, getattr(settings, declared.id)
    assert isinstance(declared, ast.Call)
    return None, Range(**{str(word.arg): ast.literal_eval(word.value) for word in declared.keywords})


def _arguments(docstring: str) -> dict[str, str]:
    """What a docstring says of each argument, in one line."""
    section = docstring.partition("Args:\n")[2].partition("\n\n")[0]
    entries = re.findall(r"^    (\w+): (.*(?:\n     .*)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()).removesuffix(".") for name, text in entries}


def algorithm(find: Callable[P, R]) -> Callable[P, R]:
    """Checks the options of a registered function before it runs."""

    @functools.wraps(find)
    def checked(*args: P.args, **given: P.kwargs) -> R:
        for name, option in ALGORITHMS[find.__name__].options.items():
            if name in given:
                option.check(name, given[name])
        return find(*args, **given)

    return checked


class Chosen(SimpleNamespace):
    """Values of an algorithm's options, by attribute."""

    def record(self, **resolved: Any) -> dict[str, Any]:
        """The same in plain values, with what `auto` and the like were resolved to."""
        return {**vars(self), **resolved}


def chosen(name: str, values: Mapping[str, Any] | None = None, **more: Any) -> Chosen:
    """The values that an algorithm runs with: those given, such as a function's `locals()`, else the defaults."""
    given = {**(values or {}), **more}
    return Chosen(**{key: given.get(key, option.default) for key, option in ALGORITHMS[name].options.items()})


def _usual_passes(name: str, graph: Graph) -> float:
    """Forward passes per pair of an algorithm with its default options."""
    entry = ALGORITHMS[name]
    return entry.passes({key: option.default for key, option in entry.options.items()}, graph)


def _several(sizes: Any) -> int:
    return len(sizes) if isinstance(sizes, list | tuple) else 1


ALGORITHMS: dict[str, AlgorithmEntry] = {
    entry.name: entry
    for entry in (
        AlgorithmEntry(
            "eap", ".attribution.gradients", "edge attribution, gradient at the clean image (2 forwards, 1 backward)"
        ),
        AlgorithmEntry(
            "eap_ig",
            ".attribution.gradients",
            "edge attribution with gradients averaged from ablated to clean input",
            passes=lambda options, _: 2 + 2.5 * options["steps"],
        ),
        AlgorithmEntry(
            "eap_ig_activations",
            ".attribution.activations",
            "the same, with one layer's activations at a time on their way from ablated to clean",
            passes=lambda options, graph: 5 * options["steps"] * graph.cfg.n_layers,
        ),
        AlgorithmEntry(
            "ceap",
            ".attribution.ceap",
            "edge attribution by conductance: sources move along the path as gradients do",
            passes=lambda options, _: 4 * options["steps"],
        ),
        AlgorithmEntry(
            "relp",
            ".attribution.relp",
            "edge attribution with relevance rules in place of derivatives (2 forwards, 1 backward)",
        ),
        AlgorithmEntry(
            "atp_star",
            ".attribution.atp_star",
            "edge attribution with heads recomputed exactly for edges into queries and keys",
            passes=lambda _, graph: 2 * graph.cfg.n_layers,
        ),
        AlgorithmEntry(
            "rank_ensemble",
            ".attribution.ensemble",
            "mean signed rank under several algorithms",
            passes=lambda options, graph: sum(_usual_passes(name, graph) for name in options["of"].split(",")),
        ),
        AlgorithmEntry(
            "exact_effects",
            ".attribution.exact",
            "every edge ablated or restored alone (one run of the rest of the model per edge)",
            passes=lambda _, graph: 0.1 * len(graph),
        ),
        AlgorithmEntry(
            "acdc",
            ".pruning.acdc",
            "prune from the logits back every edge whose loss the metric hardly feels",
            finds="circuit",
            passes=lambda _, graph: 0.17 * len(graph),
        ),
        AlgorithmEntry(
            "learned_masks",
            ".pruning.masks",
            "a gate on every edge, learned so that few edges stay close to the full model",
            finds="circuit",
            passes=lambda options, _: 8 * options["steps"] * options["batch"] * _several(options["size"]),
            per_pair=False,
        ),
        AlgorithmEntry(
            "hybrid",
            ".attribution.hybrid",
            "gradient scores, and exact runs of the edges whose place is in doubt",
            passes=lambda options, graph: 0.3 * options["budget"] * len(graph),
        ),
        AlgorithmEntry(
            "budgeted_pruning",
            ".pruning.budgeted",
            "prune to a size, effects measured anew as the circuit shrinks, until no swap helps",
            finds="circuit",
            passes=lambda options, graph: (0.1 if len(graph) > 500 else 2.4) * len(graph),
        ),
        AlgorithmEntry(
            "direct_logit_attribution",
            ".attribution.direct",
            "what each source adds to the logits by itself",
            passes=lambda _options, _graph: 2,
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
        TaskError: There is no such algorithm or option, or a value makes no sense.
    """
    if name not in ALGORITHMS:
        raise TaskError(f"there is no algorithm {name!r}: pass one of {', '.join(ALGORITHMS)}.")
    entry = ALGORITHMS[name]
    shared = ("memory", "progress", *(["journal"] if entry.finds == "circuit" else []))
    for option in options:
        if option not in entry.options and option not in shared:
            known = ", ".join(entry.options) or "none"
            raise TaskError(f"{name} has no option {option!r}: its options are {known}.")
    return getattr(import_module(entry.module, __package__), name)(graph, task, **options)


def least_memory(name: Scores | str, graph: Graph, task: Task, **options: Any) -> int:
    """The least budget in bytes that an algorithm called by name takes: it says so before it runs anything.

    0 where scores are at hand, or a word stands for none. Arguments are those of `run_algorithm`.
    """
    if not isinstance(name, str) or name not in ALGORITHMS:
        return 0
    try:
        run_algorithm(name, graph, task, memory=0, progress=False, **options)
    except MemoryTooSmallError as error:
        return error.least
    return 0


def scored_by(name: Scores | str, option: str, other: str, graph: Graph, task: Task, **shared: Any) -> Any:
    """Scores, those of the algorithm that a word names, or the word that stands for none.

    Args:
        name: Scores, an algorithm's name, or `other`.
        option: What the option is called.
        other: The word for none, such as `paper`.
        graph: The graph.
        task: The task.
        **shared: `memory` and `progress` of the algorithm.

    Raises:
        TaskError: There is no such algorithm, or it makes no scores.
    """
    if not isinstance(name, str) or name == other:
        return name
    known = [key for key, entry in ALGORITHMS.items() if entry.finds == "scores"]
    if name not in known:
        raise TaskError(f"{option}={name!r} is not known: pass {other!r}, scores, or one of {', '.join(known)}.")
    return run_algorithm(name, graph, task, **shared)
