"""Help and export answer without torch, timm or torch-geometric."""

import subprocess
import sys

import numpy as np
import pytest
from vitcircuits.circuits import Circuit, compile_graph
from vitcircuits.models import load_vit

HEAVY = ("torch", "timm", "torch_geometric")
SCRIPT = """
import sys
from vitcircuits.cli.main import main
try:
    code = main(sys.argv[1:])
except SystemExit as stop:
    code = stop.code
loaded = [name for name in {heavy!r} if name in sys.modules]
sys.exit(f"loaded {{loaded}}" if loaded else code)
"""


def _run(*arguments):
    command = [sys.executable, "-c", SCRIPT.format(heavy=HEAVY), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    graph = compile_graph(load_vit("toy/digits-2l"))
    mask = np.zeros(len(graph), dtype=bool)
    mask[graph.index("input->logits")] = True
    return Circuit(graph, mask).save(tmp_path_factory.mktemp("saved") / "circuit.json")


@pytest.mark.parametrize("command", ["", "demo", "discover", "evaluate", "draw", "export", "models", "train", "doctor"])
def test_help_imports_nothing_heavy(command):
    done = _run(*([command] if command else []), "--help")
    assert done.returncode == 0, done.stderr
    assert "vitcircuits " in done.stdout


@pytest.mark.parametrize("ending", ["csv", "graphml", "dot", "json"])
def test_export_imports_nothing_heavy(saved, tmp_path, ending):
    target = tmp_path / f"edges.{ending}"
    done = _run("export", saved, target)
    assert done.returncode == 0, done.stderr
    assert target.stat().st_size > 0
