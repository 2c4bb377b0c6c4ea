"""Circuits without a model, with random scores, on graphs of any size."""

import numpy as np
import pytest
from vitcircuits.circuits import Circuit, Scores, compile_graph
from vitcircuits.circuits.reach import prune
from vitcircuits.models.config import TokenLayout, VitConfig

TASK = {"model": "toy/test", "metric": "logit_difference", "target_name": "3", "foil_name": "8", "data": "digits"}


def graph_of(layers=2, heads=2, *, tokens="all", ports="qkv", registers=0, name="toy/test"):
    layout = TokenLayout(True, registers, (2, 2))
    cfg = VitConfig(name, layers, heads, 8, 4, 16, 10, (8, 8), (4, 4), 1, layout, (0,), "token")
    return compile_graph(cfg, tokens=tokens, ports=ports)


def scores_of(graph, seed=0, *, values=None, task=TASK):
    values = np.random.default_rng(seed).standard_t(3, len(graph)) if values is None else np.asarray(values, float)
    n = len(graph)
    return Scores(graph, values, np.abs(values), np.abs(values) / 10, np.zeros(n, bool), 16, "eap", task=task)


def circuit_of(graph, seed=0, *, share=0.4, scored=True, **more):
    scores = scores_of(graph, seed, **more)
    if scored:
        return scores.top(round(share * len(graph)), by="abs_mean")
    mask = np.random.default_rng(seed).random(len(graph)) < share
    return Circuit(graph, prune(graph, mask), task=TASK)


@pytest.fixture(scope="session")
def make_graph():
    return graph_of


@pytest.fixture(scope="session")
def make_scores():
    return scores_of


@pytest.fixture(scope="session")
def make_circuit():
    return circuit_of
