"""Circuits without a model: random scores on small graphs, and names that formats trip over."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st
from vitcircuits.circuits import Ablation, Circuit, Graph, Scores, compile_graph
from vitcircuits.models.config import TokenLayout, VitConfig

NASTY = ["NA", "None", "null", "", "<b>", "a & b", '"it\'s"', "ö 猫 🐈", "a,b;c\td", "back\\slash", "line\nbreak"]


def small_graph(
    tokens: str = "all", ports: str = "qkv", *, has_cls: bool = True, n_registers: int = 1, name: str = "toy/small"
) -> Graph:
    layout = TokenLayout(has_cls, n_registers, (2, 2))
    read = (0,) if has_cls else tuple(range(layout.n_prefix, layout.n_tokens))
    sizes = {"d_model": 8, "d_head": 4, "d_mlp": 16, "n_classes": 10, "n_channels": 1}
    cfg = VitConfig(
        name,
        n_layers=2,
        n_heads=2,
        image_size=(4, 4),
        patch_size=(2, 2),
        tokens=layout,
        read_tokens=read,
        pooling="token" if has_cls else "avg",
        **sizes,
    )
    return compile_graph(cfg, tokens=tokens, ports=ports)


def random_scores(graph: Graph, seed: int = 0, *, nan: bool = False, ties: bool = False) -> Scores:
    generator = np.random.default_rng(seed)
    values = generator.normal(size=len(graph)) * 10.0 ** generator.integers(-9, 9, len(graph))
    if ties:
        values = np.round(generator.normal(size=len(graph)))
    if nan:
        values[:: max(1, len(graph) // 5)] = np.nan
        values[1::17] = np.inf
    return Scores(
        graph,
        values=values,
        mean_abs=np.abs(values) + generator.random(len(graph)),
        std_err=generator.random(len(graph)),
        exact=generator.random(len(graph)) < 0.3,
        n_pairs=12,
        algorithm="eap_ig",
        options={"steps": np.int64(5), "rule": "midpoint", "range": (0.0, np.float32(1.0))},
        ablation=Ablation("mean", over="tokens", seed=3),
        task={"metric": "logit_difference", "target": (3,), "foil": [8], "class_names": tuple(NASTY), "note": None},
        diagnostics={"completeness_gap": np.float64(0.25), "undefined": float("nan")},
    )


def random_circuit(graph: Graph | None = None, seed: int = 0, n: int | None = None, **kinds: bool) -> Circuit:
    graph = graph or small_graph()
    return random_scores(graph, seed, **kinds).top(len(graph) // 2 if n is None else n, by="abs_mean")


def drawn_circuit(data: st.DataObject) -> Circuit:
    """Any circuit of a small ViT: every tokens and ports, with and without CLS, scores, NaN and ties.

    Not a strategy of its own: type checks at run time draw random numbers, which hypothesis forbids inside one.
    """
    draw = data.draw
    tokens, ports = draw(st.sampled_from(["all", "role", "each"])), draw(st.sampled_from(["qkv", "head", "block"]))
    graph = small_graph(tokens, ports, has_cls=draw(st.booleans()), n_registers=draw(st.integers(0, 2)))
    scores = random_scores(graph, draw(st.integers(0, 99)), nan=draw(st.booleans()), ties=draw(st.booleans()))
    way = draw(st.sampled_from(["top", "threshold", "full", "empty", "without scores"]))
    task = {"class_names": draw(st.lists(st.sampled_from(NASTY) | st.text(max_size=5), max_size=3)), "n": 3}
    if way == "top":
        by = draw(st.sampled_from(["signed", "abs_mean", "mean_abs"]))
        return scores.top(draw(st.integers(0, len(graph))), by=by)
    if way == "threshold":
        return scores.threshold(draw(st.sampled_from([0.0, 1.0, float("-inf")])))
    if way == "full":
        return Circuit.full(graph, scores=scores, task=task)
    if way == "empty":
        return Circuit.empty(graph, scores=scores, task=task)
    return Circuit.from_edges(graph, graph.edge_names()[::2], task=task, provenance={"made": ("by", "hand")})


@pytest.fixture
def circuit() -> Circuit:
    return random_circuit(small_graph("role"))


@pytest.fixture(scope="session")
def make_graph() -> Callable[..., Graph]:
    return small_graph


@pytest.fixture(scope="session")
def make_circuit() -> Callable[..., Circuit]:
    return random_circuit


@pytest.fixture(scope="session")
def draw_circuit() -> Callable[[st.DataObject], Circuit]:
    return drawn_circuit


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all examples that hypothesis draws."""
    return tmp_path_factory.mktemp("formats")
