"""Finds circuits again on other pairs with every method, and writes how alike they are into a Markdown file.

    .venv/bin/python tests/benchmarks/stability.py --write docs/faithfulness.md

Needs the data folder of `transmission.py`. What was measured is kept in the folder --work, so that a run that was
interrupted goes on; --only takes some of the studies and methods.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from performance import put_between_marks
from studies import METHODS, STUDIES
from vitcircuits.algorithms import measure_stability
from vitcircuits.circuits import compile_graph
from vitcircuits.models.files import write_text_atomic

BEGIN, END = "<!-- stability: begin -->", "<!-- stability: end -->"
SHARE = 0.1  # of the edges
FIGURES = ("jaccard_consensus_halves", "jaccard_resamples", "jaccard_halves", "jaccard_chance")
CHEAP = ("eap", "relp")  # the methods that take seconds on DeiT-Tiny


def measured(name: str, method: str, work: Path) -> dict[str, Any]:
    """The figures of one method in one study, from the work folder where they are there."""
    path = work / f"stability-{name}-{method}.json"
    if not path.exists():
        task = STUDIES[name].task()
        graph = compile_graph(task.vit)
        found = measure_stability(
            method,
            graph,
            task,
            size=SHARE,
            n_resamples=5,
            n_seeds=0,
            consensus_in_halves=True,
            progress=True,
        )
        figures = {figure: [found[figure].value, found[figure].low, found[figure].high] for figure in FIGURES}
        write_text_atomic(path, json.dumps({"edges": len(found.consensus()), **figures}))
    return json.loads(path.read_text())


def row(title: str, method: str, found: dict[str, Any]) -> str:
    """A line of the table."""
    cells = []
    for figure in FIGURES:
        value, low, high = found[figure]
        cells.append(f"{value:.2f}" + ("" if low is None else f" ({low:.2f} to {high:.2f})"))
    return f"| {title} | `{method}` | {' | '.join(cells)} | {found['edges']} |"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help=f"of {', '.join((*STUDIES, *METHODS))}; all by default")
    parser.add_argument("--work", type=Path, default=Path("stability-work"), help="where figures are kept")
    parser.add_argument("--write", type=Path, help="a Markdown file to write the table into")
    options = parser.parse_args()
    chosen = [part for part in options.only.split(",") if part]
    studies = [name for name in STUDIES if name in chosen] or ["deit", "3v8"]
    lines = [
        "| behaviour, 10% of the edges | method | consensus of two halves | resamples | halves | by chance | edges |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in studies:
        methods = CHEAP if name == "deit" else [method for method in METHODS if method != "acdc"]
        for method in methods:
            if not set(chosen) & set(METHODS) or method in chosen:
                print(f"{STUDIES[name].title}: {method}", file=sys.stderr)
                lines.append(row(STUDIES[name].title, method, measured(name, method, options.work)))
    table = "\n".join(lines)
    print(table)
    if options.write:
        text = options.write.read_text() if options.write.exists() else "# Stability\n"
        write_text_atomic(options.write, put_between_marks(text, table, BEGIN, END))


if __name__ == "__main__":
    main()
