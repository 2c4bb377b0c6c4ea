"""ViTs of one block whose heads look where they are told."""

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from vitcircuits.models import load_vit

WIDTH = 40  # of a head


def _built(looks, *, grid=6, patch=4, registers=0, sharpness=12, blur=0.0, seed=0):
    """A ViT of one block whose heads look where they are told, and whose last head looks at what the image says.

    Positions are one-hot; a head's query at patch t is t's, and its key at patch s is that of all t that look at s.
    With blur, the image has a say in these, too.
    """
    n, heads = grid * grid, len(looks) + 1
    module = VisionTransformer(
        img_size=grid * patch, patch_size=patch, in_chans=1, num_classes=3, embed_dim=WIDTH * heads, depth=1,
        num_heads=heads, mlp_ratio=1.0, norm_layer=nn.Identity, reg_tokens=registers, no_embed_class=True,
    ).double().eval()  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
        module.pos_embed[0, :, :n] = torch.eye(n)
        patches = module.patch_embed.proj.weight
        patches[n:].copy_(torch.randn(patches[n:].shape, generator=generator) / patch)
        block = module.blocks[0]
        for head, look in enumerate(looks):
            query, key = (block.attn.qkv.weight[port * WIDTH * heads + head * WIDTH :][:n] for port in (0, 1))
            query[:, :n] = torch.eye(n)
            key[:, :n] = sharpness * WIDTH**0.5 * torch.as_tensor(look).double()
        for row in range(2 * heads):
            own = block.attn.qkv.weight[row * WIDTH :][:WIDTH, n:]
            said = 0.1 if row % heads == len(looks) else blur
            own.add_(torch.randn(own.shape, generator=generator), alpha=said)
        block.attn.qkv.weight[2 * WIDTH * heads :].copy_(torch.eye(WIDTH * heads))
        block.attn.proj.weight.copy_(torch.eye(WIDTH * heads))
        module.head.weight.normal_(generator=generator)
    return load_vit(module, name="built")


def _looks(grid=6):
    row, column = np.divmod(np.arange(grid * grid), grid)
    place = np.arange(grid * grid)
    every = np.ones((grid * grid, 1))
    return {
        "offset: 1 left": (row[:, None] == row) & (column[None] == column[:, None] - 1),
        "corner: top left": every * (place == 0),
        "modulus: every 4th patch, from 2": every * (place % 4 == 2),
        "row": row[:, None] == row,
        "edge: bottom": every * (row == grid - 1),
    }


@pytest.fixture(scope="session")
def built():
    """Makes one: `built([pattern, ...], grid=6)`."""
    return _built


@pytest.fixture(scope="session")
def looks():
    """What heads are told, by the name that they have to be given then."""
    return _looks()
