"""Norms in front of attention, MLPs and readout, with the geometry that attribution needs.

Every supported norm is y = gamma * (x - mean) * r + beta with r = 1 / sqrt(variance + eps), where RMSNorm leaves out
the mean and an identity leaves out everything. Its Jacobian, applied to an upstream gradient g, is

    J' g = r * (gamma g - mean(gamma g) - xhat * mean(gamma g * xhat)),    xhat = (x - mean) * r

The first two terms are linear in x for a fixed r ("frozen": the standard deviation is treated as a constant); the last
one, the radial part, scores edges that nobody reads (measured on planted circuits).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .errors import ModelError


@dataclass(frozen=True, eq=False)
class Norm:
    """A norm over the last axis, by reference to the original's module.

    Args:
        module: The original's module.
        scales: Whether it divides by a standard deviation (an identity does not).
        centres: Whether it subtracts the mean (LayerNorm does, RMSNorm does not).
        gives: What the normed residual is handed on in, where that is not the residual's own dtype.
    """

    module: nn.Module
    scales: bool
    centres: bool
    gives: torch.dtype | None = None

    def __call__(self, x: Float[Tensor, "*batch model"]) -> Float[Tensor, "*batch model"]:
        """The original's own norm."""
        return self._given(self.module(x))

    def _given(self, normed: Tensor) -> Tensor:
        return normed if self.gives is None else normed.to(self.gives)

    @property
    def weight(self) -> Tensor | None:
        """gamma, shape (model,); None for 1."""
        return getattr(self.module, "weight", None) if self.scales else None

    @property
    def bias(self) -> Tensor | None:
        """beta, shape (model,); None for 0."""
        return getattr(self.module, "bias", None) if self.scales else None

    def _eps(self, x: Tensor) -> float:
        """What is added to the variance; PyTorch's RMSNorm takes the dtype's own where none is given."""
        eps: Any = getattr(self.module, "eps", None)
        return torch.finfo(x.dtype).eps if eps is None else float(eps)

    def statistics(
        self, x: Float[Tensor, "*batch model"]
    ) -> tuple[Float[Tensor, "*batch model"], Float[Tensor, "*batch 1"]]:
        """xhat and r; for an identity, x and ones."""
        if not self.scales:
            return x, torch.ones_like(x[..., :1])
        centred = x - x.mean(-1, keepdim=True) if self.centres else x
        inverse = (centred.square().mean(-1, keepdim=True) + self._eps(x)).rsqrt()
        return centred * inverse, inverse

    def inverse(self, x: Float[Tensor, "*batch model"]) -> Float[Tensor, "*batch 1"]:
        """r alone; ones for an identity."""
        if self.scales and self.centres:
            return (x.var(-1, unbiased=False, keepdim=True) + self._eps(x)).rsqrt()
        return self.statistics(x)[1]

    def affine(self, xhat: Float[Tensor, "*batch model"]) -> Float[Tensor, "*batch model"]:
        """gamma * xhat + beta."""
        if self.weight is not None:
            xhat = xhat * self.weight
        return self._given(xhat if self.bias is None else xhat + self.bias)

    def frozen(self, x: Float[Tensor, "*batch model"]) -> Float[Tensor, "*batch model"]:
        """The same values, with the standard deviation a constant in the backward pass."""
        return self._given(_FrozenNorm.apply(x, self)) if self.scales else self(x)  # type: ignore[arg-type]


class _FrozenNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: Norm) -> Tensor:
        if norm.centres:
            y, _, inverse = torch.native_layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm._eps(x))
        else:
            xhat, inverse = norm.statistics(x)
            y = norm.affine(xhat).to(x.dtype)
        ctx.norm = norm
        ctx.save_for_backward(inverse)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (inverse,) = ctx.saved_tensors
        norm: Norm = ctx.norm
        grad = grads[0] * inverse
        if norm.weight is not None:
            grad.mul_(norm.weight)
        if norm.centres:
            grad.sub_(grad.mean(-1, keepdim=True))
        return grad, None


def open_norm(module: nn.Module, where: str) -> Norm:
    """The norm that a module is.

    Raises:
        ModelError: It is of a kind whose Jacobian is not known here.
    """
    from timm.layers import RmsNorm  # pyright: ignore[reportPrivateImportUsage]

    if isinstance(module, nn.Identity):
        return Norm(module, scales=False, centres=False)
    if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1:
        return Norm(module, scales=True, centres=True)
    if isinstance(module, (RmsNorm, nn.RMSNorm)):
        return Norm(module, scales=True, centres=False)
    raise ModelError(
        f"{where} is a {type(module).__name__}: LayerNorm, RMSNorm and Identity are supported, because edge scores "
        f"need the norm's Jacobian. Pass a model with one of these."
    )


class _OwnNorm(nn.Module):
    """A norm of another class, under the names that `Norm` reads; the module itself is run."""

    def __init__(self, module: nn.Module, weight: str | None, bias: str | None, eps: float) -> None:
        super().__init__()
        self._module, self._weight, self._bias, self.eps = [module], weight, bias, eps

    @property
    def weight(self) -> Any:
        return None if self._weight is None else getattr(self._module[0], self._weight)

    @property
    def bias(self) -> Any:
        return None if self._bias is None else getattr(self._module[0], self._bias)

    def forward(self, x: Tensor) -> Tensor:
        return self._module[0](x)


_EPS = (1e-5, 1e-6, 1e-8, 1e-12, 0.0)


def recognise_norm(module: nn.Module, x: Tensor, y: Tensor) -> Callable[[nn.Module], Norm] | None:
    """How the norm is made that turns x into y, told by its values; None if the module is none that is known here.

    Args:
        module: A module of any class, with gamma and beta, one of them, or neither.
        x: What it was handed, (*batch, width).
        y: What it gave.

    Returns:
        From a module of the same build to its norm.
    """
    if x.shape != y.shape or next(module.children(), None) is not None:
        return None
    some, wanted = x.flatten(0, -2)[:4], y.flatten(0, -2)[:4]
    for make in _makers(module, x.shape[-1]):
        norm = make(module)
        for rows, given in ((some, wanted), (x, y)):
            got = norm.affine(norm.statistics(rows)[0])
            if float((got - given).abs().max()) > 1e-5 * float(given.abs().max()):
                break
        else:
            return make
    return None


def _makers(module: nn.Module, width: int) -> Iterator[Callable[[nn.Module], Norm]]:
    """Ways to read a module as a norm: by its class, else by its parameters of the right width."""
    names = [name for name, parameter in module.named_parameters(recurse=False)]
    if any(parameter.shape != (width,) for parameter in module.parameters(recurse=False)) or len(names) > 2:
        return
    try:
        if open_norm(module, "").scales:
            yield lambda module: open_norm(module, "")
        return
    except ModelError:
        if not names and "norm" not in type(module).__name__.lower():
            return
    said = [value for value in vars(module).values() if type(value) is float and 0 <= value < 1e-2]
    own: list[str | None] = [*names, None]
    for weight, bias, centres, eps in itertools.product(own, own, (True, False), dict.fromkeys((*said, *_EPS))):
        if weight != bias or weight is None:
            yield lambda module, weight=weight, bias=bias, centres=centres, eps=eps: Norm(
                _OwnNorm(module, weight, bias, eps), scales=True, centres=centres
            )
