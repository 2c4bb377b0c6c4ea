"""Gradients at every destination, summed over the points of a path.

The gradient at a head's port is carried back through that head's rows W of the fused projection and through the norm's
Jacobian. With gradient e at the projection's output, and gamma and the centring folded into W,

    dm/dx = r (W' e) - r xhat (W' e . gamma xhat) / d        W' e . gamma xhat = e . (fused output - its constant part)

so the first term needs no pass over the residual's width beyond the product itself, and the second (the norm's radial
part, left out when the norm is frozen) is of rank one per token. Several points of a path add their e r, so that one
contraction serves all of them; only the rank-one parts are kept apart.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from ...models.blocks import OpenBlock
from ...models.hooked import HookedViT
from .tape import LayerTape, Tape


@dataclass
class LayerGradients:
    """Gradients at the destinations of one block, summed over points, each times its weight.

    Args:
        scaled: r e, (pair, token, 3 x head x d_head).
        mlp: At the residual that the MLP reads, (pair, token, model); in the last block (pair, read token, model).
        radial: Of each point, r (W' e . gamma xhat) / d for each port, (pair, token, port), and xhat, (pair, token,
            model).
    """

    scaled: Tensor
    mlp: Tensor
    radial: list[tuple[Tensor, Tensor]] = field(default_factory=list)


class Gradients:
    """Gradients at every destination.

    Args:
        vit: The opened model.
        freeze_norm: Leave out the radial part of norm1 (the tape leaves out the other norms').
    """

    def __init__(self, vit: HookedViT, *, freeze_norm: bool) -> None:
        self._vit, self._freeze_norm = vit, freeze_norm
        self.layers: list[LayerGradients] = []
        self._read: Tensor | None = None

    @property
    def read(self) -> Float[Tensor, "pair token model"]:
        """At the residual that the readout reads."""
        assert self._read is not None
        return self._read

    def add(self, tape: Tape, weight: float = 1.0) -> None:
        """Adds the gradients of one point with a weight; the tape's own are used up."""
        first = not self.layers
        for layer, (block, taped) in enumerate(zip(self._vit.blocks, tape.layers, strict=True)):
            scaled, mlp = taped.scaled.mul_(weight), taped.grad_mlp.mul_(weight)
            radial = [] if self._freeze_norm or not block.norm1.scales else [_radial(block, taped, scaled)]
            if first:
                self.layers.append(LayerGradients(scaled, mlp, radial))
            else:
                sums = self.layers[layer]
                sums.scaled += scaled
                sums.mlp += mlp
                sums.radial += radial
        self._read = tape.grad_read * weight if self._read is None else self._read + tape.grad_read * weight

    def clear_ports(self, n: int) -> None:
        """Sets the gradients at the first n of q, k and v to zero, for edges that are scored in another way."""
        for layer, block in zip(self.layers, self._vit.blocks, strict=True):
            layer.scaled[..., : n * block.n_heads * block.d_read] = 0
            for coefficient, _ in layer.radial:
                coefficient[..., : n * block.n_heads] = 0


def _radial(block: OpenBlock, taped: LayerTape, scaled: Tensor) -> tuple[Tensor, Tensor]:
    assert taped.residual is not None and taped.fused is not None
    bias, weight = block.reads.bias, block.reads.weight
    constant = 0.0 if bias is None else bias
    if block.norm1.bias is not None:
        constant = constant + weight @ block.norm1.bias
    moved = (taped.fused - constant) * scaled
    coefficient = moved.unflatten(-1, (3 * block.n_heads, block.d_read)).sum(-1) / weight.shape[1]
    return coefficient, block.norm1.statistics(taped.residual)[0]
