"""The registry agrees with the functions it names, and imports nothing heavy."""

import inspect
import subprocess
import sys

import pytest
from vitcircuits import algorithms
from vitcircuits.algorithms import ALGORITHMS, run_algorithm
from vitcircuits.models.errors import TaskError


@pytest.mark.parametrize("name", list(ALGORITHMS))
def test_options_are_those_of_the_function(name):
    parameters = inspect.signature(getattr(algorithms, name)).parameters
    options = {key: p.default for key, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert options.pop("progress") is False
    assert "memory" in options
    del options["memory"]
    assert ("journal" in options) == (ALGORITHMS[name].finds == "circuit")
    options.pop("journal", None)
    assert options == {key: option.default for key, option in ALGORITHMS[name].options.items()}


def test_unknown_names_and_options_say_what_there_is():
    with pytest.raises(TaskError, match="eap_ig"):
        run_algorithm("eapig", None, None)
    with pytest.raises(TaskError, match="steps"):
        run_algorithm("eap_ig", None, None, step=3)


def test_the_registry_imports_no_torch():
    code = "import sys; from vitcircuits.algorithms import ALGORITHMS; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
