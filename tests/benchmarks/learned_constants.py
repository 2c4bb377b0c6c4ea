"""How well random circuits do when they, too, learn what their removed edges carry; writes the table into a page.

    .venv/bin/python tests/benchmarks/learned_constants.py --write docs/faithfulness.md

`optimal_ablation` fits constants to one circuit. A report's controls carry that circuit's constants, which were not
fitted to them; here each control learns its own. Needs the data folder of `transmission.py`. A quarter of an hour.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from performance import write_measured
from studies import STUDIES
from vitcircuits.algorithms import eap, optimal_ablation
from vitcircuits.circuits import Circuit, Graph, Task, compile_graph, evaluate
from vitcircuits.circuits.judging.control_kinds import control_masks

BEGIN, END = "<!-- constants: begin -->", "<!-- constants: end -->"
KINDS = {"": "EAP's circuit", "paths": "random paths", "dealt": "its edges dealt anew"}
SIZES, COUNT = (0.05, 0.1, 0.2), 6


def judged(graph: Graph, task: Task, mask: NDArray[np.bool_]) -> tuple[float, ...]:
    """T under means, T and R^2 under constants learned for it, of one circuit on held-out images."""
    under_means = Circuit(graph, mask, None, task.ablation, dict(task.info))
    learned = optimal_ablation(under_means, task, progress=False)
    quick = {"n_random": 0, "n_bootstrap": 0, "curve": False, "progress": False}
    before, after = (evaluate(one, task, **quick).figures for one in (under_means, learned))
    figures = before["transmission"], after["transmission"], after["reproduced_variation"]
    return tuple(float(figure.value) for figure in figures)


def rows(name: str) -> Iterator[str]:
    """Lines of the table for one study."""
    study = STUDIES[name]
    task = study.task("means")
    graph = compile_graph(task.vit)
    scores = eap(graph, task, progress=False)
    for size in SIZES:
        circuit = scores.top(size, by="abs_mean")
        if not len(circuit):  # the ranking's first path is longer
            continue
        for kind, words in KINDS.items():
            masks = control_masks(circuit, kind, COUNT, seed=0) if kind else [circuit.mask]
            others = [mask for mask in masks if not kind or not np.array_equal(mask, circuit.mask)]
            if not others:  # there is one way to deal them
                continue
            figures = np.sort([judged(graph, task, mask) for mask in others], axis=0)
            print(study.title, len(circuit), words, figures.round(2).tolist(), file=sys.stderr)
            ends = [f"{low:.2f} to {high:.2f}" if kind else f"{low:.2f}" for low, high in figures[[0, -1]].T]
            yield f"| {study.title} | {len(circuit)} | {words} | {len(others)} | {' | '.join(ends)} |"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="3v8,4v9,7v1", help="studies")
    parser.add_argument("--write", type=Path, help="a Markdown file to write the table into")
    options = parser.parse_args()
    lines = ["| behaviour | edges | circuits | how many | T under means | T, own constants | R^2, own constants |"]
    lines.append("| --- " * 7 + "|")
    lines += [line for name in options.only.split(",") for line in rows(name)]
    found = "\n".join(lines)
    print(found)
    if options.write:
        write_measured(options.write, found, BEGIN, END)


if __name__ == "__main__":
    main()
