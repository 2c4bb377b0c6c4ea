"""ACDC and exact effects against one plain forward pass per edge, what speculation brings, and where the time goes."""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from unittest import mock

import torch
from edge_attribution import DEIT
from measure import Row, paired, random_task
from vitcircuits.algorithms import acdc, exact_effects
from vitcircuits.algorithms.engines.pruned_run import PrunedRun
from vitcircuits.circuits import Task, class_contrast, compile_graph
from vitcircuits.models import load_vit

DATA = Path(os.environ.get("VITCIRCUITS_TEST_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
TOY, CATS = "toy/mnist-4l, 3 against 8, 32 pairs", f"{DEIT}, cats against dogs, 6 pairs"
TAUS = {TOY: (0.055, 0.00009), CATS: (0.028,)}  # those that keep about 5%, and about 20%
PHASES = {"begin": "setting up a place", "open": "setting up a destination", "measure": "trials", "commit": "commits"}


@cache
def trained_task(name: str) -> Task:
    """A task on trained weights, which must be in the data folder."""
    if not DATA.is_dir():
        raise SystemExit(f"{DATA} is not there: set VITCIRCUITS_TEST_DATA, or leave acdc out with --only.")
    if name == TOY:
        vit, where, classes = load_vit("toy/mnist-4l"), "mnist", {"target": 3, "foil": 8, "data_dir": DATA / "mnist"}
    else:
        vit, where = load_vit(DEIT, checkpoint=DATA / DEIT / "model.safetensors"), str(DATA / "cats_dogs")
        classes = {"target": "cats=281-285", "foil": "dogs=151-268"}
    task = class_contrast(vit, where, n_discovery=40 if name == TOY else 8, n_evaluation=4, **classes)
    return replace(task, discovery=task.discovery.select(slice(0, 32 if name == TOY else 6)))


def plain_over_acdc(name: str, tau: float, rounds: int, *, warm_up: bool = True) -> Row:
    """How many times faster ACDC is than timm's own model run once for each edge."""
    task = trained_task(name)
    graph, found = compile_graph(task.vit), []
    row = _plain_over(task, lambda: found.append(acdc(graph, task, tau=tau)), rounds, warm_up)
    kept = len(found[-1])
    return replace(row, over=f"ACDC, {name}, tau {tau:g}, which keeps {kept} ({kept / len(graph):.1%})")


def plain_over_exact(name: str, n_pairs: int, rounds: int) -> Row:
    """The same for all exact effects, random weights."""
    task = random_task(name, n_pairs)
    graph = compile_graph(task.vit)
    row = _plain_over(task, lambda: exact_effects(graph, task), rounds, warm_up=True)
    return replace(row, over=f"all exact effects, {name}, {n_pairs} pairs")


def _plain_over(task: Task, work: Callable[[], object], rounds: int, warm_up: bool) -> Row:
    """One plain forward pass per edge over some work: a tenth of the passes is run, and ten times their time counts."""
    n = len(compile_graph(task.vit))
    share = n // 10

    def plain() -> None:
        with torch.no_grad():
            for _ in range(share):
                task.vit.module(task.discovery.clean)

    found = paired("", work, "", plain, rounds=rounds, warm_up=warm_up)
    ratios = tuple(n / share / ratio for ratio in found.ratios)
    return Row(f"{n:,} plain forward passes, one per edge", "", ratios, found.threads)


def one_at_a_time_over_batches(name: str, tau: float, batch: int, rounds: int) -> Row:
    """What speculation alone brings: the same search with one trial at a time over that with up to `batch`."""
    task = trained_task(name)
    graph = compile_graph(task.vit)
    return paired(
        f"ACDC with batch=1, {name}, tau {tau:g}",
        lambda: acdc(graph, task, tau=tau, batch=1),
        f"batch={batch}",
        lambda: acdc(graph, task, tau=tau, batch=batch),
        rounds=rounds,
    )


def acdc_shares(name: str, tau: float, *, warm_up: bool) -> list[Row]:
    """Where ACDC's time goes: the share of each kind of work on the pruned run."""
    task, spent = trained_task(name), dict.fromkeys(PHASES, 0.0)
    if warm_up:
        acdc(compile_graph(task.vit), task, tau=tau)

    def timed(phase: str) -> Callable[..., object]:
        inner = getattr(PrunedRun, phase)

        def call(*args: object) -> object:
            start = time.perf_counter()
            try:
                return inner(*args)
            finally:
                spent[phase] += time.perf_counter() - start

        return call

    with mock.patch.multiple(PrunedRun, **{phase: timed(phase) for phase in PHASES}):
        start = time.perf_counter()
        acdc(compile_graph(task.vit), task, tau=tau)
        whole = time.perf_counter() - start
    rest = {"deciding, metric, bookkeeping": whole - sum(spent.values())}
    shares = {PHASES[phase]: seconds for phase, seconds in spent.items()} | rest
    over = f"ACDC altogether, {name}, tau {tau:g} ({whole:.1f} s)"
    return [Row(what, over, (seconds / whole,), torch.get_num_threads()) for what, seconds in shares.items()]
