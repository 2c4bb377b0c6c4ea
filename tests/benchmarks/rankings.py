"""Which ranking, norm and rule transmit most: the mean T over five contrasts of digits, as a Markdown table.

    .venv/bin/python tests/benchmarks/rankings.py          # some ten minutes of one core

Needs mnist/ in the folder named by VITCIRCUITS_TEST_DATA. Figures are over held-out images that the model gets right.
"""

from collections.abc import Callable, Iterator

import numpy as np
from exact_engine import DATA
from vitcircuits.algorithms import eap, eap_ig, relp
from vitcircuits.circuits import Graph, Scores, Task, class_contrast, compile_graph
from vitcircuits.circuits.judging.judgement import shares_kept
from vitcircuits.models import load_vit

CONTRASTS = (("digits", 3, 8), ("digits", 4, 9), ("mnist", 3, 8), ("mnist", 4, 9), ("mnist", 7, 1))
SIZES = (11, 22, 33, 44)
RANKINGS = ("signed", "abs_mean", "mean_abs")
METHODS: dict[str, Callable[[Graph, Task], Scores]] = {
    "eap": eap,
    "eap, norms not frozen": lambda graph, task: eap(graph, task, freeze_norm=False),
    "eap_ig": eap_ig,
    "eap_ig, norms not frozen": lambda graph, task: eap_ig(graph, task, freeze_norm=False),
    "eap_ig, left rule": lambda graph, task: eap_ig(graph, task, rule="left"),
    "relp, products by halves": relp,
    "relp, patterns constant": lambda graph, task: relp(graph, task, attention="pattern"),
    "relp, plain attention": lambda graph, task: relp(graph, task, attention="gradient"),
}


def tasks(ablation: str) -> Iterator[Task]:
    """The five contrasts."""
    for data, target, foil in CONTRASTS:
        vit = load_vit("toy/digits-2l" if data == "digits" else "toy/mnist-2l")
        options = {"data_dir": DATA / "mnist"} if data == "mnist" else {}
        yield class_contrast(vit, data, target=target, foil=foil, ablation=ablation, n_evaluation=48, **options)


def transmitted(task: Task) -> np.ndarray:
    """T of each method, ranking and size, shape (method, ranking, size)."""
    graph = compile_graph(task.vit)
    masks = [
        scores.top(size, by=by).mask
        for scores in (method(graph, task) for method in METHODS.values())
        for by in RANKINGS
        for size in SIZES
    ]
    found = shares_kept(task, graph, masks)
    return np.array([found.kept(place).value for place in range(len(masks))]).reshape(len(METHODS), len(RANKINGS), -1)


def main() -> None:
    """The command."""
    means = {ablation: np.mean([transmitted(task) for task in tasks(ablation)], 0) for ablation in ("partner", "mean")}
    print(f"| method | ranked by | {' | '.join(f'{size} of 110 edges' for size in SIZES)} |")
    print("| --- | --- |" + " --- |" * len(SIZES))
    for row, method in enumerate(METHODS):
        for column, by in enumerate(RANKINGS):
            cells = [
                f"{means['partner'][row, column, at]:.2f}, {means['mean'][row, column, at]:.2f}" for at in range(4)
            ]
            print(f"| {method} | {by} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
