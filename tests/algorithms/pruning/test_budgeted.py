"""Budgeted pruning: truths at their size, sizes and levels kept, and a journal that brings a killed run home."""

import numpy as np
import pytest
from vitcircuits.algorithms import budgeted_pruning
from vitcircuits.algorithms.pruning.budget_loss import LossMeter
from vitcircuits.algorithms.pruning.budget_search import BudgetSearch
from vitcircuits.circuits import class_contrast, compile_graph, planted_task
from vitcircuits.circuits.reach import prune
from vitcircuits.models import load_vit
from vitcircuits.models.errors import FormatError, GraphError, TaskError

XOR = "planted/neighbour-xor"
EXACT = (
    "planted/bright-column",
    "planted/bright-column:norm=none,disguise=1",
    XOR,
    f"{XOR}:norm=none,gain=soft",
    f"{XOR}:trap,step,disguise=1",
    "planted/majority",
)


def made(name, n=16):
    task = planted_task(load_vit(name), n=n)
    return compile_graph(task.vit), task


@pytest.mark.parametrize("name", EXACT)
def test_the_truth_is_found_at_its_size(name):
    graph, task = made(name, n=32)  # among 16 pairs some edge is not exercised
    truths = [set(names) for names in task.vit.minimal_circuits()]
    circuit = budgeted_pruning(graph, task, size=len(truths[0]), share=0.2)
    assert set(circuit.edge_names()) in truths


def test_several_sizes_in_one_descent_are_on_paths_and_no_larger():
    graph, task = made("planted/digit-pairs")
    found = budgeted_pruning(graph, task, size=[0.1, 30], share=0.3, measure="slopes", regrow_rounds=1, swaps=2)
    assert [len(circuit) <= size for circuit, size in zip(found, (11, 30), strict=True)] == [True, True]
    for circuit in found:
        assert len(circuit) > 0 and np.array_equal(prune(graph, circuit.mask), circuit.mask)
    losses = [circuit.provenance["loss"] for circuit in found]
    assert losses[1] <= losses[0]


def test_no_single_swap_helps_in_the_end():
    graph, task = made("planted/majority", n=8)
    plan_size = 4  # one less than a circuit needs
    circuit = budgeted_pruning(graph, task, size=plan_size)
    search = BudgetSearch(_plan(graph, task, plan_size), None, False)
    best = circuit.provenance["loss"]
    for gone in circuit.indices:
        for come in np.flatnonzero(~circuit.mask):
            mask = circuit.mask.copy()
            mask[[gone, come]] = [False, True]
            assert search.measure.loss(mask) >= best - 1e-3 * search.measure.scale


def _plan(graph, task, size, **options):
    from vitcircuits.algorithms.pruning.budget_loss import BudgetPlan
    from vitcircuits.algorithms.registry import chosen

    return BudgetPlan(graph, task, [size], 10**9, chosen("budgeted_pruning", **options))


def test_a_level_of_faithfulness_is_kept_with_few_edges():
    graph, task = made(XOR, n=8)
    circuit = budgeted_pruning(graph, task, faithfulness=0.9, share=0.2)
    assert circuit.provenance["faithfulness_on_discovery"] >= 0.9
    assert len(circuit) <= len(task.vit.truth())


@pytest.mark.parametrize("objective", ["squared", "faithfulness", "kl"])
def test_every_objective_starts_from_scores_too(objective):
    graph, task = made(XOR, n=8)
    circuit = budgeted_pruning(graph, task, size=13, objective=objective, start="eap_ig", measure="slopes", share=0.5)
    assert 0 < len(circuit) <= 13 and circuit.provenance["steps"]["start"] == 1


@pytest.fixture(scope="module")
def digit_pairs():
    return made("planted/digit-pairs", n=4)


def test_rounds_by_slopes_are_no_smaller_near_the_size(digit_pairs):
    """Each takes an eighth of the share or more, or what is left to go."""
    graph, task = digit_pairs
    size, share = 60, 0.4
    plain = {"measure": "slopes", "share": share, "regrow_rounds": 0, "swaps": 0}
    rounds = budgeted_pruning(graph, task, size=size, **plain).provenance["steps"]["drop"]
    assert rounds <= np.ceil(np.log(size / len(graph)) / np.log1p(-share / 8)) + 1


def test_edges_that_make_up_for_others_are_not_dropped_together(monkeypatch):
    """In the order of what each alone would leave, many of them overshoot."""
    vit = load_vit("toy/mnist-4l")
    task = class_contrast(vit, "digits", target=3, foil=8, n_discovery=6, n_evaluation=6, n_partners=1)
    graph = compile_graph(vit)
    options = {"size": 0.7, "measure": "slopes", "share": 0.15, "regrow_rounds": 0, "swaps": 0}
    circuit, without = budgeted_pruning(graph, task, **options), LossMeter.without

    def in_one_order(meter, *arguments):
        now, (_, left) = without(meter, *arguments)
        return now, [left]

    monkeypatch.setattr(LossMeter, "without", in_one_order)
    overshot = budgeted_pruning(graph, task, **options)
    assert len(circuit) <= 0.7 * len(graph) and circuit.provenance["loss"] < 0.5 * overshot.provenance["loss"]


def test_what_is_exchanged_and_taken_back_in_lowers_the_loss(digit_pairs):
    graph, task = digit_pairs
    options = {"size": 30, "measure": "slopes", "share": 0.3}
    losses = [
        budgeted_pruning(graph, task, **options, regrow_rounds=rounds, swaps=swaps).provenance["loss"]
        for rounds, swaps in ((0, 0), (0, 6), (2, 0))
    ]
    assert losses[1] <= losses[0] and losses[2] <= losses[0] and min(losses) < losses[0]


class KilledError(Exception):
    """The process is gone."""


@pytest.mark.parametrize(("measure", "after"), [("exact", 1), ("slopes", 4)])
def test_a_killed_run_goes_on_to_the_same_circuit(tmp_path, monkeypatch, measure, after):
    graph, task = made("planted/digit-pairs", n=4)
    options = {"size": [40, 20], "measure": measure, "share": 0.3, "swaps": 1, "regrow_rounds": 1}
    if measure == "exact":
        options["swaps"] = 0
    wanted = budgeted_pruning(graph, task, **options)
    file, flips, calls = tmp_path / "journal.jsonl", LossMeter.without, []

    def dies(meter, *arguments):
        calls.append(1)
        if len(calls) > after:
            raise KilledError
        return flips(meter, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(LossMeter, "without", dies)
        with pytest.raises(KilledError):
            budgeted_pruning(graph, task, journal=file, **options)
    with file.open("ab") as handle:
        handle.write(b'{"step": "dr')  # the line that was being written
    calls.clear()
    monkeypatch.setattr(LossMeter, "without", lambda *arguments: (calls.append(1), flips(*arguments))[1])
    assert budgeted_pruning(graph, task, journal=file, **options) == wanted
    again = len(calls)
    assert budgeted_pruning(graph, task, journal=file, **options) == wanted and len(calls) == again  # nothing anew


def test_another_searchs_journal_is_refused(tmp_path):
    graph, task = made("planted/bright-column", n=2)
    budgeted_pruning(graph, task, size=4, journal=tmp_path / "journal.jsonl")
    with pytest.raises(FormatError, match="size"):
        budgeted_pruning(graph, task, size=5, journal=tmp_path / "journal.jsonl")


@pytest.mark.parametrize(
    "options",
    [
        {"size": 0},
        {"size": 1.5},
        {"size": []},
        {"faithfulness": 2.0},
        {"share": 1.0},
        {"regrow_rounds": -1},
        {"start": "x"},
    ],
)
def test_options_that_make_no_sense_are_refused(unchecked, options):
    graph, task = made("planted/bright-column", n=2)
    with pytest.raises((TaskError, GraphError), match=next(iter(options))):
        budgeted_pruning(graph, task, **options)


def test_a_metric_without_a_gradient_is_measured_exactly():
    task = planted_task(load_vit("planted/bright-column"), n=4, metric="accuracy")
    graph = compile_graph(task.vit)
    assert len(budgeted_pruning(graph, task, size=2)) <= 2
    with pytest.raises(TaskError, match="exact"):
        budgeted_pruning(graph, task, size=2, measure="slopes")
