"""What a GPU computes, against the CPU, and what it takes: seconds and memory in float32 and bfloat16, as a table.

    .venv/bin/python tests/benchmarks/gpu.py --write docs/performance.md            # under 12 minutes of a GPU
    .venv/bin/python tests/benchmarks/gpu.py --device cpu --small                   # what tests run

First the laws: each algorithm on the two devices, on a toy. Then ViT-B/16 with random weights and random images, 128
pairs. Each row is run once, after a short run that does not count. All exact effects are measured on as many pairs as
the time that is left allows, and the seconds of all pairs are worked out from these, which the row says: pairs cost
alike. The other rows are run whole; one that the time does not allow is left out, and said.
"""

import argparse
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from performance import write_measured
from vitcircuits.algorithms import acdc, eap, eap_ig, exact_effects, learned_masks
from vitcircuits.circuits import Circuit, Graph, Task, class_contrast, compile_graph, run_circuit
from vitcircuits.circuits.tasks.metrics import Metric
from vitcircuits.circuits.tasks.task import Pairs
from vitcircuits.models import load_vit
from vitcircuits.models.devices import free_memory

BEGIN, END = "<!-- gpu: begin -->", "<!-- gpu: end -->"
DTYPES = ("float32", "bfloat16")
LIMIT = 660.0
"""Seconds for everything, so that it ends within 12 minutes."""

Run = Callable[[Graph, Task, int], object]


def measured(device: str) -> Iterator[str]:
    """The rows of the laws: how far the device is from the CPU, each over the largest value."""
    tasks = {
        where: class_contrast(
            load_vit("toy/digits-2l", device=where), "digits", target=3, foil=8, n_discovery=16, n_evaluation=8
        )
        for where in ("cpu", device)
    }
    graph = compile_graph(tasks["cpu"].vit, tokens="role")
    mask = np.random.default_rng(0).random(len(graph)) < 0.5
    laws: dict[str, Callable[[Task], np.ndarray]] = {
        "EAP": lambda task: eap(graph, task).values,
        "EAP-IG": lambda task: eap_ig(graph, task).values,
        "exact effects": lambda task: exact_effects(graph, task).values,
        "run_circuit": lambda task: _logits(task, graph, mask),
        "ACDC, decisions": lambda task: acdc(graph, task, tau=0.3).mask.astype(float),
    }
    for name, find in laws.items():
        here, there = find(tasks["cpu"]), find(tasks[device])
        apart = np.abs(here - there).max() / max(1.0, np.abs(here).max())
        again = np.abs(there - find(tasks[device])).max()
        assert again == 0, f"{name} is not the same the second time on {device}"
        assert apart <= 1e-4, f"{name} is {apart:.1e} from the CPU's"
        yield f"| {name} | {apart:.1e} | yes |"


def _logits(task: Task, graph: Graph, mask: np.ndarray) -> np.ndarray:
    pairs = task.evaluation
    with torch.no_grad():
        return run_circuit(task.vit, Circuit(graph, mask), pairs.clean, pairs.corrupt).cpu().numpy()


def random_pairs(name: str, dtype: str, device: str, n: int) -> Task:
    """A task on random weights and images."""
    torch.manual_seed(0)
    vit = load_vit(name, pretrained=False, device=device, dtype=dtype)
    shape = (n + 2, vit.cfg.n_channels, *vit.cfg.image_size)
    clean, corrupt = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1)).to(device)
    pairs = Pairs(clean[2:], corrupt[2:]), Pairs(clean[:2], corrupt[:2])
    return Task(vit, Metric("logit_difference", (0,), (1,)), *pairs)


def rows(task: Task, tau: float, steps: int) -> dict[str, Run]:
    """What is measured, by name."""
    return {
        "EAP": lambda graph, task, memory: eap(graph, task, memory=memory),
        "EAP-IG, 5 steps": lambda graph, task, memory: eap_ig(graph, task, steps=5, memory=memory),
        f"learned masks, {steps} steps, one size": lambda graph, task, memory: learned_masks(
            graph, task, size=len(graph) // 20, steps=steps, memory=memory
        ),
        f"ACDC, tau {tau:.2g}": lambda graph, task, memory: acdc(graph, task, tau=tau, memory=memory),
    }


class Clock:
    """What is left of the time."""

    def __init__(self, limit: float) -> None:
        self._end = time.perf_counter() + limit

    def left(self) -> float:
        """Seconds."""
        return self._end - time.perf_counter()


def timed(device: str, work: Callable[[], object]) -> tuple[float, float]:
    """Seconds, and gigabytes that tensors took at most above what was there (none on a CPU)."""
    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    before, start = torch.cuda.memory_allocated() if cuda else 0, time.perf_counter()
    work()
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return seconds, (torch.cuda.max_memory_allocated() - before) / 1e9 if cuda else float("nan")


def first(task: Task, n: int) -> Task:
    """The task with its first pairs."""
    return dataclasses.replace(task, discovery=task.discovery.select(slice(n)))


def share_of_exact(graph: Graph, task: Task, memory: int, device: str, seconds: float) -> tuple[float, float, str]:
    """All exact effects of as many pairs as a time allows: seconds of all pairs, memory, and what was done."""
    n, total = 1, len(task.discovery)
    while True:
        took, used = timed(device, lambda n=n: exact_effects(graph, first(task, n), memory=memory))
        if n == total or took * 3 > seconds:  # the next costs twice as much
            return took * total / n, used, "" if n == total else f" (worked out from {n} of {total} pairs)"
        seconds -= took
        n = min(total, 2 * n)


def table(name: str, n_pairs: int, device: str, clock: Clock, steps: int, ports: str) -> Iterator[str]:
    """The rows of seconds and memory."""
    for place, dtype in enumerate(DTYPES):
        task = random_pairs(name, dtype, device, n_pairs)
        graph = compile_graph(task.vit, ports=ports)
        memory = free_memory(device) if device.startswith("cuda") else 2_000_000_000
        said = f"{name}, {n_pairs} pairs, {len(graph)} edges | {dtype}"
        scores = eap(graph, first(task, 2), memory=memory)  # does not count: kernels are loaded, memory is had
        tau = float(np.quantile(np.abs(scores.values), 0.98))
        share = clock.left() / (len(DTYPES) - place)
        took, used, how = share_of_exact(graph, task, memory, device, share / 3)
        yield f"| all exact effects{how} | {said} | {took:.1f} | {used:.1f} |"
        for label, run in rows(task, tau, steps).items():
            if clock.left() < 0:
                yield f"| {label} | {said} | left out: no time | |"
                continue
            took, used = timed(device, lambda run=run, graph=graph, task=task, memory=memory: run(graph, task, memory))
            yield f"| {label} | {said} | {took:.1f} | {used:.1f} |"


def main(argv: list[str] | None = None) -> str:
    """The command; what it writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="a tiny ViT and 4 pairs, to see that all of it runs")
    parser.add_argument("--limit", type=float, default=LIMIT, help=f"seconds ({LIMIT:g})")
    parser.add_argument("--write", type=Path, help="a Markdown file to write the tables into")
    options = parser.parse_args(argv)
    size: dict[str, Any] = {"name": "vit_base_patch16_224", "n_pairs": 128, "steps": 200, "ports": "qkv"}
    if options.small:
        size = {"name": "test_vit", "n_pairs": 4, "steps": 3, "ports": "qkv"}
    clock = Clock(options.limit)
    known = torch.cuda.get_device_name() if options.device.startswith("cuda") else "a CPU"
    lines = [f"Device: {known}; torch {torch.__version__}.", ""]
    heads = {
        "| what | device - CPU, over the largest | the same twice |": measured(options.device),
        "| what | of what | passes in | seconds | GB at most |": table(device=options.device, clock=clock, **size),
    }
    for head, found in heads.items():
        for line in itertools.chain([head, "|" + " --- |" * (head.count("|") - 1)], found):
            print(line, flush=True)
            lines.append(line)
        lines.append("")
    if options.write:
        write_measured(options.write, "\n".join(lines).strip(), BEGIN, END)
    return "\n".join(lines)


if __name__ == "__main__":
    main()
