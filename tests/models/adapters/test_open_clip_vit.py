"""open_clip's image towers: the logits under its own text tower are its `logits_per_image`."""

import pytest
import torch
from torch import nn
from vitcircuits.models import load_readout, load_vit, save_readout, text_readout
from vitcircuits.models.errors import ModelError
from vitcircuits.models.hooked import HookedViT
from vitcircuits.models.readouts import ProjectionHead

open_clip = pytest.importorskip("open_clip", reason="open_clip is not installed: pip install open_clip_torch")

NAMES = ["cat", "dog", "traffic light"]
KINDS = ["open-clip", "open-clip-average", "open-clip-norms", "open-clip-timm", "open-clip-map"]


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_logits_per_image(foreign_module, images_for, kind):
    module = foreign_module(kind, dtype=torch.float32)
    vit = HookedViT(module)
    assert vit.module is module and vit.readout.kind == "embedding" and vit.cfg.n_classes == 12
    read = text_readout(vit, NAMES)
    images = images_for(vit, 4)
    with torch.no_grad():
        wanted, _ = module.get_logits(images, open_clip.SimpleTokenizer()([f"a photo of a {name}." for name in NAMES]))
        torch.testing.assert_close(read(images), wanted, atol=1e-4, rtol=0)
    assert float(wanted.std()) > 0.1 and read.labels == tuple(NAMES)


def test_direct_attribution_adds_up_to_the_logit_of_a_text(foreign_module, images_for):
    from vitcircuits.algorithms import logit_attribution
    from vitcircuits.circuits.tasks.metrics import Metric

    read = text_readout(HookedViT(foreign_module("open-clip-average")), NAMES)
    images = images_for(read)
    found = logit_attribution(read, images, Metric("logit", (1,)))
    assert float(abs(found.values.sum((1, 2)) + found.constant - read(images)[:, 1].numpy()).max()) < 1e-9


def test_an_image_tower_by_itself_is_opened(foreign_module, images_for, close):
    module = foreign_module("open-clip")
    vit = HookedViT(module.visual)
    images = images_for(vit)
    close(vit(images), module.encode_image(images).detach())


def test_a_tower_that_gives_its_tokens_too_and_one_without_projection_are_opened(foreign_module, images_for, close):
    tower = foreign_module("open-clip").visual
    tower.output_tokens = True
    vit = HookedViT(tower)
    images = images_for(vit)
    close(vit(images), tower(images)[0].detach())
    tower.proj, tower.output_tokens = None, False
    bare = HookedViT(tower)
    close(bare(images), tower(images).detach())
    assert bare.cfg.n_classes == 16


def test_the_projection_is_the_towers_own_and_is_not_saved_with_a_readout(foreign_module, images_for, tmp_path):
    vit = HookedViT(foreign_module("open-clip", dtype=torch.float32))
    assert isinstance(vit.readout.head, ProjectionHead) and vit.readout.head.matrix is vit.module.visual.proj
    read, images = text_readout(vit, NAMES), images_for(vit)
    path = save_readout(read, tmp_path / "text.safetensors")
    assert torch.equal(load_readout(vit, path)(images), read(images))
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        assert "project.matrix" not in file.keys()  # noqa: SIM118


def _norm_after_attention(module):
    tower = module.visual
    tower.transformer.resblocks[0].ln_attn = nn.LayerNorm(16)
    return module


def _scaled_heads(module):
    module.visual.transformer.resblocks[1].attn.head_scale = nn.Parameter(torch.ones(2, 1, 1))
    return module


@pytest.mark.parametrize(
    ("kind", "options", "change", "said"),
    [
        ("open-clip", {"attentional_pool": True, "attn_pooler_heads": 2}, None, r"many queries \(CoCa\)"),
        ("open-clip", {"pool_type": "none"}, None, "many queries"),
        ("open-clip", {"layers": [1, 1, 1, 1], "width": 64, "image_size": 32}, None, "kind ModifiedResNet"),
        ("open-clip-norms", {}, _norm_after_attention, "norms what attention writes"),
        ("open-clip-norms", {}, _scaled_heads, "attends with head_scale"),
        ("open-clip-timm", {"timm": "resnet18"}, None, "timm's ResNet as its image tower"),
        ("open-clip-timm", {"proj": "mlp"}, None, "ends in Mlp: one linear projection"),
    ],
)
def test_towers_that_cannot_be_opened_are_refused_with_the_reason(foreign_module, kind, options, change, said):
    if "timm" in options or "proj" in options:
        from open_clip.timm_model import TimmModel

        name = options.get("timm", "test_vit2")
        module = TimmModel(name, embed_dim=12, image_size=160, pool="avg", proj=options.get("proj", "linear"))
    else:
        module = foreign_module(kind, dtype=torch.float32, **options)
    with pytest.raises(ModelError, match=said):
        HookedViT(module if change is None else change(module))


def test_other_modules_are_still_opened_as_they_were(tiny_module):
    assert load_vit(tiny_module()).cfg.n_classes == 5
