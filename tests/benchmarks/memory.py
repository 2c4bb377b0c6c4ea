"""Peak memory of every algorithm, and of the judgement, over its budget: from its first step to its end.

    .venv/bin/python tests/benchmarks/memory.py --only acdc,evaluate --memory 1GB

On ViT-B/16 with random weights, each in a process of its own, above the model and the images. Options are small, so
that it ends soon, but it ends: what is held at the last moment counts as much as at the first.
"""

import argparse
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import torch
from measure import Row, peak_memory, random_task
from vitcircuits.algorithms import run_algorithm
from vitcircuits.algorithms.run_config import read_bytes
from vitcircuits.circuits import Circuit, Graph, Task, compile_graph, evaluate

VIT_B = "vit_base_patch16_224"
BUDGETS = (1_500_000_000, 2_000_000_000)
ABLATIONS = ("partner", "mean")

FEW: dict[str, tuple[int, dict[str, Any]]] = {  # pairs, and options with which it ends soon
    "eap": (16, {}),
    "eap_ig": (16, {"steps": 2}),
    "eap_ig_activations": (2, {"steps": 1}),
    "ceap": (8, {"steps": 1}),
    "relp": (16, {}),
    "atp_star": (2, {}),
    "rank_ensemble": (2, {}),
    "direct_logit_attribution": (16, {}),
    "hybrid": (2, {"budget": 0.05}),
    "exact_effects": (2, {}),
    "acdc": (2, {"tau": 1e-3}),
    "learned_masks": (4, {"steps": 2, "size": 0.3, "batch": 4}),
    "budgeted_pruning": (2, {"size": 0.3, "share": 0.5, "regrow_rounds": 1, "swaps": 1}),
    "evaluate": (4, {"n_random": 2, "curve": False}),
}


def run(name: str, graph: Graph, task: Task, memory: int, options: dict[str, Any]) -> object:
    """An algorithm by name, or the judgement of half of the edges."""
    if name != "evaluate":
        return run_algorithm(name, graph, task, memory=memory, progress=False, **options)
    half = Circuit(graph, np.arange(len(graph)) % 2 == 0)
    return evaluate(half, task, pairs=task.discovery, memory=memory, progress=False, **options)


def peak_over_budget(name: str, model: str, memory: int, ablation: str = "partner") -> Row:
    """Peak memory above the model and the images over the budget, in a process of its own."""
    threads = torch.get_num_threads()
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        peak = pool.submit(_peak, name, model, memory, ablation, threads).result()
    shown = (
        f"{name}, {model}, {FEW[name][0]} pairs, {ablation}, to its end: {peak / 1e6:,.0f} MB above model and images"
    )
    return Row(shown, f"memory={memory:,} bytes", (peak / memory,), threads)


def _peak(name: str, model: str, memory: int, ablation: str, threads: int) -> int:
    torch.set_num_threads(threads)
    n_pairs, options = FEW[name]
    task = random_task(model, n_pairs, ablation)
    graph = compile_graph(task.vit, ports="block")
    return peak_memory(lambda: run(name, graph, task, memory, options))


def rows(
    model: str, budgets: Sequence[int], names: Sequence[str] = tuple(FEW), ablations: Sequence[str] = ABLATIONS
) -> Iterator[Row]:
    """One row for each algorithm, budget and ablation, as they are measured."""
    for name in names:
        for memory in budgets:
            for ablation in ablations:
                yield peak_over_budget(name, model, memory, ablation)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(FEW), help=f"of {', '.join(FEW)}")
    parser.add_argument("--memory", default=",".join(map(str, BUDGETS)), help="budgets, such as 1GB,2GB")
    parser.add_argument("--model", default=VIT_B)
    parser.add_argument("--ablation", default=",".join(ABLATIONS))
    options = parser.parse_args()
    budgets = [read_bytes(text) for text in options.memory.split(",")]
    for row in rows(options.model, budgets, options.only.split(","), options.ablation.split(",")):
        print(row, flush=True)


if __name__ == "__main__":
    main()
