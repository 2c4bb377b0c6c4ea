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
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..circuits.baseline import DEFAULT_MEMORY
from ..circuits.circuit import Circuit
from ..circuits.graph import Graph
from ..circuits.run import require_model
from ..circuits.scores import By
from ..circuits.sizes import Size, edge_count
from ..circuits.tasks.task import Task
from ..circuits.tasks.taught import full_answers, with_answers, with_permuted_answers
from ..models.errors import GraphError, ModelError, TaskError
from ..models.hooked import HookedViT
from ..models.scrambled import exchange_heads, shuffle_weights
from ..models.watching import progress_bar
from .control_result import TRUE, ControlJudge, ControlSearches
from .discovery import Discovery

if TYPE_CHECKING:
    from .discovery import Algorithm

Control = Literal["permuted_labels", "exchanged_heads", "random_weights"]
CONTROLS: tuple[Control, ...] = get_args(Control)

_COPIES: dict[str, Callable[..., HookedViT]] = {"exchanged_heads": exchange_heads, "random_weights": shuffle_weights}


def control_searches(
    algorithm: Algorithm | Discovery,
    graph: Graph,
    task: Task,
    *,
    size: Size,
    controls: Sequence[Control | str] = CONTROLS,
    found: Circuit | None = None,
    by: By | str = "auto",
    seed: int = 0,
    n_bootstrap: int = 1000,
    memory: int = DEFAULT_MEMORY,
    progress: bool | None = None,
    **options: Any,
) -> ControlSearches:
    """How much more a search's circuit transmits than circuits of the same search where there is nothing to find.

    Costs one run of the algorithm for the true search (unless `found`) and for each control, beside them a few masked
    runs, and memory for one copy of the model at a time.

    Args:
        algorithm: A registered name, a function (graph, task, *, options) -> Scores or Circuit, or a `Discovery`.
        graph: The graph.
        task: A crossed task: circuits are found on its discovery pairs and judged on its evaluation pairs.
        size: Edges of each circuit, on paths from input to logits, as a count or a share of the graph's below 1; heads
            and MLPs where a `Discovery` keeps nodes whole.
        controls: Which controls, of `permuted_labels`, `exchanged_heads`, `random_weights`. One that the model does not
            allow (no layer has two heads) is left out, with the reason in `left_out`.
        found: The circuit of the true search, so that it is not searched again; found with the same options and seed.
        by: How scores are ranked.
        seed: Draws permutations, weights and bootstrap samples; also given to algorithms that draw by chance.
        n_bootstrap: Bootstrap draws of the images for the 95% intervals.
        memory: Bytes to hold at once, for registered algorithms.
        progress: Show bars on stderr; None where somebody watches.
        **options: The algorithm's own.

    Raises:
        TaskError: The task is one-sided, or there is no such algorithm, option or control.
        GraphError: The size is not possible, or the graph or `found` belong to another model or size.
    """
    discovery = _discovery(algorithm, graph, size, by, seed, options)
    _require(graph, _n_edges(discovery, graph, size), task, controls, found)
    asked = [control for control in CONTROLS if control in controls]
    judge, searches, left_out = ControlJudge(task, graph, n_bootstrap, seed, memory), [], {}
    with progress_bar("control searches", 1 + len(asked), progress, "search") as bar:
        for name in (TRUE, *asked):
            bar.set_postfix_str(name)
            try:
                taught = teach(task, name, seed=seed)
            except ModelError as error:
                left_out[name] = str(error)
            else:
                given = found if name == TRUE else None
                circuit = discovery.find(taught, graph, memory=memory) if given is None else given
                searches.append(judge.judge(name, taught, circuit))
            bar.update()
    method = _method(discovery, graph, size, seed, task) | judge.method()
    method["found"] = "given" if found else "searched"
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
    discovery = Discovery.again(circuit)
    size, seed = circuit.provenance.get("n", len(circuit)), discovery.options.get("seed", 0)
    return control_searches(discovery, circuit.graph, task, size=size, found=circuit, seed=seed, **settings)


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


def _discovery(
    algorithm: Algorithm | Discovery, graph: Graph, size: Size, by: By | str, seed: int, options: Mapping[str, Any]
) -> Discovery:
    """One way to find circuits of one size, the same for all; size and seed where the algorithm takes them."""
    found = Discovery.on(graph, algorithm, options, by=by)
    if "seed" not in options:
        found = found.with_seed(seed)
    if found.finds_circuits and not found.takes("size"):
        return found
    own = {name: value for name, value in found.options.items() if name != "faithfulness"}  # would overrule the size
    return dataclasses.replace(found, options=own, size=size, level=None, threshold=None)


def _n_edges(discovery: Discovery, graph: Graph, size: Size) -> int | None:
    """Edges that were asked for; None where heads and MLPs were."""
    return edge_count(size, graph) if discovery.granularity == "edge" else None


def _method(discovery: Discovery, graph: Graph, size: Size, seed: int, task: Task) -> dict[str, Any]:
    """What was done, in plain values."""
    return {
        "algorithm": discovery.name,
        "options": dict(discovery.options),
        "size": size,
        "n_edges": _n_edges(discovery, graph, size),
        "n_graph": len(graph),
        "by": discovery.by,
        "tokens": graph.groups.kind,
        "ports": graph.ports,
        "metric": task.metric.kind,
        "ablation": task.ablation.as_dict(),
        "task": dict(task.info),
        "seed": seed,
    }


def _require(graph: Graph, n_edges: int | None, task: Task, controls: Sequence[str], found: Circuit | None) -> None:
    require_model(task.vit, graph)
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
        graph.require_same(found.graph, "circuit")
        if n_edges is not None and len(found) > n_edges:
            raise GraphError(
                f"the circuit that was found has {len(found)} edges, but control searches of {n_edges} were asked for: "
                f"pass the size that it was found with, such as size={len(found)}."
            )
