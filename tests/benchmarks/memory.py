"""Peak memory of every algorithm, and of the judgement, over its budget: from its first step to its end.

    .venv/bin/python tests/benchmarks/memory.py --only acdc,evaluate --memory 1GB

On ViT-B/16 with random weights, each in a process of its own, above the model and the images. Options are small, so
that it ends soon, but it ends: what is held at the last moment counts as much as at the first.
"""

import argparse
import gc
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from measure import Row
from vitcircuits.algorithms import run_algorithm
from vitcircuits.algorithms.registry import ALGORITHMS
from vitcircuits.algorithms.run_config import read_bytes
from vitcircuits.circuits import Ablation, Circuit, Graph, Pairs, Task, compile_graph, evaluate
from vitcircuits.circuits.tasks.metrics import Metric
from vitcircuits.models import load_vit

DEIT, VIT_B = "deit_tiny_patch16_224", "vit_base_patch16_224"
BUDGETS = (1_000_000_000, 2_000_000_000)

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


def random_task(name: str, n_pairs: int, ablation: str = "partner") -> Task:
    """A timm model with random weights and random images."""
    torch.manual_seed(0)
    vit = load_vit(timm.create_model(name).eval().requires_grad_(False), name=name)
    clean, corrupt, other = (torch.randn(n, 3, 224, 224) for n in (n_pairs, n_pairs, 2))
    return Task(
        vit,
        Metric("logit_difference", (0,), (1,)),
        Pairs(clean, corrupt),
        Pairs(other[:1], other[1:]),
        ablation=Ablation(ablation),
    )


def run(name: str, graph: Graph, task: Task, memory: int, options: dict[str, Any]) -> object:
    """An algorithm by name, or the judgement of half of the edges."""
    if name != "evaluate":
        return run_algorithm(name, graph, task, memory=memory, progress=False, **options)
    half = Circuit(graph, np.arange(len(graph)) % 2 == 0)
    return evaluate(half, task, pairs=task.discovery, memory=memory, progress=False, **options)


def peak_memory(work: Callable[[], object]) -> int:
    """Bytes that this process holds at most while `work` runs, less what it held before; on Linux.

    Meant for a fresh process: memory that an earlier run has freed but kept would not be counted.
    """
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(lines[name].split()[0])


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


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(FEW), help=f"of {', '.join(FEW)}")
    parser.add_argument("--memory", default=",".join(map(str, BUDGETS)), help="budgets, such as 1GB,2GB")
    parser.add_argument("--model", default=VIT_B)
    parser.add_argument("--ablation", default="partner,mean")
    options = parser.parse_args()
    assert set(ALGORITHMS) < set(FEW)
    for name in options.only.split(","):
        for memory in map(read_bytes, options.memory.split(",")):
            for ablation in options.ablation.split(","):
                print(peak_over_budget(name, options.model, memory, ablation), flush=True)


if __name__ == "__main__":
    main()
