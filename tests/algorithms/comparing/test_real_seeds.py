"""Real models that differ in nothing but their seed: over all ways to call them two kinds, few are said to differ."""

import dataclasses
from itertools import combinations

import numpy as np
import pytest
from vitcircuits.algorithms import eap
from vitcircuits.circuits import Pairs, Task, compile_graph
from vitcircuits.circuits.compare import Subject
from vitcircuits.circuits.compare.findings import compare_figures, judged
from vitcircuits.circuits.tasks.metrics import Metric
from vitcircuits.models.load import load_vit

LEVEL = 0.1


@pytest.fixture(scope="module")
def circuits(tiny_module, images_for):
    """Six random models of one recipe, each with the circuit that EAP finds on the same pairs."""
    found = []
    for seed in range(6):
        vit = load_vit(tiny_module(depth=2, num_heads=3, embed_dim=12, seed=seed), name=f"seed-{seed}")
        pairs = [Pairs(images_for(vit, 6, seed=s), images_for(vit, 6, seed=s + 50)) for s in (1, 2)]
        task = Task(vit, Metric("logit_difference", (0,), (1,)), *pairs)
        found.append(Subject(eap(compile_graph(vit), task).top(40, by="abs_mean")))
    return found


@pytest.mark.parametrize("figure", ["path length", "effective edges", "modularity", "share to v"])
def test_seeds_of_one_recipe_are_told_apart_at_the_stated_level(circuits, figure):
    p_values, said, nothing = [], 0, [{}] * 6
    for chosen in combinations(range(6), 3):
        subjects = [circuits[place] for place in (*chosen, *sorted({*range(6)} - {*chosen}))]
        kinds = [dataclasses.replace(subject, kind="ab"[place // 3]) for place, subject in enumerate(subjects)]
        found = judged(compare_figures(kinds, [figure], drawn=nothing, chance=nothing, seed=0), LEVEL)
        p_values.append(found[0].test.p_value)
        said += found[0].verdict == "differs"
    assert np.mean(np.array(p_values) <= LEVEL) == pytest.approx(LEVEL)  # exactly: 2 of the 20 ways
    assert said / 20 <= LEVEL
