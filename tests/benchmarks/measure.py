"""What benchmarks share: paired rounds of two pieces of work, peak memory, a random task, a row for each result."""

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from vitcircuits.circuits import Ablation, Pairs, Task
from vitcircuits.circuits.tasks.metrics import Metric
from vitcircuits.models import load_vit


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
    """Bytes that this process holds at most while `work` runs, less what it held before; on Linux.

    Meant for a fresh process: memory that an earlier run has freed but kept would not be counted.
    """
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(lines[name].split()[0])


def random_task(name: str, n_pairs: int, ablation: str = "partner") -> Task:
    """A timm model with random weights and random images."""
    torch.manual_seed(0)
    vit = load_vit(timm.create_model(name).eval().requires_grad_(False), name=name)
    clean, corrupt, other = (torch.randn(n, 3, 224, 224) for n in (n_pairs, n_pairs, 2))
    return Task(
        vit,
        Metric("logit_difference", (0,), (1,)),
        Pairs(clean, corrupt),
        Pairs(other[:1], other[1:]),
        ablation=Ablation(ablation),
    )
