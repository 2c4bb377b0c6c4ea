"""Scores and judgements are the same bytes on any number of processes, and each process does its share of the work."""

from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest
import torch
from vitcircuits.algorithms import activation_patch, node_effects, optimal_ablation, path_patch, token_flow
from vitcircuits.algorithms.engines.gated_run import measure_slopes
from vitcircuits.algorithms.registry import ALGORITHMS, run_algorithm
from vitcircuits.algorithms.work import counted_work
from vitcircuits.circuits import Circuit, class_contrast, compile_graph, evaluate, memory
from vitcircuits.circuits.baseline import make_baseline
from vitcircuits.models import load_vit

SCORING = [name for name, entry in ALGORITHMS.items() if entry.finds == "scores"]


def digest(*arrays):
    return sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()


def of_scores(scores):
    diagnostics = np.array([scores.diagnostics[key] for key in sorted(scores.diagnostics)])
    return digest(scores.values, scores.mean_abs, scores.std_err, scores.exact, diagnostics)


def slopes(graph, task):
    mask = np.arange(len(graph)) % 3 > 0
    baseline = make_baseline(task.vit, task.ablation, task.reference)
    return digest(*measure_slopes(task.vit, graph, mask, task.metric, task.searched, baseline))


def constants(graph, task):
    circuit = Circuit(graph, np.arange(len(graph)) % 3 > 0, ablation=task.ablation)
    return digest(optimal_ablation(circuit, task, steps=2, batch=8).ablation.shifts.values)


def judged(graph, task):
    scores = run_algorithm("eap", graph, task)
    with counted_work(task) as work:
        report = evaluate(scores.top(0.2), task, n_random=2, n_bootstrap=50, curve=False, progress=False)
    told = {name: (figure.value, figure.low, figure.high) for name, figure in report.figures.items()}
    return repr(sorted(told.items())), work.runs


def everything():
    """What each computation finds, as a digest, and its work in forward passes of all pairs."""
    torch.set_num_threads(1)
    memory.LEAST_WORK = 0  # a pair in each chunk, as of larger models
    found = {}
    task = class_contrast(load_vit("toy/digits-2l"), "digits", target=3, foil=8, n_discovery=8, n_evaluation=8)
    tasks = {kind: replace(task, ablation=task.ablation).with_ablation(kind) for kind in ("partner", "mean", "noise")}
    one, role = (compile_graph(task.vit, tokens=tokens) for tokens in ("all", "role"))
    computations = {
        **{name: (lambda name=name: of_scores(run_algorithm(name, one, tasks["partner"]))) for name in SCORING},
        "role": lambda: of_scores(run_algorithm("eap_ig", role, tasks["mean"])),
        "denoising": lambda: of_scores(run_algorithm("exact_effects", one, tasks["noise"], direction="denoising")),
        "nodes": lambda: digest(node_effects(one, tasks["mean"]).values),
        "slopes": lambda: slopes(one, tasks["mean"]),
        "activations": lambda: digest(activation_patch(one, tasks["partner"], "head_out").values),
        "paths": lambda: digest(path_patch(one, tasks["partner"], sources="input").values),
        "flow": lambda: digest(token_flow(tasks["partner"]).values),
        "constants": lambda: constants(one, tasks["mean"]),
    }
    for name, compute in computations.items():
        with counted_work(task) as work:
            value = compute()
        found[name] = value, work.runs
    found["evaluate"] = judged(one, tasks["partner"])
    return found


def check(alone, by_place):
    for name, (value, work) in alone.items():
        assert [found[name][0] for found in by_place] == [value] * len(by_place), name
        assert max(found[name][1] for found in by_place) <= 1.15 / len(by_place) * work, name


def test_two_processes_find_the_same_bytes_with_half_of_the_work_each(on_processes):
    (alone,) = on_processes(1, everything)
    check(alone, on_processes(2, everything))


@pytest.mark.slow
def test_so_do_four(on_processes):
    (alone,) = on_processes(1, everything)
    check(alone, on_processes(4, everything))
