"""The way from a model and a task to a run folder, shared by `demo` and `discover`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import make_task
from .readout import describe

if TYPE_CHECKING:
    from ..circuits.circuit import Circuit
    from ..circuits.report import Report
    from ..circuits.run_folder import RunFolder
    from ..circuits.scores import Scores
    from ..circuits.task import Task
    from ..models.hooked import HookedViT


@dataclass(frozen=True, eq=False)
class Found:
    """What a run found and wrote.

    Args:
        task: The task.
        circuit: The circuit.
        report: Its judgement on the evaluation pairs.
        files: Paths written.
        seconds: By stage.
    """

    task: Task
    circuit: Circuit
    report: Report
    files: list[Path]
    seconds: dict[str, float]


def find_circuit(
    vit: HookedViT, config: dict[str, Any], *, out: Path, command: list[str], overwrite: bool, progress: bool = True
) -> Found:
    """Scores, selects, judges, draws and writes; goes on from scores that an interrupted run left.

    Args:
        vit: The opened model.
        config: The resolved configuration, as `discover` makes it.
        out: The run folder.
        command: The command line, for the record.
        overwrite: Replace a run of another configuration.
        progress: Show bars on stderr.
    """
    from ..algorithms.optimal import optimal_ablation
    from ..circuits.ablation import Ablation
    from ..circuits.evaluation import evaluate
    from ..circuits.figure_data import gather
    from ..circuits.run_folder import RunFolder
    from ..circuits.words import images_shown

    clock, seconds = time.perf_counter(), {}
    config = {**config, "weights": vit.digest()}
    if "sha256" in vit.readout.info:
        config["readout"] = dict(vit.readout.info)
    task = make_task(vit, config["task"])
    for name, digest in (("masks", "mask_digest"), ("reference", "reference_digest")):
        if digest in task.info:  # boxes and pictures may change under the same name
            config[name] = task.info[digest]
    folder = RunFolder.open(
        out,
        config,
        command=command,
        seed=config["task"]["seed"],
        device=str(vit.device),
        data_hash=task.info["data_digest"],
        overwrite=overwrite,
    )
    written = folder.save_readout(vit)
    seconds["task"], clock = time.perf_counter() - clock, time.perf_counter()
    learned = task.ablation.kind == "optimal"  # constants are learned for a circuit, which is searched under means
    means = Ablation("mean", over=task.ablation.over)
    circuit = _find(vit, task.with_ablation(means) if learned else task, config, folder, progress)
    if learned:
        circuit = optimal_ablation(
            circuit, task, seed=config["task"]["seed"], memory=config["memory"], progress=progress
        )
    seconds["search"], clock = time.perf_counter() - clock, time.perf_counter()
    report = evaluate(
        circuit,
        task,
        n_random=config["random"],
        seed=config["task"]["seed"],
        memory=config["memory"],
        progress=progress,
    )
    seconds["evaluation"], clock = time.perf_counter() - clock, time.perf_counter()
    files = [*written, *folder.write_all(circuit, report, gather(task, images=images_shown(report)))]
    seconds["files"] = time.perf_counter() - clock
    files.append(folder.finish(seconds))
    return Found(task, circuit, report, files, seconds)


def _find(vit: HookedViT, task: Task, config: dict[str, Any], folder: RunFolder, progress: bool) -> Circuit:
    """The circuit: by scores that an earlier run may have left, or by a search that goes on from its journal."""
    from ..algorithms.registry import ALGORITHMS, run_algorithm
    from ..circuits.graph import compile_graph
    from ..circuits.scores import Scores

    scores = folder.load_scores_if_same() if ALGORITHMS[config["algorithm"]].finds == "scores" else None
    if scores is None:
        graph = compile_graph(vit, tokens=config["tokens"], ports=config["ports"])
        options = {**config["options"], "memory": config["memory"], "progress": progress}
        if ALGORITHMS[config["algorithm"]].finds == "circuit":
            options["journal"] = folder.journal
        found = run_algorithm(config["algorithm"], graph, task, **options)
        if not isinstance(found, Scores):
            return found
        scores = found
        folder.save_scores(scores)
    return _select(scores, task, config, progress)


def _select(scores: Scores, task: Task, config: dict[str, Any], progress: bool) -> Circuit:
    from ..circuits.node_scores import NodeScores
    from ..circuits.select import smallest_faithful

    by = config["by"]
    if config.get("granularity") == "node":
        return NodeScores.from_edges(scores).top(config["size"], by="signed" if by == "auto" else by)
    if config["size"] is not None:
        return scores.top(config["size"], by=by)
    if config["threshold"] is not None:
        return scores.threshold(config["threshold"], by=by)
    level, memory = config["faithfulness"], config["memory"]
    return smallest_faithful(scores, task, level=level, by=by, memory=memory, progress=progress)


def summary(found: Found) -> list[tuple[str, str]]:
    """Rows of the table that a run ends with: what was asked, and what the report says first."""
    from ..circuits.words import selection_told, told

    task, circuit = found.task, found.circuit
    chosen = selection_told(circuit.provenance, len(circuit.graph))
    return [
        ("model", str(task.vit)),
        *([("readout", describe(task.vit.readout.info))] if task.vit.readout.info else []),
        ("task", f"{task.info['target_name']} against {task.info['foil_name']}, {task.metric.kind}"),
        ("ablation", f"{task.ablation}; partners by {_partners(task)}"),
        *_pairs(task),
        ("algorithm", f"{circuit.provenance['algorithm']} {_options(circuit.provenance['options'])}".rstrip()),
        *([("selection", chosen)] if chosen else []),
        *told(found.report),
        ("seconds", ", ".join(f"{name} {value:.1f}" for name, value in found.seconds.items())),
    ]


def _pairs(task: Task) -> list[tuple[str, str]]:
    """How many images and pairs there are, and what was left out."""
    n = {"discovery": len(task.discovery), "evaluation": len(task.evaluation)}
    if task.sides == "one":
        dropped = "; ".join(f"{name}: {_counts(counts)}" for name, counts in task.info["dropped"].items())
        said = f"{n['discovery']} one-sided for discovery, {n['evaluation']} for evaluation"
        return [("pairs", said), ("dropped pairs", dropped)]
    images = task.info["images"]
    parts = [
        f"{name}: {counts['target'] + counts['foil']} clean images that the model gets right, in {n[name]} pairs"
        + (f" ({counts['no_mask']} images without a usable mask left out)" if counts.get("no_mask") else "")
        for name, counts in images.items()
    ]
    wrong = images["discovery"]["target_wrong"] + images["discovery"]["foil_wrong"]
    left_out = f"{wrong} images of discovery that the model gets wrong were left out"
    return [("images", parts[0]), ("", left_out), ("", f"{parts[1]}, its mistakes among them")]


def print_table(rows: list[tuple[str, str]]) -> None:
    """Two columns on stdout."""
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


def _counts(counts: dict[str, int]) -> str:
    text = f"{counts['clean_wrong']} misclassified, {counts['partner_not_lower']} with a partner that is not lower"
    return f"{text}, {counts['no_mask']} without a usable mask" if "no_mask" in counts else text


def _partners(task: Task) -> str:
    mask, word = task.info.get("mask"), task.info.get("word")
    detail = f" under {mask}" if mask else f" {word!r}" if word else ""
    chosen = task.info.get("mask_chosen_by")
    return task.info["corruption"] + detail + (f" (chosen by {chosen})" if chosen else "")


def _options(options: dict[str, Any]) -> str:
    return "(" + ", ".join(f"{name}={value}" for name, value in options.items()) + ")" if options else ""
