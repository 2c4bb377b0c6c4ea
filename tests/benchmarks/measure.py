"""What benchmarks share: paired rounds of two pieces of work, peak memory, and one row for each result."""

import gc
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil
import torch


@dataclass(frozen=True)
class Row:
    """One measurement: what, over what, and their ratio in paired rounds."""

    name: str
    over: str
    ratios: tuple[float, ...]
    threads: int

    @property
    def median(self) -> float:
        """Median ratio."""
        return statistics.median(self.ratios)

    def __str__(self) -> str:
        return (
            f"{self.name}, over {self.over}: {self.median:.2f} "
            f"({min(self.ratios):.2f} to {max(self.ratios):.2f}, rounds {len(self.ratios)}, threads {self.threads})"
        )


def paired(
    name: str, work: Callable[[], object], over: str, base: Callable[[], object], *, rounds: int, warm_up: bool = True
) -> Row:
    """Time of `work` over time of `base`, run in turns (base, work, base, ...) after a round that does not count."""
    ratios = []
    for _ in range(rounds + warm_up):
        start = time.perf_counter()
        base()
        middle = time.perf_counter()
        work()
        ratios.append((time.perf_counter() - middle) / (middle - start))
    return Row(name, over, tuple(ratios[int(warm_up) :]), torch.get_num_threads())


def peak_memory(work: Callable[[], object]) -> int:
    """Bytes that the process holds at most while `work` runs, less what it held before.

    Meant for a fresh process: memory that an earlier run has freed but kept would not be counted.
    """
    gc.collect()
    process, done = psutil.Process(), threading.Event()
    before = process.memory_info().rss
    peak = [before]

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return peak[0] - before
