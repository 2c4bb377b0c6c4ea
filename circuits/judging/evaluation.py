"""How well a circuit carries a behaviour: every figure with its interval, how it was obtained, and chance beside it.

On a crossed task the first question is whether the circuit reads the image (`transmission.py`, `judgement.py`);
on a one-sided one that cannot be told, and the report says so. First everything that has to be run is planned as a list
of masks; then all of them run on the same pairs, sharing the ablated values; then the figures are read off. Definitions
of the share of the behaviour, CPR and CMD: `bootstrap.py`, `plan.py`.

Figures of a crossed task, over the clean images that the model gets right (the same with `_all_images` over all):
`transmission`, `leakage`, `offset`, `transmission_within`, `correlation_within`, `leakage_within`,
`reproduced_variation` (R^2), `right` (the lowest cell; each cell beside it), `kl` (nats), `other_classes`,
`random_transmission`, `dealt_transmission`, `renamed_transmission` (`control_kinds.py`), and at the end
`one_sided_faithfulness`, which a constant can win, with what a sham and equal logits make of it. `cpr`, `cmd`,
`cpr_log` and the curves are those of transmission. Tables: `controls`, and `images`, the circuit's answer beside the
model's, worst first.

Figures of a one-sided task: `faithfulness`, `random_faithfulness` (random circuits of the same size made of whole
paths), `accuracy`, `accuracy_retained`, `agreement`, `kl` (nats), `logit_difference_retained`, `cpr`, `cmd`,
`cpr_log`, `cpr_random`, and the metric's means `m_clean`, `m_none`, `m_circuit`. One that is not defined says why.

`checks="all"` adds what a sceptical reader asks for, into the same report: completeness, which single edges can go, the
tests (equivalence, independence, minimality, sufficiency, partial necessity) with their p-values, none of which a
circuit passes on a crossed task without reading the image, and the spread over ablations and metrics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ..ablation import Ablation, as_ablation
from ..baseline import DEFAULT_MEMORY, make_baseline
from ..checks.mask_evaluator import Checks, CheckSettings, MaskEvaluator, add_checks, check_names
from ..circuit import Circuit
from ..memory import require_memory
from ..nodes import granularity, kept_nodes, node_names
from ..report import Report
from ..run import masks_sizes, require_model
from ..tasks.task import Pairs, Task
from .bootstrap import FLOOR
from .judgement import Judging, crossed_report, one_sided_report
from .plan import GridName, JudgingPlan, make_grid, make_plan

LEARNED = "learned for this circuit: other sizes and other circuits, random ones too, carry constants not their own"


def evaluate(
    circuit: Circuit,
    task: Task,
    *,
    ablation: Ablation | str | None = None,
    pairs: Pairs | None = None,
    curve: bool = True,
    n_random: int = 10,
    n_bootstrap: int = 1000,
    grid: GridName = "auto",
    controls: Mapping[str, Circuit] = MappingProxyType({}),
    checks: Checks = (),
    settings: CheckSettings | None = None,
    seed: int = 0,
    memory: int = DEFAULT_MEMORY,
    progress: bool | None = None,
) -> Report:
    """The judgement of a circuit on pairs that it was not found on; what it holds is told at the top of this file.

    Costs one clean run, the ablation's runs, and one run for each different mask: with `curve` up to some hundreds on
    small graphs, and some hundreds more with `checks="all"`; `CheckSettings` says how many. A circuit of whole heads
    and MLPs is judged beside random node circuits: its share of the edges is not to be compared with an edge circuit's.

    Args:
        circuit: The circuit; its scores give the curve.
        task: The model, the metric, the pairs and the ablation.
        ablation: What removed edges carry; by default what was learned for the circuit (`optimal`), else the task's.
            Learned constants are this circuit's: random circuits, controls and the curve carry the same ones.
        pairs: Pairs to judge on; `task.evaluation` by default.
        curve: Measure faithfulness at many sizes, and with it CPR and CMD.
        n_random: Random circuits of the same size; on a crossed task of each kind.
        n_bootstrap: Bootstrap draws of the pairs for the 95% intervals.
        grid: Sizes of the curve: `auto` (every count up to 2,000 edges, thinned to about 150; else MIB's) or `mib`.
        controls: Circuits of other tasks by name: what they get on a crossed task stands in the table `controls`.
        checks: Further checks by name (see `CHECKS` in `checks`), or `all`.
        settings: How thorough they are; `CheckSettings()` by default.
        seed: Draws random circuits and bootstrap samples.
        memory: Bytes to hold at once.
        progress: Show a bar on stderr; None where somebody watches.

    Raises:
        GraphError: The circuit or a control belongs to another graph, or an option is out of range.
        TaskError: There is no such check, or `memory` is too little; the least that is enough is said.
        DataError: The images don't fit the model.
    """
    require_model(task.vit, circuit.graph)
    names, chosen = check_names(checks), ablation_of(circuit, task, ablation)
    require_memory(memory, f"the judgement of a circuit of {task.vit.cfg.name}", *masks_sizes(task.vit, chosen))
    which = {id(task.evaluation): "evaluation", id(task.discovery): "discovery"}.get(id(pairs), "given")
    which, pairs = ("evaluation", task.evaluation) if pairs is None else (which, pairs)
    every, pairs = None if pairs.design is None else pairs.right, pairs.under(chosen)
    beside = {} if every is None else {"every_kind": True, "named": controls}
    points = make_grid(len(circuit.graph), grid)
    plan = make_plan(circuit, points, curve=curve, n_random=n_random, seed=seed, **beside)
    baseline = make_baseline(task.vit, chosen, task.reference, memory=memory)
    method = _method(circuit, task, chosen, which, len(pairs), plan, seed)
    method |= {"n_bootstrap": n_bootstrap, "n_random": n_random}
    judging = Judging(circuit, task, plan, pairs, baseline, curve, n_bootstrap, seed, memory, progress)
    return _checked(judging, method, names, settings or CheckSettings(), every)


def _checked(
    judging: Judging, method: dict[str, Any], names: Sequence[str], settings: CheckSettings, every: Pairs | None
) -> Report:
    """The report, with the checks that are asked for; `every` are all pairs that the model gets right."""
    task, crossed = judging.task, every is not None
    report, measured = (
        crossed_report(judging, method) if crossed else (one_sided_report(judging, method), judging.pairs)
    )
    metric, draws = task.metric.response if crossed else task.metric, judging.resamples(measured)
    given = (judging.circuit, task, metric, measured, judging.baseline, draws, settings, judging.seed)
    evaluator = MaskEvaluator(*given, **judging.options, every_partner=every)
    return add_checks(report, evaluator, names)


def _drawn(task: Task) -> str:
    return "images" if task.sides == "both" else "pairs"


def ablation_of(circuit: Circuit, task: Task, wanted: Ablation | str | None) -> Ablation:
    """What was asked for, else the task's; what was learned for the circuit, unless another is asked for."""
    chosen = task.ablation if wanted is None else as_ablation(wanted)
    own = wanted is None or (chosen.kind == "optimal" and chosen.shifts is None)
    return circuit.ablation if own and circuit.ablation.kind == "optimal" else chosen


def _method(
    circuit: Circuit, task: Task, ablation: Ablation, which: str, n_pairs: int, plan: JudgingPlan, seed: int
) -> dict[str, Any]:
    return {
        "granularity": granularity(circuit),
        **_nodes(circuit),
        "direction": "edges outside the circuit are ablated in the run on the clean image",
        "token_specific": len(circuit.graph.groups) > 1,
        "tokens": circuit.graph.groups.kind,
        "ports": circuit.graph.ports,
        "ablation": ablation.as_record(),
        **({"constants": LEARNED} if ablation.kind == "optimal" else {}),
        "ablation_of_circuit": circuit.ablation.as_record(),
        "metric": task.metric.kind,
        "metric_unit": task.metric.unit,
        "aggregation": "ratio of means over pairs",
        "interval": f"95%, percentile bootstrap over {_drawn(task)} unless a figure says otherwise",
        "undefined_below": FLOOR,
        **({"readout": dict(task.vit.readout.info)} if "sha256" in task.vit.readout.info else {}),
        "pairs": which,
        "n_pairs": n_pairs,
        "grid": plan.grid.method,
        "seed": seed,
    }


def _nodes(circuit: Circuit) -> dict[str, int]:
    """Sizes in nodes, of a node circuit."""
    if granularity(circuit) == "edge":
        return {}
    return {"n_nodes": len(kept_nodes(circuit)), "n_graph_nodes": len(node_names(circuit.graph))}
