"""What is saved and loaded is equal; class embeddings from anywhere; what does not fit is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from vitcircuits.models import load_readout, probe_readout, save_class_embeddings, save_readout
from vitcircuits.models.errors import FormatError, ModelError
from vitcircuits.models.readouts import TextHead

NAMES = ("cat", "dog", "größe")


def embeddings(n=3, dim=5, dtype=torch.float64):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(4), dtype=dtype)


def text(vit, project=None, **options):
    return vit.with_readout(TextHead(project or vit.own_readout.head, embeddings(), **options), NAMES)


MADE = {
    "text": text,
    "text with a bias": lambda vit: text(vit, scale=7.5, bias=-1.0),
    "text, another projection": lambda vit: text(vit, nn.Linear(16, 5).double()),
    "text, projection without a bias": lambda vit: text(vit, nn.Linear(16, 5, bias=False).double()),
    "linear": lambda vit: vit.with_readout(nn.Linear(16, 3).double(), NAMES),
    "features": lambda vit: vit.with_readout(nn.Identity(), pool="patches"),
    "patches": lambda vit: vit.with_readout(nn.Linear(16, 3).double(), NAMES, pool="patches"),
}


@pytest.mark.parametrize("name", MADE)
def test_what_is_saved_and_loaded_is_equal(tiny_vit, images_for, tmp_path, name):
    vit = tiny_vit()
    made = MADE[name](vit)
    path = save_readout(made, tmp_path / "new" / "readout.safetensors")
    read = load_readout(vit, path, sha256=made.readout.info["sha256"])
    assert torch.equal(read(images_for(vit)), made(images_for(vit)))
    assert (read.readout.info, read.cfg, read.labels) == (made.readout.info, made.cfg, made.labels)
    assert read.readout.kind == made.readout.kind
    first = path.read_bytes()
    assert save_readout(read, tmp_path / "again.safetensors").read_bytes() == first


def test_a_probe_is_saved_with_how_it_was_made(tiny_vit, images_for, tmp_path):
    vit = tiny_vit()
    made = probe_readout(vit, images_for(vit, 9), torch.arange(9) % 3, kind="ridge", classes=NAMES, source="digits")
    read = load_readout(vit, save_readout(made, tmp_path / "r.safetensors"))
    assert read.readout.info == made.readout.info
    assert read.readout.info["images"] == "digits" and read.readout.kind == "ridge"


def test_the_projection_of_the_tower_is_not_written(tiny_vit, tmp_path):
    path = save_readout(text(tiny_vit()), tmp_path / "r.safetensors")
    assert set(load_file(path)) == {"embeddings", "scale"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bias", [None, -2.0])
def test_class_embeddings_from_anywhere(tiny_vit, images_for, tmp_path, close, dtype, bias):
    vit = tiny_vit()
    path = save_class_embeddings(tmp_path / "e.safetensors", embeddings(dtype=dtype), NAMES, scale=12.5, bias=bias)
    read = load_readout(vit, path)
    head = TextHead(vit.own_readout.head, embeddings(dtype=dtype).double(), scale=12.5, bias=bias)
    close(read(images_for(vit)), vit.with_readout(head)(images_for(vit)))
    assert read.labels == NAMES and read.readout.kind == "text"


def test_names_beside_the_file_and_scale_left_out(tiny_vit, tmp_path):
    path = tmp_path / "e.safetensors"
    save_file({"embeddings": embeddings()}, path)
    with pytest.raises(FormatError, match="does not name its classes"):
        load_readout(tiny_vit(), path)
    assert load_readout(tiny_vit(), path, classes=NAMES).labels == NAMES
    (tmp_path / "e.txt").write_text("a\nb\n\nc\n")
    read = load_readout(tiny_vit(), path)
    assert read.labels == ("a", "b", "c") and float(read.readout.head.scale) == 100


def test_files_that_hold_something_else_are_refused(tiny_vit, tmp_path):
    vit, path = tiny_vit(), tmp_path / "e.safetensors"
    with pytest.raises(FormatError, match="there is no file"):
        load_readout(vit, path)
    path.write_bytes(b"nothing")
    with pytest.raises(FormatError, match="not a safetensors file"):
        load_readout(vit, path)
    save_file({"other": torch.zeros(2)}, path, metadata={"classes": "[]"})
    with pytest.raises(FormatError, match="tensor 'embeddings'"):
        load_readout(vit, path)
    save_file({"embeddings": embeddings()}, path, metadata={"classes": '["a"]'})
    with pytest.raises(FormatError, match="3 embeddings but 1 names"):
        load_readout(vit, path)
    save_file({"embeddings": embeddings(dim=9)}, path, metadata={"classes": '["a", "b", "c"]'})
    with pytest.raises(ModelError, match="9 dimensions, but the image tower projects into 5"):
        load_readout(vit, path)
    with pytest.raises(FormatError, match="one name for each"):
        save_class_embeddings(path, embeddings(), ["a"])


def test_a_readout_that_was_edited_or_is_another_is_refused(tiny_vit, tmp_path):
    vit, path = tiny_vit(), tmp_path / "r.safetensors"
    made = save_readout(text(vit), path)
    with pytest.raises(FormatError, match="another readout"):
        load_readout(vit, made, sha256="0" * 64)
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file({**tensors, "scale": torch.tensor(3.0)}, path, metadata=metadata)
    with pytest.raises(FormatError, match="was edited"):
        load_readout(vit, path)
    newer = json.loads(metadata["vitcircuits"]) | {"schema": "vitcircuits.readout/9"}
    save_file(tensors, path, metadata={"vitcircuits": json.dumps(newer)})
    with pytest.raises(FormatError, match="readout/9"):
        load_readout(vit, path)


def test_what_cannot_be_saved_is_refused(tiny_vit, tmp_path):
    vit = tiny_vit()
    with pytest.raises(FormatError, match="has its own readout"):
        save_readout(vit, tmp_path / "r.safetensors")
    linear = nn.Linear(16, 2).double()
    with pytest.raises(FormatError, match="Sequential"):
        save_readout(vit.with_readout(nn.Sequential(linear)), tmp_path / "r.safetensors")
    deep = TextHead(nn.Sequential(nn.Linear(16, 5).double()), embeddings())
    with pytest.raises(FormatError, match="TextHead over a Sequential"):
        save_readout(vit.with_readout(deep), tmp_path / "r.safetensors")
