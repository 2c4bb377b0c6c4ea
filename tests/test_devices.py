"""Tensors are made where the model is: under another default device, and with the model on another device.

No GPU is needed. The other device is a pretended one: its tensors hold their numbers on the CPU, call themselves `meta`,
and refuse to meet tensors of the CPU wherever a GPU's would.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pandas
import pytest
import torch
from vitcircuits import algorithms, circuits
from vitcircuits.algorithms import ALGORITHMS, run_algorithm
from vitcircuits.circuits import class_contrast, compile_graph
from vitcircuits.models import load_vit
from vitcircuits.models.load import HookedViT

SHORT = {
    "acdc": {"tau": 0.3},
    "budgeted_pruning": {"size": 60, "regrow_rounds": 1, "swaps": 1},
    "hybrid": {"budget": 0.05},
    "learned_masks": {"steps": 4, "batch": 3, "size": 40},
}
FEW = {"n_bootstrap": 5}


@pytest.fixture(scope="module")
def task():
    return class_contrast(load_vit("toy/digits-2l"), "digits", target=3, foil=8, n_discovery=8, n_evaluation=8)


def of_role(task):
    return compile_graph(task.vit, tokens="role")


def circuit_of(task):
    graph = of_role(task)
    mask = np.zeros(len(graph), dtype=bool)
    mask[:: 2 if len(graph) < 500 else 3] = True
    return circuits.Circuit(graph, circuits.prune(graph, mask), None, task.ablation, dict(task.info))


def images_of(task):
    return task.evaluation.clean


CALLS = {
    **{
        name: lambda task, name=name: run_algorithm(name, of_role(task), task, **SHORT.get(name, {}))
        for name in ALGORITHMS
    },
    **{
        f"{name}, {kind}": lambda task, name=name, kind=kind: run_algorithm(
            name, of_role(task), task.with_ablation(kind), **SHORT.get(name, {})
        )
        for name in ("eap_ig", "exact_effects", "acdc", "learned_masks")
        for kind in ("mean", "noise", "another", "zero")
    },
    "eap_ig, each token": lambda task: algorithms.eap_ig(compile_graph(task.vit, tokens="each", ports="head"), task),
    "node_effects": lambda task: algorithms.node_effects(compile_graph(task.vit), task),
    "run_circuit": lambda task: circuits.run_circuit(
        task.vit, circuit_of(task), task.evaluation.clean, task.evaluation.corrupt
    ),
    "evaluate": lambda task: circuits.evaluate(
        circuit_of(task),
        task,
        n_random=2,
        controls={"permuted_labels": circuit_of(task)},
        checks=("consistency",),
        **FEW,
    ),
    "evaluate_spread": lambda task: circuits.evaluate_spread(circuit_of(task), task, **FEW),
    "smallest_faithful": lambda task: circuits.smallest_faithful(algorithms.eap(of_role(task), task), task),
    "optimal_ablation": lambda task: algorithms.optimal_ablation(circuit_of(task), task, steps=3, batch=3),
    "patch_effects": lambda task: algorithms.patch_effects(circuit_of(task), task, n=2),
    "token_flow": lambda task: algorithms.token_flow(task, steps=2),
    "token_flow, attribution": lambda task: algorithms.token_flow(task, by="attribution", steps=2),
    "activation_patch": lambda task: algorithms.activation_patch(of_role(task), task, "z", tokens="role"),
    "path_patch": lambda task: algorithms.path_patch(of_role(task), task, sources="input"),
    "token_effect": lambda task: algorithms.token_effect(task, "patch", **FEW),
    "ablate_tokens": lambda task: algorithms.ablate_tokens(
        task.vit, images_of(task), "patch", by="another", reference=task.reference
    ),
    "logit_attribution": lambda task: algorithms.logit_attribution(task.vit, images_of(task), task.metric.response),
    "logit_lens": lambda task: algorithms.logit_lens(task.vit, images_of(task), at="all", **FEW),
    "tuned_lens": lambda task: algorithms.tuned_lens(task.vit, images_of(task), epochs=2, **FEW),
    "jacobian_lens": lambda task: algorithms.jacobian_lens(task.vit, images_of(task), **FEW),
    "probe": lambda task: algorithms.probe(
        task.vit, images_of(task), torch.tensor([0, 1] * 4, device="cpu"), n_folds=2, n_shuffles=2
    ),
    "head_catalogue": lambda task: algorithms.head_catalogue(task.vit, images_of(task), n_shuffles=2, **FEW),
    "neuron_catalogue": lambda task: algorithms.neuron_catalogue(task.vit, images_of(task), n_shuffles=2),
    "find_outliers": lambda task: algorithms.find_outliers(task.vit, images_of(task), n_neurons=4),
    "attention_maps": lambda task: circuits.attention_maps(task.vit, images_of(task)),
    "attention_maps, rollout": lambda task: circuits.attention_maps(task.vit, images_of(task), kind="rollout"),
    "gather": lambda task: circuits.gather(task, n=2),
    "run_with_cache": lambda task: task.vit.run_with_cache(images_of(task))[1],
    "compare_partners": lambda task: algorithms.compare_partners(
        compile_graph(task.vit), {"swap": task, "again": task}, n_random=1, **FEW
    ),
    "measure_stability": lambda task: algorithms.measure_stability(
        "eap", compile_graph(task.vit), task, n_resamples=2, n_seeds=1, n_halvings=1
    ),
    "control_searches": lambda task: algorithms.control_searches("eap", compile_graph(task.vit), task, 20, **FEW),
}


def numbers(found, seen=()):
    """Every array in a result, in one order; a tensor that is not on the CPU is left as it is."""
    if id(found) in seen or isinstance(found, HookedViT | circuits.Graph | circuits.Task | str | bytes | torch.dtype):
        return []
    seen = (*seen, id(found))
    if isinstance(found, torch.Tensor):
        return [found]
    if isinstance(found, np.ndarray):
        return [found] if found.dtype.kind in "fiub" else []
    if isinstance(found, pandas.DataFrame):
        return [found.select_dtypes("number").to_numpy()]
    if isinstance(found, int | float):
        return [np.asarray(found)]
    if isinstance(found, Mapping):
        return [one for key in sorted(found, key=str) for one in numbers(found[key], seen)]
    if isinstance(found, Sequence) or dataclasses.is_dataclass(found):
        parts = found if isinstance(found, Sequence) else vars(found).values()
        return [one for part in parts for one in numbers(part, seen)]
    return numbers(vars(found), seen) if hasattr(found, "__dict__") else []


@pytest.mark.parametrize("name", CALLS)
def test_no_tensor_is_made_on_the_default_device_by_accident(name, task):
    wanted = numbers(CALLS[name](task))
    with torch.device("meta"):
        found = numbers(CALLS[name](task))
    assert len(wanted) == len(found) > 0
    for one, other in zip(found, wanted, strict=True):
        assert not isinstance(one, torch.Tensor) or one.device.type == "cpu"
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
