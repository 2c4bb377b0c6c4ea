"""transformers' CLIP: the image tower's logits under its own text tower are its `logits_per_image`."""

import pytest
import torch
from vitcircuits.models import given_tokens, text_readout
from vitcircuits.models.errors import ModelError
from vitcircuits.models.hooked import HookedViT

pytest.importorskip("transformers", reason="transformers is not installed")

TEXTS = ["a cat", "a dog", "a traffic light"]
IDS = torch.tensor([[58, 1, 4, 59, 59], [58, 1, 5, 59, 59], [58, 1, 6, 7, 59]])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("hidden_act", ["quick_gelu", "gelu"])
def test_logits_are_logits_per_image(foreign_module, images_for, attention, hidden_act):
    vision = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    vision = {**vision, "image_size": 8, "patch_size": 4, "hidden_act": hidden_act}
    module = foreign_module("clip", dtype=torch.float32, vision_config=vision, attn_implementation=attention)
    vit = text_readout(HookedViT(module), dict(zip(TEXTS, TEXTS, strict=True)), tokenizer=given_tokens(TEXTS, IDS))
    images = images_for(vit, 4)
    with torch.no_grad():
        wanted = module(pixel_values=images, input_ids=IDS).logits_per_image
        torch.testing.assert_close(vit(images), wanted, atol=1e-4, rtol=0)
    assert vit.labels == tuple(TEXTS) and vit.readout.kind == "text" and float(wanted.std()) > 0.1


def test_towers_by_themselves_give_what_transformers_gives(foreign_module, images_for, close):
    for kind, field, said in (
        ("clip-tower", "image_embeds", "embedding"),
        ("clip-features", "pooler_output", "features"),
        ("clip-classes", "logits", "classes"),
    ):
        module = foreign_module(kind)
        vit = HookedViT(module)
        images = images_for(vit)
        close(vit(images), getattr(module(pixel_values=images), field).detach())
        assert vit.readout.kind == said


def test_the_classifier_reads_the_patches_without_a_norm(foreign_named):
    vit = foreign_named("clip-classes")
    assert vit.cfg.pooling == "average" and vit.cfg.read_tokens == (1, 2, 3, 4) and not vit.readout.norm.scales


def test_a_module_needs_a_tokenizer_and_ids_need_their_texts(foreign_module):
    vit = HookedViT(foreign_module("clip", dtype=torch.float32))
    with pytest.raises(ModelError, match="which tokenizer belongs to it: pass tokenizer="):
        text_readout(vit, TEXTS)
    with pytest.raises(ModelError, match="no ids were given for the text 'a photo of a a cat"):
        text_readout(vit, TEXTS, tokenizer=given_tokens(TEXTS, IDS))
    with pytest.raises(ModelError, match="3 rows of ids for 2 texts"):
        given_tokens(TEXTS[:2], IDS)
