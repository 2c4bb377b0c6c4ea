"""Every mistake that a user can make ends with exit code 2 and a message that names the repair, never a traceback."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from vitcircuits.circuits import Circuit, compile_graph
from vitcircuits.cli.main import main
from vitcircuits.models import load_vit

DISCOVER = {"--model": "toy/digits-2l", "--data": "digits", "--target": "3", "--foil": "8", "--pairs": "4"}


@pytest.fixture
def fails(capsys, tmp_path):
    def run(*words, **changed):
        options = DISCOVER | {"--out": tmp_path / "out"} | {f"--{name}": value for name, value in changed.items()}
        given = list(words) or ["discover", *(part for pair in options.items() for part in pair)]
        code = main([str(word) for word in given])
        said = capsys.readouterr().err
        assert code == 2 and "Traceback" not in said, said
        return said

    return run


def _picture(folder, size=(8, 8)):
    folder.mkdir(parents=True)
    for index in range(2):
        Image.fromarray(np.full(size, 40 * index, dtype=np.uint8)).save(folder / f"{index}.png")


def test_wrong_model_name_names_the_nearest(fails):
    assert "toy/digits-2l" in fails(model="toy/digit-2l")


def test_checkpoint_that_does_not_fit_says_what_is_missing(fails, tmp_path):
    save_file({"other": torch.zeros(1)}, tmp_path / "w.safetensors")
    assert "does not fit" in fails(model="vit_tiny_patch16_224", checkpoint=tmp_path / "w.safetensors")


def test_pickle_is_refused(fails, tmp_path):
    (tmp_path / "w.pth").write_bytes(b"")
    assert "safetensors" in fails(model="vit_tiny_patch16_224", checkpoint=tmp_path / "w.pth")


def test_nan_in_weights_is_refused(fails, tmp_path):
    module = load_vit("vit_tiny_patch16_224", pretrained=False).module
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    state["norm.weight"][0] = float("nan")
    save_file(state, tmp_path / "w.safetensors")
    assert "NaN" in fails(model="vit_tiny_patch16_224", checkpoint=tmp_path / "w.safetensors")


def test_empty_class_folder_is_named(fails, tmp_path):
    _picture(tmp_path / "data" / "threes")
    (tmp_path / "data" / "eights").mkdir()
    assert "eights" in fails(data=tmp_path / "data", target="threes=3", foil="eights=8")


def test_target_equal_to_foil_is_refused(fails):
    assert "both target and foil" in fails(foil="3")


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("data", "digit", "digits"),
        ("target", "12", "0 to 9"),
        ("algorithm", "eapp", "eap_ig"),
        ("option", "step=3", "steps"),
        ("option", "rule=no", "midpoint"),
        ("tokens", "some", "role"),
        ("device", "nowhere", "cpu"),
    ],
)
def test_wrong_choice_names_the_right_ones(fails, name, value, wanted):
    assert wanted in fails(**{name: value})


def test_unwritable_folder_is_named(fails, tmp_path):
    (tmp_path / "file").write_text("")
    assert "file" in fails(out=tmp_path / "file" / "run")


def _saved(tmp_path):
    graph = compile_graph(load_vit("toy/digits-2l"))
    return Circuit.from_edges(graph, ["input->logits"]).save(tmp_path / "circuit.json")


def test_edge_name_that_does_not_parse_is_named(fails, tmp_path):
    path = _saved(tmp_path)
    path.write_text(path.read_text().replace("input->logits", "input=>logits"))
    assert "input=>logits" in fails("export", path, tmp_path / "edges.csv")


def test_unknown_ending_names_those_that_are_known(fails, tmp_path):
    path = _saved(tmp_path)
    assert ".graphml" in fails("export", path, tmp_path / "edges.xls")
    assert ".svg" in fails("draw", path, tmp_path / "picture.bmp")
