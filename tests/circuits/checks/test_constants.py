"""No verdict of a crossed task is won by a constant, or by a circuit that does not read the image."""

import dataclasses

import numpy as np
import pytest
from vitcircuits.algorithms import eap
from vitcircuits.circuits import Circuit, class_contrast, compile_graph
from vitcircuits.circuits.checks.hypotheses import (
    check_equivalence,
    check_independence,
    check_minimality,
    check_partial_necessity,
    check_sufficiency,
    others,
)
from vitcircuits.circuits.checks.mask_evaluator import Units
from vitcircuits.circuits.checks.verdicts import CANNOT_TELL, gated
from vitcircuits.circuits.judging.control_kinds import kinds_of
from vitcircuits.circuits.run import mask_key
from vitcircuits.circuits.tasks.design import TARGET
from vitcircuits.models import load_vit

COLUMN, XOR = "planted/bright-column", "planted/neighbour-xor"
CHECKS = {"equivalence": check_equivalence, "minimality": check_minimality, "sufficiency": check_sufficiency,
          "partial_necessity": check_partial_necessity, "independence": check_independence}  # fmt: skip


@pytest.fixture(scope="module")
def constant_bench(planted, bench_of):
    """A constant judged on one side or on both, made once: a check adds outputs of masks and changes none."""
    made = {}
    return lambda sides: made[sides] if sides in made else made.setdefault(sides, constant(planted, bench_of, sides))


def constant(planted, bench_of, sides):
    """A circuit that answers what the model says of the target, whatever it is shown, and does all the model's work.

    Its answers are put in place of the truth's: the circuit's the constant with f = 1, those of the circuit less an
    edge, of the model without the circuit, and of other circuits what no edge gives, in another order.
    """
    task, graph, truth = planted(XOR, sides)
    evaluator = bench_of(Circuit(graph, truth), task, n_draws=40, n_permutations=200)
    shows_target = (
        np.ones(len(evaluator.pairs), bool) if sides == "one" else evaluator.pairs.design.clean_side.numpy() == TARGET
    )
    left = np.random.default_rng(0).permutation(evaluator.none)
    evaluator.known[mask_key(truth)] = np.full(len(evaluator.pairs), np.median(evaluator.full[shows_target]))
    for mask in (~truth, *(mask for _, mask in evaluator.parts())):
        evaluator.known[mask_key(mask)] = left
    for kind in kinds_of(evaluator.circuit):
        for mask in others(evaluator, kind):
            evaluator.known.update({mask_key(mask): left, mask_key(~mask): evaluator.full})
    return evaluator


@pytest.mark.parametrize("name", [name for name in CHECKS if name != "independence"])
def test_a_constant_passes_on_one_side_and_is_told_there(name, constant_bench):
    evaluator = constant_bench("one")
    assert evaluator.shares(evaluator.kept - evaluator.none)[0] == pytest.approx(1, abs=0.1)
    found = CHECKS[name](evaluator).verdicts[name]
    assert found.passed is True and CANNOT_TELL in found.words


@pytest.mark.parametrize("name", CHECKS)
def test_a_constant_fails_on_both_sides(name, constant_bench):
    evaluator = constant_bench("both")
    assert evaluator.transmission.value == pytest.approx(0, abs=1e-9)
    found = CHECKS[name](evaluator).verdicts[name]
    assert found.passed is False and CANNOT_TELL not in found.words


def test_no_edge_is_not_equivalent_though_it_lies_above_the_model_half_of_the_time(planted, bench_of):
    task, graph, _ = planted(COLUMN, "both")
    found = check_equivalence(bench_of(Circuit.empty(graph), task)).verdicts["equivalence"]
    assert found.passed is False and "void" not in found.words  # by the side that is shown, without the gate
    assert found.statistic.value < 0.1


@pytest.mark.parametrize("passed", [True, None, False])
def test_the_gate_turns_what_did_not_fail(passed, planted, bench_of):
    task, graph, truth = planted(COLUMN, "both")
    assert gated(bench_of(Circuit(graph, truth), task), passed, "said") == (passed, "said")
    evaluator = bench_of(Circuit.empty(graph), task)
    assert gated(evaluator, passed, "said")[0] is False
    assert ("does not read the image" in gated(evaluator, passed, "said")[1]) == (passed is not False)
    if passed:
        assert gated(bench_of(Circuit(graph, truth), task, n_bootstrap=0), passed, "said")[0] is None  # not known


def test_the_gate_closes_where_transmission_is_undefined(planted, bench_of):
    task, graph, truth = planted(COLUMN, "both")
    same = dataclasses.replace(task.evaluation, clean=task.evaluation.clean[:1].expand_as(task.evaluation.clean))
    evaluator = bench_of(Circuit(graph, truth), dataclasses.replace(task, evaluation=same))
    passed, words = gated(evaluator, True, "said")
    assert passed is False and "undefined" in words


def test_a_clean_image_counts_once_and_partners_of_both_sides_alike(planted):
    task, _, _ = planted(COLUMN, "both")
    pairs = task.evaluation.select(list(range(len(task.evaluation) - 1)))  # one pair fewer, so that sides differ
    units, design = Units.of(pairs), pairs.design
    assert len(units) == design.clean_image.unique().numel() < len(pairs)
    np.testing.assert_array_equal(units.sign[units.of_pair], design.sign.numpy())
    values = np.random.default_rng(0).normal(size=len(pairs))
    for unit in (0, len(units) - 1):
        own = units.of_pair == unit
        sides = design.partner_side.numpy()
        wanted = np.mean([values[own & (sides == side)].mean() for side in (0, 1) if (own & (sides == side)).any()])
        assert units.means(values)[unit] == pytest.approx(wanted)


def test_six_edges_that_hardly_say_anything_are_not_sufficient(bench_of):
    """They come closer to the model than all 50 random circuits made of whole paths: chance does worse than nothing."""
    vit = load_vit("toy/digits-2l")
    graph = compile_graph(vit)
    one = class_contrast(vit, "digits", target=0, foil=6, sides="one", n_discovery=32, n_evaluation=40)
    circuit = eap(graph, one).top(6, by="abs_mean")
    evaluator = bench_of(circuit, one)
    assert evaluator.own.sum() == 6 and evaluator.shares(evaluator.kept - evaluator.none)[0] < 0.08
    away = evaluator.distance(evaluator.outputs([evaluator.own, *others(evaluator, "paths")], ""), evaluator.full)
    assert (away[1:] > away[0]).all()
    both = class_contrast(vit, "digits", target=0, foil=6, n_discovery=8, n_evaluation=24)
    crossed = bench_of(circuit, both, n_permutations=200)
    found = check_sufficiency(crossed).verdicts["sufficiency"]
    assert found.passed is False and "does not read the image" in found.words
    assert not any(check(crossed).verdicts[name].passed for name, check in CHECKS.items())
