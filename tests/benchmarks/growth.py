"""How work, memory and time grow with layers, tokens, pairs and edges: the figure of docs/scale.md.

    .venv/bin/python tests/benchmarks/growth.py --write docs/scale-growth.svg

On small ViTs with random weights. Work is counted in floating-point operations and memory in bytes of tensors
(`algorithms/work`); time is this process's own, over that of plain forward passes of the same pairs in turns with it.
One thing grows at a time, the others stay as in `USUAL`.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from vitcircuits.algorithms import acdc, eap, exact_effects, learned_masks
from vitcircuits.algorithms.work import counted_memory, counted_work
from vitcircuits.circuits import Circuit, Graph, Pairs, Task, compile_graph, evaluate
from vitcircuits.circuits.tasks.metrics import Metric
from vitcircuits.models import load_vit

PATCH = 8


@dataclass(frozen=True)
class Size:
    """A model, a graph and a task: layers, patches on a side, pairs, and what an edge is."""

    layers: int = 4
    side: int = 4
    pairs: int = 4
    ports: str = "block"
    tokens: str = "all"


USUAL = Size()
GROWS: dict[str, tuple[Size, ...]] = {
    "layers": tuple(replace(USUAL, layers=n) for n in (2, 4, 8)),
    "tokens": tuple(replace(USUAL, side=n) for n in (2, 4, 8)),
    "pairs": tuple(replace(USUAL, pairs=n) for n in (2, 4, 8, 16)),
    "edges": (USUAL, replace(USUAL, ports="qkv"), replace(USUAL, ports="qkv", tokens="role")),
}
RUNS: dict[str, Callable[[Graph, Task], object]] = {
    "EAP": eap,
    "all exact effects": exact_effects,
    "ACDC": lambda graph, task: acdc(graph, task, tau=0.005, metric="task", worsening="absolute"),
    "masks, 4 steps": lambda graph, task: learned_masks(
        graph, task, size=0.5, steps=4, batch=len(task.discovery), derivative="pathwise", polish="no"
    ),
    "judgement, one mask": lambda graph, task: evaluate(
        Circuit(graph, np.arange(len(graph)) % 2 == 0), task, pairs=task.discovery, curve=False, n_random=0
    ),
}


@dataclass(frozen=True)
class Cost:
    """Of one run: forward passes of all pairs by the counter, the same by the clock, and bytes."""

    work: float
    time: float
    memory: int


def make(size: Size) -> tuple[Graph, Task]:
    """A model with random weights, its graph, and a task of random images."""
    torch.manual_seed(0)
    side = PATCH * size.side
    module = VisionTransformer(
        img_size=side, patch_size=PATCH, embed_dim=96, depth=size.layers, num_heads=4, num_classes=10
    )
    vit = load_vit(module.eval().requires_grad_(False), name="growth")
    clean, corrupt, other = (torch.randn(n, 3, side, side) for n in (size.pairs, size.pairs, 2))
    task = Task(vit, Metric("logit_difference", (0,), (1,)), Pairs(clean, corrupt), Pairs(other[:1], other[1:]))
    return compile_graph(vit, ports=size.ports, tokens=size.tokens), task


def cost(run: Callable[[Graph, Task], object], graph: Graph, task: Task) -> Cost:
    """What a run costs: once for the clock, once for the counters."""
    passes, images = 8, task.discovery.clean

    def forward() -> float:
        start = time.process_time()
        with torch.no_grad():
            for _ in range(passes):
                task.vit(images)
        return (time.process_time() - start) / passes

    forward()
    before, start = forward(), time.process_time()
    run(graph, task)
    spent = time.process_time() - start
    plain = (before + forward()) / 2
    with counted_memory() as held, counted_work(task) as work:
        run(graph, task)
    return Cost(work.runs, spent / plain, held.peak)


def of(name: str, size: Size, graph: Graph) -> int:
    """Where a size stands on an axis."""
    return {"layers": size.layers, "tokens": size.side**2 + 1, "pairs": size.pairs, "edges": len(graph)}[name]


def measured(report: Callable[[str], object]) -> dict[tuple[str, str], list[tuple[int, Cost]]]:
    """What grows and what runs -> its costs along the axis."""
    found: dict[tuple[str, str], list[tuple[int, Cost]]] = {}
    seen: dict[tuple[str, Size], Cost] = {}
    for name, sizes in GROWS.items():
        for size in sizes:
            graph, task = make(size)
            for run, call in RUNS.items():
                if (run, size) not in seen:
                    seen[run, size] = cost(call, graph, task)
                row = of(name, size, graph), seen[run, size]
                found.setdefault((name, run), []).append(row)
                report(f"{name} {row[0]:>5} {run:20} {row[1]}")
    return found


def draw(found: dict[tuple[str, str], list[tuple[int, Cost]]], path: Path) -> None:
    """Three rows of panels: work, time, memory; a column for each thing that grows."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    rows: dict[str, Callable[[Cost], float]] = {
        "work, in forward\npasses of all pairs": lambda one: one.work,
        "time, in the same\nunit": lambda one: one.time,
        "memory, in MB": lambda one: one.memory / 1e6,
    }
    style: dict[str, Any] = {"svg.hashsalt": "growth", "font.size": 9, "axes.spines.right": False}
    with plt.rc_context(style | {"axes.spines.top": False, "svg.fonttype": "none"}):
        figure, axes = plt.subplots(3, len(GROWS), figsize=(11, 6.6), sharey="row", sharex="col", squeeze=False)
        for column, name in enumerate(GROWS):
            for row, (unit, of_cost) in enumerate(rows.items()):
                at = axes[row, column]
                for run in RUNS:
                    places, costs = zip(*found[name, run], strict=True)
                    at.plot(places, [of_cost(one) for one in costs], marker="o", markersize=3, label=run)
                at.set(xscale="log", yscale="log")
                at.set_xticks(places, [f"{place:,}" for place in places])
                at.minorticks_off()
                at.grid(alpha=0.25)
                if column == 0:
                    at.set_ylabel(unit)
            axes[2, column].set_xlabel(name)
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="upper center", ncols=len(RUNS), frameon=False)
        figure.tight_layout(rect=(0, 0, 1, 0.95))
        figure.savefig(path, metadata={"Date": None}, facecolor="white")
        plt.close(figure)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="an SVG file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = measured(lambda line: print(line, flush=True))
    if options.write:
        draw(found, options.write)


if __name__ == "__main__":
    main()
