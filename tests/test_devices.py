"""Tensors are made where the model is: under another default device, and with the model on another device.

No GPU is needed. The other device is a pretended one: its tensors hold their numbers on the CPU, call themselves
`meta`, and refuse to meet the CPU's where a GPU's would (`pretended.py`).
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas
import pytest
import torch
from pretended import NAME, PretendedDevice
from vitcircuits import algorithms, circuits
from vitcircuits.algorithms import ALGORITHMS, run_algorithm
from vitcircuits.circuits import class_contrast, compile_graph
from vitcircuits.models import devices, load_vit
from vitcircuits.models.devices import reproducible, share_of
from vitcircuits.models.load import HookedViT
from vitcircuits.models.model_config import usable_device

SHORT = {
    "acdc": {"tau": 0.3},
    "budgeted_pruning": {"size": 90, "regrow_rounds": 0, "swaps": 0},
    "hybrid": {"budget": 0.05},
    "learned_masks": {"steps": 3, "batch": 2, "size": 40, "polish": "no"},
}
FEW = {"n_bootstrap": 5}


@pytest.fixture(scope="module")
def task():
    return class_contrast(load_vit("toy/digits-2l"), "digits", target=3, foil=8, n_discovery=8, n_evaluation=8)


@pytest.fixture(scope="module")
def elsewhere():
    """The same task with the model on the other device."""
    with PretendedDevice():
        vit = load_vit("toy/digits-2l", device=NAME)
        return class_contrast(vit, "digits", target=3, foil=8, n_discovery=8, n_evaluation=8)


def of_role(task):
    return compile_graph(task.vit, tokens="role", ports="head")


def circuit_of(task):
    graph = of_role(task)
    mask = np.zeros(len(graph), dtype=bool)
    mask[:: 2 if len(graph) < 500 else 3] = True
    return circuits.Circuit(graph, circuits.prune(graph, mask), None, task.ablation, dict(task.info))


def images_of(task, n=8):
    return task.evaluation.clean[:n]


def search(name, task, kind="partner", **options):
    """What an algorithm finds on a few pairs."""
    few = dataclasses.replace(task, discovery=task.discovery.select(slice(4)))
    graph = of_role(task) if kind == "partner" else compile_graph(task.vit)
    return run_algorithm(name, graph, few.with_ablation(kind), **{**SHORT.get(name, {}), **options})


CALLS = {
    **{name: lambda task, name=name: search(name, task) for name in ALGORITHMS},
    **{
        f"{name}, {kind}": lambda task, name=name, kind=kind: search(name, task, kind)
        for name in ("eap_ig", "exact_effects", "acdc")
        for kind in ("mean", "noise", "another", "zero")
    },
    "learned_masks, pathwise": lambda task: search("learned_masks", task, derivative="pathwise").scores,
    "budgeted_pruning, slopes": lambda task: search("budgeted_pruning", task, measure="slopes"),
    "eap_ig, each token": lambda task: algorithms.eap_ig(compile_graph(task.vit, tokens="each", ports="head"), task),
    "node_effects": lambda task: algorithms.node_effects(compile_graph(task.vit), task),
    "run_circuit": lambda task: circuits.run_circuit(
        task.vit, circuit_of(task), task.evaluation.clean, task.evaluation.corrupt
    ),
    "evaluate": lambda task: circuits.evaluate(
        circuit_of(task),
        task,
        n_random=1,
        controls={"permuted_labels": circuit_of(task)},
        checks=("completeness",),
        **FEW,
    ),
    "evaluate_spread": lambda task: circuits.evaluate_spread(circuit_of(task), task, **FEW),
    "smallest_faithful": lambda task: circuits.smallest_faithful(algorithms.eap(of_role(task), task), task),
    "optimal_ablation": lambda task: algorithms.optimal_ablation(circuit_of(task), task, steps=3, batch=3),
    "patch_effects": lambda task: algorithms.patch_effects(circuit_of(task), task, n=2),
    "token_flow": lambda task: algorithms.token_flow(task, steps=2),
    "token_flow, gradient": lambda task: algorithms.token_flow(task, by="gradient", steps=2),
    "activation_patch": lambda task: algorithms.activation_patch(of_role(task), task, "z", tokens="role"),
    "path_patch": lambda task: algorithms.path_patch(of_role(task), task, sources="input"),
    "token_effect": lambda task: algorithms.token_effect(task, "patch", **FEW),
    "ablate_tokens": lambda task: algorithms.ablate_tokens(
        task.vit, images_of(task), "patch", by="another", reference=task.reference
    ),
    "logit_attribution": lambda task: algorithms.logit_attribution(task.vit, images_of(task), task.metric.response),
    "logit_lens": lambda task: algorithms.logit_lens(task.vit, images_of(task), at="all", **FEW),
    "tuned_lens": lambda task: algorithms.tuned_lens(task.vit, images_of(task, 16), epochs=2, **FEW),
    "jacobian_lens": lambda task: algorithms.jacobian_lens(task.vit, images_of(task, 16), **FEW),
    "probe": lambda task: algorithms.probe(
        task.vit, images_of(task, 40), [index % 2 for index in range(40)], n_folds=2, n_shuffles=2
    ),
    "head_catalogue": lambda task: algorithms.head_catalogue(task.vit, images_of(task), n_shuffles=2, **FEW),
    "neuron_catalogue": lambda task: algorithms.neuron_catalogue(task.vit, images_of(task), n_shuffles=2).with_pictures(
        []
    ),  # of the best, among which many are as good
    "find_outliers": lambda task: algorithms.find_outliers(task.vit, images_of(task), n_neurons=4),
    "attention_maps": lambda task: circuits.attention_maps(task.vit, images_of(task)),
    "attention_maps, rollout": lambda task: circuits.attention_maps(task.vit, images_of(task), kind="rollout"),
    "gather": lambda task: circuits.gather(task, n=2),
    "run_with_cache": lambda task: task.vit.run_with_cache(images_of(task))[1],
    "compare_partners": lambda task: algorithms.compare_partners(
        compile_graph(task.vit), {"swap": task, "again": task}, n_random=1, **FEW
    ),
    "measure_stability": lambda task: algorithms.measure_stability(
        "eap", compile_graph(task.vit), task, size=20, n_resamples=2, n_seeds=1, n_halvings=1
    ),
    "control_searches": lambda task: algorithms.control_searches("eap", compile_graph(task.vit), task, size=20, **FEW),
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


@pytest.fixture(scope="module")
def plain(task):
    """The numbers of a call as it is usually made, each call made once."""
    return functools.cache(lambda name: numbers(CALLS[name](task)))


@pytest.mark.parametrize("name", CALLS)
def test_no_tensor_is_made_on_the_default_device_by_accident_or_read_before_it_is_written(name, task, plain):
    wanted = plain(name)
    torch.use_deterministic_algorithms(True)
    try:  # memory that is asked for is filled with NaN
        with torch.device("meta"):
            found = numbers(CALLS[name](task))
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.utils.deterministic.fill_uninitialized_memory and len(wanted) == len(found) > 0
    for one, other in zip(found, wanted, strict=True):
        assert not isinstance(one, torch.Tensor) or one.device.type == "cpu"
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


# Budgeted pruning is left out: its first drops are among losses of 1e-13, which rounding orders.
@pytest.mark.parametrize("name", [name for name in CALLS if name != "budgeted_pruning"])
def test_what_runs_on_the_cpu_runs_on_another_device(name, elsewhere, plain, monkeypatch):
    wanted = plain(name)
    monkeypatch.setattr(devices, "GPU", devices.CPU)  # the same batches, or ACDC would count others
    with PretendedDevice():
        found = [part.cpu() if isinstance(part, torch.Tensor) else part for part in numbers(CALLS[name](elsewhere))]
    assert elsewhere.vit.device.type == NAME
    assert len(wanted) == len(found) > 0
    for one, other in zip((np.asarray(part, float) for part in found), map(np.asarray, wanted), strict=True):
        scale = np.abs(np.nan_to_num(other.astype(float))).max(initial=1)
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * scale)


def test_the_pretended_device_is_as_strict_as_a_gpu():
    with PretendedDevice():
        there, here = torch.ones(3, device=NAME), torch.ones(3, device="cpu")
        assert (there + 1).sum().item() == 6
        assert there[torch.tensor([0, 2], device="cpu")].tolist() == [1, 1]
        with pytest.raises(RuntimeError, match="meet"):
            _ = there + here
        with pytest.raises(RuntimeError, match="looked up"):
            _ = here[torch.tensor([0], device=NAME)]
        with pytest.raises((TypeError, RuntimeError)):
            there.numpy()


def test_a_gpu_s_share_of_memory_is_the_same_when_a_little_more_is_free():
    total = 80_000_000_000
    assert share_of(total - 3_000_000_000, total) == share_of(total - 1_000_000_000, total) == 42_000_000_000
    assert share_of(total // 2, total) == 24_000_000_000
    assert share_of(100, total) == 2_000_000_000


def test_kernels_that_add_up_in_one_order_are_taken_inside_alone():
    with reproducible():
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.allow_tf32
        with reproducible():
            pass
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()


def test_mps_falls_back_to_the_cpu_and_says_so(capsys):
    assert usable_device("mps") == "cpu"
    assert "has no float64" in capsys.readouterr().err


def test_each_of_several_processes_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    asked = []
    monkeypatch.setattr(torch, "empty", lambda *_, device: asked.append(device))
    assert usable_device("cuda") == "cuda:1" == asked[0]
    assert usable_device("cuda:0") == "cuda:0"
