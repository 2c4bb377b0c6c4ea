"""The command line: light help, clear mistakes, the demo's folder, resuming; the same bytes again: `test_readout`."""

import io
import json
import subprocess
import sys
from contextlib import redirect_stdout
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from vitcircuits.circuits import Circuit, evaluate
from vitcircuits.circuits.formats import FORMATS, SAVED
from vitcircuits.cli.main import COMMANDS, main

RESULTS = {
    "circuit.json", "scores.safetensors", "edges.csv", "circuit.dot", "circuit.graphml", "circuit.svg", "circuit.html",
    "faithfulness.svg", "report.json", "run.json", "patch_effects.csv", "patch_effects.png",
}  # fmt: skip
BARE = RESULTS - {"faithfulness.svg", "patch_effects.csv", "patch_effects.png"}
DIGITS = ["--model", "toy/digits-2l", "--data", "digits", "--target", "3", "--foil", "8"]
FEW = ["--pairs", "4", "--eval-pairs", "4", "--random", "0", "--patches", "0"]
QUICK = [*FEW, "--size", "12", "--algorithm", "eap"]


@pytest.fixture(scope="module")
def demo_said(tmp_path_factory):
    """The folder that the demo leaves, and what it says."""
    folder = tmp_path_factory.mktemp("demo")
    with redirect_stdout(io.StringIO()) as said:
        assert main(["demo", "--out", str(folder)]) == 0
    return folder, said.getvalue()


@pytest.fixture(scope="module")
def demo(demo_said):
    return demo_said[0]


@pytest.fixture(autouse=True)
def without_curve(monkeypatch):
    """Judged without the curve, whose many runs are most of the time: the demo, made before any test, has one."""
    monkeypatch.setattr("vitcircuits.circuits.judging.evaluation.evaluate", partial(evaluate, curve=False))


def refused(capsys, arguments):
    """What a command that must fail says."""
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def test_help_and_export_import_nothing_heavy(demo, tmp_path):
    commands = ["--help"], ["export", f"{demo}/circuit.json", f"{tmp_path}/c.graphml"]
    code = (
        f"import sys\nfrom vitcircuits.cli.main import main\nfor arguments in {commands!r}:\n"
        "    try:\n        code = main(arguments)\n    except SystemExit as stop:\n        code = stop.code\n"
        "    heavy = [name for name in ('torch', 'timm', 'torch_geometric') if name in sys.modules]\n"
        "    if code or heavy:\n        sys.exit(f'{arguments}: exit {code}, imported {heavy}')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "c.graphml").is_file()


@pytest.mark.parametrize("command", [command.__name__.rpartition(".")[2] for command in COMMANDS])
def test_every_help_teaches_by_example(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"vitcircuits {command}" in capsys.readouterr().out.split("examples:")[1]


def test_the_demo_leaves_everything_and_says_what_was_found(demo_said):
    demo, text = demo_said
    assert {path.name for path in demo.iterdir()} == RESULTS
    said = text.strip().splitlines()
    assert said[-3].startswith("Found:") and "reads the image" in said[-2] and "circuit.html" in said[-1]


def test_the_summary_says_first_what_the_model_gets_wrong_and_last_the_one_sided_figure(tmp_path, capsys):
    few = ["--pairs", "8", "--eval-pairs", "10", "--random", "2", "--patches", "0", "--algorithm", "eap"]
    assert main(["discover", *DIGITS, *few, "--level", "0.9", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out.splitlines()
    labels = [line[:18].strip() for line in said]
    wanted = ["selection", "evaluation images", "transmission", "leakage", "offset", "T within", "R^2", "right", "KL"]
    wanted += ["other classes", "all images", *["control"] * 4, "one-sided f", "seconds"]
    assert [label for label in labels if label in wanted] == wanted
    rows = dict(zip(labels, said, strict=True))
    assert "transmission 0.9 on discovery images" in rows["selection"] and "sham" in rows["one-sided f"]
    report, circuit = json.loads((tmp_path / "report.json").read_text()), (tmp_path / "circuit.json").read_text()
    value, edges = report["figures"]["transmission"]["value"], report["n_edges"]
    assert f"T = {value:.2f} [" in rows["transmission"] and f"with {edges} of 110 edges" in rows["transmission"]
    assert rows["transmission"].endswith(report["method"]["verdict"])
    assert '"smallest_transmitting"' in circuit and '"sides": "both"' in circuit


def test_a_level_that_no_size_reaches_is_said_with_what_the_sizes_keep(tmp_path, capsys):
    level = ["--algorithm", "eap", "--faithfulness", "9"]
    assert main(["discover", *DIGITS, *FEW, *level, "--out", str(tmp_path)]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("selection"))
    assert "no size reads the image at 9 on discovery images; the best is 1.0" in line and "110: 1.00" in line
    assert "no size reads the image at 9" in (tmp_path / "circuit.html").read_text()


def test_a_one_sided_task_says_that_a_constant_cannot_be_told(tmp_path, capsys):
    one = [*DIGITS, *QUICK, "--sides", "one"]
    assert main(["discover", *one, "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "one-sided f = " in said and "passes every figure" in said and "T = " not in said
    page = (tmp_path / "circuit.html").read_text()
    assert "one-sided" in page and "one-sided" in (tmp_path / "circuit.svg").read_text()
    quick = ["--eval-pairs", "8", "--no-curve", "--random", "0"]
    assert main(["evaluate", f"{tmp_path}/circuit.json", *quick]) == 0  # whatever the record says
    said = capsys.readouterr().out
    assert "found on a one-sided task; judged on both sides" in said and "transmission" in said
    assert main(["evaluate", f"{tmp_path}/circuit.json", *quick, "--sides", "one"]) == 0
    said = capsys.readouterr().out
    assert "judged on one side: clean images show the target alone" in said and "transmission" not in said


def test_circuits_of_before_there_were_sides_are_one_sided_and_judged_on_both(demo, tmp_path, capsys):
    record = json.loads((demo / "circuit.json").read_text())
    for name in ("sides", "images", "n_partners", "reference", "n_reference"):
        del record["task"][name]
    old = tmp_path / "old.json"
    old.write_text(json.dumps(record))
    files = ["--page", f"{tmp_path}/old.html", "--report", f"{tmp_path}/old-report.json"]
    assert main(["evaluate", str(old), "--eval-pairs", "8", "--no-curve", "--random", "0", *files]) == 0
    assert "found on a one-sided task; judged on both sides" in capsys.readouterr().out
    page = (tmp_path / "old.html").read_text()
    assert "<dd>one-sided</dd>" in page and "Image by image" in page and "Does it read the image?" in page
    assert json.loads((tmp_path / "old-report.json").read_text())["method"]["sides"] == "both"
    assert main(["draw", str(old), f"{tmp_path}/old.svg"]) == 0
    assert "design: one-sided" in (tmp_path / "old.svg").read_text()
    assert "design: crossed" in (demo / "circuit.svg").read_text()


def test_partners_nearest_images_and_reference_images_are_chosen_by_options(demo, tmp_path, capsys):
    own = ["--n-partners", "1", "--corruption", "nearest", "--ablation", "mean", "--reference", "discovery"]
    assert main(["discover", *DIGITS, *QUICK, *own, "--out", str(tmp_path)]) == 0
    task = json.loads((tmp_path / "circuit.json").read_text())["task"]
    assert (task["corruption"], task["n_partners"], task["reference"]) == ("nearest", 1, "discovery")
    assert task["n_reference"] < json.loads((demo / "circuit.json").read_text())["task"]["n_reference"]
    capsys.readouterr()
    quick = ["--eval-pairs", "6", "--no-curve", "--random", "0"]
    assert main(["evaluate", f"{tmp_path}/circuit.json", *quick, "--report", f"{tmp_path}/again.json"]) == 0
    assert "nearest" in json.dumps(json.loads((tmp_path / "circuit.json").read_text()))


def test_a_folder_of_pictures_is_the_reference_and_part_of_the_configuration(tmp_path, capsys):
    from PIL import Image

    (tmp_path / "grey" / "deeper").mkdir(parents=True)
    for name, shade in (("a.png", 20), ("deeper/b.png", 200)):
        Image.new("L", (8, 8), shade).save(tmp_path / "grey" / name)
    arguments = ["discover", *DIGITS, *QUICK, "--ablation", "mean", "--reference", str(tmp_path / "grey")]
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 0
    task = json.loads((tmp_path / "run" / "circuit.json").read_text())["task"]
    assert task["n_reference"] == 2 and task["reference"] == str(tmp_path / "grey")
    Image.new("L", (8, 8), 90).save(tmp_path / "grey" / "a.png")
    assert "another configuration" in refused(capsys, [*arguments, "--out", str(tmp_path / "run")])
    nowhere = [*arguments[:-1], str(tmp_path / "nowhere"), "--out", str(tmp_path / "new")]
    assert "no such folder" in refused(capsys, nowhere)


def test_discover_goes_on_from_scores_and_refuses_another_configuration(tmp_path, capsys, monkeypatch):
    arguments = ["discover", *DIGITS, *QUICK, "--out", str(tmp_path)]
    assert main(arguments) == 0
    before = (tmp_path / "circuit.json").read_bytes()
    (tmp_path / "circuit.json").unlink()
    monkeypatch.setattr("vitcircuits.algorithms.registry.run_algorithm", None)  # scores must not be computed again
    assert main(arguments) == 0
    assert (tmp_path / "circuit.json").read_bytes() == before
    assert "another configuration" in refused(capsys, [*arguments, "--seed", "1"])


def test_a_failed_run_does_not_block_its_folder(tmp_path, capsys):
    arguments = ["discover", *DIGITS, *QUICK, "--out", str(tmp_path)]
    assert "eap" in refused(capsys, [*arguments, "--metric", "kl"])
    assert main(arguments) == 0
    assert {path.name for path in tmp_path.iterdir()} == BARE


def test_discover_by_acdc_goes_on_from_its_journal(tmp_path, monkeypatch):
    arguments = ["discover", *DIGITS, *FEW, "--ports", "block", "--algorithm", "acdc", "--out", str(tmp_path)]
    arguments += ["--option", "tau=0.05", "--option", "order=eap"]
    assert main(arguments) == 0
    before, journal = (tmp_path / "circuit.json").read_bytes(), (tmp_path / "journal.jsonl").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {*BARE, "journal.jsonl"}
    (tmp_path / "journal.jsonl").write_bytes(journal[: len(journal) // 2])
    assert main(arguments) == 0
    assert (tmp_path / "circuit.json").read_bytes() == before
    assert (tmp_path / "journal.jsonl").read_bytes() == journal
    # decisions must not be made again
    monkeypatch.setattr("vitcircuits.algorithms.engines.pruned_run.PrunedRun.measure", None)
    assert main(arguments) == 0
    assert (tmp_path / "circuit.json").read_bytes() == before


def test_a_size_is_a_number_of_edges_on_paths_or_a_share_of_the_graphs(tmp_path, capsys):
    arguments = ["discover", *DIGITS, *QUICK]
    for size, n in (("0.2", 0.2), ("22", 22)):
        folder = tmp_path / size
        assert main([*arguments, "--size", size, "--out", str(folder)]) == 0
        circuit = Circuit.load(folder / "circuit.json")
        assert circuit.provenance["n"] == n and 0 < len(circuit) <= 22
    assert Circuit.load(tmp_path / "0.2" / "circuit.json") != circuit  # another n was asked for,
    assert Circuit.load(tmp_path / "0.2" / "circuit.json").edge_names() == circuit.edge_names()  # and means the same
    assert "top 20% of the edges" in (tmp_path / "0.2" / "circuit.html").read_text()
    for size in ("0", "1.5", "-3", "few"):
        assert "0.1" in refused(capsys, [*arguments, f"--size={size}", "--out", str(tmp_path / "new")])
    assert "--size N" in refused(capsys, [*arguments, "--granularity", "node", "--size", "0.5"])
    assert not (tmp_path / "new").exists()


def test_a_size_is_refused_where_the_algorithm_decides_it(tmp_path, capsys):
    arguments = ["discover", *DIGITS, "--algorithm", "acdc", "--size", "9", "--out", str(tmp_path / "new")]
    assert "tau=0.01" in refused(capsys, arguments)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("algorithm", "selection"),
    [("learned_masks", ["--size", "12", "--option", "steps=10"]), ("budgeted_pruning", ["--faithfulness", "0.5"])],
)
def test_a_search_takes_its_size_or_its_level_from_the_command(tmp_path, capsys, algorithm, selection):
    arguments = ["discover", *DIGITS, *FEW, "--ports", "block", "--algorithm", algorithm]
    assert main([*arguments, *selection, "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "circuit.json").read_text())
    kept = {"size": 12} if algorithm == "learned_masks" else {"faithfulness": 0.5}
    assert kept.items() <= record["provenance"]["options"].items()
    assert algorithm in capsys.readouterr().out


def test_evaluate_draw_and_export_work_from_the_circuit(demo, tmp_path, capsys):
    quick = ["--pairs", "8", "--eval-pairs", "8", "--no-curve", "--random", "1"]
    assert main(["evaluate", str(demo), *quick, "--ablation", "zero"]) == 0
    assert "transmission" in capsys.readouterr().out
    for name in ("c.svg", "c.dot", "c.html"):
        assert main(["draw", f"{demo}/circuit.json", f"{tmp_path}/{name}"]) == 0
        assert main(["draw", str(demo), f"{tmp_path}/few-{name}", "--max-edges", "3"]) == 0
        assert "3 strongest" in (tmp_path / f"few-{name}").read_text()
    for ending in SAVED:
        capsys.readouterr()
        assert main(["export", str(demo), f"{tmp_path}/c{ending}"]) == 0
        assert FORMATS[ending].lost in capsys.readouterr().out
    assert (tmp_path / "c.json").read_bytes() == (demo / "circuit.json").read_bytes()


def test_export_reads_files_of_eap_ig_when_the_model_is_named(demo, tmp_path, capsys):
    theirs, own = tmp_path / "theirs.mib.json", tmp_path / "own.json"
    assert main(["export", str(demo), str(theirs)]) == 0
    assert "--model NAME" in refused(capsys, ["export", str(theirs), str(own)])
    assert main(["export", str(theirs), str(own), "--model", "toy/digits-2l"]) == 0
    circuit, again = Circuit.load(demo), Circuit.load(own)
    assert again.edge_names() == circuit.edge_names()
    assert np.array_equal(again.scores.values, circuit.scores.values)
    assert main(["draw", str(own), f"{tmp_path}/own.html"]) == 0


def test_models_and_doctor(capsys):
    assert main(["models", "toy"]) == 0
    assert "toy/digits-2l" in capsys.readouterr().out
    assert main(["doctor"]) == 0


def discover(**changes):
    """The quick discover command with some options changed."""
    arguments = ["discover", *DIGITS, *QUICK]
    for name, value in changes.items():
        option = "--" + name.replace("_", "-")
        if option in arguments:
            arguments[arguments.index(option) + 1] = str(value)
        else:
            arguments += [option, str(value)]
    return arguments


@pytest.mark.parametrize(
    ("changes", "repair"),
    [
        ({"model": "toy/digit-2l"}, "toy/digits-2l"),
        ({"model": "vit_tyni_patch16_224"}, "vit_tiny_patch16_224"),
        ({"data": "digts"}, "digits"),
        ({"foil": "3"}, "both target and foil"),
        ({"target": "12"}, "0 to 9"),
        ({"target": "x"}, "pass an index"),
        ({"algorithm": "eapig"}, "eap_ig"),
        ({"option": "steps=3"}, "options are"),
        ({"tokens": "some"}, "'role'"),
        ({"metric": "kl"}, "eap_ig"),
        ({"ablation": "ablate"}, "'partner'"),
        ({"corruption": "swap"}, "'class_swap'"),
        ({"size": "999"}, "110"),
        ({"device": "warp"}, "--device cpu"),
        ({"data_dir": "/nowhere", "data": "mnist", "model": "toy/mnist-2l"}, "--data-dir"),
    ],
)
def test_mistakes_are_named_with_their_repair(changes, repair, capsys, tmp_path):
    assert repair in refused(capsys, [*discover(**changes), "--out", str(tmp_path / "run")])


def test_weights_that_cannot_be_used(capsys, tmp_path):
    pickle = tmp_path / "model.pth"
    torch.save(tmp_path, pickle)  # a Path is no tensor
    assert "needs code" in refused(capsys, discover(model="vit_tiny_patch16_224", checkpoint=pickle))
    assert "which architecture" in refused(capsys, discover(model=pickle))
    misfit, broken = tmp_path / "misfit.safetensors", tmp_path / "broken.safetensors"
    save_file({"head.weight": torch.zeros(10, 3)}, misfit)
    broken.write_bytes(b"nothing")
    assert "does not fit" in refused(capsys, discover(model="vit_tiny_patch16_224", checkpoint=misfit))
    assert "cannot be read" in refused(capsys, discover(model="vit_tiny_patch16_224", checkpoint=broken))
    assert "no file" in refused(
        capsys, discover(model="vit_tiny_patch16_224", checkpoint=tmp_path / "none.safetensors")
    )


def test_folders_that_cannot_be_used(capsys, tmp_path, demo):
    file = tmp_path / "file"
    file.write_text("")
    assert "folder" in refused(capsys, [*discover(), "--out", str(file / "run")])
    assert "circuit.json" in refused(capsys, ["draw", str(tmp_path / "circuit.json"), "c.svg"])
    assert ".graphml" in refused(capsys, ["export", f"{demo}/circuit.json", str(tmp_path / "c.xyz")])
    (tmp_path / "photos" / "a").mkdir(parents=True)
    (tmp_path / "photos" / "b").mkdir()
    assert "'a'" in refused(capsys, discover(data=tmp_path / "photos", target="a=3", foil="b=8"))


def test_discover_learns_constants_for_what_it_found_under_means(tmp_path):
    out = str(tmp_path / "run")
    assert main(["discover", *DIGITS, *QUICK, "--ablation", "optimal", "--out", out]) == 0
    circuit = Circuit.load(f"{out}/circuit.json")
    assert str(circuit.ablation) == "optimal (learned)" and circuit.scores.ablation.kind == "mean"
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["method"]["ablation"]["shifts"] == circuit.ablation.shifts.digest
    text = circuit.ablation.shifts.as_dict()["base64"]
    assert [path.name for path in (tmp_path / "run").iterdir() if text in path.read_text("latin-1")] == ["circuit.json"]
    fast = ["--no-curve", "--random", "0"]
    for more, said in (([], "learned for this circuit"), (["--ablation", "mean"], "'kind': 'mean'")):
        written = tmp_path / f"{len(more)}.json"
        assert main(["evaluate", f"{out}/circuit.json", *fast, *more, "--report", str(written)]) == 0
        assert said in str(json.loads(written.read_text())["method"])
