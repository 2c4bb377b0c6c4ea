"""Token groups on the command line: cells of patches, and masks that the record brings back."""

import json

from vitcircuits.circuits import Circuit
from vitcircuits.cli.main import main

TASK = ["discover", "--model", "toy/digits-2l", "--data", "digits", "--target", "3", "--foil", "8", "--pairs", "4"]
TASK += ["--ports", "block"]
QUICK = ["--eval-pairs", "4", "--algorithm", "eap", "--size", "30", "--random", "0", "--patches", "0"]


def test_a_circuit_over_masks_is_found_and_judged_again_from_its_record(tmp_path, capsys):
    out = tmp_path / "run"
    assert main([*TASK, *QUICK, "--tokens", "mask", "--mask", "foreground", "--out", str(out)]) == 0
    circuit = Circuit.load(out / "circuit.json")
    assert circuit.graph.groups.names == ("cls", "object", "background") and circuit.task["mask"] == "foreground"
    report = tmp_path / "again.json"
    options = ["--pairs", "4", "--eval-pairs", "4", "--no-curve", "--random", "0", "--report", str(report)]
    assert main(["evaluate", str(out / "circuit.json"), *options]) == 0
    found, again = (json.loads(path.read_text())["figures"]["transmission"] for path in (out / "report.json", report))
    assert found["value"] == again["value"]


def test_what_is_lacking_or_not_there_is_said(tmp_path, capsys):
    out = ["--out", str(tmp_path / "run")]
    for options, said in (
        (["--tokens", "mask"], "--mask"),
        (["--tokens", "grid:5x2"], "from 1 to 4"),
        (["--tokens", "cells"], "'grid:2x2'"),
    ):
        assert main([*TASK, *QUICK, *options, *out]) == 2
        assert said in capsys.readouterr().err
