"""MLPs as canonical parts: plain, gated, several as one, half of a parallel block, or none.

They hold the original's layers by reference where the original names them in another way, or has no module that holds
them together, and name their parts as timm's `Mlp` does: hidden neurons are what `fc2` is handed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer


class PlainMlp(nn.Module):
    """fc2(norm(act(fc1(x)))).

    Args:
        fc1: From the normed residual to the hidden width.
        act: Activation of each neuron.
        fc2: From the hidden neurons to the residual.
        norm: In front of `fc2`, where there is one.
    """

    def __init__(self, fc1: nn.Module, act: nn.Module, fc2: nn.Module, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = fc1, act, fc2
        self.norm = nn.Identity() if norm is None else norm

    def forward(self, x: Tensor) -> Tensor:
        """What the MLP writes, before LayerScale."""
        return self.fc2(self.norm(self.act(self.fc1(x))))


class GatedMlp(nn.Module):
    """fc2(norm(act(fc1_g(x)) * fc1_x(x))), such as SwiGLU.

    Args:
        fc1_g: From the normed residual to the gates.
        fc1_x: From the normed residual to what is gated.
        act: Activation of each gate.
        fc2: From the hidden neurons to the residual.
    """

    def __init__(self, fc1_g: nn.Module, fc1_x: nn.Module, act: nn.Module, fc2: nn.Module) -> None:
        super().__init__()
        self.fc1_g, self.fc1_x, self.act, self.fc2 = fc1_g, fc1_x, act, fc2
        self.norm = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """What the MLP writes, before LayerScale."""
        return self.fc2(self.norm(self.act(self.fc1_g(x)) * self.fc1_x(x)))


class PackedMlp(nn.Module):
    """fc2(act(gate) * value), where fc1 gives the gate and the value beside one another.

    Args:
        fc1: From the normed residual to twice the hidden width.
        act: Activation of each gate.
        fc2: From the hidden neurons to the residual.
        gate_last: Whether the gate is the second half of what fc1 gives.
    """

    def __init__(self, fc1: nn.Module, act: nn.Module, fc2: nn.Module, gate_last: bool) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2, self.gate_last = fc1, act, fc2, gate_last
        self.norm = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """What the MLP writes, before LayerScale."""
        first, second = self.fc1(x).chunk(2, -1)
        gate, value = (second, first) if self.gate_last else (first, second)
        return self.fc2(self.norm(self.act(gate) * value))


class NoMlp(nn.Module):
    """What stands in an attention-only block where others have their MLP: it writes zeros."""

    def forward(self, x: Float[Tensor, "*batch token model"]) -> Float[Tensor, "*batch token model"]:
        """Zeros of the same shape."""
        return torch.zeros_like(x)


def drop_mlps(module: VisionTransformer) -> VisionTransformer:
    """The same module, each block of which has lost its MLP and the norm in front of it."""
    for block in module.blocks:
        block.mlp = NoMlp()
        block.norm2 = nn.Identity()
    return module


class _Half(nn.Module):
    """Some rows or columns of a linear layer."""

    def __init__(self, layer: nn.Linear, rows: slice | None, columns: slice | None, bias: Any) -> None:
        super().__init__()
        self._layer, self._rows, self._columns, self._bias = [layer], rows, columns, bias

    @property
    def in_features(self) -> int:
        """Width of what it reads."""
        return self._weight.shape[1]

    @property
    def _weight(self) -> Tensor:
        weight = self._layer[0].weight
        return weight[self._rows] if self._rows is not None else weight[:, self._columns or slice(None)]

    def forward(self, x: Tensor) -> Tensor:
        """The linear map, with the bias that belongs to it."""
        return F.linear(x, self._weight, self._bias())


class SplitMlp(nn.Module):
    """The MLP half of timm's `ParallelScalingBlock`; a fused projection's bias counts as attention's."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        hidden = block.in_split[0]
        self.fc1 = _Half(
            block.in_proj,
            slice(0, hidden),
            None,
            lambda: block.mlp_bias if block.mlp_bias is not None else block.in_proj.bias[:hidden],
        )
        self.act = block.mlp_act
        self.norm = nn.Identity()
        if block.out_proj is not None:
            start = block.out_proj.in_features - hidden
            self.fc2: nn.Module = _Half(block.out_proj, None, slice(start, None), lambda: None)
        else:
            self.fc2 = block.mlp_out_proj

    def forward(self, x: Tensor) -> Tensor:
        """What the MLP writes, before LayerScale."""
        return self.fc2(self.act(self.fc1(x)))


class ManyMlps(nn.Module):
    """Several MLPs of timm's `ParallelThingsBlock` as one: each with its own norm's gamma and beta, and LayerScale.

    Hidden neurons of all of them are what `fc2` is handed, (*batch, token, MLP x hidden).
    """

    def __init__(self, parts: Any) -> None:
        super().__init__()
        self._parts = list(parts)
        self.fc1 = _Callable(self._first, 0)
        self.fc2 = _Callable(self._second, sum(part.mlp.fc2.in_features for part in parts))

    def _first(self, x: Tensor) -> Tensor:
        found = []
        for part in self._parts:
            gained = x if part.norm.weight is None else x * part.norm.weight
            bias = getattr(part.norm, "bias", None)
            found.append(part.mlp.fc1(gained if bias is None else gained + bias))
        return torch.cat(found, -1)

    def _act(self, hidden: Tensor) -> Tensor:
        parts = hidden.split([part.mlp.fc1.out_features for part in self._parts], -1)
        return torch.cat([part.mlp.norm(part.mlp.act(h)) for part, h in zip(self._parts, parts, strict=True)], -1)

    def _second(self, hidden: Tensor) -> Tensor:
        parts = hidden.split([part.mlp.fc2.in_features for part in self._parts], -1)
        return torch.stack([part.ls(part.mlp.fc2(h)) for part, h in zip(self._parts, parts, strict=True)]).sum(0)

    def forward(self, x: Tensor) -> Tensor:
        """What the MLPs write together."""
        return self.fc2(self._act(self.fc1(x)))


class _Callable(nn.Module):
    """A function with a place for hooks."""

    def __init__(self, function: Any, in_features: int) -> None:
        super().__init__()
        self._function, self.in_features = function, in_features

    def forward(self, x: Tensor) -> Tensor:
        """What the function says."""
        return self._function(x)
