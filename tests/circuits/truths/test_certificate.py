"""Certificates hold where the truth is exact, and fail where it is not or where the truth is made wrong."""

from dataclasses import replace

import pytest
import torch
from vitcircuits.circuits import Circuit, compile_graph, run_circuit, truth_mask
from vitcircuits.circuits.truths.certificate import certify, verify_planted
from vitcircuits.models import load_vit

XOR = "planted/neighbour-xor"
EXACT = (
    "planted/bright-column",
    XOR,
    "planted/majority",
    f"{XOR}:norm=none,gain=soft",
    f"{XOR}:trap,step,disguise=3",
    "planted/bright-column:disguise=1",
    "planted/majority:disguise=1",
)


@pytest.mark.parametrize("name", EXACT)
def test_false_edges_ablated_change_nothing_and_each_true_edge_does(name):
    vit = load_vit(name)
    found = verify_planted(vit, 32)
    assert vit.exact and found.holds
    assert found.unchanged < 1e-5 and found.strongest_false < 1e-5 and found.weakest_true > 2
    assert found.accuracy == found.circuit_accuracy == 1
    assert "holds" in str(found) and vit.cfg.name in str(found)


def test_without_norm_false_edges_change_not_a_bit():
    vit = load_vit(XOR, norm="none")
    clean, _ = vit.sample(32)
    truth = Circuit(graph := compile_graph(vit), truth_mask(graph, vit.truth()))
    assert torch.equal(run_circuit(vit, truth, clean, vit.sample(32, 1)[0]), vit(clean))


def test_soft_attention_under_layernorm_is_not_exact():
    vit = load_vit(XOR, gain="soft")
    found = verify_planted(vit, 32)
    assert not vit.exact and not found.holds and "does not hold" in str(found)
    assert 0.1 < found.unchanged < 1  # about .4: positions leak into the norm


def test_a_wrong_truth_gets_no_certificate():
    vit = load_vit(XOR)
    clean, labels = vit.sample(16)
    pairs = (clean, vit.sample(16, 1)[0], labels)
    truth = vit.truth()
    assert not certify(vit, (truth - {"m0->a1.h0<v>"},), pairs, unit="logits").holds
    assert not certify(vit, (truth | {"a1.h2->m1"},), pairs, unit="logits").holds


def test_a_changed_weight_breaks_the_certificate():
    vit = load_vit(XOR)
    with torch.no_grad():
        vit.module.blocks[1].attn.proj.weight[:, 32] = vit.module.blocks[1].attn.proj.weight[:, 0]  # the twin is read
    assert not verify_planted(vit, 16).holds


def test_a_certificate_is_a_plain_value():
    found = verify_planted(load_vit("planted/bright-column"), 16)
    assert found == verify_planted(load_vit("planted/bright-column"), 16)
    assert replace(found, strongest_false=1.0).holds is False
