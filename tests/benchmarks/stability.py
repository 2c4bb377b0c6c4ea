"""Finds circuits again on other images and writes how alike they are, and how far each reads the image, into a page.

    .venv/bin/python tests/benchmarks/stability.py --write docs/faithfulness.md

Needs the data folder of `transmission.py`. What was measured is kept in the folder --work, so that a run that was
interrupted goes on; --only measures some of the studies and methods, and the table shows all that are there. Sizes are
those at which circuits begin to have T = .8: how alike circuits are that don't read the image says little.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from performance import write_measured
from studies import METHODS, STUDIES
from vitcircuits.algorithms import measure_stability
from vitcircuits.circuits import compile_graph
from vitcircuits.models.files import write_text_atomic

BEGIN, END = "<!-- stability: begin -->", "<!-- stability: end -->"
FIGURES = (  # in the table's order
    ("transmission", "T"),
    ("transmission_resamples", "T of resamples"),
    ("jaccard_resamples", "resamples"),
    ("jaccard_halves", "halves"),
    ("jaccard_consensus_halves", "consensus of two halves"),
    ("jaccard_seeds", "seeds"),
    ("jaccard_chance", "by chance"),
    ("recurring_edges", "edges in 90%"),
)
REMOVED = {"deit": "means"}  # class swap otherwise
SHARE = {("deit", "eap"): 0.6, ("deit", "eap_ig"): 0.6}  # 40% of the edges otherwise
SEARCHES = {"n_resamples": 5, "n_seeds": 1, "n_halvings": 2, "consensus_in_halves": True}
SCORED = {"n_resamples": 5, "n_seeds": 1, "n_halvings": 1, "consensus_in_halves": True}
FEWER = {  # on DeiT-Tiny, where one descent takes as long as all others of a table
    ("deit", "eap"): SCORED,
    ("deit", "eap_ig"): SCORED,
    ("deit", "learned_masks"): {"n_resamples": 2, "n_seeds": 1, "n_halvings": 1},
}
TRIED = {"deit": ("eap", "eap_ig", "learned_masks")}


def kept(name: str, method: str, work: Path) -> Path:
    """Where the figures of one method in one study are kept."""
    return work / f"stability-{name}-{method}.json"


def measured(name: str, method: str, work: Path) -> dict[str, Any]:
    """The figures of one method in one study, from the work folder where they are there."""
    path = kept(name, method, work)
    if not path.exists():
        task, share = STUDIES[name].task(REMOVED.get(name, "swap")), SHARE.get((name, method), 0.4)
        graph, searches = compile_graph(task.vit), FEWER.get((name, method), SEARCHES)
        found = measure_stability(method, graph, task, size=share, progress=True, **searches)
        figures = {key: [found[key].value, found[key].low, found[key].high] for key, _ in FIGURES}
        how = f"{searches['n_resamples']} resamples, divided {searches['n_halvings']} times"
        removed = f"{REMOVED.get(name, 'class swap')}, {share:.0%}"
        work.mkdir(parents=True, exist_ok=True)
        write_text_atomic(path, json.dumps({"edges": len(found.whole), "removed": removed, "how": how, **figures}))
    return json.loads(path.read_text())


def row(title: str, method: str, found: dict[str, Any]) -> str:
    """A line of the table."""
    cells = []
    for figure, _ in FIGURES:
        value, low, high = found[figure]
        ends = "" if low is None else f" [{low:.2f}, {high:.2f}]"
        cells.append("" if value is None else f"{value:.2f}{ends}")
    return f"| {title}; {found['removed']} ({found['how']}) | `{method}` | {found['edges']:,} | {' | '.join(cells)} |"


def table(work: Path) -> str:
    """What is there, as a Markdown table."""
    lines = [f"| behaviour; removed edges carry, size | method | edges | {' | '.join(title for _, title in FIGURES)} |"]
    lines.append("| --- " * (3 + len(FIGURES)) + "|")
    for name, study in STUDIES.items():
        there = [method for method in METHODS if kept(name, method, work).exists()]
        lines += [row(study.title, method, measured(name, method, work)) for method in there]
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help=f"of {', '.join((*STUDIES, *METHODS))}; all by default")
    parser.add_argument("--work", type=Path, default=Path("stability-work"), help="where figures are kept")
    parser.add_argument("--write", type=Path, help="a Markdown file to write the table into")
    options = parser.parse_args()
    chosen = {part for part in options.only.split(",") if part}
    for name in [name for name in STUDIES if name in chosen] or ["3v8", "deit"]:
        for method in TRIED.get(name, [method for method in METHODS if method != "acdc"]):
            if not chosen & set(METHODS) or method in chosen:
                print(f"{STUDIES[name].title}: {method}", file=sys.stderr)
                measured(name, method, options.work)
    found = table(options.work)
    print(found)
    if options.write:
        write_measured(options.write, found, BEGIN, END)


if __name__ == "__main__":
    main()
