"""Loading: names, files, modules, and sentences for what cannot be loaded."""

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from vitcircuits.models import load_vit
from vitcircuits.models.errors import ModelError

TINY = {"img_size": 8, "patch_size": 4, "in_chans": 1, "num_classes": 3, "embed_dim": 8, "depth": 2, "num_heads": 2}


def test_names_labels_and_preprocessing_come_along():
    vit = load_vit("toy/digits-2l")
    assert vit.cfg.n_layers == 2
    assert vit.labels == tuple("0123456789")
    assert vit.preprocess.size == (8, 8)
    deit = load_vit("deit_tiny_patch16_224", pretrained=False)
    assert deit.labels[281].startswith("tabby")
    assert deit.preprocess.size == (224, 224)
    assert deit.cfg.n_heads == 3


@pytest.mark.parametrize(
    ("name", "near"), [("toy/digits", "toy/digits-2l"), ("deit_tny_patch16_224", "deit_tiny_patch16_224")]
)
def test_a_wrong_name_gets_the_nearest_ones(name, near):
    with pytest.raises(ModelError, match=near):
        load_vit(name)


def test_a_checkpoint_says_its_architecture_or_is_told_it(tmp_path):
    module = timm.create_model("vit_tiny_patch16_224", num_classes=4)
    file = tmp_path / "vit_tiny_patch16_224" / "model.safetensors"
    file.parent.mkdir()
    save_file(module.state_dict(), file)
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        wanted = module.eval()(images)
    for vit in (load_vit(file), load_vit("vit_tiny_patch16_224", checkpoint=file)):
        torch.testing.assert_close(vit(images), wanted, atol=1e-4, rtol=0)
    other = tmp_path / "other.safetensors"
    other.write_bytes(file.read_bytes())
    with pytest.raises(ModelError, match="which architecture"):
        load_vit(other)
    with pytest.raises(ModelError, match="does not fit"):
        load_vit("vit_small_patch16_224", checkpoint=file)


def test_weights_that_cannot_be_trusted_are_refused(tmp_path):
    pickle = tmp_path / "model.pth"
    torch.save({}, pickle)
    with pytest.raises(ModelError, match="pickle"):
        load_vit(pickle)
    with pytest.raises(ModelError, match="pickle"):
        load_vit("vit_tiny_patch16_224", checkpoint=pickle)
    module = VisionTransformer(**TINY)
    module.head.weight.data[0, 0] = torch.nan
    with pytest.raises(ModelError, match=r"head\.weight"):
        load_vit(module)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: VisionTransformer(**TINY, global_pool="max"), "average and map pooling"),
        (lambda: timm.create_model("vit_base_patch16_rpn_224", depth=1), "pass a norm before they are added"),
        (lambda: timm.create_model("vit_dpwee_patch16_reg1_gap_256", depth=1), "differential attention"),
        (lambda: torch.nn.Linear(2, 2), "without a stack of transformer blocks"),
        (lambda: VisionTransformer(**{**TINY, "depth": 0}), "no blocks"),
    ],
)
def test_what_cannot_be_opened_is_refused_with_a_sentence(make, said):
    with pytest.raises(ModelError, match=said):
        load_vit(make())


def test_parity_names_the_first_block_that_differs():
    module = VisionTransformer(**{**TINY, "depth": 3})
    block = module.blocks[1]
    inner = type(block).forward
    block.forward = lambda x, **options: 2 * inner(block, x, **options)
    with pytest.raises(ModelError, match="first block that differs is block 1"):
        load_vit(module)


def test_16_bit_modules_are_copied_in_32_bits():
    module = VisionTransformer(**TINY).half()
    vit = load_vit(module)
    assert vit.dtype == torch.float32
    assert next(module.parameters()).dtype == torch.float16
