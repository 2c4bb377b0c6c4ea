"""`discover` from start to end on one model of each family, with random weights and a head that knows two classes."""

import copy
from functools import partial

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from vitcircuits.circuits import Circuit, evaluate
from vitcircuits.cli.discover import add_parser, configuration
from vitcircuits.cli.main import main
from vitcircuits.cli.options import Parser
from vitcircuits.models.data import load_data
from vitcircuits.models.hooked import HookedViT
from vitcircuits.models.preprocess import Preprocess

QUICK = ["--pairs", "6", "--eval-pairs", "6", "--random", "0", "--algorithm", "eap", "--ports", "block"]
SHADES = ["--target", "dark=0", "--foil", "bright=1"]
BY_NAME = {  # timm's own tiny ViTs: CLS; registers and LayerScale; attention pooling; RMSNorm and average pooling
    "test_vit": ["--size", "60"],
    "test_vit2": ["--size", "60"],
    "test_vit3": ["--size", "80", "--tokens", "role"],
    "test_vit4": ["--size", "60"],
}
BUILT = ("map-other-heads", "distilled", "parallel", "eva", "attention-only")


@torch.no_grad()
def teach(module, images, labels):
    """Sets the heads so that they tell class 0 from 1 by the difference of their mean features."""
    for head in (module.head, getattr(module, "head_dist", None)):
        if head is None:
            continue
        seen = []
        handle = head.register_forward_pre_hook(lambda _module, args, seen=seen: seen.append(args[0]))
        module(images)
        handle.remove()
        means = [seen[0][labels == digit].mean(0) for digit in (0, 1)]
        direction = (means[0] - means[1]) / (means[0] - means[1]).square().sum()
        head.weight.zero_()
        head.bias.fill_(-10)
        for label, sign in ((0, 4.0), (1, -4.0)):
            head.weight[label] = sign * direction
            head.bias[label] = -sign * direction @ (means[0] + means[1]) / 2


@pytest.fixture(scope="module")
def shades(tmp_path_factory):
    """A folder of dark and of bright pictures, each of another shade."""
    folder = tmp_path_factory.mktemp("shades")
    for name, shade in (("dark", 20), ("bright", 190)):
        (folder / name).mkdir()
        for number in range(8):
            Image.new("RGB", (16, 16), (shade + 5 * number, shade, shade + 2 * number)).save(
                folder / name / f"{number}.png"
            )
    return folder


@pytest.fixture(autouse=True)
def without_curve(monkeypatch):
    """Judged without the curve, whose many runs are most of the time: every other file is written."""
    monkeypatch.setattr("vitcircuits.circuits.judging.evaluation.evaluate", partial(evaluate, curve=False))


@pytest.mark.parametrize("name", BY_NAME)
def test_discover_by_name(name, shades, tmp_path, capsys):
    torch.manual_seed(0)
    module = timm.create_model(name, pretrained=False, num_classes=10).eval()
    seen = load_data(shades, Preprocess.from_timm(module)).train
    teach(module, seen.images, 1 - seen.labels)  # the data's classes are in alphabetical order
    save_file(module.state_dict(), tmp_path / "model.safetensors")
    arguments = ["--model", name, "--checkpoint", f"{tmp_path}/model.safetensors", "--data", str(shades)]
    out = tmp_path / "run"
    assert main(["discover", *arguments, *QUICK, *SHADES, *BY_NAME[name], "--patches", "0", "--out", str(out)]) == 0
    circuit = Circuit.load(out / "circuit.json")
    assert len(circuit) > 5 and circuit.graph.cfg.pools is (name == "test_vit3")
    assert (out / "circuit.html").is_file() and "T = " in capsys.readouterr().out
    assert main(["draw", f"{out}/circuit.json", f"{out}/again.svg"]) == 0


def parsed(arguments):
    """The resolved configuration of a command."""
    parser = Parser()
    add_parser(parser.add_subparsers())
    return configuration(parser.parse_args(["discover", *arguments]))


@pytest.mark.parametrize("name", BUILT)
def test_discover_on_built_modules(name, architecture_named, tmp_path):
    module = copy.deepcopy(architecture_named(name).module)
    seen = load_data("digits", None, classes=["0", "1"], limit=12).train
    teach(module, seen.images.double(), seen.labels)
    vit = HookedViT(module, name=name)
    choices = ["--tokens", "role", "--size", "14"]
    config = parsed(["--model", name, "--data", "digits", "--target", "0", "--foil", "1", *QUICK, *choices])
    found = config.run(tmp_path, vit=vit)
    assert found.report.n_edges == len(found.circuit) and len(found.files) == 11
