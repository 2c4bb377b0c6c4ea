"""Stability: the truth stays, chance does not, shares and indices by their definitions, reasons where there is none."""

import json
from itertools import combinations

import numpy as np
import pytest
from vitcircuits.algorithms import exact_effects, measure_stability
from vitcircuits.circuits import (
    Ablation,
    Circuit,
    Scores,
    class_contrast,
    compile_graph,
    evaluate,
    jaccard,
    planted_task,
)
from vitcircuits.circuits import truth_mask as truth_of
from vitcircuits.circuits.judging.bootstrap import Resamples
from vitcircuits.circuits.reach import prune
from vitcircuits.circuits.tasks.redraw import at_rows
from vitcircuits.models import load_vit
from vitcircuits.models.errors import GraphError, TaskError


@pytest.fixture(scope="module")
def digits():
    vit = load_vit("toy/digits-2l")
    task = class_contrast(vit, "digits", target=3, foil=8, n_discovery=16, n_evaluation=8)
    return compile_graph(vit), task


@pytest.fixture(scope="module")
def found(digits):
    return measure_stability("eap", *digits, size=30, n_resamples=5, n_halvings=2, consensus_in_halves=True, seed=3)


def by_chance(graph, task, *, seed=0):
    """An algorithm that looks at nothing but which pairs there are, and at its seed."""
    first = int(abs(float(task.discovery.clean.sum())) * 1e4) + len(task.discovery)
    values = np.random.default_rng([first, seed]).normal(size=len(graph))
    n = len(graph)
    return Scores(graph, values, np.abs(values), np.zeros(n), np.zeros(n, bool), len(task.discovery), "chance")


def whole_circuits(graph, task):
    """An algorithm that returns a circuit without scores."""
    mask = np.zeros(len(graph), bool)
    mask[: len(graph) // 2 + len(task.discovery) % 3] = True
    return Circuit(graph, prune(graph, mask))


def test_the_truth_stays_whatever_pairs_are_drawn():
    vit = load_vit("planted/bright-column")
    graph, task = compile_graph(vit), planted_task(vit, n=24)
    truth = truth_of(graph, vit.truth())
    options = {"size": int(truth.sum()), "by": "mean_abs", "n_resamples": 4, "consensus_in_halves": True}
    found = measure_stability("exact_effects", graph, task, **options)
    for name in ("resamples", "with_whole", "halves", "consensus_halves"):
        assert found[f"jaccard_{name}"].value == 1, name
    assert found["jaccard_chance"].value < 1
    np.testing.assert_array_equal(found.consensus().mask, truth)
    np.testing.assert_array_equal(found.shares, truth.astype(float))
    same = measure_stability(exact_effects, graph, task, **options)  # a function in the name's place
    assert same.figures == found.figures


def test_shares_and_indices_by_definition(found):
    masks = [circuit.mask for circuit in found.resampled]
    np.testing.assert_allclose(found.shares, np.mean(masks, 0))
    wanted = [(a & b).sum() / (a | b).sum() for a, b in combinations(masks, 2)]
    assert found["jaccard_resamples"].value == pytest.approx(np.mean(wanted))
    assert (found["jaccard_resamples"].low, found["jaccard_resamples"].high) == pytest.approx(
        tuple(np.quantile(wanted, [0.025, 0.975]))
    )
    whole = [jaccard(found.whole, circuit) for circuit in found.resampled]
    assert found["jaccard_with_whole"].value == pytest.approx(np.mean(whole))


def test_rank_correlation_is_the_correlation_of_ranks(found):
    def ranks(circuit):
        values = circuit.scores.values
        return [(values < value).sum() + (values == value).sum() / 2 for value in values]  # ties share their ranks

    wanted = [np.corrcoef(ranks(a), ranks(b))[0, 1] for a, b in combinations(found.resampled, 2)]
    assert found["rank_correlation_resamples"].value == pytest.approx(np.mean(wanted))


def test_the_consensus_keeps_edges_above_a_share_and_says_so(found):
    for share in (0.0, 0.5, 0.9):
        circuit = found.consensus(share)
        np.testing.assert_array_equal(circuit.mask, prune(circuit.graph, found.shares > share))
        assert circuit.provenance["selection"] == "consensus" and circuit.provenance["share"] == share
    assert len(found.consensus(0.9)) < len(found.consensus(0.0))
    with pytest.raises(GraphError, match="from 0"):
        found.consensus(1.0)


def test_the_same_seed_gives_the_same_and_another_another(digits, found):
    options = {"size": 30, "n_resamples": 5, "n_halvings": 2, "consensus_in_halves": True}
    assert measure_stability("eap", *digits, **options, seed=3).figures == found.figures
    assert measure_stability("eap", *digits, **options, seed=4).figures != found.figures


def test_other_seeds_run_where_chance_is_drawn_and_are_explained_away_elsewhere(digits, found):
    graph, task = digits
    assert found["jaccard_seeds"].value is None and "every seed gives the same" in found["jaccard_seeds"].reason
    noisy = measure_stability("eap", graph, task.with_ablation(Ablation("noise")), size=30, n_resamples=2, n_seeds=2)
    assert 0 < noisy["jaccard_seeds"].value < 1
    seeded = measure_stability(by_chance, graph, task, size=30, n_resamples=2, n_seeds=2)
    assert 0 < seeded["jaccard_seeds"].value < 0.5  # a function that takes a seed
    seeded = measure_stability("eap", graph, task, size=30, n_resamples=2, n_seeds=0)
    assert "n_seeds=0" in seeded["jaccard_seeds"].reason


def test_what_looks_at_nothing_is_no_more_alike_than_chance(digits):
    found = measure_stability(by_chance, *digits, size=30, n_resamples=6)
    assert found["jaccard_resamples"].value < 0.3 and abs(found["rank_correlation_resamples"].value) < 0.2


def test_circuits_without_scores_have_no_rank_correlation(digits):
    found = measure_stability(whole_circuits, *digits, n_resamples=2, n_halvings=1)
    assert "without scores" in found["rank_correlation_resamples"].reason
    assert "single comparison" in found["jaccard_halves"].reason and found["jaccard_halves"].value is not None


def test_every_figure_has_an_interval_or_a_reason_in_print_and_file(found, tmp_path):
    data = json.loads(found.save(tmp_path / "stability.json").read_text())
    for name, figure in data["figures"].items():
        assert figure["low"] is not None or figure["reason"], name
        assert str(found[name]) in str(found)
    assert all(edge["low"] <= edge["share"] <= edge["high"] for edge in data["edges"])
    assert data["consensus"] == found.consensus().edge_names()


def test_it_is_drawn_with_names_and_intervals(found, tmp_path):
    text = found.draw(tmp_path / "stability.svg").read_text()
    figure = found["jaccard_resamples"]
    for word in (f"{figure.value:.2f} [{figure.low:.2f}, {figure.high:.2f}]", "Jaccard index", "chance"):
        assert word in text
    assert found.draw(tmp_path / "a.png").read_bytes() == found.draw(tmp_path / "b.png").read_bytes()


def test_the_circuit_of_all_pairs_is_judged_as_evaluate_judges_it(found, digits):
    report = evaluate(found.whole, digits[1], curve=False, n_random=0)
    names = ["transmission", "leakage", "offset", "transmission_within", "reproduced_variation", "right", "kl"]
    for name in names:
        assert found[name].value == pytest.approx(report[name].value, abs=1e-6), name
    assert [name for name in found.figures if name in names] == names


@pytest.mark.parametrize(
    ("algorithm", "options", "said"),
    [
        ("eap", {}, "size=20"),
        ("guess", {"size": 3}, "there is no algorithm"),
        ("eap", {"size": 3, "n_resamples": 1}, "at least 2"),
        ("eap", {"size": 3, "colour": 1}, "no option 'colour'"),
        (by_chance, {}, "size=20"),
    ],
)
def test_mistakes_say_the_repaired_call(algorithm, options, said, digits):
    with pytest.raises(TaskError, match=said):
        measure_stability(algorithm, *digits, **options)


def test_resamples_draw_with_replacement_and_halves_share_no_pair(digits):
    vit = digits[1].vit
    task = class_contrast(vit, "digits", target=3, foil=8, sides="one", n_discovery=16, n_evaluation=8)
    graph, seen = digits[0], []

    def recorded(graph, task):
        seen.append(task.discovery.pair_ids.tolist())
        return whole_circuits(graph, task)

    measure_stability(recorded, graph, task, n_resamples=3, n_halvings=2, consensus_in_halves=True)
    every = set(range(len(task.discovery)))
    assert set(seen[0]) == every and len(seen) == 1 + 3 + 4 + 2 * 2 * 3
    for drawn in seen[1:4]:
        assert len(drawn) == len(every) and len(set(drawn)) < len(every)
    for first, second in (seen[4:6], seen[6:8]):
        assert not set(first) & set(second) and set(first) | set(second) == every
    assert set(seen[8]) <= set(seen[4]) and set(seen[11]) <= set(seen[5])  # resamples inside a half


def test_images_are_drawn_and_divided_whole_within_their_class(digits):
    graph, task = digits
    seen = []

    def recorded(graph, task):
        seen.append(task.discovery)
        return whole_circuits(graph, task)

    measure_stability(recorded, graph, task, n_resamples=3, n_halvings=2, consensus_in_halves=True)
    every, stride = task.discovery.design, 1 + int(task.discovery.design.clean_image.max())
    stride = max(stride, 1 + int(every.partner_image.max()))
    per_image = {int(image): int((every.clean_image == image).sum()) for image in every.clean_image}
    assert len(seen) == 1 + 3 + 4 + 2 * 2 * 3 and seen[0] is task.discovery
    for pairs in seen[1:4]:
        design = pairs.design
        for image in design.clean_image.unique().tolist():
            assert int((design.clean_image == image).sum()) == per_image[image % stride]
        assert [int((design.clean_side == side).sum()) for side in (1, 0)] == [32, 32]  # 16 images with 2 pairs each
        assert len((design.clean_image % stride).unique()) < len(design.clean_image.unique()) == 32
        assert {name: own.sum() for name, own in design.cells()} == {name: 16 for name, _ in every.cells()}
        met = set(zip((design.clean_image % stride).tolist(), design.partner_image.tolist(), strict=True))
        assert met <= set(zip(every.clean_image.tolist(), every.partner_image.tolist(), strict=True))
    for first, second in (seen[4:6], seen[6:8]):
        images = [set(half.design.clean_image.tolist()) for half in (first, second)]
        assert not images[0] & images[1] and images[0] | images[1] == set(every.clean_image.tolist())
        for half, own in zip((first, second), images, strict=True):
            assert set(half.design.partner_image.tolist()) == own, "partners are of the same half"
            assert {int(inside.sum()) for _, inside in half.design.cells()} == {8}
            hashes = {image.numpy().tobytes() for image in half.clean}
            assert {image.numpy().tobytes() for image in half.corrupt} == hashes
    for inside, half in ((seen[8], seen[4]), (seen[11], seen[5])):  # resamples inside a half
        hashes = [{image.numpy().tobytes() for image in pairs.clean} for pairs in (inside, half)]
        assert hashes[0] < hashes[1] and len(inside) == len(half)


def test_an_image_drawn_twice_counts_twice_without_partners_too(digits):
    pairs = digits[1].discovery
    rows = np.array([0, 1, 0, 1, 2, 3, 32, 33, 34, 35])  # the first image twice, with both of its partners
    again = at_rows(pairs, rows)
    assert again.under(Ablation("mean")).design.clean_image.tolist()[1] != again.design.clean_image[0]
    assert len(again.under(Ablation("mean"))) == 5
    found, wanted = (
        Resamples.of(some, 0, seed=0).behaviour_whole for some in (again, pairs.select([0, 1, 2, 3, 32, 33, 34, 35]))
    )
    np.testing.assert_allclose([found[[0, 2]].sum(), found[4]], [2 / 6, 1 / 6])
    np.testing.assert_allclose([wanted[0], wanted[2]], [1 / 4, 1 / 4])


def test_what_refound_circuits_keep_is_evaluates_own(digits, found):
    report = evaluate(found.whole, digits[1], curve=False, n_random=0, seed=3)
    for end in ("value", "low", "high"):
        assert getattr(found["transmission"], end) == pytest.approx(getattr(report["transmission"], end), abs=1e-6)
    each = [evaluate(circuit, digits[1], curve=False, n_random=0)["transmission"].value for circuit in found.resampled]
    assert [figure.value for figure in found.kept] == pytest.approx(each, abs=1e-6)
    assert found["transmission_resamples"].value == pytest.approx(np.mean(each))
    one = class_contrast(digits[1].vit, "digits", target=3, foil=8, sides="one", n_discovery=8, n_evaluation=8)
    again = measure_stability("eap", digits[0], one, size=30, n_resamples=2)
    report = evaluate(again.whole, one, curve=False, n_random=0)
    assert again["faithfulness"].value == pytest.approx(report["faithfulness"].value, abs=1e-6)


def test_edges_recur_where_nearly_all_resamples_keep_them(found):
    always = np.mean([circuit.mask for circuit in found.resampled], 0) >= 0.9
    assert found["recurring_edges"].value == pytest.approx(always[found.whole.mask].mean())
    assert found["recurring_edges"].reason


def test_too_few_images_to_halve_are_refused(digits):
    task = class_contrast(digits[1].vit, "digits", target=3, foil=8, n_discovery=3, n_evaluation=8)
    with pytest.raises(TaskError, match="n_discovery=8"):
        measure_stability("eap", digits[0], task, size=20)
