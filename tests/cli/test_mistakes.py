"""Every mistake that a user can make ends with exit code 2 and a message that names the repair, never a traceback."""

import argparse
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from vitcircuits.circuits import Circuit, compile_graph
from vitcircuits.cli.main import main
from vitcircuits.cli.options import in_options
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


WRONG = (  # options that nothing needs to be opened for
    {"model": "toy/digit"}, {"checkpoint": "none.safetensors"}, {"readout": "none"}, {"device": "meta"}, {"seed": "-1"},
    {"seed": str(2**64)}, {"pairs": "0"}, {"data": "digit"}, {"data-dir": "none"}, {"metric": "sum"}, {"size": "0"},
    {"corruption": "swap"}, {"ablation": "none"}, {"reference": "none"}, {"tokens": "some"}, {"ports": "v"},
    {"algorithm": "eapig"}, {"option": "steps=999999999999"}, {"option": "steps=x"}, {"level": "nan"}, {"memory": "x"},
    {"by": "x"}, {"attention-mask": "none.npy"}, {"word-size": "2"}, {"sides": "three"}, {"n-partners": "0"},
)  # fmt: skip


def test_wrong_options_are_found_before_torch_is_imported():
    options = {name.strip("-"): value for name, value in DISCOVER.items()}
    commands = [["discover", *(f"--{key}={value}" for key, value in (options | wrong).items())] for wrong in WRONG]
    script = (
        "import sys; from vitcircuits.cli.main import main\n"
        f"for words in {commands!r}:\n    assert main(words) == 2, words\n    assert 'torch' not in sys.modules, words"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("pass checkpoint= for a file at hand.", "pass --checkpoint for a file at hand."),
        ("pass load_vit('deit', checkpoint=\"w.pth\").", "pass --model 'deit' --checkpoint \"w.pth\"."),
        ("or overwrite=True to replace it.", "or --overwrite to replace it."),
        ('such as compile_graph(vit, tokens="role").', 'such as --tokens "role".'),
        ('load_data("mnist", preprocess, data_dir="that/folder")', '--data-dir "that/folder"'),
        ("n_random=0: pass at least 1.", "--random 0: pass at least 1."),
        ("steps=0: pass at least 1, such as steps=5.", "--option steps=0: pass at least 1, such as --option steps=5."),
        ("--option steps=x: pass a number", "--option steps=x: pass a number"),
        ("pass cats=281-285, or margin=3.", "pass cats=281-285, or margin=3."),
        ("there is no file 'a/checkpoint=3'.", "there is no file 'a/checkpoint=3'."),
        ("pass Partner('word', word=1) or x.mean().", "pass --word 1 or x.mean()."),
    ],
)
def test_messages_speak_of_the_options_of_the_command(said, wanted):
    names = ("model", "checkpoint", "overwrite", "tokens", "data_dir", "random", "option", "word")
    assert in_options(said, argparse.Namespace(**dict.fromkeys(names))) == wanted


def test_a_name_on_the_hub_is_not_asked_for_again_and_again(fails, monkeypatch):
    def slept(seconds, really=time.sleep):
        if threading.current_thread() is threading.main_thread():
            raise AssertionError("it waits and tries again")
        really(seconds)  # the clock of an earlier test's progress bar

    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nobody answers there
    monkeypatch.setattr("time.sleep", slept)
    said = fails(model="hf-hub:nobody/nothing")
    assert "127.0.0.1 cannot be reached" in said and "--checkpoint" in said


def test_help_shows_each_algorithm_with_its_options(capsys):
    with pytest.raises(SystemExit):
        main(["discover", "--help"])
    said = capsys.readouterr().out.partition("algorithms, each with")[2].partition("examples:")[0]
    for algorithm, option in (("eap_ig", "steps=5"), ("acdc", "tau=0.01"), ("eap", "freeze_norm=yes")):
        assert option in said.partition(f"\n  {algorithm}: ")[2].partition("\n\n")[0]


def test_an_extra_that_is_missing_is_said_before_the_model_is_asked_for(fails, monkeypatch):
    monkeypatch.setattr("vitcircuits.models.model_config.find_spec", lambda name: None)
    assert "vitcircuits[clip]" in fails(model="hf-hub:nobody/nothing", prompts="cat")
    assert "vitcircuits[clip]" not in fails(model="toy/digits-2l", prompts="cat")  # which has no text tower
