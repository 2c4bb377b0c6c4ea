"""What passes in 16 bits do to scores, rankings and circuits: a Markdown table, against the same in float32.

    .venv/bin/python tests/benchmarks/precision.py --write docs/precision.md      # some ten minutes of one core
    .venv/bin/python tests/benchmarks/precision.py --only toy                     # a minute

Needs `mnist/`, `cats_dogs/` and DeiT-Tiny's weights in the folder named by VITCIRCUITS_TEST_DATA. The pairs are the
same for every dtype, circuits hold a tenth of the edges, and each is judged by the model in float32.
"""

import argparse
import copy
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from performance import write_measured
from scipy.stats import spearmanr
from studies import DATA, STUDIES, deit, one_partner
from vitcircuits.algorithms import eap, eap_ig, exact_effects
from vitcircuits.circuits import Graph, Scores, Task, class_contrast, compile_graph
from vitcircuits.circuits.judging.judgement import shares_kept
from vitcircuits.models import HookedViT, load_vit

DTYPES = (torch.bfloat16, torch.float16)
N_EVALUATION = 32
LARGE = 2_000  # edges, from which exact effects are of two images of each class


def exact(graph: Graph, task: Task) -> Scores:
    """Exact effects, of large graphs on a few pairs."""
    return exact_effects(graph, one_partner(task, 2) if len(graph) > LARGE else task)


METHODS: dict[str, Callable[[Graph, Task], Scores]] = {"EAP": eap, "EAP-IG": eap_ig, "exact effects": exact}


def toy_task() -> Task:
    """Threes against eights of MNIST."""
    options: dict[str, Any] = {"n_discovery": 32, "n_evaluation": N_EVALUATION, "data_dir": DATA / "mnist"}
    return class_contrast(load_vit("toy/mnist-2l"), "mnist", target=3, foil=8, **options)


def deit_task() -> Task:
    """Cats against dogs, by photographs."""
    target, foil = STUDIES["deit"].classes
    options: dict[str, Any] = {"n_discovery": 4, "n_evaluation": N_EVALUATION}
    return class_contrast(deit(), str(DATA / "cats_dogs"), target=target, foil=foil, **options)


TASKS: dict[str, tuple[str, Callable[[], Task]]] = {
    "toy": ("toy/mnist-2l, 3 against 8", toy_task),
    "deit": ("DeiT-Tiny, cats against dogs", deit_task),
}


def shortened(vit: HookedViT, dtype: torch.dtype) -> HookedViT:
    """The same model in fewer bits, on a copy of its weights."""
    found = load_vit(copy.deepcopy(vit.module), name=vit.cfg.name, dtype=str(dtype)[6:], labels=vit.labels)
    found.preprocess = vit.preprocess
    return found


def rows(name: str, make: Callable[[], Task]) -> Iterator[str]:
    """The table's rows of one task."""
    task = make()
    graph = compile_graph(task.vit)
    size = len(graph) // 10
    short = {dtype: dataclasses.replace(task, vit=shortened(task.vit, dtype)) for dtype in DTYPES}
    for method, find in METHODS.items():
        scores = {torch.float32: find(graph, task), **{dtype: find(graph, one) for dtype, one in short.items()}}
        circuits = {dtype: found.top(size) for dtype, found in scores.items()}
        kept = shares_kept(task, graph, [circuit.mask for circuit in circuits.values()])
        exact, first = scores[torch.float32].values, circuits[torch.float32].mask
        for place, (dtype, found) in enumerate(scores.items()):
            apart = np.abs(found.values - exact).max() / np.abs(exact).max()
            same = (circuits[dtype].mask & first).sum() / first.sum()
            rank = spearmanr(found.values, exact).statistic
            figures = f"{rank:.4f} | {apart:.1e} | {same:.2f} | {kept.kept(place).value:.3f}"
            yield f"| {name} | {method} | {str(dtype)[6:]} | {figures} |"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(TASKS), help=f"of {', '.join(TASKS)}")
    parser.add_argument("--write", type=Path, help="a Markdown file to write the table into")
    options = parser.parse_args()
    lines = [
        "| task | method | passes in | rank correlation | largest difference / largest score | edges shared | T |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for key in options.only.split(","):
        for row in rows(*TASKS[key]):
            print(row, flush=True)
            lines.append(row)
    if options.write:
        write_measured(options.write, "\n".join(lines))


if __name__ == "__main__":
    main()
