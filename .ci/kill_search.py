"""Kills a search again and again (SIGKILL, at moments drawn by chance) until it ends, and compares what it wrote.

usage: kill_search.py [--algorithm NAME ...] [--kills N] [--pairs N] [--seed N] [--processes 1,2,4] [--ports block]

Every killed run is followed by another of the same search, which goes on from the journal. The circuit must come out
with the same bytes as that of a run on one process that nobody disturbed. A search runs on any of several numbers of
processes, of which one is killed: the others must end by themselves.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import distributed
from vitcircuits.algorithms import run_algorithm
from vitcircuits.algorithms.pruning import masks
from vitcircuits.circuits import Graph, Task, class_contrast, compile_graph, memory
from vitcircuits.models import load_vit
from vitcircuits.models.processes import LostProcessError

SEARCHES = {
    "acdc": {"tau": 0.003, "batch": 8},
    "learned_masks": {"size": [12, 6], "steps": 30, "batch": 4, "derivative": "pathwise"},
    "budgeted_pruning": {"size": 20},
}

Search = Callable[[Path, int], list[int]]
"""Starts so many processes that search into a folder."""


def main() -> int:
    """0 if the bytes are the same and every kill hit a running search."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithm", choices=SEARCHES, nargs="+", default=["acdc"])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=_numbers, default=[1])
    parser.add_argument("--ports", choices=("qkv", "head", "block"), default="qkv")
    args = parser.parse_args()
    memory.LEAST_WORK = 0  # several chunks, which processes share
    masks.SAVE_SECONDS = 0.1  # a search of seconds is to be taken up in its middle, too
    torch.set_num_threads(1)  # forked processes must not wait for the threads of their parent
    task = class_contrast(load_vit("toy/digits-2l"), "digits", target=3, foil=8, n_discovery=args.pairs, n_evaluation=2)
    graph = compile_graph(task.vit, ports=args.ports)
    return max([_kill(partial(_search, algorithm, graph, task), args) for algorithm in args.algorithm])


def _kill(search: Search, args: argparse.Namespace) -> int:
    """Kills one algorithm's search until there are enough kills; 0 if every run ended with the same bytes."""
    chance, hits, same = random.Random(args.seed), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        whole, start = Path(folder) / "whole", time.perf_counter()
        _ended(search(whole, 1))
        seconds = time.perf_counter() - start
        wanted, runs = (whole / "circuit.json").read_bytes(), 0
        while hits < args.kills:
            again, runs = Path(folder) / f"again-{runs}", runs + 1
            hits += _disturb(search, again, chance, seconds, args.kills - hits, args.processes)
            same += (again / "circuit.json").read_bytes() == wanted
    print(f"{hits} kills in {runs} runs of {seconds:.2f} s; {same} of {runs} ended with the same bytes", flush=True)
    return int(same != runs)


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _disturb(
    search: Search, folder: Path, chance: random.Random, seconds: float, most: int, processes: list[int]
) -> int:
    """Lets one search end, killed up to four times on the way; how many kills found it running."""
    hits = 0
    for _ in range(min(4, most)):
        children = search(folder, chance.choice(processes))
        time.sleep(chance.uniform(0, seconds))
        killed = chance.randrange(len(children))
        os.kill(children[killed], signal.SIGKILL)
        hits += os.WIFSIGNALED(_ended(children)[killed])
        if (folder / "circuit.json").exists():
            return hits
    _ended(search(folder, chance.choice(processes)))
    return hits


def _ended(children: list[int]) -> list[int]:
    """How each process ended."""
    return [os.waitpid(child, 0)[1] for child in children]


def _search(algorithm: str, graph: Graph, task: Task, folder: Path, processes: int) -> list[int]:
    """The processes of a search that writes its journal and its circuit into a folder."""
    folder.mkdir(exist_ok=True)
    store = Path(tempfile.mkdtemp(dir=folder)) / "store"
    return [_one(algorithm, graph, task, folder, place, processes, store) for place in range(processes)]


def _one(algorithm: str, graph: Graph, task: Task, folder: Path, place: int, processes: int, store: Path) -> int:
    """One of them, forked."""
    child = os.fork()
    if child == 0:
        try:
            if processes > 1:
                distributed.init_process_group("gloo", init_method=f"file://{store}", rank=place, world_size=processes)
            options = {**SEARCHES[algorithm], "journal": folder / "journal.jsonl"}
            found = run_algorithm(algorithm, graph, task, **options)
            (found[-1] if isinstance(found, list) else found).save(folder / "circuit.json")
        except LostProcessError:
            os._exit(2)
        except BaseException as error:
            print(error, file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return child


if __name__ == "__main__":
    sys.exit(main())
