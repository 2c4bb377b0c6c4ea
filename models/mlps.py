"""MLPs as canonical parts: linear, activation, norm, linear; or with a gate beside the first linear layer.

Adapters put an original's own layers into them by reference where the original names them in another way, or has no
module that holds them together. Hidden neurons are what `fc2` is handed.
"""

from __future__ import annotations

from torch import Tensor, nn


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
