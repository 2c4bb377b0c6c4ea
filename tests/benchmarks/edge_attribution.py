"""EAP's and EAP-IG's time over the plain model's."""

import torch
from measure import Row, paired, random_task
from vitcircuits.algorithms import eap, eap_ig
from vitcircuits.circuits import Task, compile_graph

DEIT, VIT_B = "deit_tiny_patch16_224", "vit_base_patch16_224"


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
