"""Kills a search again and again (SIGKILL, at moments drawn by chance) until it ends, and compares what it wrote.

usage: kill_search.py [--algorithm NAME] [--kills N] [--pairs N] [--seed N]

Every killed run is followed by another of the same search, which goes on from the journal. The circuit must come out
with the same bytes as that of a run that nobody disturbed.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch
from vitcircuits.algorithms import run_algorithm
from vitcircuits.circuits import class_contrast, compile_graph
from vitcircuits.models import load_vit

SEARCHES = {
    "acdc": {"tau": 0.003, "batch": 8},
    "learned_masks": {"size": [40, 20], "steps": 150, "derivative": "pathwise"},
    "budgeted_pruning": {"size": 20},
}


def main() -> int:
    """0 if the bytes are the same and every kill hit a running search."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithm", choices=SEARCHES, default="acdc")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)  # forked processes must not wait for the threads of their parent
    task = class_contrast(load_vit("toy/digits-2l"), "digits", target=3, foil=8, n_discovery=args.pairs, n_evaluation=2)
    chance, hits, same = random.Random(args.seed), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        whole, seconds = Path(folder) / "whole", 0.0
        for _ in range(2):  # the second is as fast as the others will be
            shutil.rmtree(whole, ignore_errors=True)
            start = time.perf_counter()
            os.waitpid(_search(args.algorithm, task, whole), 0)
            seconds = time.perf_counter() - start
        wanted, runs = (whole / "circuit.json").read_bytes(), 0
        while hits < args.kills:
            again, runs = Path(folder) / f"again-{runs}", runs + 1
            hits += _disturb(args.algorithm, task, again, chance, seconds, args.kills - hits)
            same += (again / "circuit.json").read_bytes() == wanted
    print(f"{hits} kills in {runs} runs of {seconds:.2f} s; {same} of {runs} ended with the same bytes", flush=True)
    return int(same != runs)


def _disturb(algorithm: str, task, folder: Path, chance: random.Random, seconds: float, most: int) -> int:
    """Lets one search end, killed up to four times on the way; how many kills found it running."""
    hits = 0
    for _ in range(min(4, most)):
        child = _search(algorithm, task, folder)
        time.sleep(chance.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        hits += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        if (folder / "circuit.json").exists():
            return hits
    os.waitpid(_search(algorithm, task, folder), 0)
    return hits


def _search(algorithm: str, task, folder: Path) -> int:
    """The process of a search that writes its journal and its circuit into a folder."""
    child = os.fork()
    if child == 0:
        try:
            graph, journal = compile_graph(task.vit), folder / "journal.jsonl"
            found = run_algorithm(algorithm, graph, task, journal=journal, **SEARCHES[algorithm])
            (found[-1] if isinstance(found, list) else found).save(folder / "circuit.json")
        except BaseException as error:
            print(error, file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return child


if __name__ == "__main__":
    sys.exit(main())
