"""What every algorithm finds on models small enough to run all of them: kept edges, scores, and the work that it took.

    python tests/benchmarks/same_circuits.py --write before.json
    python tests/benchmarks/same_circuits.py --against before.json

A change that should leave results alone is held against a record from before it. Kept edges that differ are named with
the gap between their scores, so that near-ties can be told from mistakes; work is counted in forward passes. Only what
`vitcircuits` exports is called. MNIST is read from the folder that VITCIRCUITS_TEST_DATA names, and left out without.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from vitcircuits.algorithms import activation_patch, node_effects, path_patch
from vitcircuits.algorithms.benchmark import MODELS
from vitcircuits.algorithms.registry import run_algorithm
from vitcircuits.algorithms.work import counted_work
from vitcircuits.circuits import Circuit, Scores, Task, class_contrast, compile_graph
from vitcircuits.circuits.truths.planted import planted_task
from vitcircuits.models import load_vit

PAIRS = 8
TOYS = {"toy/digits-2l": "digits", "toy/mnist-2l": "mnist"}
MASKS: dict[str, Any] = {"steps": 12, "batch": 4}
SEARCHES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("eap", {}),
    ("eap_ig", {"steps": 3}),
    ("eap_ig_activations", {"steps": 2}),
    ("ceap", {"steps": 3}),
    ("relp", {}),
    ("atp_star", {}),
    ("rank_ensemble", {}),
    ("direct_logit_attribution", {}),
    ("exact_effects", {}),
    ("exact_effects", {"direction": "denoising"}),
    ("hybrid", {"budget": 0.3}),
    ("acdc", {"tau": 0.02}),
    ("acdc", {"tau": 0.1, "metric": "task", "worsening": "absolute", "order": "eap"}),
    ("budgeted_pruning", {}),
    ("budgeted_pruning", {"measure": "slopes", "swaps": 2}),
    ("learned_masks", MASKS | {"derivative": "pathwise", "polish": "no"}),
    ("learned_masks", {"steps": 4, "batch": 2, "derivative": "measured", "polish": "yes"}),
)
SCORES_ONLY = (
    "eap",
    "exact_effects",
    "acdc",
    "budgeted_pruning",
    "learned_masks",
)  # at `role` and under other ablations


def tasks(only: str) -> Iterator[tuple[str, Task, str, bool]]:
    """Names, tasks, token groups, and whether all algorithms are run."""
    for model in MODELS:
        if only in model:
            yield model, planted_task(load_vit(model), n=PAIRS), "all", True
    for model, data in TOYS.items():
        folder = os.environ.get("VITCIRCUITS_TEST_DATA")
        if only not in model or (data == "mnist" and folder is None):
            continue
        vit = load_vit(model)
        where: dict[str, Any] = {"data_dir": f"{folder}/mnist"} if data == "mnist" else {}
        task = class_contrast(vit, data, target=3, foil=8, n_discovery=PAIRS, n_evaluation=PAIRS, **where)
        yield model, task, "all", True
        yield f"{model} mean", task.with_ablation("mean"), "all", False
        if data == "digits":
            yield f"{model} role", task, "role", False


def record(only: str) -> dict[str, Any]:
    """Everything, by model and call."""
    found: dict[str, Any] = {}
    for name, task, tokens, everything in tasks(only):
        graph = compile_graph(task.vit, tokens=tokens)
        size = max(4, len(graph) // 8)
        calls = _searches(size, everything) | (_PATCHES if everything else {})
        for label, call in calls.items():
            found[f"{name} | {label}"] = _run(partial(call, graph, task), task, size)
        print(name, file=sys.stderr, flush=True)
    return found


def _searches(size: int, everything: bool) -> dict[str, Callable[..., Any]]:
    found = {}
    for algorithm, options in SEARCHES:
        if everything or algorithm in SCORES_ONLY:
            sized = {"size": size} if algorithm in ("budgeted_pruning", "learned_masks") else {}
            label = f"{algorithm} {json.dumps(options, sort_keys=True)}"
            found[label] = partial(run_algorithm, algorithm, **options, **sized)
    return found


_PATCHES: dict[str, Callable[..., Any]] = {
    f"{call.__name__} {direction}": partial(call, direction=direction)
    for call in (path_patch, activation_patch)
    for direction in ("noising", "denoising")
} | {"node_effects": node_effects}


def _run(call: Any, task: Task, size: int) -> dict[str, Any]:
    try:
        with counted_work(task) as work:
            got = call()
    except Exception as error:  # what is refused is part of the record
        return {"error": f"{type(error).__name__}: {str(error)[:120]}"}
    if isinstance(got, Circuit):
        return {"kept": np.flatnonzero(got.mask).tolist(), "values": got.scores.values.tolist(), "work": work.runs}
    if isinstance(got, Scores):
        kept = np.flatnonzero(got.top(size).mask).tolist()
        return {"kept": kept, "values": got.values.tolist(), "work": work.runs}
    return {"values": np.asarray(got.values, dtype=float).ravel().tolist(), "work": work.runs}


def compare(before: dict[str, Any], after: dict[str, Any]) -> int:
    """Prints what differs; how many kept sets do."""
    differing = 0
    for key in before:
        old, new = before[key], after.get(key)
        if new is None or "error" in old or "error" in new:
            if new is not None and old != new:
                print(f"{key}: {old.get('error')} -> {new.get('error')}")
            continue
        a, b = np.array(old["values"]), np.array(new["values"])
        gap = float(np.nanmax(np.abs(a - b), initial=0)) if a.shape == b.shape else float("inf")
        scale = float(np.nanmax(np.abs(a), initial=1e-30))
        work = new["work"] / max(old["work"], 1e-9)
        if gap > 1e-4 * max(scale, 1) or work > 1.0005 or work < 0.98:
            print(f"{key}: values within {gap:.1e} of {scale:.2g}, work {old['work']:.2f} -> {new['work']:.2f}")
        if old.get("kept") != new.get("kept"):
            differing += 1
            _name(key, set(old["kept"]), set(new["kept"]), a)
    print(f"{len(before)} results, {differing} with other edges")
    return differing


def _name(key: str, old: set[int], new: set[int], values: np.ndarray) -> None:
    print(f"  {key}: other edges")
    for what, edges in (("gone", old - new), ("new", new - old)):
        for edge in sorted(edges):
            print(f"    {what} edge {edge}, score {values[edge]:.6g}")


def main() -> None:
    """Records, and compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="where the record goes")
    parser.add_argument("--against", type=Path, help="an earlier record")
    parser.add_argument("--only", default="", help="models whose name holds this")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    found = record(chosen.only)
    if chosen.write:
        chosen.write.write_text(json.dumps(found))
    if chosen.against:
        before = {key: value for key, value in json.loads(chosen.against.read_text()).items() if chosen.only in key}
        sys.exit(compare(before, found) > 0)


if __name__ == "__main__":
    main()
