"""Searches on one process and on several: how many times faster, whether the bytes are the same, who does how much.

    .venv/bin/python tests/benchmarks/processes.py --processes 2 --rounds 5
    .venv/bin/python tests/benchmarks/processes.py --processes 2,4 --rounds 1 --task mnist-2l --memory 200000

Each group of processes, of one thread each, is started once and searches when it is told to; the groups take turns. The
search alone is timed, from the moment when all have been told until the first has its scores. Another run of each group
counts the work. Times mean something on a machine that is otherwise idle and has as many cores as there are processes.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from edge_attribution import DEIT, random_task
from exact_engine import DATA
from vitcircuits.algorithms import run_algorithm
from vitcircuits.algorithms.work import counted_work
from vitcircuits.circuits import Scores, Task, class_contrast, compile_graph
from vitcircuits.models import load_vit


def _toy(name: str, data: str) -> Callable[[int], Task]:
    return lambda n: class_contrast(
        load_vit(f"toy/{name}"),
        data,
        target=3,
        foil=8,
        data_dir=DATA / data,
        n_discovery=max(2, n // 4),
        n_evaluation=4,
    )


TASKS: dict[str, Callable[[int], Task]] = {
    "deit-tiny": lambda n: random_task(DEIT, n),
    "mnist-2l": _toy("mnist-2l", "mnist"),
    "digits-2l": _toy("digits-2l", "digits"),
}
USUAL = "eap,eap_ig,relp,ceap,exact_effects,hybrid"


def serve(told: Connection, store: Path, place: int, count: int, settings: argparse.Namespace) -> None:
    """One process of a group: it joins the others, then searches whenever it is told an algorithm's name."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=place, world_size=count)
    task = TASKS[settings.task](settings.pairs)
    graph = compile_graph(task.vit, ports=settings.ports)
    told.send("ready")
    while (asked := told.recv()) is not None:
        name, counted = asked
        if counted:
            with counted_work(task) as work:
                found = _search(name, graph, task, settings)
            told.send((_digest(found), work.runs))
        else:
            _search(name, graph, task, settings)
            told.send("done")
    torch.distributed.destroy_process_group()


def _search(name: str, graph: Any, task: Task, settings: argparse.Namespace) -> Scores:
    found = run_algorithm(name, graph, task, memory=int(settings.memory), progress=False)
    assert isinstance(found, Scores)
    return found


def _digest(scores: Scores) -> str:
    arrays = (scores.values, scores.mean_abs, scores.std_err, scores.exact)
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


class Group:
    """Some joined processes that search together."""

    def __init__(self, count: int, settings: argparse.Namespace) -> None:
        context = multiprocessing.get_context("spawn")
        store = Path(tempfile.mkdtemp()) / "store"
        self._told = []
        for place in range(count):
            ours, theirs = context.Pipe()
            context.Process(target=serve, args=(theirs, store, place, count, settings), daemon=True).start()
            theirs.close()  # a process that dies is noticed
            self._told.append(ours)
        self._answers()

    def _answers(self) -> list[Any]:
        return [told.recv() for told in self._told]

    def ask(self, name: str, *, counted: bool) -> list[Any]:
        """Every process's answer."""
        for told in self._told:
            told.send((name, counted))
        return self._answers()

    def seconds(self, name: str) -> float:
        """Of one search."""
        start = time.perf_counter()
        self.ask(name, counted=False)
        return time.perf_counter() - start

    def close(self) -> None:
        """Ends the processes."""
        for told in self._told:
            told.send(None)


def compare(name: str, groups: dict[int, Group], rounds: int) -> None:
    """Prints an algorithm's rows: the group of one is what the others are held against."""
    counted = {count: group.ask(name, counted=True) for count, group in groups.items()}
    ((digest, whole),) = counted[1]
    seconds = {count: [] for count in groups}
    for _ in range(rounds):
        for count, group in groups.items():
            seconds[count].append(group.seconds(name))
    for count in sorted(groups.keys() - {1}):
        same = "same bytes" if all(found == digest for found, _ in counted[count]) else "OTHER BYTES"
        share = max(runs for _, runs in counted[count]) / whole
        ratios = [alone / shared for alone, shared in zip(seconds[1], seconds[count], strict=True)]
        faster = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else "not timed"
        print(
            f"{name}, {count} processes: {same}, the busiest does {share:.3f} of {whole:.1f} passes, times faster: "
            f"{faster}",
            flush=True,
        )


def main(given: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", default="2", help="one number or several: 2,4")
    parser.add_argument("--rounds", type=int, default=5, help="0 does not time anything")
    parser.add_argument("--only", default=USUAL, help="algorithms that find scores")
    parser.add_argument("--task", default="deit-tiny", choices=TASKS)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--ports", default="block", choices=("qkv", "head", "block"))
    parser.add_argument("--memory", type=float, default=2e9, help="bytes: less makes more chunks")
    settings = parser.parse_args(given)
    os.environ["OMP_NUM_THREADS"] = "1"
    groups = {count: Group(count, settings) for count in (1, *map(int, settings.processes.split(",")))}
    for name in settings.only.split(","):
        compare(name, groups, settings.rounds)
    for group in groups.values():
        group.close()


if __name__ == "__main__":
    main()
