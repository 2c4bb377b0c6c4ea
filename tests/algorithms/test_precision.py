"""Passes in 16 bits: scores nearly those of float32, sums, metrics and decisions in float32 or more."""

import numpy as np
import pytest
import torch
from vitcircuits.algorithms import acdc, eap_ig, exact_effects, learned_masks
from vitcircuits.circuits import Circuit, class_contrast, compile_graph, run_circuit
from vitcircuits.models import load_vit

DTYPES = ("bfloat16", "float16")


@pytest.fixture(scope="module")
def tasks():
    options = {"target": 3, "foil": 8, "sides": "one", "n_discovery": 6, "n_evaluation": 6}
    found = {
        dtype: class_contrast(load_vit("toy/digits-2l", dtype=dtype), "digits", **options)
        for dtype in ("float32", *DTYPES)
    }
    assert all(torch.equal(task.discovery.ids, found["float32"].discovery.ids) for task in found.values())
    return found


@pytest.mark.parametrize(
    ("find", "dtype", "kind"),
    [
        (eap_ig, "bfloat16", "partner"),
        (eap_ig, "float16", "mean"),
        (exact_effects, "bfloat16", "mean"),
        (exact_effects, "float16", "partner"),
    ],
)
def test_scores_are_nearly_those_of_float32(tasks, dtype, find, kind):
    graph = compile_graph(tasks[dtype].vit, tokens="role")
    found, wanted = (find(graph, tasks[key].with_ablation(kind)).values for key in (dtype, "float32"))
    assert 0 < np.abs(found - wanted).max() < 0.01 * np.abs(wanted).max()


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_edges_kept_is_the_clean_run_and_none_the_corrupted(tasks, dtype):
    task = tasks[dtype]
    graph, pairs = compile_graph(task.vit, tokens="role"), task.discovery
    for mask, images in (
        (np.ones(len(graph), dtype=bool), pairs.clean),
        (np.zeros(len(graph), dtype=bool), pairs.corrupt),
    ):
        with torch.no_grad():
            logits, wanted = run_circuit(task.vit, Circuit(graph, mask), pairs.clean, pairs.corrupt), task.vit(images)
        assert logits.dtype == wanted.dtype == torch.float32
        assert (logits - wanted).abs().max() < 0.02 * wanted.abs().max()


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_pruned_is_told_by_its_dtype_and_decided_twice_alike(tasks, dtype):
    task = tasks[dtype]
    graph = compile_graph(task.vit, ports="block")
    circuits = [acdc(graph, task, tau=0.1) for _ in range(2)]
    np.testing.assert_array_equal(circuits[0].mask, circuits[1].mask)
    learned = learned_masks(graph, task, size=20, steps=4, batch=3)
    assert 0 < len(learned) <= 20
