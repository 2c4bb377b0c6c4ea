"""Cells without a model: work that leaves what a run would leave, for some figures."""

import numpy as np
import pytest
from vitcircuits.algorithms.sweeps.plan import Choice, Sweep
from vitcircuits.circuits.figures import COLUMNS
from vitcircuits.circuits.formats.json import save_report
from vitcircuits.circuits.report import Curve, Figure, Report
from vitcircuits.circuits.run_folder import RunFolder
from vitcircuits.models.errors import TaskError


def report(value):
    sizes = np.array([0, 1, 10, 100])
    curve = Curve("eap, by signed", sizes, sizes, np.array([0.0, 0.1, np.nan, 1.0]))
    figures = {name: Figure(value, low=value - 0.5, high=value + 0.5) for name in COLUMNS}
    figures["cmd"] = Figure(None, reason="no <scores>")
    return Report(figures, (curve,), 25, 100, 8)


def leaver():
    """What leaves what a run would; made here, so that a process that is given it needs no module of the tests."""

    def leave(cell, folder):
        run = RunFolder.open(folder, {"seed": cell.seed})
        save_report(reports[cell.seed], folder / "report.json")
        (folder / "circuit.json").touch()
        run.finish({"task": 1.0, "search": 2.0, "evaluation": 3.0, "files": 4.0})

    reports = [report(1 / 3 + seed) for seed in range(6)]
    return leave


class FakeWork:
    """Notes the cells that it is given, and fails at those of the algorithm `bad`."""

    def __init__(self):
        self.done = []
        self.fails = True
        self.leave = leaver()

    def __call__(self, cell, folder):
        self.done.append(str(cell))
        if cell.algorithm == "bad" and self.fails:
            raise TaskError("too\nbad & <sad>")
        self.leave(cell, folder)


@pytest.fixture
def work():
    return FakeWork()


@pytest.fixture
def leave():
    return leaver()


@pytest.fixture
def cells():
    algorithms = tuple(Choice(name, {"algorithm": known}) for name, known in (("eap", "eap"), ("bad", "eap_ig")))
    return Sweep((Choice("m", {"model": "m"}),), (Choice("3 vs 8", {}),), algorithms, (0, 1), {}).cells()
