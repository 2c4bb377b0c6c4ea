"""Models that err on different images."""

import pytest
import torch
from vitcircuits.circuits import class_contrast
from vitcircuits.models.load import load_vit

ASKED = {"target": 3, "foil": 8, "n_discovery": 24, "n_evaluation": 24}


@pytest.fixture(scope="session")
def vits():
    """The toy, and copies of it with noise in the head: they err on other images."""
    found = [load_vit("toy/digits-2l")]
    for seed in (1, 2):
        module = load_vit("toy/digits-2l").module
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            module.head.weight.add_(0.35 * torch.randn(module.head.weight.shape, generator=generator))
        found.append(load_vit(module, name=f"noisy-{seed}"))
        found[-1].preprocess = found[0].preprocess
    return found


@pytest.fixture(scope="session")
def tasks(vits):
    """Tasks whose clean images show the target alone."""
    return [class_contrast(vit, "digits", sides="one", **ASKED) for vit in vits]


@pytest.fixture(scope="session")
def crossed(vits):
    """Tasks whose clean images show target and foil."""
    return [class_contrast(vit, "digits", **ASKED) for vit in vits]
