"""Architectures built in another way than timm's standard ones, and modules of one's own."""

import pytest
import timm
import torch
from timm.layers import PatchEmbed
from timm.models.vision_transformer import Block
from torch import nn
from vitcircuits.circuits.baseline import source_values
from vitcircuits.models.errors import ModelError
from vitcircuits.models.hooked import HookedViT


def test_pooling_writes_to_its_own_token_and_blocks_write_elsewhere(architecture_named, images_for):
    vit = architecture_named("map-prefix")
    with torch.no_grad(), vit.borrowed():
        values = source_values(vit, images_for(vit))
    first = 1 + (vit.cfg.n_layers - 1) * (vit.cfg.n_heads + 1)
    assert float(values[:first, :, -1].abs().max()) == 0
    assert float(values[first:, :, :-1].abs().max()) == 0 < float(values[first:, :, -1].abs().max())


def test_attention_only_models_have_no_mlp_nodes(architecture_named):
    vit = architecture_named("attention-only")
    assert not any("mlp" in name or "ln2" in name for name in vit.hook_names)
    assert vit.cfg.mlps == (False, False)


class _Mine(nn.Module):
    """A ViT of somebody's own."""

    def __init__(self, pooling="first", depth=2, tail=None):
        super().__init__()
        self.embedder = PatchEmbed(8, 4, 1, 16)
        self.special = nn.Parameter(torch.randn(1, 1, 16) * 0.3)
        self.where = nn.Parameter(torch.randn(1, 5, 16) * 0.3)
        self.stack = nn.ModuleList(Block(16, 2) for _ in range(depth))
        self.last_norm, self.answer = nn.LayerNorm(16), tail or nn.Linear(16, 3)
        self.pooling = pooling

    def forward(self, images):
        x = self.embedder(images)
        x = torch.cat([self.special.expand(len(x), -1, -1), x], 1) + self.where
        for block in self.stack:
            x = block(x)
        x = self.last_norm(x)
        return self.answer({"first": x[:, 0], "all": x.mean(1), "patches": x[:, 1:].mean(1), "max": x.amax(1)}[self.pooling])  # fmt: skip # noqa: E501


@pytest.mark.parametrize(("pooling", "read"), [("first", (0,)), ("all", tuple(range(5))), ("patches", (1, 2, 3, 4))])
def test_a_module_of_ones_own_is_opened_by_watching_it(pooling, read, close):
    torch.manual_seed(0)
    module = _Mine(pooling).train()
    vit = HookedViT(module, name="mine")
    assert vit.cfg.read_tokens == read and vit.cfg.n_classes == 3 and vit.cfg.tokens.n_tokens == 5
    assert module.training and all(parameter.requires_grad for parameter in module.parameters())
    images = torch.randn(2, 1, 8, 8)
    close(vit(images), module.eval()(images).detach())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: _Mine("max"), "pools its tokens, or goes on from them, in a way that is not known"),
        (lambda: nn.Sequential(nn.Sequential(Block(16, 2)), nn.Linear(16, 3)), r"load_vit\(module, image_size=224\)"),
        (lambda: nn.Sequential(nn.Conv2d(1, 3, 4), nn.Flatten()), "without a stack of transformer blocks"),
    ],
)
def test_a_module_that_is_no_vit_is_refused_by_naming_what_is_missing(make, said):
    with pytest.raises(ModelError, match=said):
        HookedViT(make())


@pytest.mark.parametrize(
    ("mask", "said"),
    [("diagonal", "'diagonal'"), (torch.ones(3, 3, dtype=torch.bool), "shape"), (torch.ones(5, 5), "float32")],
)
def test_attention_masks_that_do_not_fit_are_refused(tiny_module, mask, said):
    with pytest.raises(ModelError, match=said):
        HookedViT(tiny_module(), attention_mask=mask)


def test_a_token_that_may_see_nothing_is_refused(tiny_module):
    mask = torch.ones(5, 5, dtype=torch.bool)
    mask[2] = False
    with pytest.raises(ModelError, match="token 2 see nothing"):
        HookedViT(tiny_module(), attention_mask=mask)


def test_an_arbitrary_mask_cuts_what_tokens_see(tiny_module, images_for):
    mask = torch.eye(5, dtype=torch.bool)
    mask[0] = torch.tensor([True, True, True, False, False])
    vit = HookedViT(tiny_module(), attention_mask=mask)
    images = images_for(vit, 2)
    other = images.clone()
    other[..., 4:, :] += 1  # the patches that nobody but themselves may see
    assert torch.equal(vit(images), vit(other))


class _Behind(_Mine):
    """A token behind the patches, causal or not."""

    def __init__(self, causal=False):
        super().__init__()
        self.causal = causal

    def forward(self, images):
        x = self.embedder(images)
        x = torch.cat([x, self.special.expand(len(x), -1, -1)], 1)
        for block in self.stack:
            x = block(x, is_causal=True) if self.causal else block(x)
        return self.answer(self.last_norm(x)[:, -1])


def test_tokens_behind_the_patches_are_put_in_front(close):
    vit = HookedViT(_Behind())
    images, residuals = torch.randn(2, 1, 8, 8), []
    close(vit(images), vit.module.eval()(images).detach())
    assert vit.cfg.tokens.token_names() == ("cls", "r0c0", "r0c1", "r1c0", "r1c1") and vit.cfg.read_tokens == (0,)
    handle = vit.opened.originals[-1].register_forward_hook(lambda _m, _a, out: residuals.append(out))
    vit.module(images)
    handle.remove()
    with torch.no_grad():
        close(vit.run_blocks(vit.embed(images)), residuals[0])
        close(vit.embed(images)[:, 1:], vit.module.embedder(images))


class _TwoStacks(_Mine):
    def __init__(self):
        super().__init__(depth=2)
        self.first = nn.ModuleList([Block(16, 2)])


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (lambda: _Behind(causal=True), "hands its blocks an attention mask"),
        (_TwoStacks, "outside its longest stack"),
    ],
)
def test_modules_that_would_be_misread_are_refused(kind, said):
    with pytest.raises(ModelError, match=said):
        HookedViT(kind())


def test_rotary_positions_that_blocks_are_handed_are_taken_over(architecture_named, images_for, close):
    class Wrapped(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, images):
            return self.inner(images)

    inner = architecture_named("eva").module
    vit = HookedViT(Wrapped(inner))
    assert all(block.rope is not None for block in vit.blocks)
    close(vit(images_for(vit)), inner(images_for(vit)).detach())


def test_learnt_rotary_positions_are_looked_up_again(images_for):
    import copy

    vit = HookedViT(copy.deepcopy(_architecture("rope-mixed")))
    images, before = images_for(vit), vit.digest()
    with torch.no_grad():
        vit.module.rope.freqs.mul_(1.5)
        assert float((vit(images) - vit.opened.forward(images)).abs().max()) < 1e-9
    assert vit.digest() != before


def _architecture(name):
    from timm.models.eva import Eva

    torch.manual_seed(0)
    sizes = {
        "img_size": 8,
        "patch_size": 4,
        "in_chans": 1,
        "num_classes": 5,
        "embed_dim": 16,
        "depth": 2,
        "num_heads": 2,
    }
    made = Eva(**sizes, use_rot_pos_emb=True, rope_type="mixed", attn_type="rope").double().eval()
    for parameter in made.parameters():
        parameter.data = torch.randn_like(parameter) * 0.3
    return made


def test_a_head_put_in_place_of_another_says_how_many_classes_there_are(tiny_module):
    module = tiny_module()
    module.head = nn.Linear(16, 7).double()
    assert HookedViT(module).cfg.n_classes == 7


def test_models_without_a_head_give_their_features(close):
    module = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=1, img_size=32)
    vit = HookedViT(module.eval())
    images = torch.randn(2, 3, 32, 32)
    assert vit.cfg.n_classes == 192
    close(vit(images), module(images).detach())
