"""Finds circuits with every method, judges them on held-out pairs, and writes the tables into a Markdown file.

    .venv/bin/python tests/benchmarks/faithfulness.py --write docs/faithfulness.md

Needs a folder with mnist/, cats_dogs/ and DeiT-Tiny's weights, named by VITCIRCUITS_TEST_DATA. What a method found is
kept in the folder --work, so that a run that was interrupted goes on; --only takes some of the studies and methods.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from exact_engine import DATA, DEIT
from performance import machine, put_between_marks
from vitcircuits.algorithms import ALGORITHMS, acdc, run_algorithm
from vitcircuits.algorithms.work import counted_work
from vitcircuits.circuits import Graph, Task, class_contrast, compile_graph
from vitcircuits.circuits.baseline import make_baseline
from vitcircuits.circuits.bootstrap import Resamples, share
from vitcircuits.circuits.controls import random_masks
from vitcircuits.circuits.draw.grid import draw_grids
from vitcircuits.circuits.faithfulness import Judged
from vitcircuits.circuits.formats.plain import write_text_atomic
from vitcircuits.circuits.mask_runs import run_masks
from vitcircuits.circuits.report import Figure
from vitcircuits.circuits.sizes import edges_of
from vitcircuits.models import load_vit

N_RANDOM = 10
METHODS = (
    "learned_masks",
    "budgeted_pruning",
    "hybrid",
    "acdc",
    "eap",
    "eap_ig",
    "relp",
    "ceap",
    "atp_star",
    "rank_ensemble",
)

Masks = list[np.ndarray]  # one per size, each of shape (edge,)


def cats_against_dogs() -> Task:
    """Photographs, another photograph as the partner."""
    vit = load_vit(DEIT, checkpoint=DATA / DEIT / "model.safetensors")
    return class_contrast(vit, str(DATA / "cats_dogs"), target="cats=281-285", foil="dogs=151-268")


def digits(target: int, foil: int) -> Task:
    """Handwritten digits, an image of the foil as the partner."""
    vit = load_vit("toy/mnist-2l")
    sizes = {"n_discovery": 128, "n_evaluation": 200}
    return class_contrast(vit, "mnist", target=target, foil=foil, data_dir=DATA / "mnist", **sizes)


@dataclass(frozen=True)
class Study:
    """A behaviour, the sizes at which circuits of it are judged, and what single methods need to know."""

    title: str
    task: Callable[[], Task]
    shares: tuple[float, ...]
    taus: tuple[float, ...]  # of ACDC, whose size cannot be asked for
    few: dict[str, int] = field(default_factory=dict)  # pairs of methods that would take hours on all of them
    options: dict[str, dict[str, Any]] = field(default_factory=dict)  # of methods that would take hours without


_TOY = ((0.05, 0.1, 0.2, 0.4), tuple(float(tau) for tau in np.geomspace(3, 1e-4, 16)))
STUDIES = {
    "deit": Study(
        "DeiT-Tiny, cats against dogs",
        cats_against_dogs,
        (0.02, 0.05, 0.1, 0.2),
        (0.15, 0.044, 0.02, 0.008),
        {"acdc": 6, "hybrid": 8},
        {"budgeted_pruning": {"share": 0.15, "breaths": 1, "swaps": 0}, "hybrid": {"budget": 0.25}},
    ),
    "3v8": Study("toy/mnist-2l, 3 against 8", partial(digits, 3, 8), *_TOY),
    "4v9": Study("toy/mnist-2l, 4 against 9", partial(digits, 4, 9), *_TOY),
}


@dataclass(frozen=True)
class Cell:
    """What one method found in one study.

    Args:
        masks: Kept edges, one circuit per size.
        seconds: For all sizes together.
        runs: Forward passes' worth of work over the pairs that were used, times these pairs.
        n_pairs: Pairs that were used.
    """

    masks: Masks
    seconds: float
    runs: float
    n_pairs: int


def find(method: str, study: Study, task: Task, graph: Graph, journal: Path) -> Cell:
    """Runs a method on the discovery pairs, or on the first few of them.

    A search that was cut off goes on from its journal; what it cost is then that of the last part.
    """
    n_pairs = min(len(task.discovery), study.few.get(method, len(task.discovery)))
    task = replace(task, discovery=task.discovery.select(slice(0, n_pairs)))
    sizes = edges_of(study.shares, graph)
    start = time.perf_counter()
    with counted_work(task) as work:
        masks = _search(method, study, task, graph, sizes, journal)
    return Cell(masks, time.perf_counter() - start, work.runs * n_pairs, n_pairs)


def _search(method: str, study: Study, task: Task, graph: Graph, sizes: list[int], journal: Path) -> Masks:
    options = study.options.get(method, {}) | {"progress": True}
    if method == "acdc":
        circuits = acdc(graph, task, tau=study.taus, journal=journal, progress=True)
        found = sorted((circuit.mask for circuit in circuits), key=np.sum)
        empty = np.zeros(len(graph), dtype=bool)
        return [max((mask for mask in [empty, *found] if mask.sum() <= size), key=np.sum) for size in sizes]
    if "size" in ALGORITHMS[method].options:
        circuits = run_algorithm(method, graph, task, size=sizes, journal=journal, **options)
        return [circuit.mask for circuit in circuits]
    scores = run_algorithm(method, graph, task, **options)
    return [scores.top(size).mask for size in sizes]


def kept(method: str, name: str, task: Task, graph: Graph, work: Path) -> Cell:
    """The same, from the work folder where it is there."""
    path = work / f"{name}-{method}.json"
    if not path.exists():
        cell = find(method, STUDIES[name], task, graph, work / f"{name}-{method}.jsonl")
        record = {**vars(cell), "masks": [np.flatnonzero(mask).tolist() for mask in cell.masks]}
        write_text_atomic(path, json.dumps(record))
    record = json.loads(path.read_text())
    masks = [np.isin(np.arange(len(graph)), edges) for edges in record["masks"]]
    return Cell(**{**record, "masks": masks})


@dataclass(frozen=True)
class Line:
    """One circuit on the held-out pairs."""

    method: str
    asked: float
    edges: str
    faithfulness: Figure
    right: Figure | None
    seconds: float | None
    runs: float | None


def judge(name: str, cells: dict[str, Cell], task: Task, graph: Graph) -> list[Line]:
    """Every circuit, and random circuits of the size of the first method's, all on the same held-out pairs."""
    study, masks = STUDIES[name], [np.ones(len(graph), dtype=bool), np.zeros(len(graph), dtype=bool)]
    for cell in cells.values():
        masks += cell.masks
    first = next(iter(cells.values())).masks
    for mask in first:
        masks += random_masks(graph, mask, N_RANDOM, seed=0)
    baseline = make_baseline(task.vit, task.ablation, task.reference)
    runs = run_masks(task.vit, graph, masks, task.metric, task.evaluation, baseline, n_logits=len(masks), progress=True)
    judged = Judged(runs.outputs, runs.clean_outputs, Resamples.draw(len(task.evaluation), 1000, seed=0))
    lines, row = [], 2
    for method, cell in cells.items():
        for part, mask in zip(study.shares, cell.masks, strict=True):
            figure = judged.resamples.figure(float(judged.values[row]), judged.drawn[:, row], "share", "")
            right = share(task.metric.correct(runs.logits[row]).numpy(), "")
            lines.append(Line(method, part, f"{mask.sum()}", figure, right, cell.seconds, cell.runs))
            row += 1
    for part, mask in zip(study.shares, first, strict=True):
        values = judged.values[row : row + N_RANDOM]
        figure = Figure(float(values.mean()), "share", float(values.min()), float(values.max()))
        lines.append(Line("random circuits", part, f"{mask.sum()}", figure, None, None, None))
        row += N_RANDOM
    return lines


def table(lines: list[Line]) -> str:
    """The lines as a Markdown table."""
    out = [
        "| method | asked | edges | held-out faithfulness | still right | seconds | forward passes |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for line in lines:
        right = "" if line.right is None else f"{line.right.value:.2f} [{line.right.low:.2f}, {line.right.high:.2f}]"
        found = f"{line.faithfulness.value:.2f} [{line.faithfulness.low:.2f}, {line.faithfulness.high:.2f}]"
        cost = ["" if value is None else f"{value:,.0f}" for value in (line.seconds, line.runs)]
        name = line.method if line.method == "random circuits" else f"`{line.method}`"
        out.append(f"| {name} | {line.asked:.0%} | {line.edges} | {found} | {right} | {cost[0]} | {cost[1]} |")
    return "\n".join(out)


def draw(lines: list[Line], title: str, path: Path) -> None:
    """Held-out faithfulness, method by size."""
    methods, shares = (list(dict.fromkeys(getattr(line, part) for line in lines)) for part in ("method", "asked"))
    found = {(line.method, line.asked): line.faithfulness.value for line in lines}
    values = np.array([[found[method, part] for part in shares] for method in methods], dtype=np.float64)
    draw_grids(
        {f"{title}: held-out faithfulness": values}, methods, [f"{part:.0%} of the edges" for part in shares], path
    )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help=f"of {', '.join((*STUDIES, *METHODS))}; all by default")
    parser.add_argument("--work", type=Path, default=Path("faithfulness-work"), help="where found circuits are kept")
    parser.add_argument("--write", type=Path, help="a Markdown file to write the tables into; pictures lie beside it")
    options = parser.parse_args()
    if not DATA.is_dir():
        raise SystemExit(f"{DATA} is not there: set VITCIRCUITS_TEST_DATA.")
    chosen = [part for part in options.only.split(",") if part]
    if unknown := set(chosen) - {*STUDIES, *METHODS}:
        parser.error(f"--only {','.join(sorted(unknown))} is not known: choose of {', '.join((*STUDIES, *METHODS))}")
    studies = [name for name in STUDIES if name in chosen] or list(STUDIES)
    methods = [name for name in METHODS if name in chosen] or list(METHODS)
    parts = [machine()]
    for name in studies:
        study, task = STUDIES[name], STUDIES[name].task()
        graph, cells = compile_graph(task.vit), {}
        for method in methods:
            print(f"{study.title}: {method}", file=sys.stderr)
            cells[method] = kept(method, name, task, graph, options.work)
        lines = judge(name, cells, task, graph)
        few = [f"{method} on {cell.n_pairs}" for method, cell in cells.items() if cell.n_pairs < len(task.discovery)]
        facts = f"{len(graph):,} edges; {len(task.discovery)} discovery pairs{', '.join(['', *few])}; " + (
            f"{len(task.evaluation)} held-out pairs."
        )
        parts += [f"### {study.title}", facts, table(lines)]
        if options.write:
            for ending in ("svg", "png"):
                draw(lines, study.title, options.write.parent / f"faithfulness-{name}.{ending}")
            parts.append(f"![Held-out faithfulness by method and size](faithfulness-{name}.svg)")
    measured = "\n\n".join(parts)
    print(measured)
    if options.write:
        text = options.write.read_text() if options.write.exists() else "# Faithfulness\n"
        write_text_atomic(options.write, put_between_marks(text, measured))


if __name__ == "__main__":
    main()
