"""The derived truth: sizes, hand-checked small cases, and what a change of the program does to it."""

from dataclasses import replace

import pytest
from vitcircuits.circuits import compile_graph
from vitcircuits.models import load_vit
from vitcircuits.models.planted.program import Neuron
from vitcircuits.models.planted.truth import dependencies, sufficient, true_edges
from vitcircuits.models.planted.zoo import majority, neighbour_xor

XOR = "planted/neighbour-xor"
SIZES = {  # model: edges, true under another image's values, and under zero
    "planted/bright-column": (18, 2, 3),
    XOR: (110, 13, 19),
    "planted/majority": (23, 7, 10),
}


@pytest.mark.parametrize(("name", "sizes"), SIZES.items())
def test_the_truth_has_the_published_size(name, sizes):
    vit = load_vit(name, norm="none")
    assert (len(compile_graph(vit)), len(vit.truth()), len(vit.truth("zero"))) == sizes
    assert vit.truth() == vit.truth("resample") == vit.truth("another") == vit.truth("mean") < vit.truth("zero")


def test_bright_column_runs_through_keys_alone():
    vit = load_vit("planted/bright-column")
    assert vit.truth() == {"input->a0.h0<k>", "a0.h0->logits"}
    assert vit.truth(tokens="role") == {
        "input@patch->a0.h0<k>@patch",
        "a0.h0<k>@patch->a0.h0@cls",
        "a0.h0@cls->logits@cls",
    }


def test_a_head_that_looks_at_one_token_is_read_there_alone():
    inside = {edge for edge in load_vit("planted/majority").truth(tokens="each") if "<v>@" in edge.split("->")[0]}
    assert inside == {f"a0.h{head}<v>@r1c1->a0.h{head}@cls" for head in range(3)}


@pytest.mark.parametrize("tokens", ["all", "role", "each"])
@pytest.mark.parametrize("name", SIZES)
def test_true_edges_are_edges_of_the_graph_and_coarser_tokens_are_projections(name, tokens):
    vit = load_vit(name)
    graph = compile_graph(vit, tokens=tokens)
    truth = vit.truth(tokens=tokens)
    assert truth <= set(graph.edge_names())
    merged = set()
    for edge in truth:
        source, destination = (end.split("@")[0] for end in edge.split("->"))
        if source != f"{destination}<k>" and source != f"{destination}<v>":
            merged.add(f"{source}->{destination}")
    assert merged == vit.truth()


def test_the_trap_has_no_effect_and_the_step_has_one():
    plain = load_vit(XOR).truth()
    assert load_vit(XOR, trap=True, step=True).truth() == plain
    mlp = neighbour_xor(200.0, trap=True).mlps[1]
    assert {"twin", "mode"} <= {read for neuron in mlp.neurons if "out" in neuron.writes for read in neuron.reads}
    assert dependencies(neighbour_xor(200.0, trap=True), mlp, "out") == {"chosen", "gate"}


def test_reading_an_unread_feature_makes_its_edges_true():
    program = neighbour_xor(200.0)
    last = program.mlps[1]
    reader = replace(last, neurons=(*last.neurons, Neuron({"twin": 1.0}, 0.0, {"out": 0.5})))
    more = true_edges(replace(program, mlps=(program.mlps[0], reader)), "all")
    assert more - true_edges(program, "all") == {
        "a1.h2->m1", "m0->a1.h2<v>", "a0.h1->a1.h2<k>", "input->a1.h2<k>", "a0.h2->a1.h2<q>",
    }  # fmt: skip


def test_majority_has_three_minimal_circuits_and_the_others_one():
    vit = load_vit("planted/majority")
    circuits = vit.minimal_circuits()
    assert sorted(map(len, circuits)) == [5, 5, 5] and frozenset().union(*circuits) == vit.truth()
    assert all("m0->logits" in circuit for circuit in circuits)
    for name in ("planted/bright-column", XOR):
        assert load_vit(name).minimal_circuits() == (load_vit(name).truth(),)


def test_two_votes_of_three_are_enough_only_while_they_are_copies():
    program = majority(200.0)
    (mlp,) = program.mlps
    assert sorted(map(len, sufficient(program, mlp, "out"))) == [2, 2, 2]
    other = replace(program.heads[2], values=({"noise": 1.0},))
    changed = replace(program, heads=(*program.heads[:2], other, program.heads[3]))
    assert sufficient(changed, mlp, "out") == [frozenset({"vote0", "vote1"})]
