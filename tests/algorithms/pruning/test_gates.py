"""Hard-concrete gates against their definition and their law, and the shift that holds the density."""

import math

import pytest
import torch
from vitcircuits.algorithms.pruning.gates import LARGEST, MirrorDescent, draw_gates, open_probability, with_density


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("value", [-2.0, 0.0, 1.5])
def test_gates_are_open_as_often_as_they_say(value):
    log_alpha = torch.full((200_000,), value, dtype=torch.float64)
    gates, _ = draw_gates(log_alpha, _generator())
    said = float(open_probability(log_alpha)[0])
    assert abs(float((gates > 0).double().mean()) - said) < 4 * math.sqrt(said * (1 - said) / len(gates))
    assert float(gates.min()) == 0 and float(gates.max()) == 1


def test_the_derivative_is_that_of_the_gate():
    log_alpha = torch.linspace(-4, 4, 400, dtype=torch.float64)
    gates, slope = draw_gates(log_alpha, _generator())
    near = [draw_gates(log_alpha + step, _generator())[0] for step in (-1e-6, 1e-6)]
    torch.testing.assert_close(slope, (near[1] - near[0]) / 2e-6, atol=1e-6, rtol=1e-6)
    assert bool(((slope > 0) == ((gates > 0) & (gates < 1))).all())


@pytest.mark.parametrize("density", [0.02, 0.3, 0.9])
def test_the_shift_holds_the_density_and_the_order(density):
    log_alpha = torch.randn(500, generator=_generator(1), dtype=torch.float64)
    shifted = with_density(log_alpha, density)
    assert abs(float(open_probability(shifted).mean()) - density) < 1e-9
    inside = shifted.abs() < LARGEST
    torch.testing.assert_close(
        (shifted - log_alpha)[inside], (shifted - log_alpha)[inside][:1].expand(int(inside.sum()))
    )


def test_a_step_is_the_same_whatever_the_unit_of_the_loss():
    gradient = torch.randn(50, generator=_generator(2), dtype=torch.float64)
    one, thousand = (MirrorDescent(torch.zeros(50, dtype=torch.float64)) for _ in range(2))
    for _ in range(5):
        small, large = one.step(gradient, 0.1), thousand.step(1000 * gradient, 0.1)
    torch.testing.assert_close(small, large)
    assert float(small.abs().max()) <= 0.1 * MirrorDescent.LARGEST_STEP
