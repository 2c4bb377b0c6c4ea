"""Constants learned for a circuit: their gradient, a known optimum, the laws of ablations, files, refusals."""

import dataclasses

import numpy as np
import pytest
import torch
from vitcircuits.algorithms import activation_patch, eap, eap_ig, learned_masks, optimal_ablation
from vitcircuits.algorithms.optimal import ShiftDescent
from vitcircuits.circuits import Ablation, Circuit, Pairs, Task, class_contrast, compile_graph, evaluate, run_circuit
from vitcircuits.circuits.ablation import Shifts
from vitcircuits.circuits.baseline import Baseline, make_baseline
from vitcircuits.circuits.formats.json import load_circuit
from vitcircuits.circuits.run import run_pairs
from vitcircuits.circuits.tasks.metrics import Metric, kl_divergence
from vitcircuits.circuits.tokens import group_tokens
from vitcircuits.models import load_vit
from vitcircuits.models.errors import FormatError, TaskError

MEMORY = 2_000_000_000


def tiny_task(vit, images_for, n=6, **fields):
    discovery, evaluation = (Pairs(images_for(vit, n, seed=s), images_for(vit, n, seed=s + 1)) for s in (1, 3))
    return Task(vit, Metric("logit_difference", (0,), (1,)), discovery, evaluation, **fields)


def some_shifts(vit, size=0.3, seed=0):
    """Not learned, but of the right shape."""
    shape = (1 + vit.cfg.n_layers * (vit.cfg.n_heads + 1), len(group_tokens(vit.cfg.tokens, "role")), vit.cfg.d_model)
    return Shifts(np.random.default_rng(seed).normal(scale=size, size=shape).astype(np.float32))


def some_circuit(graph, share=0.6, seed=0):
    return Circuit(graph, np.random.default_rng(seed).random(len(graph)) < share)


@pytest.fixture(scope="module")
def digits():
    """3 against 8 on the digits' toy, both classes on both sides."""
    vit = load_vit("toy/digits-2l")
    return class_contrast(vit, "digits", target=3, foil=8, ablation="mean", n_discovery=32, n_evaluation=24)


@pytest.fixture(scope="module")
def circuit(digits):
    return eap_ig(compile_graph(digits.vit), digits).top(0.3, by="mean_abs")


@pytest.fixture(scope="module")
def learned(circuit, digits):
    return optimal_ablation(circuit, digits, steps=60)


@pytest.mark.parametrize("name", ["plain", "registers-layerscale", "average-tokennorm"])
def test_the_gradient_is_that_of_finite_differences(variant_named, images_for, name, tokens):
    vit = variant_named(name)
    task = tiny_task(vit, images_for, ablation=Ablation("mean"))
    circuit = some_circuit(compile_graph(vit, tokens=tokens))
    descent = ShiftDescent(circuit, task, MEMORY)
    generator = torch.Generator().manual_seed(0)
    shifts, direction = (torch.randn(descent.first.shape, generator=generator).to(descent.first) for _ in range(2))

    def loss(at):
        baseline = Baseline(vit, Ablation("mean"), task.reference, descent.ablated(at))
        logits = run_pairs(vit, circuit.graph, circuit.mask, task.discovery, baseline)
        return float(descent.goal.distance(logits.double(), descent.goal.full).mean())

    with torch.no_grad(), vit.borrowed():
        told, gradient = descent.gradient(shifts, np.arange(6))
    assert told == pytest.approx(loss(shifts), rel=1e-9)
    step = 1e-5
    wanted = (loss(shifts + step * direction) - loss(shifts - step * direction)) / (2 * step)
    assert abs(wanted) > 1e-3
    assert float((gradient * direction).sum()) == pytest.approx(wanted, rel=1e-5)


def test_micro_batches_add_up_to_the_whole(variant_named, images_for, close):
    vit = variant_named("plain")
    task = tiny_task(vit, images_for, ablation=Ablation("mean"))
    circuit = some_circuit(compile_graph(vit, tokens="role"))
    found = []
    for memory in (MEMORY, 1):
        descent = ShiftDescent(circuit, task, memory)
        with torch.no_grad(), vit.borrowed():
            found.append(descent.gradient(descent.first + 0.1, np.arange(6)))
    assert descent.at_once == 1
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-9)
    close(found[1][1], found[0][1])


def without_norms():
    """A tiny ViT whose logits are a matrix times its last residual."""
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    sizes = {"img_size": 8, "patch_size": 4, "in_chans": 1, "num_classes": 5, "embed_dim": 16, "depth": 2}
    module = VisionTransformer(**sizes, num_heads=2, mlp_ratio=2.0, final_norm=False).double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def best_offset(metric, full, lacking):
    """The loss of full - lacking + z, with one z for all images, at its minimum: convex in a handful of numbers."""
    z = lacking.mean(0).clone().requires_grad_()
    variance = float(metric(full).numpy().var())
    optimizer = torch.optim.LBFGS([z], max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def loss():
        run = full - lacking + z
        return ((metric(run) - metric(full)).square() / variance + kl_divergence(full, run)).mean()

    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)
    return z.detach(), float(loss().detach())


def test_a_known_optimum_is_reached(images_for):
    """Where only m1 -> logits is removed and the readout has no norm, a constant adds the same z to all logits."""
    module = without_norms()
    vit = load_vit(module, name="no-norm")
    task, graph = tiny_task(vit, images_for, n=12), compile_graph(vit)
    mask = np.ones(len(graph), dtype=bool)
    mask[graph.index("m1->logits")] = False
    found = optimal_ablation(Circuit(graph, mask), task, steps=300, batch=12)

    full, (_, cache) = vit(task.discovery.clean).detach(), vit.run_with_cache(task.discovery.clean)
    lacking = cache["mlp_out", 1][:, 0].detach() @ module.head.weight.detach().T
    z, best = best_offset(task.metric, full, lacking)
    told = found.provenance["optimal_ablation"]
    assert told["loss_under_means"] > 1.04 * best
    assert told["loss"] == pytest.approx(best, rel=1e-6)
    run = run_circuit(vit, found, task.discovery.clean, task.discovery.corrupt, reference=task.reference)
    offset = run - (full - lacking)
    assert torch.allclose(offset, offset[:1].expand_as(offset), atol=1e-9)
    # what adds the same to all classes changes nothing
    assert torch.allclose(offset[0] - offset[0].mean(), z - z.mean(), atol=0.01)


@pytest.mark.parametrize("name", ["plain", "no-class-registers", "average"])
def test_law_2_all_kept_is_the_clean_run_and_none_kept_a_constant(variant_named, images_for, name, tokens, close):
    vit = variant_named(name)
    graph, shifts = compile_graph(vit, tokens=tokens), some_shifts(vit)
    clean, corrupt, reference = (images_for(vit, 3, seed=seed) for seed in range(3))
    options = {"ablation": Ablation("optimal", shifts=shifts), "reference": reference}
    close(run_circuit(vit, Circuit.full(graph), clean, corrupt, **options), vit(clean).detach())
    none = run_circuit(vit, Circuit.empty(graph), clean, corrupt, **options)
    with torch.no_grad(), vit.borrowed():
        means = make_baseline(vit, Ablation("mean"), reference)(Pairs(clean, corrupt))
    roles = list(group_tokens(vit.cfg.tokens, "role").of_token)
    constants = means[:, 0] + torch.from_numpy(shifts.values[:, roles]).to(means)
    total = constants.sum(0) + sum(block.attn_bias.detach() for block in vit.blocks)
    close(none, vit.readout.logits(total[None]).detach().expand_as(none))


def test_nothing_is_learned_for_the_whole_model(images_for, variant_named):
    vit = variant_named("plain")
    task = tiny_task(vit, images_for)
    found = optimal_ablation(Circuit.full(compile_graph(vit)), task, steps=3)
    assert not found.ablation.shifts.values.any()


def test_constants_that_no_removed_edge_carries_stay_at_their_means(images_for, variant_named):
    vit = variant_named("plain")
    graph, task = compile_graph(vit), tiny_task(vit, images_for)
    mask = np.ones(len(graph), dtype=bool)
    mask[graph.index("a0.h1->logits")] = False
    values = optimal_ablation(Circuit(graph, mask), task, steps=20).ablation.shifts.values
    moved = np.abs(values).max((1, 2))
    assert moved.argmax() == 2 and np.delete(moved, 2).max() < 1e-6 * moved[2]


def test_learned_constants_come_closer_than_means_and_the_same_call_gives_the_same_bytes(circuit, digits, learned):
    told = learned.provenance["optimal_ablation"]
    assert told["loss"] < 0.5 * told["loss_under_means"]
    assert np.array_equal(learned.mask, circuit.mask) and learned.scores == circuit.scores
    again = optimal_ablation(circuit, digits, steps=60)
    assert again == learned and hash(again.ablation) == hash(learned.ablation)
    assert again.ablation.shifts.values.tobytes() == learned.ablation.shifts.values.tobytes()
    other = optimal_ablation(circuit, digits, steps=60, seed=1)
    assert other != learned and other.ablation.shifts != learned.ablation.shifts


def test_learned_constants_hold_on_other_images(circuit, digits, learned):
    def kl(one):
        return evaluate(one, digits, curve=False, n_random=0, n_bootstrap=0)["kl"].value

    assert kl(learned) < 0.9 * kl(circuit)


def test_where_nothing_better_is_found_the_means_stay(circuit, digits):
    found = optimal_ablation(circuit, digits, steps=1, learning_rate=1000.0)
    assert not found.ablation.shifts.values.any()
    told = found.provenance["optimal_ablation"]
    assert told["loss"] == told["loss_under_means"]


def test_what_is_saved_and_loaded_is_equal_and_runs_alike(digits, learned, tmp_path):
    path = learned.save(tmp_path / "circuit.json")
    again = load_circuit(path)
    assert again == learned and hash(again.ablation) == hash(learned.ablation)
    assert again.save(tmp_path / "again.json").read_bytes() == path.read_bytes()
    pairs = digits.evaluation
    images = {"clean": pairs.clean, "corrupt": pairs.corrupt, "reference": digits.reference}
    assert torch.equal(run_circuit(digits.vit, again, **images), run_circuit(digits.vit, learned, **images))
    reports = [evaluate(one, digits, curve=False, n_random=1, n_bootstrap=10) for one in (learned, again)]
    assert reports[0].figures == reports[1].figures


def test_scores_under_learned_constants_are_saved_too(digits, learned, tmp_path):
    from vitcircuits.circuits.formats.json import load_scores, save_scores

    scores = eap(learned.graph, dataclasses.replace(digits, ablation=learned.ablation))
    assert scores.ablation == learned.ablation and len(scores.values) == len(learned.graph)
    assert load_scores(save_scores(scores, tmp_path / "scores.safetensors")) == scores
    top = scores.top(5)
    assert load_circuit(top.save(tmp_path / "circuit.json")) == top


def test_evaluate_takes_the_circuits_own_constants_unless_told_otherwise(digits, circuit, learned):
    def judged(one, **options):
        return evaluate(one, digits, curve=False, n_random=0, n_bootstrap=0, **options)

    own = judged(learned)
    assert own.method["ablation"]["shifts"] == learned.ablation.shifts.digest
    assert "learned for this circuit" in own.method["constants"]
    assert judged(learned, ablation="optimal").figures == own.figures
    assert judged(learned, ablation=learned.ablation).figures == own.figures
    means = judged(learned, ablation="mean")
    assert "shifts" not in means.method["ablation"] and "constants" not in means.method
    assert means.figures == judged(circuit).figures != own.figures


def test_each_clean_image_is_met_once(digits, learned):
    pairs = digits.evaluation.under(learned.ablation)
    assert len(pairs) == len(digits.evaluation.under(Ablation("mean"))) < len(digits.evaluation)


def test_patched_residuals_are_sums_of_constants_and_the_rest_has_none(digits, learned):
    task = dataclasses.replace(digits, ablation=learned.ablation)
    activation_patch(learned.graph, task, "resid", direction="noising")
    with pytest.raises(TaskError, match="head_out"):
        activation_patch(learned.graph, task, "z", direction="noising")


def test_the_description_is_printed_and_read_back():
    shifts = Shifts(np.arange(12, dtype=np.float32).reshape(2, 2, 3))
    learned = Ablation("optimal", shifts=shifts)
    assert str(Ablation("optimal")) == "optimal" and str(learned) == "optimal (learned)"
    assert Ablation.from_dict(learned.as_dict()) == learned != Ablation("optimal")
    assert learned.as_record() == {"kind": "optimal", "over": "token", "seed": 0, "shifts": shifts.digest}
    assert set(Ablation("mean").as_dict()) == {"kind", "over", "seed"}
    same = Shifts(shifts.values.copy())
    assert same == shifts and hash(same) == hash(shifts) and same.digest == shifts.digest
    assert Shifts(shifts.values.reshape(2, 3, 2)) != shifts
    with pytest.raises(ValueError, match="read-only"):
        shifts.values[0] = 1


def test_values_that_nobody_learned_are_refused(digits, circuit, learned):
    wish = digits.with_ablation("optimal")
    for call in (
        lambda: evaluate(circuit, wish, curve=False),
        lambda: eap(circuit.graph, wish),
        lambda: learned_masks(circuit.graph, wish, size=10, steps=1),
        lambda: run_circuit(digits.vit, circuit, wish.evaluation.clean, wish.evaluation.corrupt, ablation="optimal"),
    ):
        with pytest.raises(TaskError, match=r"search under another.*optimal_ablation\(circuit, task\)"):
            call()
    # but constants can be learned for it
    assert optimal_ablation(circuit, wish, steps=60) == learned


def test_what_does_not_fit_is_refused(digits, circuit, variant_named, learned, tmp_path):
    with pytest.raises(TaskError, match="another model"):
        make_baseline(variant_named("plain"), learned.ablation, digits.reference)
    with pytest.raises(TaskError, match="takes no shifts"):
        Ablation("mean", shifts=learned.ablation.shifts)
    for values in (np.zeros((2, 3), np.float32), np.full((1, 1, 1), np.nan, np.float32)):
        with pytest.raises(TaskError, match="finite float32"):
            Shifts(values)
    for options, said in (({"steps": 0}, "steps"), ({"batch": 0}, "batch"), ({"learning_rate": 0.0}, "learning_rate")):
        with pytest.raises(TaskError, match=said):
            optimal_ablation(circuit, digits, **options)
    hits = dataclasses.replace(digits, metric=dataclasses.replace(digits.metric, kind="accuracy"))
    with pytest.raises(TaskError, match="gradient"):
        optimal_ablation(circuit, hits)
    path = learned.save(tmp_path / "circuit.json")
    path.write_text(path.read_text().replace('"dtype": "float32"', '"dtype": "float16"'))
    with pytest.raises(FormatError, match="float16"):
        load_circuit(path)
