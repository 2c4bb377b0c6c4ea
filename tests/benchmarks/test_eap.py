"""EAP's time and memory beside the plain model's, as ratios within one run. No time is asserted."""

import threading
import time

import psutil
import pytest
import timm
import torch
from vitcircuits.algorithms import eap
from vitcircuits.circuits import Pairs, Task, compile_graph
from vitcircuits.circuits.metrics import Metric
from vitcircuits.models import load_vit


@pytest.fixture(scope="module")
def deit_task():
    torch.manual_seed(0)
    module = timm.create_model("deit_tiny_patch16_224").eval().requires_grad_(False)
    vit = load_vit(module, name="deit_tiny_patch16_224")
    clean, corrupt, other = (torch.randn(n, 3, 224, 224) for n in (8, 8, 2))
    return Task(vit, Metric("logit_difference", (0,), (1,)), Pairs(clean, corrupt), Pairs(other[:1], other[1:]))


def plain_passes(task):
    """Two forwards and one backward of timm's own model, gradient to the input only."""
    pairs = task.discovery
    with torch.no_grad():
        task.vit.module(pairs.corrupt)
    clean = pairs.clean.clone().requires_grad_(True)
    task.metric(task.vit.module(clean)).sum().backward()


def peak_memory(work):
    """Bytes that the process holds at most while `work` runs, less what it held before."""
    process, peak, done = psutil.Process(), [0], threading.Event()

    def watch():
        while not done.is_set():
            peak[0] = max(peak[0], process.memory_info().rss)
            time.sleep(0.002)

    before = process.memory_info().rss
    watcher = threading.Thread(target=watch)
    watcher.start()
    work()
    done.set()
    watcher.join()
    return peak[0] - before


def test_eap_over_two_forwards_and_one_backward(benchmark, deit_task):
    graph = compile_graph(deit_task.vit)
    eap(graph, deit_task)
    ratios = []
    for _ in range(5):
        start = time.perf_counter()
        plain_passes(deit_task)
        middle = time.perf_counter()
        scores = eap(graph, deit_task)
        ratios.append((time.perf_counter() - middle) / (middle - start))
    benchmark.extra_info["ratio"] = sorted(ratios)[2]
    benchmark.extra_info["peak_megabytes"] = peak_memory(lambda: eap(graph, deit_task)) / 1e6
    benchmark.pedantic(eap, args=(graph, deit_task), rounds=1)
    print(
        f"\nEAP on {graph}, 8 pairs: {sorted(ratios)[2]:.2f} times two forwards and one backward of the plain model "
        f"(five rounds: {', '.join(f'{ratio:.2f}' for ratio in ratios)}); "
        f"peak memory {benchmark.extra_info['peak_megabytes']:.0f} MB above the model's."
    )
    assert scores.n_pairs == 8
