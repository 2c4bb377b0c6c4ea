"""Partners compared: a partner with itself agrees wholly, figures are evaluate's own, sizes are kept."""

import csv
import dataclasses
import json

import numpy as np
import pytest
import torch
from vitcircuits.algorithms import compare_partners, eap, eap_ig
from vitcircuits.circuits import Partner, class_contrast, compile_graph, evaluate, partner_contrasts
from vitcircuits.circuits.draw.images import draw_partners
from vitcircuits.circuits.figure_data import gather_partners
from vitcircuits.circuits.figures import told
from vitcircuits.circuits.judging.judgement import shares_kept
from vitcircuits.circuits.nodes import overlap
from vitcircuits.models import load_vit
from vitcircuits.models.data import load_data
from vitcircuits.models.errors import GraphError, TaskError

KINDS = {"swap": "class_swap", "filled": Partner("object_fill", mask="attention"), "word": Partner("word", size=0.5)}


@pytest.fixture(scope="module")
def vit():
    return load_vit("toy/digits-2l")


@pytest.fixture(scope="module")
def graph(vit):
    return compile_graph(vit)


NAMES = {"discovery": "train", "evaluation": "test"}
ASKED = {"target": 3, "foil": 8, "n_discovery": 20, "n_evaluation": 24}


@pytest.fixture(scope="module")
def one_sided(vit):
    return partner_contrasts(vit, "digits", partners=KINDS, sides="one", **ASKED)


@pytest.fixture(scope="module")
def crossed(vit):
    return partner_contrasts(vit, "digits", partners={**KINDS, "near": "nearest"}, **ASKED)


@pytest.fixture(scope="module", params=["one_sided", "crossed"])
def tasks(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def found(graph, tasks):
    return compare_partners(graph, tasks, algorithm="eap", size=20, n_random=3, n_bootstrap=50)


def test_all_partners_share_their_clean_images_and_each_pair_is_valid(vit, one_sided):
    first = one_sided["swap"]
    for name, task in one_sided.items():
        for split in ("discovery", "evaluation"):
            pairs = getattr(task, split)
            assert torch.equal(pairs.clean, getattr(first, split).clean)
            assert torch.equal(pairs.pair_ids, getattr(first, split).pair_ids)
            clean, corrupt = vit(pairs.clean), vit(pairs.corrupt)
            assert (clean.argmax(1) == 3).all() and (task.metric(corrupt) < task.metric(clean)).all()
            asked = {"discovery": 20, "evaluation": 24}[split]
            assert len(pairs) + sum(task.info["dropped"][split].values()) == asked, name
            assert task.info[f"n_{split}"] == len(pairs)
    alone = class_contrast(vit, "digits", sides="one", **ASKED)
    kept = {image.numpy().tobytes() for image in alone.discovery.clean}
    assert {image.numpy().tobytes() for image in first.discovery.clean} <= kept


def images_of(pairs):
    """Clean image -> the rows of its pairs, in the order in which images come."""
    found = {}
    for row, image in enumerate(pairs.design.clean_image.tolist()):
        found.setdefault(image, []).append(row)
    return found


def test_crossed_partners_share_clean_images_of_both_classes(vit, crossed):
    for split in ("discovery", "evaluation"):
        first = getattr(crossed["swap"], split)
        rows = [some[0] for some in images_of(first).values()]
        for name, task in crossed.items():
            pairs = getattr(task, split)
            own = [some[0] for some in images_of(pairs).values()]
            assert list(images_of(pairs)) == list(images_of(first)), name
            assert torch.equal(pairs.clean[own], first.clean[rows]) and task.sides == "both"
            assert torch.equal(pairs.design.clean_side[own], first.design.clean_side[rows])
            assert task.info[f"n_{split}"] == len(pairs)
            told = task.info["images"][split]
            assert sum(told[name] for name in ("target", "target_wrong", "foil", "foil_wrong")) == len(own)
    assert not crossed["swap"].evaluation.design.follows and crossed["near"].evaluation.design.follows
    with pytest.raises(TaskError, match='sides="both"'):
        partner_contrasts(vit, "digits", partners=["nearest"], sides="one", **ASKED)


def test_clean_images_without_a_mask_under_one_partner_are_left_out_under_all(vit):
    data, box = load_data("digits", vit.preprocess), np.zeros((8, 8), dtype=bool)
    box[2:6, 2:6] = True
    names = [*data.train.names, *data.test.names]
    masks = {name: box if place % 3 else box & False for place, name in enumerate(names) if place % 5}
    kinds = {"swap": "class_swap", "filled": Partner("object_fill", mask=masks)}
    asked = {**ASKED, "n_discovery": 12, "n_evaluation": 8}
    tasks = partner_contrasts(vit, data, partners=kinds, **asked)
    for split in ("discovery", "evaluation"):
        swap, filled = (getattr(tasks[name], split) for name in kinds)
        assert list(images_of(swap)) == list(images_of(filled))
        partners = set(swap.design.partner_image.tolist())
        assert partners <= set(images_of(swap)), "partners are met anew among the images that stay"
        assert len([own for _, own in swap.design.cells()]) == 4
        assert tasks["swap"].info["dropped"][split]["other_partners"] > 0
        images = getattr(data, NAMES[split])
        usable = {
            image.numpy().tobytes()
            for image, name in zip(images.images, images.names, strict=True)
            if masks.get(name, box & False).any()
        }
        assert {image.numpy().tobytes() for image in swap.clean} <= usable


def test_a_partner_compared_with_itself_agrees_wholly(graph, tasks):
    same = compare_partners(
        graph, {"a": tasks["word"], "b": tasks["word"]}, algorithm="eap", n_random=2, n_bootstrap=20
    )
    np.testing.assert_array_equal(same.jaccard, 1)
    np.testing.assert_array_equal(same.rank_correlation, 1)
    assert (same.chance < 0.9).all()
    values = {figure.value for row in same.kept for figure in row}
    assert len(values) == 1 and None not in values


def same(figure, wanted):
    assert (figure.value is None) == (wanted.value is None)
    if figure.value is not None:
        got, other = (np.array([one.value, one.low, one.high]) for one in (figure, wanted))
        np.testing.assert_allclose(got, other, atol=1e-6)


def test_every_figure_is_evaluates_own(graph, tasks, found):
    for circuit, kept, figures in zip(found.circuits, found.kept, found.figures, strict=True):
        for task, figure, others, empty in zip(tasks.values(), kept, figures, found.empty, strict=True):
            report = evaluate(circuit, task, curve=False, n_random=0, n_bootstrap=50)
            same(figure, report[found.measure])
            if task.sides == "both":
                assert set(told(report.figures)) - set(others) <= {"other_classes", "transmission_all_images"}
            assert bool(others) == (task.sides == "both")
            for name, other in others.items():
                same(other, report[name])
            if task.sides == "both" and task.evaluation.design.follows:
                same(empty, report["transmission_empty"])
    assert found.measure == ("transmission" if "near" in tasks else "faithfulness")


def test_the_whole_model_keeps_all_and_no_edge_nothing(graph, crossed):
    for name, task in crossed.items():
        kept = shares_kept(task, graph, [np.ones(len(graph), bool), np.zeros(len(graph), bool)], n_told=2)
        if kept.kept(0).value is None:
            assert "partners show it" in kept.kept(0).reason and kept.empty().value > 0.3
            continue
        follows = task.evaluation.design.follows
        assert kept.kept(0).value == pytest.approx(1, abs=1e-9), name
        assert kept.kept(1).value == pytest.approx(0 if follows else kept.empty().value, abs=1e-9)
        if task.evaluation.design.crossed:
            assert kept.figures(0)["leakage"].value == pytest.approx(0, abs=1e-6)
            assert kept.figures(1)["leakage"].value == pytest.approx(1, abs=1e-6)
    swap = shares_kept(crossed["swap"], graph, [np.zeros(len(graph), bool)])
    assert swap.empty().value == pytest.approx(0, abs=1e-9)  # every image is a partner equally often in every cell


def test_circuits_are_what_the_algorithm_finds_and_sets_are_compared(graph, tasks, found):
    from scipy.stats import spearmanr

    scores = [eap(graph, task) for task in tasks.values()]
    for score, circuit in zip(scores, found.circuits, strict=True):
        assert circuit == score.top(20) and 0 < len(circuit) <= 20
    edges = [set(circuit.edge_names()) for circuit in found.circuits]
    wanted = [[len(a & b) / len(a | b) for b in edges] for a in edges]
    np.testing.assert_allclose(found.jaccard, wanted)
    ranks = [[spearmanr(a.ranking_values(), b.ranking_values())[0] for b in scores] for a in scores]
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
    cell = [row for row in rows if (row["measure"], row["circuit"], row["partner"]) == (found.measure, "swap", "word")]
    assert float(cell[0]["value"]) == found.kept[0][2].value and float(cell[0]["low"]) == found.kept[0][2].low
    empty = [row for row in rows if (row["circuit"], row["partner"]) == ("none", "word")]
    assert [float(row["value"]) for row in empty] == ([found.empty[2].value] if found.crossed else [])
    assert all(row["low"] or row["note"] for row in rows)  # an interval, or the reason that there is none
    record = json.loads((tmp_path / "new" / "partners.json").read_text())
    assert record[found.measure][0][2]["value"] == found.kept[0][2].value and f"held-out {found.measure}" in str(found)
    for measure in found.measured:
        written = {(row["circuit"], row["partner"]): row["value"] for row in rows if row["measure"] == measure}
        grid = found.grid(measure)
        assert record[measure][2][1]["value"] == grid[2][1].value
        assert written[found.names[2], found.names[1]] == ("" if grid[2][1].value is None else str(grid[2][1].value))
    assert ("swap under itself: leakage" in str(found)) == found.crossed
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
    for size in (0, 1.5):
        with pytest.raises(TaskError, match=r"a number of edges such as 40, or a share such as 0\.1"):
            compare_partners(graph, tasks, size=size)
    with pytest.raises(GraphError, match=r"1 to 110, or a share .* 0\.05"):
        compare_partners(graph, tasks, size=500)


def test_figures_that_are_not_measured_are_refused(found):
    said = "not measured here: choose one of transmission" if found.crossed else "needs clean images of both classes"
    with pytest.raises(TaskError, match=said):
        found.grid("faithfulness of nobody")


def test_images_that_one_partner_was_found_on_are_not_judged_on_under_another(graph, one_sided):
    first, second = one_sided["swap"], one_sided["word"]
    leaked = second.evaluation.corrupt.clone()
    leaked[0] = first.discovery.corrupt[0]
    evaluation = dataclasses.replace(second.evaluation, corrupt=leaked)
    with pytest.raises(TaskError, match="of one partner"):
        compare_partners(graph, {"a": first, "b": dataclasses.replace(second, evaluation=evaluation)})


def test_partners_that_no_pair_is_valid_under_are_named(vit):
    with pytest.raises(TaskError, match="no partners"):
        partner_contrasts(vit, "digits", target=3, foil=8, partners=[])
    twice = partner_contrasts(
        vit, "digits", target=3, foil=8, partners=["word", Partner("word", word="5")], n_discovery=9, n_evaluation=9
    )
    assert list(twice) == ["word-1", "word-2"]


def test_the_gallery_of_a_crossed_task_shows_both_classes_and_their_opposites(vit, crossed):
    exhibit, pairs = gather_partners(crossed, n=4), crossed["swap"].evaluation
    shown = [float(np.abs(exhibit.clean[place] - exhibit.partners["swap"][place]).max()) for place in range(4)]
    assert min(shown) > 0.1
    first = {image: rows[0] for image, rows in images_of(pairs).items()}
    targets, foils = ([row for row in first.values() if pairs.design.clean_side[row] == side] for side in (1, 0))
    wanted = pairs.clean[[targets[0], foils[0], targets[1], foils[1]]]
    np.testing.assert_allclose(exhibit.clean[..., 0], vit.preprocess.denormalise(wanted)[:, 0].numpy(), atol=1e-6)
    said = [caption.split(",")[0] for caption in exhibit.captions["swap"]]
    assert said == ["8", "3", "8", "3"]


def test_the_gallery_shows_what_changed(one_sided, tmp_path):
    tasks = one_sided
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
