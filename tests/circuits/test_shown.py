"""What Python shows of a result is a line or a small table; edges are asked for by name; pictures need no path."""

import dataclasses
import inspect
import re
from importlib import import_module

import numpy as np
import pytest
from vitcircuits.circuits import Circuit, Edge, Graph, NodeScores, Scores, compile_graph
from vitcircuits.circuits.report import Figure, Tabular
from vitcircuits.circuits.shown import MOST_LINES, MOST_WIDTH, Drawing, Glance, Shown
from vitcircuits.models.errors import GraphError, MissingEdgeError


@pytest.fixture(scope="module")
def scores(tiny_vit) -> Scores:
    graph = compile_graph(tiny_vit())
    values = np.random.default_rng(0).normal(size=len(graph))
    exact = np.zeros(len(graph), dtype=bool)
    return Scores(graph, values, np.abs(values), np.abs(values) / 8, exact, 4, "made <up>")


@pytest.fixture(scope="module")
def circuit(scores) -> Circuit:
    return scores.top(20)


def handed_on():
    """Every class that a package hands on, and every result that is a table."""
    for name in ("models", "circuits", "algorithms"):
        package = import_module(f"vitcircuits.{name}")
        yield from (one for one in map(package.__getattr__, package.__all__) if inspect.isclass(one))
    waiting: list[type] = [Shown]
    while waiting:
        yield from (below := waiting.pop().__subclasses__())
        waiting += below


def test_no_object_that_holds_arrays_has_the_repr_that_prints_them():
    checked = set()
    for one in handed_on():
        held = " ".join(str(field.type) for field in dataclasses.fields(one)) if dataclasses.is_dataclass(one) else ""
        held = re.sub(r"Callable\[\[.*?\], \w+\]", "", held)  # what takes or gives an array holds none
        if issubclass(one, Shown) or re.search("Tensor|NDArray|Float|Int|Graph|Circuit|Report|Task", held):
            written = inspect.unwrap(one.__repr__).__code__.co_filename
            assert written != "<string>", f"{one.__name__} prints all that it holds"  # dataclasses' own
            checked.add(one.__name__)
    assert {"Circuit", "Scores", "Report", "Task", "Pairs", "Discovered", "PatchTable", "Stability"} <= checked


@pytest.mark.parametrize("n", [0, 1, 8, 9, 200])
def test_a_glance_is_small_and_says_what_it_leaves_out(n):
    rows = [(f"edge {row}", "x" * 30 * row) for row in range(min(n, 50))]
    lines = str(Glance("what it is " * 40, ("edge", "words"), rows, n, "read with care " * 40)).split("\n")
    assert len(lines) <= MOST_LINES and max(map(len, lines)) <= MOST_WIDTH
    shown = sum(line.strip().startswith("edge ") and "words" not in line for line in lines)
    said = [line for line in lines if "more" in line]
    assert [f"... and {n - shown} more: .frame() has all"] * (n > shown) == said


def test_results_show_their_highest_edges_and_escape_what_came_from_outside(scores, circuit):
    best = scores.graph.edge(int(scores.ranking()[0])).name
    for one in (scores, circuit, NodeScores.from_edges(scores)):
        assert len(repr(one).split("\n")) <= MOST_LINES and "array(" not in repr(one)
    assert best in repr(scores).split("\n")[2] and best in circuit and best in repr(circuit)
    assert "made &lt;up&gt;" in scores._repr_html_() and best.replace(">", "&gt;") in scores._repr_html_()
    assert "score" not in repr(Circuit.full(scores.graph)) and repr(Circuit.empty(scores.graph))


def test_a_circuit_is_asked_for_edges_by_name(scores, circuit):
    kept, dropped = next(iter(circuit)), next(edge for edge in scores if edge not in circuit)
    assert kept.name in circuit and kept in circuit and dropped.name not in circuit
    assert "m9->logits" not in circuit and "nonsense" not in circuit and 3 not in circuit
    assert circuit[kept.name] == kept == circuit[kept] and circuit[kept.name].score == scores.values[kept.index]
    assert [edge.score for edge in circuit] == scores.values[circuit.indices].tolist()
    assert len(circuit) == len(list(circuit)) == len(circuit.frame()) and len(list(scores)) == len(scores)
    assert scores[dropped.name].score == scores.values[dropped.index]
    assert Circuit(circuit.graph, circuit.mask)[kept.name].score is None


def test_a_missing_edge_says_which_there_are_and_whether_the_graph_has_it(scores, circuit):
    dropped = next(edge for edge in scores if edge not in circuit)
    with pytest.raises(KeyError, match="is in the graph, but not among the"):
        circuit[dropped.name]
    with pytest.raises(GraphError, match=r"'a1\.h9->logits' is not .* nearest edges are a1.*a1\.h0->logits"):
        circuit["a1.h9->logits"]
    for name in ("a1.h1-logits", "a1.h1>logits", "a1.h1=>logit"):
        with pytest.raises(MissingEdgeError, match=r"nearest edges are a1\.h1->logits"):
            scores[name]
    with pytest.raises(MissingEdgeError, match="Edges are spelled like input->"):
        circuit["nonsense"]


def test_edges_are_equal_whatever_their_scores(scores):
    assert scores.edge(3) == scores.graph.edge(3) and repr(scores.graph.edge(3)).startswith("Edge('input->")
    assert isinstance(scores.edge(3), Edge) and ", score=" in repr(scores.edge(3))


def test_frames_hold_every_edge_and_node_in_rank_order(scores, circuit):
    frame = scores.frame()
    assert len(frame) == len(scores) and frame["score"].is_monotonic_decreasing
    assert circuit.frame()["edge"].tolist() == frame["edge"][frame["edge"].isin(circuit.edge_names())].tolist()
    nodes = NodeScores.from_edges(scores)
    frame = nodes.frame()
    assert sorted(frame["node"]) == sorted(nodes.names) and frame["score"].is_monotonic_decreasing


def test_a_share_of_nodes_is_a_size(scores):
    nodes = NodeScores.from_edges(scores)
    assert np.array_equal(nodes.top(0.5).mask, nodes.top(len(nodes) // 2).mask)
    assert nodes.top(0.01).provenance["n"] == 1
    with pytest.raises(GraphError, match="not possible"):
        nodes.top(1.5)


class Table(Tabular):
    def table(self):
        from vitcircuits.circuits.report import Table

        return Table(("what", "value"), (("one", Figure(0.5, low=0.25, high=0.75)),))


def test_a_drawing_without_a_path_is_the_file_that_would_be_written(circuit, tmp_path):
    for one in (circuit, Table()):
        path, drawing = one.draw(tmp_path / "drawn.svg"), one.draw()
        assert isinstance(drawing, Drawing) and drawing.svg == path.read_text(encoding="utf-8")
        assert drawing.save(tmp_path / "again.svg").read_bytes() == path.read_bytes()
        assert drawing._repr_html_().startswith("<img ") and "svg" in repr(drawing) and len(repr(drawing)) < 100
        assert next(iter(inspect.signature(one.draw).parameters)) == "path"
        assert inspect.signature(one.draw).parameters["path"].default is None


def test_every_graph_finds_the_nearest_edge(variant, tokens, ports):
    graph: Graph = compile_graph(variant, tokens=tokens, ports=ports)
    name = graph.edge(len(graph) - 1).name
    with pytest.raises(MissingEdgeError) as caught:
        graph.index(name.replace("->", "-->"))
    assert name in str(caught.value) and name in graph and name.replace("->", "-->") not in graph
