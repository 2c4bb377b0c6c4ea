"""Control searches: what would the same search have found where there is nothing to find?

Choosing a mask is training: 40% of 2,845 gates can hold a classifier of their own (compare Hewitt and Liang 2019,
arXiv 1909.03368, on probes). So the same search runs again, with the same size, options and discovery images,

    permuted_labels  on the same model, towards its answers for other images, half of them of the other class
    exchanged_heads  on a copy whose heads' output weights are exchanged inside layers, towards the true model's answers
    random_weights   on a copy whose weights are shuffled inside each parameter, towards the true model's answers

    selectivity = T of the true search, held out - the largest of the controls (0 if all are below)

T is a difference between class means over *the true model's* (`circuits/transmission.py`), on the evaluation images
that the true model gets right: a control model that answers faintly is not excused by it. Where partners show the clean
image's class, what each model makes of them with no edge kept is taken off.

Of the two copies T counts that is held out, too. Labels permuted over images have no truth on other images, so of them
counts what was *taught*: T towards the permuted classes on the discovery images, as much as masks of this size learn by
heart. That is the larger of the two, so selectivity errs to the low side. What the circuit of permuted labels transmits
of the *true* classes, held out, is printed and does not count: a ranking by mean absolute values looks at no label at
all and finds one circuit for both (toy digits: T = .73 each), which is no sign that the circuit was made by teaching
it. It says how much of T is owed to labels.

What is taught: searches that bring outputs close to the full model's (`learned_masks`, `budgeted_pruning`, `acdc`) aim
at the taught answers. Gradient scores and effects take no aim: a control model has its own gradients, and of permuted
labels they see the sign of the class that an image counts as showing (with the metric kl, the answers).

Weak spots: one search for each control, so that its own chance (`seed`) stands in no interval; intervals are those of
the images, with the largest control taken at the point estimate, which makes them a little too narrow.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ..circuits.baseline import DEFAULT_MEMORY
from ..circuits.circuit import Circuit
from ..circuits.graph import Graph
from ..circuits.run import require_model
from ..circuits.scores import By, Scores
from ..circuits.sizes import Size, edges_of
from ..circuits.task import Task
from ..circuits.taught import full_answers, with_answers, with_permuted_answers
from ..models.errors import GraphError, ModelError, TaskError
from ..models.hooked import HookedViT
from ..models.scrambled import exchange_heads, shuffle_weights
from .control_result import TRUE, ControlJudge, ControlSearches
from .progress import progress_bar
from .registry import ALGORITHMS, run_algorithm

Control = Literal["permuted_labels", "exchanged_heads", "random_weights"]
CONTROLS: tuple[Control, ...] = get_args(Control)

_COPIES: dict[str, Callable[..., HookedViT]] = {"exchanged_heads": exchange_heads, "random_weights": shuffle_weights}


def control_searches(
    algorithm: str | Callable[..., Scores | Circuit],
    graph: Graph,
    task: Task,
    *,
    size: Size,
    controls: Sequence[Control | str] = CONTROLS,
    found: Circuit | None = None,
    by: By = "auto",
    seed: int = 0,
    n_bootstrap: int = 1000,
    memory: int = DEFAULT_MEMORY,
    progress: bool = False,
    **options: Any,
) -> ControlSearches:
    """How much more a search's circuit transmits than circuits of the same search where there is nothing to find.

    Costs one run of the algorithm for the true search (unless `found`) and for each control, beside them a few masked
    runs, and memory for one copy of the model at a time.

    Args:
        algorithm: A registered name, or a function (graph, task, *, options) -> Scores or Circuit.
        graph: The graph.
        task: A crossed task: circuits are found on its discovery pairs and judged on its evaluation pairs.
        size: Edges of each circuit, on paths from input to logits: a count, or a share of the graph's edges below 1.
        controls: Which controls, of `permuted_labels`, `exchanged_heads`, `random_weights`. One that the model does not
            allow (no layer has two heads) is left out, with the reason in `left_out`.
        found: The circuit of the true search, so that it is not searched again; found with the same options and seed.
        by: How scores are ranked.
        seed: Draws permutations, weights and bootstrap samples; also given to algorithms that draw by chance.
        n_bootstrap: Bootstrap draws of the images for the 95% intervals.
        memory: Bytes to hold at once, for registered algorithms.
        progress: Show bars on stderr.
        **options: The algorithm's own.

    Raises:
        TaskError: The task is one-sided, or there is no such algorithm, option or control.
        GraphError: The size is not possible, or the graph or `found` belong to another model or size.
    """
    search = _Search(algorithm, graph, size, by, seed, memory, options)
    _require(search, task, controls, found)
    asked = [control for control in CONTROLS if control in controls]
    judge = ControlJudge(task, graph, n_bootstrap, seed, memory)
    searches, left_out = [], {}
    with progress_bar("control searches", 1 + len(asked), progress, "search") as bar:
        for name in (TRUE, *asked):
            bar.set_postfix_str(name)
            try:
                taught = teach(task, name, seed=seed)
            except ModelError as error:
                left_out[name] = str(error)
            else:
                searches.append(judge.judge(name, taught, found if found and name == TRUE else search(taught)))
            bar.update()
    method = {**search.method(task), **judge.method(), "found": "given" if found else "searched"}
    return ControlSearches(tuple(searches), judge.selectivity(searches), left_out, method)


def controls_of(circuit: Circuit, task: Task, **settings: Any) -> ControlSearches:
    """The controls of a circuit that a registered algorithm found: its own algorithm, size, ranking and options again.

    Args:
        circuit: The circuit, with its provenance.
        task: The task that it was found on.
        **settings: `controls`, `n_bootstrap`, `memory`, `progress` of `control_searches`.

    Raises:
        TaskError: Its provenance names no registered algorithm, or the task is one-sided.
        GraphError: The circuit belongs to another model.
    """
    provenance = circuit.provenance
    name = provenance.get("algorithm")
    if name not in ALGORITHMS:
        raise TaskError(
            f"the circuit does not record a registered algorithm that found it ({name!r}), so its search cannot be run "
            f"again: pass the algorithm to control_searches(algorithm, graph, task, size=..., found=circuit)."
        )
    recorded = {key: value for key, value in provenance.get("options", {}).items() if key in ALGORITHMS[name].options}
    own = {"size": provenance.get("n", len(circuit)), "by": provenance.get("by", "signed")}
    given = {**recorded, **own, "seed": recorded.get("seed", 0), **settings}
    return control_searches(name, circuit.graph, task, found=circuit, **given)


def teach(task: Task, control: str, *, seed: int = 0) -> Task:
    """The task as a control search is given it; the task itself for the true search.

    Raises:
        ModelError: The model does not allow this control.
    """
    if control == TRUE:
        return task
    answers, discovery, vit = full_answers(task.vit, task.discovery), task.discovery, task.vit
    if control == "permuted_labels":
        discovery = with_permuted_answers(discovery, answers, seed=seed)
    else:
        vit, discovery = _COPIES[control](vit, seed=seed), with_answers(discovery, answers)
    return dataclasses.replace(task, vit=vit, discovery=discovery, info={**task.info, "control": control})


@dataclass(frozen=True, eq=False)
class _Search:
    """One way to find circuits of one size, the same for all."""

    algorithm: str | Callable[..., Scores | Circuit]
    graph: Graph
    size: Size
    by: By
    seed: int
    memory: int
    options: dict[str, Any]

    @property
    def name(self) -> str:
        """The algorithm's name."""
        return self.algorithm if isinstance(self.algorithm, str) else self.algorithm.__name__

    def __call__(self, task: Task) -> Circuit:
        if isinstance(self.algorithm, str):
            given = {"memory": self.memory, **self._taken(ALGORITHMS[self.algorithm].options)}
            found = run_algorithm(self.algorithm, self.graph, task, **given)
        else:
            found = self.algorithm(self.graph, task, **self._taken(inspect.signature(self.algorithm).parameters))
        if isinstance(found, Circuit):
            return found
        return dataclasses.replace(found.top(self.size, by=self.by), task=dict(task.info))

    def _taken(self, known: Collection[str]) -> dict[str, Any]:
        """The options, and size and seed where the algorithm takes them."""
        shared = {"size": self.size, "seed": self.seed}
        return {**{name: value for name, value in shared.items() if name in known}, **self.options}

    def method(self, task: Task) -> dict[str, Any]:
        """What was done, in plain values."""
        return {
            "algorithm": self.name,
            "options": self.options,
            "size": self.size,
            "n_edges": edges_of(self.size, self.graph)[0],
            "n_graph": len(self.graph),
            "by": self.by,
            "tokens": self.graph.groups.kind,
            "ports": self.graph.ports,
            "metric": task.metric.kind,
            "ablation": task.ablation.as_dict(),
            "task": dict(task.info),
            "seed": self.seed,
        }


def _require(search: _Search, task: Task, controls: Sequence[str], found: Circuit | None) -> None:
    require_model(task.vit, search.graph)
    n_edges = edges_of(search.size, search.graph)[0]
    if isinstance(search.algorithm, str) and search.algorithm not in ALGORITHMS:
        raise TaskError(f"there is no algorithm {search.algorithm!r}: pass one of {', '.join(ALGORITHMS)}.")
    unknown = [control for control in controls if control not in CONTROLS]
    if unknown or not controls:
        said = f"there is no control {unknown[0]!r}" if unknown else "no control was asked for"
        raise TaskError(f"{said}: pass controls= one or more of {', '.join(CONTROLS)}.")
    if task.sides != "both" or task.discovery.design is None or not task.discovery.design.sided:
        raise TaskError(
            "control searches compare what circuits transmit, and clean images of this task show the target alone: "
            'make a crossed task, class_contrast(..., sides="both").'
        )
    if found is not None:
        search.graph.require_same(found.graph, "circuit")
        if len(found) > n_edges:
            raise GraphError(
                f"the circuit that was found has {len(found)} edges, but control searches of {n_edges} were asked for: "
                f"pass the size that it was found with, such as size={len(found)}."
            )
