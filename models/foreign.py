"""Models of other libraries and of one's own: a small one of each kind, with the line that opens one.

The table of docs/models.md is made of these rows, and each is checked as it is written. Libraries are imported when a
model is made.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .adapters.watching import draw_weights

_SIDE, _PATCH, _WIDTH, _CLASSES = 8, 4, 16, 5
_PLAIN = {"image_size": _SIDE, "patch_size": _PATCH, "num_classes": _CLASSES}
_HF = {
    "hidden_size": _WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": _SIDE,
    "patch_size": _PATCH,
    "num_labels": _CLASSES,
}


class OwnAttention(nn.Module):
    """Attention as many write it: one projection for q, k and v, or three; no names or shapes that are agreed on.

    Args:
        fused: Whether there is one projection.
    """

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.project = nn.ModuleList(nn.Linear(_WIDTH, _WIDTH * (3 if fused else 1)) for _ in range(1 if fused else 3))
        self.out, self.h = nn.Linear(_WIDTH, _WIDTH), 2

    def forward(self, x: Tensor) -> Tensor:
        """What attention writes, (batch, token, model)."""
        ports = torch.cat([layer(x) for layer in self.project], -1).unflatten(-1, (3, self.h, -1))
        q, k, v = ports.permute(2, 0, 3, 1, 4)  # each (batch, head, token, d_head)
        pattern = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        return self.out((pattern @ v).transpose(1, 2).flatten(2))


class OwnBlock(nn.Module):
    """A pre-norm block around some attention.

    Args:
        attention: From the normed residual to what is written.
    """

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(_WIDTH), attention, nn.LayerNorm(_WIDTH)
        self.mlp = nn.Sequential(nn.Linear(_WIDTH, 24), nn.GELU(), nn.Linear(24, _WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        """The residual behind the block, (batch, token, model)."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class OwnViT(nn.Module):
    """A ViT around a stack of blocks: a convolution for patches, a class token, positions, a norm and a head.

    Args:
        body: The blocks.
        head: From the class token to the logits; None for one linear layer.
        token_first: Whether the blocks take (token, batch, model).
    """

    def __init__(self, body: nn.Module, head: nn.Module | None = None, token_first: bool = False) -> None:
        super().__init__()
        self.image_size = _SIDE
        self.patches, self.positions = nn.Conv2d(3, _WIDTH, _PATCH, _PATCH), nn.Parameter(torch.zeros(5, _WIDTH))
        self.cls_token, self.token_first = nn.Parameter(torch.zeros(_WIDTH)), token_first
        self.body, self.norm, self.head = body, nn.LayerNorm(_WIDTH), head or nn.Linear(_WIDTH, _CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (batch, class)."""
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), 1, -1), x], 1) + self.positions
        x = self.body(x.transpose(0, 1)).transpose(0, 1) if self.token_first else self.body(x)
        return self.head(self.norm(x)[:, 0])


def _encoder(batch_first: bool) -> nn.Module:
    layer = nn.TransformerEncoderLayer(_WIDTH, 2, 24, batch_first=batch_first, norm_first=True)
    return OwnViT(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), token_first=not batch_first)


def _own(fused: bool, head: nn.Module | None = None) -> nn.Module:
    return OwnViT(nn.Sequential(*(OwnBlock(OwnAttention(fused)) for _ in range(2))), head)


def _timm_blocks() -> nn.Module:
    from timm.models.vision_transformer import Block

    return OwnViT(nn.Sequential(*(Block(_WIDTH, 2) for _ in range(2))))


def _torchvision(**options: Any) -> nn.Module:
    sizes = {**_PLAIN, "num_layers": 2, "num_heads": 2, "hidden_dim": _WIDTH, "mlp_dim": 24}
    return importlib.import_module("torchvision.models").VisionTransformer(**sizes, **options)


def _vit_pytorch(kind: str, **options: Any) -> nn.Module:
    sizes = {**_PLAIN, "dim": _WIDTH, "depth": 2, "heads": 2, "mlp_dim": 24, "dim_head": 6}
    return getattr(importlib.import_module("vit_pytorch"), kind)(**{**sizes, **options})


def _transformers(kind: str) -> nn.Module:
    kinds: Any = getattr(importlib.import_module("transformers"), kind)
    return kinds(kinds.config_class(**_HF, architectures=[kind]))


def _bridge(kind: str) -> nn.Module:
    bridges = importlib.import_module("transformer_lens.model_bridge")
    name = "a ViT"  # no name that a repository can have, so that none is asked for
    return bridges.TransformerBridge.boot_transformers(name, hf_model=_transformers(kind).eval())


@dataclass(frozen=True, eq=False)
class Foreign:
    """A kind of model that is opened.

    Args:
        name: What it is called.
        library: What is imported to make one.
        line: How one is opened.
        make: A small one, with the weights that its own code gives it.
    """

    name: str
    library: str
    line: str
    make: Callable[[], nn.Module]

    def small(self) -> nn.Module:
        """A small one with random weights at which every part matters, ready to run.

        Raises:
            ImportError: The library is not installed.
        """
        module: Any = self.make()
        draw_weights(getattr(module, "original_model", module))
        return module.eval().requires_grad_(False)


_TORCHVISION = 'load_vit(torchvision.models.vit_b_16(weights="DEFAULT"))'
_FOLDER = 'load_vit("path/to/folder")'
FOREIGN = {
    "torchvision": Foreign("`vit_b_16`, `vit_l_32`, ...", "torchvision", _TORCHVISION, _torchvision),
    "torchvision-two-layers": Foreign(
        "the same with a head of two layers",
        "torchvision",
        "load_vit(VisionTransformer(..., representation_size=768))",
        lambda: _torchvision(representation_size=12),
    ),
    "encoder": Foreign(
        "a stack of `nn.TransformerEncoderLayer(norm_first=True)`", "torch", "load_vit(module)", lambda: _encoder(True)
    ),
    "encoder-token-first": Foreign(
        "the same with `batch_first=False`", "torch", "load_vit(module)", lambda: _encoder(False)
    ),
    "vit-pytorch": Foreign("`ViT`", "vit_pytorch", "load_vit(vit_pytorch.ViT(...))", lambda: _vit_pytorch("ViT")),
    "vit-pytorch-mean": Foreign(
        '`ViT` with `pool="mean"`',
        "vit_pytorch",
        "load_vit(vit_pytorch.ViT(...))",
        lambda: _vit_pytorch("ViT", pool="mean", heads=1, dim_head=_WIDTH, channels=1),
    ),
    "simple-vit": Foreign(
        "`SimpleViT`", "vit_pytorch", "load_vit(vit_pytorch.SimpleViT(...))", lambda: _vit_pytorch("SimpleViT")
    ),
    "own-fused": Foreign("your own attention, one projection", "torch", "load_vit(module)", lambda: _own(True)),
    "own-separate": Foreign("your own attention, three projections", "torch", "load_vit(module)", lambda: _own(False)),
    "own-two-layers": Foreign(
        "your own head of two layers",
        "torch",
        "load_vit(module)",
        lambda: _own(True, nn.Sequential(nn.Linear(_WIDTH, 12), nn.Tanh(), nn.Linear(12, _CLASSES))),
    ),
    "own-timm-blocks": Foreign("timm's `Block` in your own class", "timm", "load_vit(module)", _timm_blocks),
    **{
        kind: Foreign(f"`{kind}`", "transformers", _FOLDER, lambda kind=kind: _transformers(kind))
        for kind in (
            "DeiTForImageClassification",
            "DeiTForImageClassificationWithTeacher",
            "DeiTModel",
            "ViTForImageClassification",
        )
    },
    "bridge-vit": Foreign(
        "a bridge over `ViTForImageClassification`",
        "transformer_lens",
        "load_vit(bridge)",
        lambda: _bridge("ViTForImageClassification"),
    ),
    "bridge-deit": Foreign(
        "a bridge over `DeiTForImageClassification`",
        "transformer_lens",
        "load_vit(bridge)",
        lambda: _bridge("DeiTForImageClassification"),
    ),
}
"""Kinds by a short name."""
