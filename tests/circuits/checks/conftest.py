"""Benches: a circuit and pairs, ready for a check."""

import numpy as np
import pytest
from vitcircuits.circuits import Circuit, Pairs, Task, compile_graph, planted_task, truth_mask
from vitcircuits.circuits.baseline import make_baseline
from vitcircuits.circuits.checks.mask_evaluator import CheckSettings, MaskEvaluator
from vitcircuits.circuits.judging.bootstrap import Resamples
from vitcircuits.circuits.reach import prune
from vitcircuits.circuits.tasks.metrics import Metric
from vitcircuits.models import load_vit


def _bench(circuit, task, *, n_bootstrap=200, seed=0, **settings):
    baseline = make_baseline(task.vit, task.ablation, task.reference)
    resamples = Resamples.of(task.evaluation, n_bootstrap, seed=seed)
    return MaskEvaluator(
        circuit, task, task.metric, task.evaluation, baseline, resamples, CheckSettings(**settings), seed
    )


@pytest.fixture(scope="session")
def bench_of():
    """Makes a evaluator on the evaluation pairs: `bench_of(circuit, task, tolerance=.02)`."""
    return _bench


@pytest.fixture(scope="session")
def planted():
    """Opens a planted model once: its task of 96 pairs (images), its graph and the mask of a minimal circuit."""
    made = {}

    def get(name, sides="one"):
        if (name, sides) not in made:
            vit = load_vit(name)
            graph, n = compile_graph(vit), {"one": 96, "both": 48}[sides]
            made[name, sides] = (
                planted_task(vit, n=n, sides=sides),
                graph,
                truth_mask(graph, vit.minimal_circuits()[0]),
            )
        return made[name, sides]

    return get


@pytest.fixture(scope="session")
def tiny_task(tiny_vit, images_for):
    """A task on a tiny random ViT in float64."""
    vit = tiny_vit()
    images = [images_for(vit, 12, seed=seed) for seed in range(4)]
    pairs = (Pairs(images[0], images[1]), Pairs(images[2], images[3]))
    return Task(vit, Metric("logit_difference", (1,), (2,)), *pairs)


@pytest.fixture(scope="session")
def tiny_circuit(tiny_task):
    """A random circuit of about half of the tiny ViT's edges."""
    graph = compile_graph(tiny_task.vit)
    return Circuit(graph, prune(graph, np.random.default_rng(3).random(len(graph)) < 0.5))
