"""Estimates: more work takes longer, stages add up, and nothing is said of what is short or where nobody watches."""

import pytest
from vitcircuits.algorithms import Discovery
from vitcircuits.algorithms.discovery import LADDER
from vitcircuits.algorithms.estimate import Estimate, MeasuredPace, say_estimate, say_judging, told
from vitcircuits.circuits import class_contrast, compile_graph
from vitcircuits.models import load_vit

PACE = MeasuredPace(forward=0.01, masked=0.02)


@pytest.fixture(scope="module")
def task():
    return class_contrast(load_vit("toy/digits-2l"), "digits", target=3, foil=8, n_discovery=8, n_evaluation=8)


def of(task, algorithm, n_random=0, searches=1, **how):
    return Estimate.of(task, Discovery(algorithm, **how), n_random=n_random, searches=searches, pace=PACE)


def test_a_search_takes_its_passes_of_every_pair(task):
    pairs = len(task.searched)
    assert of(task, "eap_ig", size=40).search == pytest.approx((2 + 2.5 * 5) * pairs * PACE.forward)
    descent = 8 * 10 * 8 * PACE.forward  # of one size
    assert of(task, "learned_masks", size=20, options={"steps": 10}).search == pytest.approx(descent)
    assert of(task, "learned_masks", options={"steps": 10}).search == pytest.approx(len(LADDER) * descent)
    longer = of(task, "eap_ig", size=40, options={"steps": 10})
    assert longer.search > of(task, "eap_ig", size=40).search


def test_only_a_level_tries_sizes_and_only_a_judgement_judges(task):
    assert of(task, "eap", size=40).selection == 0 < of(task, "eap").selection
    assert of(task, "acdc").selection == 0
    assert of(task, "eap", n_random=None).judging == 0 < of(task, "eap").judging < of(task, "eap", n_random=9).judging


def test_several_searches_take_several_times_as_long_and_stages_add_up(task):
    one, four = of(task, "eap", n_random=None), of(task, "eap", n_random=None, searches=4)
    assert four.total == pytest.approx(4 * one.total)
    assert of(task, "eap").total == pytest.approx(sum((one.search, one.selection, of(task, "eap").judging)))


def test_a_pace_is_measured(task):
    pace = MeasuredPace.of(task, compile_graph(task.vit))
    assert pace.forward > 0 and pace.masked > 0


def test_constants_that_are_learned_later_cost_what_means_do(task):
    graph, optimal = compile_graph(task.vit), task.with_ablation("optimal")
    assert MeasuredPace.of(optimal, graph).masked > 0
    assert of(optimal, "eap").total == pytest.approx(of(task.with_ablation("mean"), "eap").total)


def test_what_takes_over_a_minute_is_said_with_what_makes_it_shorter(task, capsys, monkeypatch):
    monkeypatch.setattr(MeasuredPace, "of", lambda *_: MeasuredPace(0.0, 1.0))
    say_estimate(task, Discovery("eap"), n_random=0, progress=True)
    said = capsys.readouterr().err
    assert said.startswith("about ") and "choosing a size" in said and "make it shorter" in said
    say_judging(task, compile_graph(task.vit), n_random=3, curve=False, progress=True)
    assert "--random 0" in capsys.readouterr().err
    say_estimate(task, Discovery("eap"), n_random=0)  # nobody watches a test
    monkeypatch.setattr(MeasuredPace, "of", lambda *_: MeasuredPace(0.0, 1e-6))
    say_estimate(task, Discovery("eap"), n_random=0, progress=True)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [(5, "5 s"), (89, "89 s"), (90, "1.5 min"), (700, "12 min"), (9000, "2.5 h"), (40000, "11 h")],
)
def test_durations_are_told_in_a_unit_that_they_have_a_few_of(seconds, wanted):
    assert told(float(seconds)) == wanted
