"""A small model runs with one thread, a large one with as many as there are, and what the user set is left alone."""

import pytest
import torch
from vitcircuits.models import load_vit
from vitcircuits.models.threads import VARIABLES, is_small, suited_threads


@pytest.fixture
def three(monkeypatch):
    """Three threads, as torch would have them on a machine of three cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("vitcircuits.models.threads._AT_START", 3)
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    yield
    torch.set_num_threads(before)


def test_a_toy_runs_with_one_thread_and_gives_the_others_back(three):
    vit = load_vit("toy/digits-2l")
    with vit.borrowed():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize(("seconds", "wanted"), [({3: 0.0, 1: 0.05}, 3), ({3: 0.05, 1: 0.0}, 1)])
def test_another_model_is_timed_once(three, seconds, wanted, monkeypatch):
    cfg, ran, clock = load_vit("deit_tiny_patch16_224", pretrained=False).cfg, [], [0.0]

    def run():
        ran.append(torch.get_num_threads())
        clock[0] += seconds[ran[-1]]

    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    monkeypatch.setattr("vitcircuits.models.threads._best", {})
    for _ in range(2):
        with suited_threads(cfg, run):
            assert torch.get_num_threads() == wanted
    assert not is_small(cfg) and ran == [3, 3, 1]


@pytest.mark.parametrize("how", ["environment", "call"])
def test_what_the_user_set_is_left_alone(three, how, monkeypatch):
    if how == "environment":
        monkeypatch.setenv(VARIABLES[0], "3")
    else:
        torch.set_num_threads(2)
    with load_vit("toy/digits-2l").borrowed():
        assert torch.get_num_threads() == (3 if how == "environment" else 2)
