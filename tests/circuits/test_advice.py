"""What is said of a poor result, and the command that it leads to; nothing of a good one."""

import dataclasses
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from vitcircuits.algorithms import discover, eap_ig
from vitcircuits.circuits import Ablation, Circuit, class_contrast, compile_graph, evaluate
from vitcircuits.circuits.advice import advice, told
from vitcircuits.circuits.words import fewer_told
from vitcircuits.models import load_vit


@pytest.fixture(scope="module")
def vit():
    return load_vit("toy/digits-2l")


@pytest.fixture(scope="module")
def task(vit):
    return class_contrast(vit, "digits", target=3, foil=8, n_discovery=24, n_evaluation=16)


@pytest.fixture(scope="module")
def scores(vit, task):
    return eap_ig(compile_graph(vit), task)


def said(circuit, task, n_random=3, **more):
    report = evaluate(circuit, task, curve=False, n_random=n_random, n_bootstrap=200)
    return {one.said: dict(one.settings) for one in advice(circuit, report, **more)}


def test_nothing_is_said_of_a_circuit_that_reads_the_image(scores, task):
    assert said(scores.top(44), task) == {}


def test_an_empty_circuit_says_how_long_the_first_path_is_and_asks_for_that(scores, task):
    empty = scores.top(2)
    assert not len(empty)
    first, *_ = advice(empty)
    size = first.settings["size"]
    assert f"has {size} edges" in first.said and len(scores.top(size)) == size and not len(scores.top(size - 1))
    assert "no edge of the 2 asked for" in first.said


def test_a_threshold_above_all_scores_says_so(scores):
    first, *_ = advice(scores.threshold(1e6))
    assert "score at least 1e+06" in first.said and first.settings["size"] >= 1


def test_fewer_edges_than_asked_for_are_explained(scores):
    sizes = [n for n in range(1, len(scores)) if 0 < len(scores.top(n)) < n]
    assert sizes and not fewer_told(scores.top(len(scores.top(sizes[0]))))
    short = scores.top(sizes[0])
    assert fewer_told(short).startswith(f"{len(short)} of the {sizes[0]} edges asked for: the next edge")


def test_one_that_does_not_read_the_image_is_sent_on(scores, task):
    found = said(scores.top(6), task)
    sentence = next(text for text in found if "does not read the image" in text or "in part" in text)
    assert sentence.startswith("on images that it was not found on")
    assert found[sentence] == {"tokens": "role", "size": 0.055}  # as large a share of that graph's edges


def test_random_circuits_that_do_as_well_are_named(vit, task):
    graph, rng = compile_graph(vit), np.random.default_rng(0)
    chance = eap_ig(graph, task)
    values = rng.random(len(graph))
    chance = dataclasses.replace(chance, values=values, mean_abs=values.copy())
    assert any("random circuits of the same size" in text for text in said(chance.top(55), task, n_random=20))


@pytest.fixture
def enough(vit, monkeypatch):
    """A task with just as many images as are not called few, judged without a curve."""
    monkeypatch.setattr("vitcircuits.circuits.judging.evaluation.evaluate", partial(evaluate, curve=False))
    return class_contrast(vit, "digits", target=3, foil=8, n_discovery=16, n_evaluation=8)


def test_a_level_that_takes_most_edges(enough):
    found = discover(None, enough, level=0.999, random=0)
    assert len(found.circuit) > 55 and "of all edges" in found.ending()
    assert found.ending().splitlines()[0] == f"{found.verdict}."
    assert found.ending().splitlines()[-1] == "Try: the same with tokens='role'"


def test_a_level_that_no_size_reaches(enough):
    found = discover(None, enough, level=50.0, random=0)
    assert "no size that was tried reaches the level" in found.ending()


def test_few_images_and_images_of_other_data(vit):
    few = class_contrast(vit, "digits", target=3, foil=8, n_discovery=6, n_evaluation=8)
    found = said(eap_ig(compile_graph(vit), few).top(44), few)
    assert any(text.startswith("found with 6 images") for text in found)
    other = Circuit.full(compile_graph(vit), task={**few.info, "data": "mnist"})
    assert {"data": "digits"} in [dict(one.settings) for one in advice(other)]


def test_a_model_that_gets_most_images_wrong(vit):
    task = class_contrast(vit, "digits", target=3, foil=8, n_discovery=24, n_evaluation=16)
    report = evaluate(Circuit.full(compile_graph(vit)), task, n_random=0)
    wrong = {**report.method, "n_target_images_right": 2, "n_foil_images_right": 1}
    found = advice(Circuit.full(compile_graph(vit)), dataclasses.replace(report, method=wrong))
    assert "the model itself gets 29 of 32 images wrong" in found[0].said


def test_other_weights_of_the_same_shape(vit, scores, task):
    circuit = scores.top(44)
    assert not advice(circuit, judged=task.info) and task.info["weights"] == vit.digest()
    assert "other weights" in advice(circuit, judged={**task.info, "weights": "another"})[0].said
    assert "is shown sprites" in advice(circuit, judged={**task.info, "data": "sprites"})[0].said


def test_a_seed_that_divides_the_images_anew_is_named(scores, task):
    circuit, own = scores.top(44), {**task.info, "data": "photos"}
    circuit = dataclasses.replace(circuit, task=own)
    assert not advice(circuit, judged=own)
    assert (
        "some that it was found on may judge it"
        in advice(circuit, judged={**own, "seed": 1, "data_digest": "x"})[0].said
    )


def test_the_command_goes_on_from_the_run(scores):
    lines = told(advice(scores.top(2)), Path("runs/3v8/run.json"))
    assert lines[-1].startswith("Try: vitcircuits discover --config runs/3v8/run.json --size ")
    assert lines[-1].endswith(" --out runs/3v8-2")


def test_paths_with_spaces_are_quoted_and_a_node_circuit_is_sent_to_edges(scores):
    line = told(advice(scores.top(2)), Path("my runs/3v8/run.json"))[-1]
    assert "--config 'my runs/3v8/run.json'" in line and line.endswith("--out 'my runs/3v8-2'")
    nodes = {"granularity": "node", "selection": "threshold", "tau": 1.0}
    empty = dataclasses.replace(Circuit.empty(scores.graph), provenance=nodes)
    assert dict(advice(empty)[0].settings) == {"granularity": "edge", "level": 0.8}


def test_one_is_sent_to_a_graph_with_cls_apart_then_to_means_then_to_learned_masks(vit, scores):
    found = {"algorithm": "eap_ig", "level": 0.8, "reached": False}
    one = dataclasses.replace(scores.top(22), provenance=found)
    assert one.ablation.kind == "partner" and dict(advice(one)[0].settings) == {"tokens": "role"}
    apart = Circuit.full(compile_graph(vit, tokens="role"), ablation=one.ablation, provenance=found)
    assert dict(advice(apart)[0].settings) == {"ablation": "mean"}
    apart = dataclasses.replace(apart, ablation=Ablation("mean"))
    assert dict(advice(apart)[0].settings) == {"algorithm": "learned_masks", "size": 0.4}
    nodes = dataclasses.replace(apart, provenance={**found, "granularity": "node"})
    assert advice(nodes)[0].settings["granularity"] == "edge"


def test_learned_masks_are_sent_to_a_graph_with_cls_apart_and_there_to_more_edges(vit, scores, task):
    found = {"algorithm": "learned_masks", "level": 0.8, "reached": False}
    one = dataclasses.replace(scores.top(22), ablation=Ablation("mean"), provenance=found)
    assert dict(advice(one)[0].settings) == {"tokens": "role"}
    assert told(advice(one))[-1] == "Try: the same with tokens='role'"
    asked = dataclasses.replace(one, provenance={"algorithm": "learned_masks", "n": 22})
    report = evaluate(scores.top(6), task, curve=False, n_random=0)  # one that does not read the image
    assert dict(advice(asked, report)[0].settings) == {"tokens": "role", "size": 0.2}  # not 22 edges of twice as many
    apart = Circuit.empty(compile_graph(vit, tokens="role"), ablation=Ablation("mean"), provenance=found)
    mask = np.arange(len(apart.graph)) < 0.3 * len(apart.graph)
    assert dict(advice(dataclasses.replace(apart, mask=mask))[0].settings) == {"size": 0.4}


def test_no_larger_size_is_asked_for_where_there_is_none(vit):
    found = {"algorithm": "learned_masks", "level": 0.8, "reached": False}
    full = Circuit.full(compile_graph(vit, tokens="role"), ablation=Ablation("mean"), provenance=found)
    assert [dict(one.settings) for one in advice(full)] == [{}, {}]
    asked = dataclasses.replace(full, provenance={"algorithm": "learned_masks", "n": 223})
    assert advice(asked) == []
