"""One way to find a circuit: an algorithm with its options, a graph, and how large the circuit is to be.

    Discovery("eap_ig", {"steps": 10}, size=40).find(task)

1. `search` runs the algorithm on the task's discovery pairs: scores of all edges, or a circuit.
2. `select` takes a circuit from scores: of one size, above a threshold, or the smallest that keeps a level.
3. Under the ablation `optimal` both run under means, and constants are then learned for the circuit.

What demonstrates, sweeps, resamples, compares and benchmarks runs this. Nothing here imports torch before a search.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from ..circuits.graph import Ports
from ..circuits.tokens import read_tokens
from ..models.errors import TaskError
from ..models.settings import DEFAULT_MEMORY, Range, Settings, is_gpu, setting, short
from .registry import ALGORITHMS, AlgorithmEntry, Option

if TYPE_CHECKING:
    from ..circuits.circuit import Circuit
    from ..circuits.graph import Graph
    from ..circuits.scores import Scores
    from ..circuits.sizes import Size
    from ..circuits.tasks.task import Task
    from ..models.hooked import HookedViT

    Algorithm = str | Callable[..., Scores | Circuit]

LEVEL = 0.8
LADDER = (0.6, 0.4, 0.2, 0.1, 0.05)
"""Shares of the edges that are tried where an algorithm takes a size, and the smallest circuit at a level is wanted."""
BY = ("auto", "signed", "abs_mean", "mean_abs")


def memory_on(device: str) -> int:
    """Bytes to hold at once where nobody says: on a GPU a share of what is free on it, elsewhere 2 GB."""
    if not is_gpu(device):
        return DEFAULT_MEMORY
    from ..models.devices import free_memory

    return free_memory(device)


N_PATCHED = 8
"""Pairs on which is measured what each patch of the image carries, unless told otherwise."""
SIZE_HELP = "edges on paths from input to logits: at most N of them, or a share of the graph's below 1, such as 0.1"
SELECTIONS = ("top", "threshold", "smallest_faithful", "smallest_transmitting")
"""What a circuit's record may say of its selection so that it can be selected again."""


def read_size(text: str) -> int | float:
    """A number of edges, or a share of them below 1."""
    try:
        size = int(text) if text.isdecimal() else float(text)
    except ValueError:
        size = 0
    if not (isinstance(size, int) and size) and not 0 < size < 1:
        raise ValueError("write a number of edges such as 40, or a share such as 0.1")
    return size


@dataclass(frozen=True, repr=False)
class Discovery(Settings):
    """How a circuit is found.

    Of `size`, `threshold` and `level` one is given; with none of them the level is .8. An algorithm that returns a
    circuit takes those that are options of its own, and decides itself otherwise.

    Raises:
        TaskError: There is no such algorithm or option, a value does not fit, or two ways to select are given.
    """

    algorithm: Algorithm = setting("eap_ig", "", metavar="NAME")
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tokens: str = setting(
        "all",
        "all (default), role, grid:RxC (cells of patches), mask (object and background, with --mask), frame (videos), "
        "each",
        read=read_tokens,
        metavar="CHOICE",
    )
    ports: str = setting("qkv", "qkv (default), head, block", choices=get_args(Ports), metavar="CHOICE")
    by: str = setting("auto", "how edges are ranked (auto: mean_abs, one-sided signed)", choices=BY)
    granularity: str = setting(
        "edge", "keep edges, or heads and MLPs whole (node, with a size)", choices=("edge", "node")
    )
    level: float | None = setting(
        None,
        f"smallest circuit that reads the image at this level of transmission ({LEVEL}); with --sides one, that has "
        "this faithfulness",
        read=float,
        range=Range(above=0),
        metavar="LEVEL",
        flags=("--level", "--faithfulness"),
    )
    size: Size | None = setting(None, f"the highest {SIZE_HELP}; or N nodes", read=read_size, metavar="N")
    threshold: float | None = setting(None, "all edges that score at least TAU", read=float, metavar="TAU")

    def __post_init__(self) -> None:
        super().__post_init__()
        chosen = {name: getattr(self, name) for name in ("level", "size", "threshold")}
        chosen = {name: value for name, value in chosen.items() if value is not None}
        if len(chosen) > 1:
            raise TaskError(f"{' and '.join(chosen)} each say how large the circuit is: pass one of them.")
        if self.entry is not None:
            leveled = bool(self.options.get("faithfulness"))  # a record of before has both, of which the level counts
            if self.level is not None and self.finds_circuits and "size" in self.options and not leveled:
                raise TaskError("level and the option size each say how large the circuit is: pass one of them.")
            options = {**typed_options(self.name, self.options), **self._own_selection(chosen)}
            sized = "size" in self.options or "size" in chosen or leveled
            if self.finds_circuits and not sized:
                options.pop("size", None)  # that is wanted at which the level is reached: see `called`
            object.__setattr__(self, "options", options)
            for name in ("size", "tau"):
                if isinstance(options.get(name), list | tuple):
                    raise TaskError(
                        f"{name}={short(options[name])}: one circuit is found here. Pass one value, or call "
                        f"{self.name}(graph, task, {name}=...), which finds several."
                    )
        if self.granularity == "node" and (not isinstance(self.size, int) or self.finds_circuits):
            raise TaskError(
                "--granularity node keeps the N heads and MLPs with the highest scores: pass --size N, and an "
                "algorithm that scores edges, such as --algorithm eap_ig --size 5."
            )

    @classmethod
    def again(cls, circuit: Circuit) -> Discovery:
        """The discovery that found a circuit, from its record.

        Raises:
            TaskError: The circuit does not record an algorithm and a selection that can be run again.
        """
        from ..circuits.nodes import granularity

        record, graph = circuit.provenance, circuit.graph
        name = record.get("algorithm")
        if name not in ALGORITHMS:
            raise TaskError(f"{circuit} was not found by a registered algorithm ({name!r}): it cannot be found again.")
        entry, selection = ALGORITHMS[name], record.get("selection")
        options = {key: value for key, value in record.get("options", {}).items() if key in entry.options}
        how: dict[str, Any] = {"options": options, "tokens": graph.groups.kind, "ports": graph.ports}
        if entry.finds == "circuit" and "frontier" in record:  # the smallest of several sizes at a level
            how |= {"level": record["level"], "options": {key: options[key] for key in options if key != "size"}}
        elif isinstance(options.get("size"), list | tuple):  # one of several that were asked for at once
            options["size"] = record.get("n", len(circuit))
        if entry.finds == "scores":
            if selection not in SELECTIONS:
                raise TaskError(
                    f"{circuit} was selected by {selection!r}, which its record does not repeat: only "
                    f"{', '.join(SELECTIONS)} are."
                )
            kept = {"top": ("size", "n"), "threshold": ("threshold", "tau")}.get(selection, ("level", "level"))
            how |= {kept[0]: record[kept[1]], "by": record["by"], "granularity": granularity(circuit)}
        return cls(name, **how)

    @classmethod
    def on(
        cls,
        graph: Graph,
        algorithm: Discovery | Algorithm,
        options: Mapping[str, Any],
        *,
        by: str = "auto",
        size: Size | None = None,
    ) -> Discovery:
        """A search on a graph that is at hand; a `Discovery` is taken as it is."""
        if isinstance(algorithm, Discovery):
            return algorithm
        return cls(algorithm, options, graph.groups.kind, graph.ports, by, size=size)

    @property
    def name(self) -> str:
        """The algorithm's name."""
        return self.algorithm if isinstance(self.algorithm, str) else self.algorithm.__name__

    @cached_property
    def entry(self) -> AlgorithmEntry | None:
        """What is registered of the algorithm; None for a function of one's own."""
        if not isinstance(self.algorithm, str):
            return None
        if self.algorithm not in ALGORITHMS:
            raise TaskError(f"there is no algorithm {self.algorithm!r}: pass one of {', '.join(ALGORITHMS)}.")
        return ALGORITHMS[self.algorithm]

    @property
    def finds_circuits(self) -> bool:
        """Whether a registered algorithm decides itself which edges stay."""
        return self.entry is not None and self.entry.finds == "circuit"

    def takes(self, option: str) -> bool:
        """Whether the algorithm has this option."""
        if self.entry is not None:
            return option in self.entry.options
        return option in inspect.signature(self.algorithm).parameters  # type: ignore[arg-type]

    def with_seed(self, seed: int) -> Discovery:
        """The same with another seed, where the algorithm draws by chance."""
        return self.changed(options={**self.options, "seed": seed}) if self.takes("seed") else self

    def graph(self, vit: HookedViT) -> Graph:
        """The graph of a model that edges are chosen from."""
        from ..circuits.graph import compile_graph

        return compile_graph(vit, tokens=self.tokens, ports=self.ports)

    def find(
        self,
        task: Task,
        graph: Graph | None = None,
        *,
        journal: str | Path | None = None,
        memory: int = DEFAULT_MEMORY,
        progress: bool | None = None,
    ) -> Circuit:
        """The circuit of a task, found on its discovery pairs.

        Args:
            task: The task.
            graph: Its model's graph, where it is at hand.
            journal: A file from which an interrupted search goes on, for algorithms that return circuits.
            memory: Bytes to hold at once.
            progress: Show bars on stderr; None where somebody watches.

        Raises:
            GraphError: The graph belongs to another model, or a size is not possible.
            TaskError: The task cannot be explained by this algorithm.
        """
        found = self.search(task, graph, journal=journal, memory=memory, progress=progress)
        return self.select(found, task, memory=memory, progress=progress)

    def search(
        self,
        task: Task,
        graph: Graph | None = None,
        *,
        journal: str | Path | None = None,
        memory: int = DEFAULT_MEMORY,
        progress: bool | None = None,
    ) -> Scores | Circuit:
        """What the algorithm finds: scores, or a circuit. Arguments are those of `find`."""
        from ..circuits.sizes import edge_count
        from .registry import run_algorithm

        graph = self.graph(task.vit) if graph is None else graph
        if self.size is not None and self.granularity == "edge":
            edge_count(self.size, graph)  # is refused now, not after the search
        task = under_means(task)
        if self.entry is None:
            size = {"size": self.size} if self.size is not None and self.takes("size") else {}
            return self.algorithm(graph, task, **size, **self.options)  # type: ignore[operator]
        shared: dict[str, Any] = {"memory": memory, "progress": progress}
        if not self.finds_circuits:
            return run_algorithm(self.name, graph, task, **shared, **self.options)
        found: Any = run_algorithm(self.name, graph, task, journal=journal, **shared, **self.called)
        if not isinstance(found, list):
            return found
        from ..circuits.judging.select import smallest_of

        return smallest_of(found, task, level=LEVEL if self.level is None else self.level, **shared)

    def select(
        self, found: Scores | Circuit, task: Task, *, memory: int = DEFAULT_MEMORY, progress: bool | None = None
    ) -> Circuit:
        """The circuit that is wanted of what a search found, with constants learned for it under `optimal`."""
        from ..circuits.circuit import Circuit

        circuit = found if isinstance(found, Circuit) else self._selected(found, under_means(task), memory, progress)
        if task.ablation.kind != "optimal":
            return circuit
        from .optimal import optimal_ablation

        return optimal_ablation(circuit, task, seed=int(task.info.get("seed", 0)), memory=memory, progress=progress)

    def _selected(self, scores: Scores, task: Task, memory: int, progress: bool | None) -> Circuit:
        from ..circuits.judging.select import smallest_faithful
        from ..circuits.nodes import NodeScores

        by: Any = self.by
        if self.granularity == "node":
            return NodeScores.from_edges(scores).top(self.size, by="signed" if by == "auto" else by)  # type: ignore[arg-type]
        if self.size is not None:
            return scores.top(self.size, by=by)
        if self.threshold is not None:
            return scores.threshold(self.threshold, by=by)
        level = LEVEL if self.level is None else self.level
        return smallest_faithful(scores, task, level=level, by=by, memory=memory, progress=progress)

    def _own_selection(self, chosen: dict[str, Any]) -> dict[str, Any]:
        """What is said of the selection, as options of an algorithm that returns a circuit."""
        if not self.finds_circuits:
            return {}
        known = ALGORITHMS[self.name].options
        for name in chosen:
            if not (name in known or (name == "level" and "size" in known)):
                wanted = ", ".join(
                    f"--option {option}={known[option].default}" for option in ("size", "tau") if option in known
                )
                raise TaskError(
                    f"--{name}: {self.name} decides itself which edges stay. Leave it out, and pass for example "
                    f"{wanted}."
                )
        return {name: value for name, value in chosen.items() if name in known}

    @property
    def called(self) -> dict[str, Any]:
        """The options that the algorithm is called with; where no size is given, those that reach a level.

        That is an option of its own, or several sizes are tried, of which the smallest that reaches it is taken.
        """
        if not (self.finds_circuits and self.takes("size")) or "size" in self.options:
            return dict(self.options)
        level = LEVEL if self.level is None else self.level
        return {**self.options, **({"faithfulness": level} if self.takes("faithfulness") else {"size": list(LADDER)})}


def under_means(task: Task) -> Task:
    """The task that is searched: under `optimal`, whose constants belong to one circuit, that under means."""
    if task.ablation.kind != "optimal":
        return task
    from ..circuits.ablation import Ablation

    return task.with_ablation(Ablation("mean", over=task.ablation.over))


def typed_options(algorithm: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """All options of an algorithm, those that are given in the types of their defaults.

    Raises:
        TaskError: A name is not known, or a value does not fit.
    """
    known = ALGORITHMS[algorithm].options
    for name in given:
        if name not in known:
            raise TaskError(f"{algorithm} has no option {name!r}: its options are {', '.join(known) or 'none'}.")
    defaults = {name: option.default for name, option in known.items()}
    return defaults | {name: _typed(name, value, known[name]) for name, value in given.items()}


def _typed(name: str, given: Any, option: Option) -> Any:
    """A text in the type of the default; what is no text stays as it is."""
    value, kind = given, type(option.default)
    if isinstance(given, str) and kind is not str:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        try:
            value = words.get(given.lower()) if kind is bool else kind(given)
        except ValueError:
            value = None
    # an option whose default is a word may also take an object, such as scores; a number takes several, or none else
    fits = kind is str or isinstance(value, (int, list, tuple) if kind is int else (kind, int, list, tuple))
    if value is None or not fits or (option.choices is not None and value not in option.choices):
        choices = f"one of {', '.join(map(str, option.choices))}" if option.choices else kind.__name__
        raise TaskError(f"{name}={short(given)}: {option.help}; pass {choices}, such as {option.default}.")
    option.check(name, value)
    return value
