"""Control searches: what was taught is what searches read, and selectivity is the difference it says."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from vitcircuits.algorithms import control_searches, run_algorithm
from vitcircuits.algorithms.control_search import CONTROLS, controls_of, teach
from vitcircuits.algorithms.discovery import Discovery
from vitcircuits.algorithms.engines.flips import measure_flips
from vitcircuits.algorithms.engines.gated_run import measure_slopes
from vitcircuits.circuits import Circuit, class_contrast, compile_graph, evaluate
from vitcircuits.circuits.baseline import make_baseline
from vitcircuits.circuits.run import run_masks
from vitcircuits.circuits.tasks.design import FOIL, TARGET
from vitcircuits.circuits.tasks.metrics import Metric
from vitcircuits.circuits.tasks.taught import full_answers, with_answers, with_permuted_answers
from vitcircuits.models import load_vit
from vitcircuits.models.errors import GraphError, TaskError

QUICK = {"steps": 25, "derivative": "pathwise", "polish": "no", "start": "eap_ig"}


@pytest.fixture(scope="module")
def digits():
    vit = load_vit("toy/digits-2l")
    return compile_graph(vit), class_contrast(vit, "digits", target=3, foil=8, n_discovery=16, n_evaluation=24)


@pytest.fixture(scope="module")
def learned(digits):
    return control_searches("learned_masks", *digits, size=0.3, n_bootstrap=200, **QUICK)


@pytest.fixture(scope="module")
def scored(digits):
    return control_searches("eap_ig", *digits, size=0.2, by="mean_abs", n_bootstrap=200)


@pytest.mark.parametrize("which", ["learned", "scored"])
def test_a_true_search_transmits_what_controls_do_not(which, request):
    found = request.getfixturevalue(which)
    assert found.selectivity.low > 0.3
    assert found["true"].transmission.value > 0.6
    assert abs(found["permuted_labels"].taught.value) < 0.1
    for name in ("exchanged_heads", "random_weights"):
        assert found[name].transmission.value < 0.2, name
    assert [one.name for one in found.searches] == ["true", *CONTROLS]


def test_selectivity_is_the_difference_to_the_largest_control(learned):
    values = {one.name: one.counted.value for one in learned.searches}
    assert learned["permuted_labels"].counted is learned["permuted_labels"].taught
    largest = max(0.0, *(values[name] for name in CONTROLS))
    assert learned.selectivity.value == pytest.approx(values["true"] - largest)
    assert learned.selectivity.low < learned.selectivity.value < learned.selectivity.high


def test_the_true_search_is_the_plain_search_and_its_figure_that_of_the_report(digits, learned):
    graph, task = digits
    plain = run_algorithm("learned_masks", graph, task, size=0.3, seed=0, **QUICK)
    np.testing.assert_array_equal(learned["true"].circuit.mask, plain.mask)
    report = evaluate(plain, task, curve=False, n_random=2, n_bootstrap=200)
    assert learned["true"].transmission.value == pytest.approx(report["transmission"].value)
    assert learned["true"].transmission.low == pytest.approx(report["transmission"].low)


def test_a_circuit_that_was_found_is_not_searched_again(digits, scored):
    graph, task = digits
    calls = []

    def counted(graph, task, *, seed):
        calls.append((task.info.get("control", "true"), seed))
        return run_algorithm("eap_ig", graph, task)

    options = {"size": 0.2, "by": "mean_abs", "n_bootstrap": 200}
    found = control_searches(counted, graph, task, found=scored["true"].circuit, **options)
    assert calls == [(name, 0) for name in CONTROLS]
    assert found.selectivity == scored.selectivity
    with pytest.raises(GraphError, match="has 21 edges, but control searches of 5"):
        control_searches("eap_ig", graph, task, size=5, found=scored["true"].circuit)


def test_the_controls_of_a_circuit_are_its_own_search_again(digits, learned, scored, tmp_path):
    graph, task = digits
    for whole in (learned, scored):
        loaded = Circuit.load(whole["true"].circuit.save(tmp_path / "circuit.json"))
        found = controls_of(loaded, task, controls=("permuted_labels",), n_bootstrap=200)
        assert found["permuted_labels"].taught == whole["permuted_labels"].taught
        np.testing.assert_array_equal(found["permuted_labels"].circuit.mask, whole["permuted_labels"].circuit.mask)
    with pytest.raises(TaskError, match="not found by a registered algorithm"):
        controls_of(Circuit(graph, loaded.mask), task)


def test_the_controls_of_a_node_circuit_keep_as_many_nodes_whole(digits):
    graph, task = digits
    circuit = Discovery("eap", size=4, granularity="node").find(task, graph)
    found = controls_of(circuit, task, controls=("exchanged_heads",), n_bootstrap=50)
    assert "eap, 4 heads and MLPs, judged" in str(found) and found["true"].circuit is circuit
    assert len(found["exchanged_heads"].circuit.provenance["nodes"]) == 4


def test_controls_of_a_circuit_at_a_level_have_its_size(digits):
    graph, task = digits
    circuit = Discovery("budgeted_pruning", {"swaps": 0}, level=0.5).find(task, graph)
    found = controls_of(circuit, task, controls=("permuted_labels",), n_bootstrap=50)
    assert 0 < len(found["permuted_labels"].circuit) <= len(circuit)
    assert found["permuted_labels"].circuit.provenance["options"]["faithfulness"] == 0.0


def test_one_seed_gives_one_result(digits, learned):
    some = ("exchanged_heads", "permuted_labels")  # in another order, without the third
    again = control_searches("learned_masks", *digits, size=0.3, controls=some, n_bootstrap=200, **QUICK)
    assert again.selectivity == learned.selectivity
    for one in again.searches:
        np.testing.assert_array_equal(one.circuit.mask, learned[one.name].circuit.mask)


# What is taught.


def test_permuted_answers_say_nothing_of_the_true_class(digits):
    _, task = digits
    pairs, answers = task.discovery, full_answers(task.vit, task.discovery)
    taught = with_permuted_answers(pairs, answers, seed=1)
    true, now = pairs.design.clean_side, taught.design.clean_side
    for side in (TARGET, FOIL):
        assert float((now[true == side] == side).double().mean()) == 0.5
    for image in pairs.design.clean_image.unique():
        own = pairs.design.clean_image == image
        assert (taught.answers[own] == taught.answers[own][0]).all()
        assert not torch.equal(taught.answers[own][0], answers[own][0])
    assert torch.equal(task.metric(taught.answers).sign().long(), taught.design.sign)
    assert torch.equal(taught.design.partner_side, pairs.design.partner_side)
    assert not torch.equal(with_permuted_answers(pairs, answers, seed=2).answers, taught.answers)


@pytest.mark.parametrize("ablation", ["partner", "mean"])
def test_answers_go_with_their_pairs(digits, ablation, unchecked):
    _, task = digits
    answers = full_answers(task.vit, task.discovery)
    taught = dataclasses.replace(task, discovery=with_answers(task.discovery, answers)).with_ablation(ablation)
    wanted = task.vit(taught.searched.clean).double()
    torch.testing.assert_close(taught.searched.answers, wanted, atol=1e-4, rtol=1e-4)
    with pytest.raises(TaskError, match="answers have 2 rows"):
        with_answers(task.discovery, answers[:2])


SEARCHES = {
    "learned_masks": {"size": 20, "steps": 6, "derivative": "pathwise", "polish": "no", "start": "none"},
    "learned_masks measured": {"size": 20, "steps": 2, "derivative": "measured", "polish": "no", "objective": "kl"},
    "budgeted_pruning": {"size": 30, "measure": "slopes", "share": 0.9, "regrow_rounds": 0, "swaps": 0},
    "acdc": {"tau": 0.05},
    "eap_ig": {},
    "ceap": {},
    "exact_effects": {},
    "hybrid": {"budget": 0.1},
}
BY_DIVERGENCE = ("eap_ig", "ceap", "exact_effects", "hybrid", "acdc")  # asked with the metric kl


def _outcome(name, graph, task):
    found = run_algorithm(name.split()[0], graph, task, **SEARCHES[name])
    values = getattr(found, "values", None)
    return found.scores.values if values is None else values


@pytest.mark.parametrize("name", SEARCHES)
def test_searches_read_the_answers_that_are_taught(digits, name):
    graph, task = digits
    task = dataclasses.replace(task, discovery=task.discovery.select(slice(0, None, 6)))
    if name in BY_DIVERGENCE:
        task = dataclasses.replace(task, metric=Metric("kl", task.metric.target, task.metric.foil))
    answers = full_answers(task.vit, task.discovery)

    def searched(answers):
        return _outcome(name, graph, dataclasses.replace(task, discovery=with_answers(task.discovery, answers)))

    plain, own = _outcome(name, graph, task), searched(answers)
    np.testing.assert_allclose(own, plain, atol=1e-4 * np.abs(plain).max())
    assert np.abs(searched(answers.flip(-1)) - plain).max() > 1e-3 * np.abs(plain).max()


def test_runs_are_compared_with_what_is_taught(digits):
    graph, task = digits
    pairs, everything = task.discovery.select(slice(0, 4)), np.ones(len(graph), dtype=bool)
    full = full_answers(task.vit, pairs)
    taught, metric = with_answers(pairs, full.flip(-1)), Metric("kl", (3,), (8,))
    baseline, wanted = make_baseline(task.vit, task.ablation), metric(full, full.flip(-1)).numpy()
    runs = run_masks(task.vit, graph, [everything], metric, taught, baseline)
    slopes = measure_slopes(task.vit, graph, everything, metric, taught, baseline)
    flips = measure_flips(task.vit, graph, everything, [0], metric, taught, baseline)
    for found in (runs.outputs[0], runs.clean_outputs, slopes[0], flips.now):
        np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_gradient_scores_of_permuted_labels_speak_for_the_taught_class(digits):
    graph, task = digits
    taught = teach(task, "permuted_labels", seed=0)
    plain, found = (run_algorithm("eap_ig", graph, one) for one in (task, taught))
    np.testing.assert_allclose(found.mean_abs, plain.mean_abs)  # a ranking without signs sees no label
    assert np.abs(found.values).max() < 0.5 * np.abs(plain.values).max()


# What is said.


def test_it_is_printed_tabled_and_saved(digits, scored, tmp_path):
    text = str(scored)
    assert "selectivity" in text and all(name in text for name in ("true", *CONTROLS))
    frame = scored.frame()
    assert len(frame) == 9 and set(frame.measure) == {"transmission", "taught", "selectivity"}
    saved = json.loads(scored.save(tmp_path / "controls.json").read_text())
    assert saved["selectivity"]["value"] == pytest.approx(scored.selectivity.value)
    assert saved["searches"][0]["edges"] == scored["true"].circuit.edge_names()
    assert scored["random_weights"].circuit.task["control"] == "random_weights"


def test_one_head_leaves_a_control_out_and_says_why(tiny_module):
    vit = load_vit(tiny_module(num_heads=1), name="single")
    generator = torch.Generator().manual_seed(0)
    images = 4 * torch.randn(120, 1, 8, 8, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        vit.module.head.bias -= vit(images).mean(0)
    top = vit(images).argmax(-1)
    target, foil = top.bincount().argsort(descending=True)[:2].tolist()
    data = (images, top)
    task = class_contrast(vit, data, target=target, foil=foil, n_discovery=6, n_evaluation=6)
    asked = ("exchanged_heads", "random_weights")
    found = control_searches("eap_ig", compile_graph(vit), task, size=5, controls=asked, n_bootstrap=20)
    assert list(found.left_out) == ["exchanged_heads"] and "exchanged_heads: left out" in str(found)
    assert [one.name for one in found.searches] == ["true", "random_weights"]
    alone = control_searches("eap_ig", compile_graph(vit), task, size=5, controls=asked[:1], n_bootstrap=20)
    assert alone.selectivity.value is None and "no control search" in alone.selectivity.reason


def test_partners_made_from_the_image_are_taken_off(digits):
    graph, task = digits
    blurred = class_contrast(task.vit, "digits", target=3, foil=8, corruption="noise", n_discovery=8, n_evaluation=8)
    found = control_searches("eap_ig", graph, blurred, size=0.2, controls=("random_weights",), n_bootstrap=50)
    report = evaluate(found["true"].circuit, blurred, curve=False, n_random=2, n_bootstrap=50)
    assert found["true"].transmission.value == pytest.approx(report["transmission"].value)


def test_what_makes_no_sense_is_refused(digits):
    graph, task = digits
    with pytest.raises(TaskError, match="there is no control 'sham'"):
        control_searches("eap_ig", graph, task, size=5, controls=("sham",))
    with pytest.raises(TaskError, match="there is no algorithm"):
        control_searches("nothing", graph, task, size=5)
    one_sided = class_contrast(task.vit, "digits", target=3, foil=8, sides="one", n_discovery=4, n_evaluation=4)
    with pytest.raises(TaskError, match="crossed task"):
        control_searches("eap_ig", graph, one_sided, size=5)
