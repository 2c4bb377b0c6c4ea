"""Circuits and exhibits made without a model."""

from collections.abc import Callable

import numpy as np
import pytest
from vitcircuits.circuits.circuit import Circuit
from vitcircuits.circuits.figure_data import Exhibit
from vitcircuits.circuits.graph import Graph, compile_graph
from vitcircuits.circuits.scores import Scores
from vitcircuits.models.config import TokenLayout, VitConfig

TASK = {"model": "toy/test", "metric": "logit_difference", "target_name": "3", "foil_name": "8", "seed": 0}


def make_graph(layers: int, heads: int, *, tokens: str = "all", ports: str = "qkv", registers: int = 0) -> Graph:
    layout = TokenLayout(True, registers, (2, 2))
    cfg = VitConfig("toy/test", layers, heads, 8, 4, 16, 10, (8, 8), (4, 4), 1, layout, (0,), "token")
    return compile_graph(cfg, tokens=tokens, ports=ports)


def make_scores(graph: Graph, *, seed: int = 0, task: dict | None = None) -> Scores:
    random = np.random.default_rng(seed)
    values = random.standard_t(3, len(graph))
    return Scores(
        graph=graph,
        values=values,
        mean_abs=np.abs(values) * 1.1,
        std_err=np.abs(values) * 0.1,
        exact=random.random(len(graph)) < 0.2,
        n_pairs=16,
        algorithm="eap",
        task=TASK if task is None else task,
    )


def make_circuit(graph: Graph, at_least: int) -> Circuit:
    """The smallest circuit of the largest edges that has so many left after pruning."""
    scores = make_scores(graph)
    sizes = (round(len(graph) * share / 40) for share in range(1, 41))
    return next(circuit for n in sizes if len(circuit := scores.top(n, by="abs_mean")) >= at_least)


@pytest.fixture
def circuit() -> Circuit:
    """The 60 largest edges, positive and negative, of a small graph, less those on no path."""
    return make_scores(make_graph(2, 4)).top(60, by="abs_mean")


@pytest.fixture
def exhibit() -> Callable[[Circuit], Exhibit]:
    def make(circuit: Circuit) -> Exhibit:
        cfg, random = circuit.graph.cfg, np.random.default_rng(0)
        images = random.random((2, 2, *cfg.image_size, 1)).astype(np.float32)
        logits = random.normal(size=(2, 2, cfg.n_classes)).astype(np.float32)
        shape = (2, cfg.n_layers, cfg.n_heads, cfg.tokens.n_tokens)
        pattern = random.random(shape).astype(np.float32)
        names = tuple(f"<class & {i}>" for i in range(cfg.n_classes))
        tokens = cfg.tokens
        return Exhibit(*images, *logits, names, tokens.grid, tokens.n_prefix, pattern)

    return make
