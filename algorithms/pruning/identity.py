"""What decides the result of a search beside its options, so that a journal never goes on with something else."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from ...circuits.graph import Graph
from ...circuits.run_folder import versions
from ...circuits.scores import Scores
from ...circuits.task import Task


def search_identity(graph: Graph, task: Task, *, memory: int) -> dict[str, Any]:
    """Graph, weights, images, ablation, metric and machine, in plain values."""
    images = hashlib.sha256()
    for tensor in (task.discovery.clean, task.discovery.corrupt, task.discovery.pair_ids, task.reference):
        images.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    if task.discovery.answers is not None:
        images.update(task.discovery.answers.detach().cpu().contiguous().numpy().tobytes())
    return {
        "graph": graph.signature,
        "model": task.vit.cfg.name,
        "weights": task.vit.digest(),
        "judged": [task.metric.kind, list(task.metric.target), list(task.metric.foil)],
        "ablation": task.ablation.as_record(),
        "images": images.hexdigest(),
        "memory": memory,
        "device": str(task.vit.device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def scores_digest(scores: Scores | str) -> str:
    """A hash of the ranking that a search starts from; empty where it is a name."""
    return hashlib.sha256(scores.values.tobytes()).hexdigest() if isinstance(scores, Scores) else ""
