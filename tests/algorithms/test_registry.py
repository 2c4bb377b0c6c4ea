"""The registry agrees with the functions it names, and imports nothing heavy."""

import dataclasses
import inspect
import re
import subprocess
import sys
from importlib import import_module
from typing import Annotated, Literal, get_args, get_origin

import numpy as np
import pytest
from vitcircuits import algorithms
from vitcircuits.algorithms import ALGORITHMS, run_algorithm
from vitcircuits.circuits import compile_graph, planted_task
from vitcircuits.models import load_vit
from vitcircuits.models.errors import TaskError


def function(name):
    return getattr(import_module(ALGORITHMS[name].module, algorithms.__name__), name)


@pytest.mark.parametrize("name", list(ALGORITHMS))
def test_options_are_those_of_the_function(name):
    parameters = inspect.signature(function(name)).parameters
    options = {key: p.default for key, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert options.pop("progress") is None
    assert "memory" in options
    del options["memory"]
    assert ("journal" in options) == (ALGORITHMS[name].finds == "circuit")
    options.pop("journal", None)
    assert options == {key: option.default for key, option in ALGORITHMS[name].options.items()}


@pytest.mark.parametrize("name", list(ALGORITHMS))
def test_what_is_read_from_the_source_is_what_python_sees(name):
    found = function(name)
    for key, option in ALGORITHMS[name].options.items():
        kind = eval(found.__annotations__[key], vars(sys.modules[found.__module__]))
        limits = kind.__metadata__[0] if get_origin(kind) is Annotated else None
        choices = get_args(kind) if get_origin(kind) is Literal else (True, False) if kind is bool else None
        assert (option.choices, option.range) == (choices, limits)
        assert option.help and f"{key}: {option.help[:20]}" in found.__doc__


def test_choices_that_are_known_without_torch_are_those_of_what_runs():
    from vitcircuits.circuits.partners.partner import CORRUPTIONS
    from vitcircuits.circuits.tasks import task_config
    from vitcircuits.circuits.tasks.metrics import MetricKind

    assert task_config.CORRUPTIONS == CORRUPTIONS
    assert set(task_config.METRICS) == {*get_args(MetricKind)} - {"distance"}  # which needs no classes


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("eap_ig", {"steps": 0}, "steps=0: pass at least 1 and at most 10000, such as steps=5"),
        ("eap_ig", {"rule": "right"}, "rule='right' is not known: pass one of 'midpoint', 'left'"),
        ("hybrid", {"budget": 1.5}, "budget=1.5: pass a number above 0 and at most 1, such as budget=0.5"),
        ("acdc", {"tau": [0.1, 0.0]}, "tau=0.0: pass a number above 0, such as tau=0.01"),
        ("acdc", {"tau": float("inf")}, "tau=inf"),
        ("budgeted_pruning", {"share": 1.0}, "share=1.0: pass a number above 0 and below 1, such as share=0.1"),
        ("learned_masks", {"learning_rate": float("nan")}, "learning_rate=nan"),
    ],
)
def test_a_value_that_makes_no_sense_is_named_with_its_repair(name, options, said):
    vit = load_vit("planted/bright-column")
    with pytest.raises(TaskError, match=re.escape(said)):
        run_algorithm(name, compile_graph(vit), planted_task(vit, n=2), **options)


def test_unknown_names_and_options_say_what_there_is():
    with pytest.raises(TaskError, match="eap_ig"):
        run_algorithm("eapig", None, None)
    with pytest.raises(TaskError, match="steps"):
        run_algorithm("eap_ig", None, None, step=3)


@pytest.mark.parametrize(
    "name", [name for name, entry in ALGORITHMS.items() if entry.finds == "scores" or name == "acdc"]
)
def test_one_pair_alone_has_no_standard_error(name):
    vit = load_vit("planted/bright-column")
    graph, task = compile_graph(vit), planted_task(vit, n=2)
    found = run_algorithm(name, graph, dataclasses.replace(task, discovery=task.discovery.select(slice(0, 1))))
    scores = found if ALGORITHMS[name].finds == "scores" else found.scores
    assert np.isnan(scores.std_err[scores.values != 0]).all()
    assert (scores.values != 0).any()


def test_the_registry_imports_no_torch():
    code = "import sys; from vitcircuits.algorithms import ALGORITHMS; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
