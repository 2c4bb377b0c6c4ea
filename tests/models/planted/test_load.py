"""Planted models are stock timm ViTs that do what they were built for, and say what they cannot do."""

import pytest
import torch
from timm.models.vision_transformer import Block, VisionTransformer
from vitcircuits.circuits import Ablation
from vitcircuits.models import PlantedViT, load_vit
from vitcircuits.models.errors import ModelError
from vitcircuits.models.load import known_models

HAND_SET = ("planted/bright-column", "planted/neighbour-xor", "planted/majority")
XOR = "planted/neighbour-xor"
VARIANTS = (
    *HAND_SET,
    f"{XOR}:norm=none,gain=soft",
    f"{XOR}:gain=medium",
    f"{XOR}:trap,step",
    f"{XOR}:trap,step,disguise=3",
    "planted/bright-column:disguise=1,norm=none",
    "planted/majority:disguise=0",
)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_planted_model_is_timms_own_and_gets_every_image_right(name):
    vit = load_vit(name)
    assert isinstance(vit, PlantedViT) and type(vit.module) is VisionTransformer
    assert all(type(block) is Block for block in vit.module.blocks)
    images, labels = vit.sample(200, 1)
    logits = vit(images)
    assert torch.equal(logits.argmax(-1), labels)
    assert set(labels.tolist()) == set(range(vit.cfg.n_classes)) and len(vit.class_names) == vit.cfg.n_classes


@pytest.mark.parametrize("name", HAND_SET)
def test_a_disguise_changes_every_weight_and_no_logit(name):
    plain, turned = load_vit(name), load_vit(name, disguise=5)
    images, _ = plain.sample(100)
    assert float((plain(images) - turned(images)).abs().max()) < 1e-5
    assert plain.truth() == turned.truth()
    assert float((turned.module.patch_embed.proj.weight != 0).float().mean()) > 0.9
    assert not torch.equal(turned.module.head.weight, load_vit(name, disguise=6).module.head.weight)


def test_the_name_spells_the_options_and_loads_the_same_model_again():
    vit = load_vit(XOR, gain="soft", norm="none", trap=True, disguise=2)
    again = load_vit(vit.cfg.name)
    assert again.cfg == vit.cfg and again.digest() == vit.digest() != load_vit(XOR).digest()
    assert load_vit(XOR).cfg.name == load_vit(f"{XOR}:norm=layer", gain="hard").cfg.name == XOR
    assert load_vit(XOR, gain=2, norm="none").digest() == load_vit(f"{XOR}:gain=2.0,norm=none").digest()


def test_planted_models_are_listed():
    assert {*HAND_SET, "planted/digit-pairs"} <= set(known_models())


def test_loading_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    load_vit(XOR, disguise=1)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("planted/neighbor-xor", {}, "The nearest name is 'planted/neighbour-xor'"),
        ("planted/", {}, "planted/majority"),
        (XOR, {"norms": "none"}, "no option 'norms'"),
        (XOR, {"norm": "rms"}, 'norm="none"'),
        (XOR, {"gain": "harder"}, '"medium"'),
        (XOR, {"gain": -1.0}, "above 0"),
        (XOR, {"disguise": "yes"}, "another seed"),
        (f"{XOR}:trap=maybe", {}, "trap=True"),
        ("planted/majority", {"trap": True}, "only planted/neighbour-xor has"),
        ("planted/bright-column:step", {}, "only planted/neighbour-xor has"),
        ("planted/digit-pairs", {"gain": "soft"}, "takes no options"),
    ],
)
def test_mistakes_are_named_with_their_repair(name, options, sentence):
    with pytest.raises(ModelError, match=sentence):
        load_vit(name, **options)


@pytest.mark.parametrize(
    ("options", "ablation", "tokens", "sentence"),
    [
        ({}, "zero", "all", 'norm="none"'),
        ({}, Ablation("mean"), "all", 'norm="none"'),
        ({"norm": "none", "trap": True}, "zero", "all", "trap=False"),
        ({"norm": "none"}, "zero", "role", 'tokens="all"'),
        ({"norm": "none"}, Ablation("mean", over="tokens"), "all", "mean per token"),
        ({"norm": "none"}, "noise", "all", "directions"),
        ({"norm": "none", "gain": "soft"}, "partner", "each", "pass one of 'all'"),
        ({}, "partner", "grid", "'role'"),
        ({}, "knockout", "all", '"another"'),
    ],
)
def test_where_no_truth_is_exact_there_is_none(options, ablation, tokens, sentence):
    with pytest.raises(ModelError, match=sentence):
        load_vit(XOR, **options).truth(ablation, tokens)


def test_samples_depend_on_the_seed_alone_and_splits_share_no_image():
    vit = load_vit("planted/majority")
    assert torch.equal(vit.sample(20, 3)[0], vit.sample(20, 3)[0])
    assert not torch.equal(vit.sample(20, 3)[0], vit.sample(20, 4)[0])
    data = vit.images(seed=1)
    train, test = ({image.numpy().tobytes() for image in split.images} for split in (data.train, data.test))
    assert not train & test and len(train) == len(data.train) > 80 and len(test) == len(data.test) > 80
    with pytest.raises(ModelError, match="at least 1"):
        vit.sample(0)
