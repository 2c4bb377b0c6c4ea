"""A circuit with itself, with a relabelled copy, with chance; and words that say no more than the seeds bear."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from vitcircuits.circuits import Ablation, Circuit, Scores, jaccard, node_circuit
from vitcircuits.circuits.compare import Subject, compare, describe
from vitcircuits.circuits.compare.agreement import used_nodes
from vitcircuits.circuits.compare.findings import Finding, judged
from vitcircuits.circuits.compare.null import beyond_by_chance, permutation_test
from vitcircuits.circuits.compare.subject import PairCurve
from vitcircuits.models.errors import GraphError

QUICK = {"n_random": 3, "n_bootstrap": 50}


def curve_of(graph, seed, *, ids=range(20), half=0.2, by="signed"):
    """f rises with size and reaches 1/2 at a share of about `half`; pairs vary."""
    rng, share = np.random.default_rng(seed), np.linspace(0, 1, 21)
    rise = share / (share + half) * (1 + half)
    pairs = np.array([10 + np.random.default_rng([5, number]).normal() for number in ids])
    outputs = rise[:, None] * pairs + 0.02 * rng.normal(size=(21, len(pairs)))
    outputs[0], outputs[-1] = 0, pairs
    n = (share * len(graph)).round().astype(np.int64)
    every = np.ones(21, bool)
    numbers = np.array(list(ids), dtype=np.int64)
    return PairCurve(by, len(graph), share, n, outputs, np.zeros(len(pairs)), pairs, every, "21 sizes", numbers)


def subject_of(circuit, seed, **curve):
    curves = {by: curve_of(circuit.graph, seed, by=by, **curve) for by in ("signed", "abs_mean")}
    return Subject(circuit, curves=curves)


def test_a_circuit_with_itself_agrees_wholly_and_differs_in_nothing(make_graph, make_circuit):
    one = subject_of(make_circuit(make_graph(2, 3)), 0)
    found = compare({"a": [one, one], "b": [one, one]}, **QUICK)
    for measure, values in found.agreement.values.items():
        if "matched" not in measure:
            np.testing.assert_allclose(values, 1, err_msg=measure)
    for measure in ("edges", "Weisfeiler-Lehman", "rank-biased overlap"):
        assert (found.agreement.chance[measure] < 1).all(), measure
    assert found.differences == ()
    assert len(found.findings) == 7
    for finding in found.findings:
        assert finding.difference == 0 and finding.test.p_value == finding.p_holm == 1
        assert finding.verdict in ("same", "within seeds"), finding.figure
    assert [f.low == f.high == 0 for f in found.findings if f.figure in ("CPR", "edges for faithfulness 0.8")] == [
        True,
        True,
    ]
    assert "differs from" not in str(found) and "beyond" not in str(found)


def test_agreement_is_each_measure_of_each_two(make_graph, make_circuit):
    graph = make_graph(2, 3)
    circuits = [make_circuit(graph, seed, share=share) for seed, share in ((0, 0.3), (1, 0.4), (2, 0.3))]
    found = compare(circuits, **QUICK)
    assert found.names == ("A", "B", "C")
    for i, first in enumerate(circuits):
        for j, second in enumerate(circuits):
            assert found["edges"][i, j] == jaccard(first, second)
            nodes = [{end for e in c for end in (e.source.node, e.destination.node)} for c in (first, second)]
            nodes = [some - {"input", "logits"} for some in nodes]
            assert found["nodes"][i, j] == len(nodes[0] & nodes[1]) / len(nodes[0] | nodes[1])
    size = min(len(circuits[0]), len(circuits[1]))
    tops = [set(np.argsort(-np.abs(c.scores.values), kind="stable")[:size].tolist()) for c in circuits[:2]]
    assert found["edges at equal rank"][0, 1] == len(tops[0] & tops[1]) / len(tops[0] | tops[1])
    for measure, chance in found.agreement.chance.items():
        assert np.isnan(chance).all() == ("matched" in measure)


def test_random_circuits_agree_as_much_as_chance(make_graph):
    graph = make_graph(3, 4)
    rng, shares = np.random.default_rng(0), []
    for _ in range(60):
        masks = [np.isin(np.arange(len(graph)), rng.permutation(len(graph))[:60]) for _ in range(2)]
        shares.append((masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum())
    ranks = [
        Scores(graph, rng.normal(size=len(graph)), *[np.zeros(len(graph))] * 2, np.zeros(len(graph), bool), 4, "x")
        for _ in range(12)
    ]
    found = compare([scores.top(60) for scores in ranks], n_random=0, rbo_p=0.99)
    upper = np.triu_indices(12, 1)
    for measure in ("rank-biased overlap", "rank correlation"):
        values, chance = found[measure][upper], found.agreement.chance[measure][upper]
        assert values.mean() == pytest.approx(chance[0], abs=5 * values.std() / np.sqrt(12)), measure
    ranks_, curves = found.rank_curves["edges"]
    between = np.mean([curve for name, curve in curves.items() if name != "by chance"], axis=0)
    np.testing.assert_allclose(between[20:], curves["by chance"][20:], atol=0.05)
    at = int(np.abs(ranks_ - 60).argmin())
    assert np.mean(shares) == pytest.approx(curves["by chance"][at], abs=0.02)


def test_what_differs_in_how_circuits_were_found_is_said(make_graph, make_circuit):
    base = make_circuit(make_graph())
    task = {**base.task, "metric": "probability", "corruption": "blur", "target_name": "4"}
    task |= {"readout": {"kind": "ridge probe", "sha256": "0"}}
    other = dataclasses.replace(base, ablation=Ablation("mean"), task=task)
    found = compare([base, other, make_circuit(make_graph(), share=0.6)], **QUICK)
    said = {one.condition: one for one in found.differences}
    assert {"metric", "partners", "task", "ablation", "budget", "readout"} <= said.keys()
    assert "partner (A, C)" in str(said["ablation"]) and "mean (per token) (B)" in str(said["ablation"])
    assert "3 vs 8" in str(said["task"]) and "4 vs 8" in str(said["task"])
    assert "Not comparable without care: metric differs" in str(found)
    assert compare([base, base], **QUICK).differences == ()
    model = dataclasses.replace(base, task={**base.task, "model": "another"})
    assert compare([base, model], **QUICK).differences == ()  # the model is what is compared


def test_graphs_of_other_shapes_are_compared_in_what_they_have_in_common(make_graph, make_circuit):
    found = compare({"small": make_circuit(make_graph(2, 2)), "large": make_circuit(make_graph(4, 3))}, **QUICK)
    assert np.isnan(found["edges"][0, 1]) and found["edges"][0, 0] == 1
    assert 0 < found["Weisfeiler-Lehman"][0, 1] < 1 and found.rank_curves == {}
    assert "one shape" not in str(found) and "shapes" in found.agreement.why_not["edges"]
    assert {"graph edges", "budget"} <= {one.condition for one in found.differences}
    assert all(finding.verdict in ("no second seed", "same") for finding in found.findings)
    assert found.conclusions()[-1].startswith("With one seed of each kind nothing can be said about kinds")


def kinds_of(make_circuit, graph, shift, n, *, figure="edges for faithfulness 0.8"):
    def seeds(kind, half):
        jitter = np.random.default_rng([kind, 1]).normal(size=n)
        return [subject_of(make_circuit(graph, 10 * kind + s), s, half=half + 0.01 * jitter[s]) for s in range(n)]

    return {"vit": seeds(1, 0.2 + shift), "clip": seeds(2, 0.2)}


def test_kinds_differ_only_where_seeds_do_less_and_are_many_enough(make_graph, make_circuit):
    graph = make_graph(3, 4)
    far = compare(kinds_of(make_circuit, graph, 0.5, 5), figures=["CPR"], n_random=0, n_bootstrap=50)
    finding = far.findings[0]
    assert finding.verdict == "differs" and finding.p_holm <= 0.05 and finding.difference < -finding.seeds
    assert "vit differs from clip" in str(finding) and finding.low <= finding.difference <= finding.high
    three = compare(kinds_of(make_circuit, graph, 0.5, 3), figures=["CPR"], n_random=0, n_bootstrap=50)
    assert three.findings[0].verdict == "beyond seeds" and "not shown for the kinds" in str(three)
    assert "With so few seeds (3 of a kind) any one figure lies beyond the seeds by chance in about 4" in str(three)
    assert "no difference between kinds can be shown" in str(three) and "differs from" not in str(three)
    near = compare(kinds_of(make_circuit, graph, 0.0, 5), figures=["CPR"], n_random=0, n_bootstrap=50)
    assert near.findings[0].verdict == "within seeds" and "two seeds of one kind differ by as much" in str(near)


def test_the_verdict_follows_from_the_numbers_alone():
    def verdict(first, second, level=0.05):
        spread = max(max(g) - min(g) for g in (first, second)) if len(first) > 1 else None
        one = Finding("x", ("a", "b"), (first, second), seeds=spread, test=permutation_test(first, second))
        return judged([one], level)[0].verdict

    low, high = (0.0, 0.1, 0.2, 0.1, 0.05), (1.0, 1.1, 1.2, 1.05, 1.15)
    assert verdict(low, high) == "differs" and verdict(low, high, 0.001) == "beyond seeds"
    assert verdict((0.0, 2.0), (1.0, 1.5)) == "within seeds" and verdict((1.0,), (2.0,)) == "no second seed"
    assert verdict((1.0, 2.0), (2.0, 1.0)) == "same"


def test_seeds_of_one_kind_are_seldom_said_to_differ(make_graph, make_circuit):
    """The rule as a whole, on six figures of ten seeds of one kind: any false claim at most at the level."""
    rng, claims, trials = np.random.default_rng(1), 0, 300
    for _ in range(trials):
        figures = rng.normal(size=(6, 10)) + rng.normal(size=(1, 10))
        findings = []
        for row in figures:
            first, second = tuple(row[:5].tolist()), tuple(row[5:].tolist())
            spread = max(np.ptp(first), np.ptp(second))
            test = permutation_test(first, second)
            findings.append(Finding("x", ("a", "b"), (first, second), float(spread), test=test))
        claims += any(one.verdict == "differs" for one in judged(findings, 0.1))
    assert claims / trials <= 0.1


def test_being_beyond_the_seeds_by_chance_is_as_frequent_as_is_said():
    rng, beyond, trials = np.random.default_rng(2), 0, 1500
    for _ in range(trials):
        first, second = (tuple(rng.normal(size=3).tolist()) for _ in range(2))
        spread = float(max(np.ptp(first), np.ptp(second)))
        one = Finding("x", ("a", "b"), (first, second), spread, test=permutation_test(first, second))
        beyond += judged([one], 0.05)[0].verdict == "beyond seeds"
    said = beyond_by_chance(3, 3)
    assert said == pytest.approx(0.048, abs=0.006) and beyond / trials == pytest.approx(said, abs=0.02)


def test_curves_are_aligned_by_pair_and_the_share_dropped_is_said(make_graph, make_circuit):
    circuit = make_circuit(make_graph())
    first, second = subject_of(circuit, 0, ids=range(16)), subject_of(circuit, 0, ids=range(19, 3, -1))
    found = compare([first, second], **QUICK)
    assert found.pairs["compared"] == {"pairs": 12, "share_dropped": pytest.approx(0.4)}
    assert "compared on 12 pairs, 40%" in str(found)
    for subject in found.subjects:
        assert subject.curves["signed"].ids.tolist() == list(range(4, 16))
    with pytest.raises(GraphError, match="common pairs"):
        compare([first, subject_of(circuit, 0, ids=range(30, 40))], **QUICK)


def test_circuits_found_again_give_intervals(make_graph, make_circuit):
    graph = make_graph(2, 3)
    again = tuple(make_circuit(graph, seed) for seed in range(5))
    subject = dataclasses.replace(subject_of(again[0], 0), resampled=again)
    found = compare([subject, subject_of(again[1], 1)], **QUICK)
    values = sorted(describe(circuit).figures["path length"] for circuit in again)
    figure = found.figures[0]["path length"]
    assert values[0] <= figure.low < figure.high <= values[-1]
    assert found.figures[1]["path length"].low is None and "not found again" in found.figures[1]["path length"].reason
    assert found.figures[1]["CPR"].low is not None


def test_node_circuits_are_compared_by_nodes(make_graph):
    graph = make_graph(2, 2)
    first, second = node_circuit(graph, ["m0", "a1.h0"]), node_circuit(graph, ["m0", "m1"])
    found = compare([first, second], **QUICK)
    assert found["nodes"][0, 1] == 1 / 3 and used_nodes(first).sum() == 2
    mixed = compare([first, Circuit.full(graph)], **QUICK)
    assert np.isnan(mixed["nodes"][0, 1]) and any(one.condition == "granularity" for one in mixed.differences)


def test_impossible_questions_are_refused(make_graph, make_circuit):
    circuit = make_circuit(make_graph())
    for arguments, word in (({"level": 2.0}, "level"), ({"figures": ["beauty"]}, "beauty"), ({"rbo_p": 1.5}, "p=1.5")):
        with pytest.raises(GraphError, match=word):
            compare([circuit, circuit], **QUICK, **arguments)
    with pytest.raises(GraphError, match="no circuits"):
        compare([])
    with pytest.raises(GraphError, match="one name"):
        compare([Subject(circuit, "a"), Subject(circuit, "a")])


def test_comparing_and_writing_needs_neither_torch_nor_timm(tmp_path):
    code = (
        "import sys\n"
        "from vitcircuits.circuits import Circuit, compile_graph\n"
        "from vitcircuits.circuits.compare import compare\n"
        "from vitcircuits.models.config import TokenLayout, VitConfig\n"
        "cfg = VitConfig('x', 2, 2, 8, 4, 16, 10, (8, 8), (4, 4), 1, TokenLayout(True, 0, (2, 2)), (0,), 'token')\n"
        "circuit = Circuit.full(compile_graph(cfg))\n"
        f"compare([circuit, circuit], n_random=1).save({str(tmp_path)!r})\n"
        "assert not {'torch', 'timm', 'torch_geometric'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
