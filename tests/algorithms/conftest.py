"""ACDC as the paper states it, one edge at a time with a whole run each: what the fast one is judged against."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from vitcircuits.circuits import Circuit, run_circuit
from vitcircuits.circuits.reach import prune


def _destinations(graph):
    """(block, row, group) from the logits back; inside a layer the MLP, edges inside heads, then what heads read."""
    for block in sorted(graph.blocks, key=lambda b: (-b.start if b.kind == "logits" else 0, -b.layer, _RANK[b.kind])):
        for row, group in np.argwhere(block.present).tolist():
            yield block, row, group


_RANK = {"logits": 0, "mlp": 1, "inside": 2, "attention": 3}


def sequential_acdc(graph, task, *, tau, metric="kl", order="paper", worsening="signed"):
    """Decisions in their order, (edge, kept, worsening), the mask that is left, and that mask on paths only."""
    vit, pairs = task.vit, task.discovery
    judged = task.metric if metric == "task" else dataclasses.replace(task.metric, kind=metric)
    clean = vit(pairs.clean).double()

    def measure(mask):
        images = {"clean": pairs.clean, "corrupt": pairs.corrupt, "reference": task.reference}
        logits = run_circuit(vit, Circuit(graph, mask), ablation=task.ablation, **images)
        return float(judged(logits.double(), clean).mean())

    mask, decisions = np.ones(len(graph), dtype=bool), []
    with torch.no_grad():
        now = measure(mask)
        for block, row, group in _destinations(graph):
            edges = [block.index(row, group, column) for column in reversed(np.flatnonzero(block.columns).tolist())]
            if order != "paper":
                edges.sort(key=lambda edge: (order.values[edge], -edge))
            for edge in edges:
                trial = mask.copy()
                trial[edge] = False
                found = measure(trial)
                loss = now - found
                kept = (loss if worsening == "signed" else abs(loss)) >= tau
                decisions.append((edge, kept, loss))
                if not kept:
                    mask, now = trial, found
    return SimpleNamespace(decisions=decisions, mask=mask, circuit=prune(graph, mask))


@pytest.fixture(scope="session")
def sequential():
    """The reference algorithm."""
    return sequential_acdc


def _same_scores(got, wanted, vit):
    scale = max(1e-3, float(np.abs(wanted).max()))
    difference = float(np.abs(got - wanted).max())
    allowed = (1e-9 if vit.dtype == torch.float64 else 1e-4) * scale
    assert got.shape == wanted.shape and difference <= allowed, f"differ by {difference:.1e}, largest {scale:.1e}"


@pytest.fixture(scope="session")
def same_scores():
    """Asserts that scores are equal at the laws' tolerance, relative to the largest."""
    return _same_scores
