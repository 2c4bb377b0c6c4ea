"""Readouts from the command line: a probe or prompts give a model classes, and what was found is judged under them."""

import json

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from vitcircuits.cli.main import main, make_parser
from vitcircuits.cli.options import load_model, task_config
from vitcircuits.models import load_vit, save_class_embeddings, text_readout
from vitcircuits.models.data import load_data
from vitcircuits.models.errors import TaskError
from vitcircuits.models.model_config import describe_readout, parse_prompts

QUICK = ["--pairs", "4", "--eval-pairs", "4", "--random", "1", "--size", "12", "--algorithm", "eap"]
BARE = ["--pairs", "4", "--eval-pairs", "4", "--no-curve", "--random", "0"]
DIGITS = ["--model", "toy/digits-2l", "--data", "digits", "--target", "3", "--foil", "8"]
PROBED = ["discover", *DIGITS, *QUICK, "--ports", "block", "--probe", "ridge", "--pool", "patches"]


def refused(capsys, arguments):
    """What a command that must fail says."""
    assert main(arguments) == 2
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    """A run folder under a probe."""
    folder = tmp_path_factory.mktemp("probed")
    assert main([*PROBED, "--out", str(folder)]) == 0
    return folder


def figures(path):
    return {name: figure["value"] for name, figure in json.loads(path.read_text())["figures"].items()}


def test_the_readout_is_saved_with_the_circuit(probed):
    run, circuit = (json.loads((probed / name).read_text()) for name in ("run.json", "circuit.json"))
    recorded = circuit["task"]["readout"]
    assert run["config"]["identity"]["readout"] == recorded
    assert (recorded["kind"], recorded["pool"], recorded["classes"]) == ("ridge", "patches", list("0123456789"))
    assert recorded["penalty_by"] == "leave-one-out error" and recorded["images"] == "digits, training split"
    assert (probed / "readout.safetensors").is_file()


def test_evaluate_uses_the_saved_readout_again(probed, tmp_path, capsys):
    pairs = ["--pairs", "4", "--eval-pairs", "4", "--random", "1"]
    assert main(["evaluate", f"{probed}/circuit.json", *pairs, "--report", str(tmp_path / "again.json")]) == 0
    assert figures(tmp_path / "again.json") == figures(probed / "report.json")
    moved = tmp_path / "circuit.json"
    moved.write_bytes((probed / "circuit.json").read_bytes())
    assert "--readout readout.safetensors" in refused(capsys, ["evaluate", str(moved)])
    assert main(["evaluate", str(moved), *BARE, "--readout", f"{probed}/readout.safetensors"]) == 0


def test_the_same_command_goes_on_and_writes_the_same_bytes(probed, tmp_path, capsys):
    assert main([*PROBED, "--out", str(tmp_path)]) == 0
    files = {path.name for path in probed.iterdir()}
    assert files >= {"faithfulness.svg", "patch_effects.png", "circuit.html", "scores.safetensors"}
    assert files == {path.name for path in tmp_path.iterdir()}
    for path in probed.iterdir():
        assert path.name == "run.json" or (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name
    assert "ridge of 0, 1, 2, 3, ... (10)" in capsys.readouterr().out
    other = [*(part.replace("ridge", "means") for part in PROBED), "--out", str(tmp_path)]
    assert "another configuration" in refused(capsys, other)


def test_stability_writes_the_readout_beside_the_consensus(tmp_path):
    quick = ["--pairs", "4", "--eval-pairs", "4", "--algorithm", "eap", "--size", "20", "--resamples", "2"]
    options = ["--seeds", "0", "--halvings", "1", "--probe", "means", "--out", str(tmp_path)]
    assert main(["stability", *DIGITS, *quick, *options]) == 0
    assert main(["evaluate", str(tmp_path / "consensus.json"), *BARE]) == 0


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    """A folder with a small image tower, pictures in two classes, and class embeddings that tell them apart."""
    folder = tmp_path_factory.mktemp("tower")
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 16, "embed_dim": 32, "depth": 1, "num_heads": 2}
    module = timm.create_model("vit_base_patch32_clip_224.datacompxl", num_classes=16, **sizes)
    for parameter in module.parameters():
        parameter.data = torch.randn_like(parameter) * 0.3
    (folder / "model").mkdir()
    save_file(module.state_dict(), folder / "model" / "model.safetensors")
    config = {"architecture": "vit_base_patch32_clip_224", "num_classes": 16, "model_args": sizes, "pretrained_cfg": {}}
    (folder / "model" / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(1)
    for name, colour in (("red", (220, 30, 30)), ("blue", (30, 30, 220))):
        (folder / "photos" / name).mkdir(parents=True)
        for place in range(24):
            shade = torch.randint(-25, 25, (3,), generator=generator).tolist()
            picture = Image.new("RGB", (40, 40), tuple(c + s for c, s in zip(colour, shade, strict=True)))
            picture.save(folder / "photos" / name / f"{place}.png")
    return folder


def test_class_embeddings_read_a_tower_out_whatever_the_order_of_the_classes(tower, tmp_path, capsys):
    vit = load_vit(f"local-dir:{tower}/model")
    data = load_data(tower / "photos", vit.preprocess)
    features = vit.module(data.train.images).detach()
    means = torch.stack(
        [features[data.train.labels == data.class_names.index(name)].mean(0) for name in ("red", "blue")]
    )
    middle, apart = means.mean(0), means[0] - means[1]
    red = apart - middle * (apart @ middle) / (middle @ middle)  # a cosine has no threshold: nothing along the middle
    file = save_class_embeddings(
        tmp_path / "colours.safetensors", torch.stack([red, -red]), ("red", "blue"), scale=10.0
    )
    model = ["--model", f"local-dir:{tower}/model", "--data", f"{tower}/photos", "--target", "red", "--foil", "blue"]
    arguments = ["discover", *model, *QUICK, "--patches", "0", "--readout", str(file), "--out", str(tmp_path / "run")]
    assert main(arguments) == 0
    found = json.loads((tmp_path / "run" / "circuit.json").read_text())
    assert found["task"]["readout"]["classes"] == ["red", "blue"] and found["task"]["n_discovery"] == 4 * 4
    assert main(["evaluate", f"{tmp_path}/run/circuit.json", *BARE, "--data", f"{tower}/photos"]) == 0
    said = refused(capsys, ["discover", *model, *QUICK, "--out", str(tmp_path / "none")])
    assert "has no classes: its 16 outputs are its embedding" in said and "--prompts" in said


def test_prompts_read_a_tower_out(tower, tmp_path):
    open_clip = pytest.importorskip("open_clip", reason="open_clip is not installed: pip install open_clip_torch")
    config = {"embed_dim": 16, "vision_cfg": {"layers": 1, "width": 32, "head_width": 16, "patch_size": 16,
              "image_size": 32}, "text_cfg": {"layers": 1, "width": 32, "heads": 2}}  # fmt: skip
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    torch.manual_seed(3)
    clip = open_clip.create_model("ViT-B-32", pretrained=None, **config)
    save_file(clip.state_dict(), tmp_path / "clip" / "open_clip_model.safetensors")
    prompts = ["--prompts", "blue", "red=a red wall", "red=a wall in red", "--templates", "a {} wall"]
    model = [
        "--model",
        f"local-dir:{tower}/model",
        "--clip",
        f"local-dir:{tmp_path}/clip",
        "--data",
        str(tower / "photos"),
    ]
    args = make_parser().parse_args(["discover", *model, *prompts, "--target", "red", "--foil", "blue"])
    found, own = load_model(args, task_config(args)), load_vit(f"local-dir:{tower}/model")
    texts = {"blue": "a blue wall", "red": ["a red wall", "a wall in red"]}
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(found(images), text_readout(own, texts, clip=clip)(images), atol=1e-5, rtol=0)
    recorded = found.readout.info
    assert recorded["prompts"] == {"blue": ["a blue wall"], "red": ["a red wall", "a wall in red"]}
    assert recorded["kind"] == "text" and recorded["text_tower"].startswith("local-dir:")


def test_prompts_are_names_or_texts_or_both():
    assert parse_prompts(["cat", "dog"], None) == (["cat", "dog"], "a photo of a {}.")
    assert parse_prompts(["cat"], ["openai"]) == (["cat"], "openai")
    assert parse_prompts(["cat", "dog=a = b"], ["a {}"]) == ({"cat": ["a cat"], "dog": ["a = b"]}, ["a {}"])
    with pytest.raises(TaskError, match="CLASS=TEXT"):
        parse_prompts(["=a cat"], None)
    with pytest.raises(TaskError, match="have no use"):
        parse_prompts(["cat=a cat"], ["a {}"])


def test_a_readout_is_described_in_one_line():
    info = {"kind": "text", "classes": list("abcde"), "pool": "own", "text_tower": "ViT-B-16:openai"}
    assert describe_readout(info) == "text of a, b, c, d, ... (5) (text_tower ViT-B-16:openai)"
    assert describe_readout({"kind": "features", "pool": "cls"}) == "features (pool cls)"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--templates", "a {}"], "--templates has no use without --prompts"),
        (["--clip", "ViT-B-16:openai"], "--clip has no use without --prompts"),
        (["--pool", "cls"], "--pool has no use without --probe"),
        (["--readout", "none.safetensors"], "there is no file"),
        (["--probe", "means", "--target", "x"], "x"),
    ],
)
def test_mistakes_are_named_with_their_repair(options, said, capsys, tmp_path):
    assert said in refused(capsys, ["discover", *DIGITS, *QUICK, *options, "--out", str(tmp_path / "run")])
