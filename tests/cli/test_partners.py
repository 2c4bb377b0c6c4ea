"""`vitcircuits partners`, and partners on the command line of the other commands."""

import json

import numpy as np
import pytest
from PIL import Image
from vitcircuits.cli.main import main
from vitcircuits.models.data import load_data

DIGITS = ["--model", "toy/digits-2l", "--target", "3", "--foil", "8", "--pairs", "4", "--eval-pairs", "4"]
QUICK = ["--data", "digits", "--algorithm", "eap", "--size", "20", "--random", "1", "--ports", "block"]


def refused(capsys, arguments):
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def test_partners_leaves_tables_circuits_and_pictures(tmp_path, capsys):
    kinds = ["--partners", "class_swap", "object_fill", "word", "--mask", "attention", "--word-size", "0.5"]
    assert main(["partners", *DIGITS, *QUICK, *kinds, "--out", str(tmp_path)]) == 0
    names = {"partners.csv", "partners.json", "partners.svg", "partners.png", "gallery.svg", "gallery.png"}
    circuits = {f"circuit-{kind}.json" for kind in kinds[1:4]}
    assert {path.name for path in tmp_path.iterdir()} == names | circuits
    said = capsys.readouterr().out
    assert "class_swap and word: Jaccard" in said and "other_partners" in said
    assert "held-out transmission under class_swap, object_fill, word" in said
    assert (
        main(["evaluate", f"{tmp_path}/circuit-object_fill.json", "--data", "digits", "--no-curve", "--random", "0"])
        == 0
    )
    assert main(["partners", *DIGITS, *QUICK, *kinds, "--out", str(tmp_path / "again")]) == 0
    for name in names | circuits:
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_options_without_use_are_refused(capsys, tmp_path):
    out = ["--out", str(tmp_path / "new")]
    assert "--partners" in refused(capsys, ["partners", *DIGITS, *QUICK, "--corruption", "blur", *out])
    assert "--mask" in refused(capsys, ["partners", *DIGITS, *QUICK, "--partners", "object_blur", *out])
    discover = ["discover", *DIGITS, *QUICK, *out]
    assert "--tokens mask" in refused(capsys, [*discover, "--mask", "attention"])
    assert "--corruption word" in refused(capsys, [*discover, "--word", "dog"])
    assert "0.8,0.5" in refused(capsys, [*discover, "--corruption", "word", "--word-place", "x,y"])
    assert "object_swap" in refused(capsys, [*discover, "--corruption", "object_swap"])
    assert not (tmp_path / "new").exists()


@pytest.fixture
def scans(tmp_path):
    data = load_data("digits", None, limit=30)
    for label, name in ((3, "threes"), (8, "eights")):
        folder = tmp_path / "scans" / name
        folder.mkdir(parents=True)
        for place, image in enumerate(data.train.images[data.train.labels == label]):
            Image.fromarray((image[0].numpy() * 255).round().astype(np.uint8)).save(folder / f"{place}.png")
    return tmp_path / "scans"


def test_boxes_beside_pictures_make_partners_and_are_part_of_the_configuration(scans, tmp_path, capsys):
    boxes, out = tmp_path / "boxes.csv", tmp_path / "out"
    boxes.write_text("name,left,top,right,bottom\n" + "".join(f"threes/{n}.png,1,1,7,5\n" for n in range(30)))
    task = ["--data", str(scans), "--corruption", "object_fill", "--mask", str(boxes), *QUICK[2:]]
    names = ["--model", "toy/digits-2l", "--target", "threes=3", "--foil", "eights=8", "--pairs", "15"]
    crossed = ["discover", *names, *task, "--eval-pairs", "15", "--patches", "0", "--out", str(out)]
    assert "masks of both classes" in refused(capsys, crossed)  # there are boxes of threes alone
    arguments = [*crossed, "--sides", "one"]
    assert main(arguments) == 0
    recorded = json.loads((out / "circuit.json").read_text())["task"]
    assert recorded["mask"] == str(boxes) and recorded["corruption"] == "object_fill"
    assert str(boxes) in capsys.readouterr().out
    again = ["evaluate", f"{out}/circuit.json", "--data", str(scans), "--target", "threes=3", "--foil", "eights=8"]
    assert main([*again, "--sides", "one", "--no-curve", "--random", "0"]) == 0
    boxes.write_text(boxes.read_text().replace(",7,5", ",6,5"))
    assert "another configuration" in refused(capsys, arguments)
