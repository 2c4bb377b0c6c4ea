"""EAP's and EAP-IG's time over the plain model's, and the peak memory of edge attribution and masks over the budget."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import timm
import torch
from measure import Row, paired, peak_memory
from vitcircuits.algorithms import atp_star, ceap, eap, eap_ig, eap_ig_activations, learned_masks, relp
from vitcircuits.circuits import Pairs, Task, compile_graph
from vitcircuits.circuits.tasks.metrics import Metric
from vitcircuits.models import load_vit

DEIT, VIT_B = "deit_tiny_patch16_224", "vit_base_patch16_224"


def random_task(name: str, n_pairs: int) -> Task:
    """A timm model with random weights and random images."""
    torch.manual_seed(0)
    vit = load_vit(timm.create_model(name).eval().requires_grad_(False), name=name)
    clean, corrupt, other = (torch.randn(n, 3, 224, 224) for n in (n_pairs, n_pairs, 2))
    return Task(vit, Metric("logit_difference", (0,), (1,)), Pairs(clean, corrupt), Pairs(other[:1], other[1:]))


def plain_passes(task: Task, *, forwards: int, pairs_of_passes: int) -> None:
    """Passes of timm's own model: some forward, some forward and backward with the gradient to the input only."""
    module, pairs = task.vit.module, task.discovery
    for _ in range(forwards):
        with torch.no_grad():
            module(pairs.corrupt)
    for _ in range(pairs_of_passes):
        clean = pairs.clean.clone().requires_grad_(True)
        task.metric(module(clean)).sum().backward()


def eap_time(name: str, n_pairs: int, *, rounds: int) -> Row:
    """EAP over two forwards and one backward."""
    task = random_task(name, n_pairs)
    graph = compile_graph(task.vit)
    return paired(
        f"EAP, {name}, {n_pairs} pairs",
        lambda: eap(graph, task),
        "2 forwards + 1 backward of the plain model",
        lambda: plain_passes(task, forwards=1, pairs_of_passes=1),
        rounds=rounds,
    )


def eap_at_each_token_time(name: str, n_pairs: int, *, rounds: int) -> Row:
    """EAP with a group for every token over EAP with one group."""
    task = random_task(name, n_pairs)
    one, each = (compile_graph(task.vit, tokens=tokens) for tokens in ("all", "each"))
    return paired(
        f'EAP at "each", {len(each):,} edges, {name}, {n_pairs} pairs',
        lambda: eap(each, task),
        f'EAP at "all", {len(one):,} edges',
        lambda: eap(one, task),
        rounds=rounds,
    )


def eap_ig_time(name: str, n_pairs: int, *, rounds: int) -> Row:
    """EAP-IG with 5 steps over 2 forwards and 5 forward and backward passes."""
    task = random_task(name, n_pairs)
    graph = compile_graph(task.vit)
    return paired(
        f"EAP-IG of 5 steps, {name}, {n_pairs} pairs",
        lambda: eap_ig(graph, task, steps=5),
        "2 forwards + 5 (forward + backward) of the plain model",
        lambda: plain_passes(task, forwards=2, pairs_of_passes=5),
        rounds=rounds,
    )


RUNS: dict[str, tuple[Callable[..., object], Callable[[int], dict[str, Any]]]] = {
    "EAP": (eap, lambda n_pairs: {}),
    "EAP-IG": (eap_ig, lambda n_pairs: {"steps": 2}),
    "RelP": (relp, lambda n_pairs: {}),
    "CEAP": (ceap, lambda n_pairs: {"steps": 2}),
    "AtP*": (atp_star, lambda n_pairs: {}),
    "IG over activations": (eap_ig_activations, lambda n_pairs: {"steps": 1}),
    "learned masks, two steps": (learned_masks, lambda n_pairs: {"steps": 2, "batch": n_pairs, "size": 0.3}),
}


def peak_over_budget(algorithm: str, name: str, n_pairs: int, memory: int) -> Row:
    """Peak memory above the model and the images over the budget, in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        peak = pool.submit(_peak, algorithm, name, n_pairs, memory, torch.get_num_threads()).result()
    shown = f"{algorithm}, {name}, {n_pairs} pairs: peak memory of {peak / 1e6:,.0f} MB above model and images"
    return Row(shown, f"memory={memory:,} bytes", (peak / memory,), torch.get_num_threads())


def _peak(algorithm: str, name: str, n_pairs: int, memory: int, threads: int) -> int:
    torch.set_num_threads(threads)
    task = random_task(name, n_pairs)
    graph = compile_graph(task.vit)
    run, options = RUNS[algorithm]
    return peak_memory(lambda: run(graph, task, memory=memory, **options(n_pairs)))
