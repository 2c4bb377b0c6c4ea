"""MLPs as canonical parts hold the original's layers and compute what timm's of the same layers do."""

import torch
from timm.layers.mlp import Mlp, SwiGLU
from torch import nn
from vitcircuits.models.mlps import GatedMlp, PlainMlp


def test_they_are_timms_by_reference(close):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6)
    plain, gated = Mlp(6, 8, norm_layer=nn.LayerNorm), SwiGLU(6, 8)
    mine = (
        PlainMlp(plain.fc1, plain.act, plain.fc2, plain.norm),
        GatedMlp(gated.fc1_g, gated.fc1_x, gated.act, gated.fc2),
    )
    with torch.no_grad():
        for original, opened in zip((plain, gated), mine, strict=True):
            close(opened(x), original(x))
            original.fc2.weight.mul_(2)
            close(opened(x), original(x))
            assert opened.fc2 is original.fc2
