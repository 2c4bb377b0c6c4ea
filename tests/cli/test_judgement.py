"""The sceptical reader's commands: a thorough evaluation, stability, node circuits."""

import json

import numpy as np
import pandas
import pytest
from vitcircuits.algorithms import RunConfig
from vitcircuits.circuits import Circuit
from vitcircuits.circuits.formats.json import load_report
from vitcircuits.cli.main import main

DIGITS = ["--model", "toy/digits-2l", "--data", "digits", "--target", "3", "--foil", "8"]
FEW = ["--pairs", "4", "--eval-pairs", "4"]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """A run folder of a node circuit."""
    folder = tmp_path_factory.mktemp("nodes")
    quick = ["--random", "2", "--granularity", "node", "--size", "4", "--algorithm", "eap"]
    assert main(["discover", *DIGITS, *FEW, *quick, "--out", str(folder)]) == 0
    return folder


def test_discover_keeps_nodes_whole(nodes, capsys):
    circuit = Circuit.load(nodes / "circuit.json")
    assert circuit.provenance["granularity"] == "node" and len(circuit.provenance["nodes"]) == 4
    assert "node circuit: 4 of 10 heads and MLPs kept whole" in str(load_report(nodes / "report.json"))
    assert "4 heads and MLPs kept whole" in (nodes / "circuit.html").read_text()
    assert main(["discover", *DIGITS, "--granularity", "node", "--out", str(nodes / "new")]) == 2
    assert "--size N" in capsys.readouterr().err


def test_a_thorough_evaluation_prints_writes_and_draws_everything(nodes, tmp_path, capsys):
    files = {name: tmp_path / f"all.{name}" for name in ("json", "html", "svg")}
    told = ["--report", str(files["json"]), "--page", str(files["html"]), "--spread", str(files["svg"])]
    assert main(["evaluate", f"{nodes}/circuit.json", *FEW, "--no-curve", "--random", "2", "--thorough", *told]) == 0
    said = capsys.readouterr().out
    for word in ("complement", "equivalence", "p = ", "local minimality", "spread", "node circuit"):
        assert word in said
    report = load_report(files["json"])
    assert len(report.verdicts) == 5 and set(report.tables) == {
        "local_minimality", "spread", "spread_distances", "controls", "images",
    }  # fmt: skip
    assert "null hypothesis" in files["html"].read_text() and "transmission" in files["svg"].read_text()


def test_a_run_folder_is_judged_again_as_it_was_found(tmp_path, capsys):
    seen = ~np.eye(17, dtype=bool)  # no token sees itself
    np.save(tmp_path / "mask.npy", seen)
    own = ["--attention-mask", f"{tmp_path}/mask.npy", "--dtype", "bfloat16", "--pairs", "6", "--eval-pairs", "10"]
    quick = ["--algorithm", "eap", "--random", "0", "--patches", "0", "--ports", "block", "--size", "12"]
    assert main(["discover", *DIGITS, *own, *quick, "--out", f"{tmp_path}/run"]) == 0
    found = load_report(tmp_path / "run" / "report.json")
    again = ["--no-curve", "--random", "0", "--report", f"{tmp_path}/again.json"]
    assert main(["evaluate", f"{tmp_path}/run", *again]) == 0
    assert "other weights" not in capsys.readouterr().out
    judged = load_report(tmp_path / "again.json")
    assert judged.figures["transmission"] == found.figures["transmission"]
    assert main(["evaluate", f"{tmp_path}/run", *again, "--eval-pairs", "8", "--dtype", "float32"]) == 0  # unless said
    assert load_report(tmp_path / "again.json").figures["transmission"] != found.figures["transmission"]


def test_what_patches_carry_stands_in_the_run_folder_and_in_the_page(nodes, tmp_path, capsys):
    of_run = pandas.read_csv(nodes / "patch_effects.csv")  # a small model's, unasked
    assert len(of_run) == 16 and (nodes / "patch_effects.png").stat().st_size > 10_000
    assert "What the circuit sees in the image" in (nodes / "circuit.html").read_text()
    page, circuit = tmp_path / "judged.html", tmp_path / "circuit.json"
    circuit.write_bytes((nodes / "circuit.json").read_bytes())
    quick = [*FEW, "--no-curve", "--random", "0"]
    assert main(["evaluate", str(circuit), *quick, "--patches", "8", "--page", str(page)]) == 0
    assert "patches of the image, circuit of" in capsys.readouterr().out
    pandas.testing.assert_frame_equal(pandas.read_csv(tmp_path / "patch_effects.csv"), of_run)
    assert "What the circuit sees in the image" in page.read_text()


def test_patches_can_be_left_out(tmp_path):
    quick = [*FEW, "--random", "0", "--algorithm", "eap", "--size", "9", "--patches", "0"]
    assert main(["discover", *DIGITS, *quick, "--out", str(tmp_path)]) == 0
    assert not list(tmp_path.glob("patch_effects.*")) and RunConfig.load(tmp_path).patches == 0
    assert "What the circuit sees" not in (tmp_path / "circuit.html").read_text()


def test_single_checks_and_a_mistyped_one(nodes, tmp_path, capsys):
    quick = [*FEW, "--no-curve", "--random", "0"]
    assert main(["evaluate", f"{nodes}/circuit.json", *quick, "--check", "local_minimality", "--most-edges", "2"]) == 0
    assert "2 of 4 nodes" in capsys.readouterr().out
    assert main(["evaluate", f"{nodes}/circuit.json", *quick, "--check", "beauty"]) == 2
    assert "completeness" in capsys.readouterr().err


def test_stability_prints_and_writes_a_circuit_that_can_be_judged(tmp_path, capsys):
    quick = [
        "--algorithm",
        "eap",
        "--size",
        "0.2",
        "--resamples",
        "2",
        "--seeds",
        "1",
        "--halvings",
        "1",
        "--out",
        str(tmp_path),
    ]
    assert main(["stability", *DIGITS, *FEW, *quick]) == 0
    said = capsys.readouterr().out
    assert "jaccard_resamples" in said and "consensus" in said
    assert {path.name for path in tmp_path.iterdir()} == {
        "stability.json", "stability.svg", "stability.png", "consensus.json",
    }  # fmt: skip
    assert json.loads((tmp_path / "stability.json").read_text())["method"]["n_resamples"] == 2
    # circuits of 22 edges: at most 44 edges can be in more than half of them
    assert 0 < len(Circuit.load(tmp_path / "consensus.json")) <= 44
    assert main(["evaluate", f"{tmp_path}/consensus.json", *FEW, "--no-curve", "--random", "0"]) == 0


def test_stability_without_a_size_says_what_to_pass(tmp_path, capsys):
    assert main(["stability", *DIGITS, *FEW, "--out", str(tmp_path / "new")]) == 2
    assert "--size 20" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_the_help_teaches_by_example(capsys):
    with pytest.raises(SystemExit):
        main(["stability", "--help"])
    assert "vitcircuits stability" in capsys.readouterr().out.split("examples:")[1]
