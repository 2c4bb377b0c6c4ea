"""Kills a search again and again (SIGKILL, at moments drawn by chance) until it ends, and compares what it wrote.

usage: kill_search.py [--algorithm NAME] [--kills N] [--pairs N] [--seed N] [--processes 1,2,4]

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
from pathlib import Path

import torch
from torch import distributed
from vitcircuits.algorithms import run_algorithm
from vitcircuits.algorithms.pruning import masks
from vitcircuits.circuits import class_contrast, compile_graph, memory
from vitcircuits.models import load_vit
from vitcircuits.models.processes import LostProcessError

SEARCHES = {
    "acdc": {"tau": 0.003, "batch": 8},
    "learned_masks": {"size": [12, 6], "steps": 60, "derivative": "pathwise"},
    "budgeted_pruning": {"size": 20},
}


def main() -> int:
    """0 if the bytes are the same and every kill hit a running search."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithm", choices=SEARCHES, default="acdc")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=_numbers, default=[1])
    args = parser.parse_args()
    memory.LEAST_WORK = 0  # several chunks, which processes share
    masks.SAVE_SECONDS = 0.1  # a search of seconds is to be taken up in its middle, too
    torch.set_num_threads(1)  # forked processes must not wait for the threads of their parent
    task = class_contrast(load_vit("toy/digits-2l"), "digits", target=3, foil=8, n_discovery=args.pairs, n_evaluation=2)
    chance, hits, same = random.Random(args.seed), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        whole, start = Path(folder) / "whole", time.perf_counter()
        _ended(_search(args.algorithm, task, whole, 1))
        seconds = time.perf_counter() - start
        wanted, runs = (whole / "circuit.json").read_bytes(), 0
        while hits < args.kills:
            again, runs = Path(folder) / f"again-{runs}", runs + 1
            hits += _disturb(args.algorithm, task, again, chance, seconds, args.kills - hits, args.processes)
            same += (again / "circuit.json").read_bytes() == wanted
    print(f"{hits} kills in {runs} runs of {seconds:.2f} s; {same} of {runs} ended with the same bytes", flush=True)
    return int(same != runs)


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _disturb(
    algorithm: str, task, folder: Path, chance: random.Random, seconds: float, most: int, processes: list[int]
) -> int:
    """Lets one search end, killed up to four times on the way; how many kills found it running."""
    hits = 0
    for _ in range(min(4, most)):
        children = _search(algorithm, task, folder, chance.choice(processes))
        time.sleep(chance.uniform(0, seconds))
        killed = chance.randrange(len(children))
        os.kill(children[killed], signal.SIGKILL)
        hits += os.WIFSIGNALED(_ended(children)[killed])
        if (folder / "circuit.json").exists():
            return hits
    _ended(_search(algorithm, task, folder, chance.choice(processes)))
    return hits


def _ended(children: list[int]) -> list[int]:
    """How each process ended."""
    return [os.waitpid(child, 0)[1] for child in children]


def _search(algorithm: str, task, folder: Path, processes: int) -> list[int]:
    """The processes of a search that writes its journal and its circuit into a folder."""
    folder.mkdir(exist_ok=True)
    store = Path(tempfile.mkdtemp(dir=folder)) / "store"
    return [_one(algorithm, task, folder, place, processes, store) for place in range(processes)]


def _one(algorithm: str, task, folder: Path, place: int, processes: int, store: Path) -> int:
    """One of them, forked."""
    child = os.fork()
    if child == 0:
        try:
            if processes > 1:
                distributed.init_process_group("gloo", init_method=f"file://{store}", rank=place, world_size=processes)
            graph, journal = compile_graph(task.vit), folder / "journal.jsonl"
            found = run_algorithm(algorithm, graph, task, journal=journal, **SEARCHES[algorithm])
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
