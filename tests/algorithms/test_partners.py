"""Partners compared: a partner with itself agrees wholly, figures are evaluate's own, sizes are kept."""

import csv
import dataclasses
import json

import numpy as np
import pytest
import torch
from vitcircuits.algorithms import compare_partners, eap, eap_ig
from vitcircuits.circuits import Pairs, Partner, class_contrast, compile_graph, evaluate, partner_contrasts
from vitcircuits.circuits.design import one_partner_each
from vitcircuits.circuits.draw.partners import draw_partners
from vitcircuits.circuits.gather import gather_partners
from vitcircuits.circuits.nodes import overlap
from vitcircuits.models import load_vit
from vitcircuits.models.errors import GraphError, TaskError

KINDS = {"swap": "class_swap", "filled": Partner("object_fill", mask="attention"), "word": Partner("word", size=0.5)}


@pytest.fixture(scope="module")
def vit():
    return load_vit("toy/digits-2l")


@pytest.fixture(scope="module")
def graph(vit):
    return compile_graph(vit)


@pytest.fixture(scope="module")
def tasks(vit):
    """One-sided, where every pair is checked."""
    sizes = {"n_discovery": 20, "n_evaluation": 24}
    return partner_contrasts(vit, "digits", target=3, foil=8, partners=KINDS, sides="one", **sizes)


@pytest.fixture(scope="module")
def crossed(vit):
    """Clean images of both classes."""
    return partner_contrasts(vit, "digits", target=3, foil=8, partners=KINDS, n_discovery=8, n_evaluation=10)


@pytest.fixture(scope="module")
def found(graph, tasks):
    return compare_partners(graph, tasks, algorithm="eap", size=20, n_random=3, n_bootstrap=50)


def test_all_partners_share_their_clean_images_and_each_pair_is_valid(vit, tasks):
    first = tasks["swap"]
    for name, task in tasks.items():
        for split in ("discovery", "evaluation"):
            pairs = getattr(task, split)
            assert torch.equal(pairs.clean, getattr(first, split).clean)
            assert torch.equal(pairs.pair_ids, getattr(first, split).pair_ids)
            clean, corrupt = vit(pairs.clean), vit(pairs.corrupt)
            assert (clean.argmax(1) == 3).all() and (task.metric(corrupt) < task.metric(clean)).all()
            asked = {"discovery": 20, "evaluation": 24}[split]
            assert len(pairs) + sum(task.info["dropped"][split].values()) == asked, name
            assert task.info[f"n_{split}"] == len(pairs)
    alone = class_contrast(vit, "digits", target=3, foil=8, sides="one", n_discovery=20, n_evaluation=24)
    kept = {image.numpy().tobytes() for image in alone.discovery.clean}
    assert {image.numpy().tobytes() for image in first.discovery.clean} <= kept


def test_crossed_tasks_share_their_clean_images_of_both_classes(crossed):
    first = crossed["swap"]
    for task in crossed.values():
        assert task.sides == "both"
        for split in ("discovery", "evaluation"):
            own, other = getattr(task, split), getattr(first, split)
            shown = [pairs.clean[one_partner_each(pairs.design)] for pairs in (own, other)]
            assert torch.equal(*shown) and set(own.labels.tolist()) == {3, 8}


def test_on_crossed_tasks_circuits_are_judged_by_evaluates_transmission(graph, crossed):
    found = compare_partners(graph, crossed, algorithm="eap", size=40, n_random=1, n_bootstrap=30)
    assert found.measure == "transmission" and "held-out transmission under" in str(found)
    assert set(found.frame().measure) >= {"transmission"} and "faithfulness" not in set(found.frame().measure)
    for circuit, row in zip(found.circuits, found.faithfulness, strict=True):
        for task, figure in zip(crossed.values(), row, strict=True):
            wanted = evaluate(circuit, task, curve=False, n_random=0, n_bootstrap=30)["transmission"]
            assert (figure.value is None) == (wanted.value is None)
            if wanted.value is not None:
                assert figure.value == pytest.approx(wanted.value, abs=1e-6)
                assert figure.low == pytest.approx(wanted.low, abs=1e-6)


def test_the_gallery_of_crossed_tasks_shows_both_classes(crossed):
    exhibit = gather_partners(crossed, n=4)
    read = [said.split(",")[0] for said in exhibit.captions["clean"]]
    assert read == ["3", "8", "3", "8"]
    assert [said.split(",")[0] for said in exhibit.captions["swap"]] == ["8", "3", "3", "8"]


def test_a_partner_compared_with_itself_agrees_wholly(graph, tasks):
    same = compare_partners(
        graph, {"a": tasks["word"], "b": tasks["word"]}, algorithm="eap", n_random=2, n_bootstrap=20
    )
    np.testing.assert_array_equal(same.jaccard, 1)
    np.testing.assert_array_equal(same.rank_correlation, 1)
    assert (same.chance < 0.9).all()
    values = {figure.value for row in same.faithfulness for figure in row}
    assert len(values) == 1 and None not in values


def test_every_figure_is_evaluates_own(graph, tasks, found):
    for circuit, row in zip(found.circuits, found.faithfulness, strict=True):
        for task, figure in zip(tasks.values(), row, strict=True):
            report = evaluate(circuit, task, curve=False, n_random=0, n_bootstrap=50)
            assert figure.value == pytest.approx(report["faithfulness"].value, abs=1e-6)
            assert figure.low == pytest.approx(report["faithfulness"].low, abs=1e-6)
            assert figure.high == pytest.approx(report["faithfulness"].high, abs=1e-6)


def test_circuits_are_what_the_algorithm_finds_and_sets_are_compared(graph, tasks, found):
    from scipy.stats import spearmanr

    scores = [eap(graph, task) for task in tasks.values()]
    for score, circuit in zip(scores, found.circuits, strict=True):
        assert circuit == score.top(20) and 0 < len(circuit) <= 20
    edges = [set(circuit.edge_names()) for circuit in found.circuits]
    wanted = [[len(a & b) / len(a | b) for b in edges] for a in edges]
    np.testing.assert_allclose(found.jaccard, wanted)
    ranks = [[spearmanr(a.values, b.values)[0] for b in scores] for a in scores]
    np.testing.assert_allclose(found.rank_correlation, ranks, atol=1e-9)
    np.testing.assert_allclose(found.chance, found.chance.T)
    assert overlap(np.zeros(3, dtype=bool), np.zeros(3, dtype=bool)) == 1


def test_an_algorithm_that_decides_itself_is_taken_at_its_word(graph, tasks):
    two = {name: tasks[name] for name in ("swap", "word")}
    sets = compare_partners(graph, two, algorithm="acdc", options={"tau": 0.1}, n_random=2, n_bootstrap=20)
    assert np.isnan(sets.rank_correlation).all() or sets.circuits[0].scores is not None
    assert sets.method["size"] == "the algorithm's own" and sets.jaccard[0, 0] == 1


def test_what_is_written_is_what_was_found(found, tmp_path):
    paths = found.save(tmp_path / "new")
    assert sorted(path.name for path in paths) == ["partners.csv", "partners.json", "partners.png", "partners.svg"]
    with (tmp_path / "new" / "partners.csv").open() as file:
        rows = list(csv.DictReader(file))
    cell = [row for row in rows if (row["measure"], row["circuit"], row["partner"]) == ("faithfulness", "swap", "word")]
    assert (
        float(cell[0]["value"]) == found.faithfulness[0][2].value
        and float(cell[0]["low"]) == found.faithfulness[0][2].low
    )
    assert all(row["low"] or row["note"] for row in rows)  # an interval, or the reason that there is none
    record = json.loads((tmp_path / "new" / "partners.json").read_text())
    assert record["jaccard"] == found.jaccard.tolist() and record["dropped"]["word"] == found.dropped["word"]
    assert record["method"]["partners"]["filled"]["mask_chosen_by"] == "the model's own attention"
    assert "swap and filled: Jaccard" in str(found)
    text = (tmp_path / "new" / "partners.svg").read_text()
    assert "found with filled" in text and "random circuits" in text


def test_tasks_that_differ_in_more_than_partners_are_refused(vit, graph, tasks):
    other = class_contrast(vit, "digits", target=3, foil=8, n_discovery=5, n_evaluation=5, seed=3)
    with pytest.raises(TaskError, match="other clean images"):
        compare_partners(graph, {"a": tasks["swap"], "b": other})
    with pytest.raises(TaskError, match="with_ablation"):
        compare_partners(graph, {"a": tasks["swap"].with_ablation("mean")})
    with pytest.raises(TaskError, match="no tasks"):
        compare_partners(graph, {})
    for size in (0, 1.5, 500):
        with pytest.raises(GraphError, match=r"1 to 110, or a share .* 0\.05"):
            compare_partners(graph, tasks, size=size)


def test_images_that_one_partner_was_found_on_are_not_judged_on_under_another(graph, tasks):
    first, second = tasks["swap"], tasks["word"]
    leaked = second.evaluation.corrupt.clone()
    leaked[0] = first.discovery.corrupt[0]
    evaluation = Pairs(second.evaluation.clean, leaked, second.evaluation.labels)
    with pytest.raises(TaskError, match="of one partner"):
        compare_partners(graph, {"a": first, "b": dataclasses.replace(second, evaluation=evaluation)})


def test_partners_that_no_pair_is_valid_under_are_named(vit):
    clean = class_contrast(vit, "digits", target=3, foil=8, sides="one", n_discovery=4, n_evaluation=4)
    with pytest.raises(TaskError, match="no partners"):
        partner_contrasts(vit, "digits", target=3, foil=8, partners=[])
    assert len(clean.discovery) == 4
    twice = partner_contrasts(
        vit, "digits", target=3, foil=8, partners=["word", Partner("word", word="5")], n_discovery=9, n_evaluation=9
    )
    assert list(twice) == ["word-1", "word-2"]


def test_the_gallery_shows_what_changed(tasks, tmp_path):
    exhibit = gather_partners(tasks, n=2)
    assert set(exhibit.partners) == set(KINDS) and set(exhibit.changed) == {"filled", "word"}
    pairs = tasks["filled"].evaluation
    np.testing.assert_array_equal(exhibit.tokens["filled"].reshape(2, -1), pairs.changed[:2, 1:].numpy())
    np.testing.assert_array_equal(
        exhibit.changed["word"], (tasks["word"].evaluation.select([0, 1]).corrupt != pairs.clean[:2])[:, 0].numpy()
    )
    outside = ~exhibit.changed["filled"]
    np.testing.assert_array_equal(exhibit.partners["filled"][outside], exhibit.clean[outside])
    text = draw_partners(exhibit, tmp_path / "gallery.svg", title="3 against 8").read_text()
    for word in ("clean", *KINDS, "changed", "3 against 8", "of 16 patches"):
        assert word in text
    for ending in ("svg", "png"):
        first, second = (draw_partners(exhibit, tmp_path / f"{n}.{ending}").read_bytes() for n in "ab")
        assert first == second
    with pytest.raises(TaskError, match="partner_contrasts"):
        gather_partners(
            {
                "a": tasks["swap"],
                "b": dataclasses.replace(tasks["swap"], evaluation=tasks["swap"].evaluation.select([1, 0])),
            }
        )


def test_scores_are_those_of_the_named_options(graph, tasks):
    only = {"swap": tasks["swap"]}
    few = compare_partners(graph, only, options={"steps": 2}, n_random=1, n_bootstrap=10, size=0.2)
    np.testing.assert_array_equal(few.circuits[0].scores.values, eap_ig(graph, tasks["swap"], steps=2).values)
    assert few.method["options"]["steps"] == 2 and few.method["size"] == 22
