"""Text directions as a head (CLIP).

A head is any module from the pooled vector to the logits. One may also have `frozen(x)`: the same values, with what it
divides by a constant in the backward pass, so that the logits are linear in x. It is called instead of the head
wherever norms are frozen.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .errors import ModelError

_SMALLEST = 1e-12  # of a length that is divided by, as in torch.nn.functional.normalize


class TextHead(nn.Module):
    """Logits by the angle to a direction per class, as CLIP classifies without training.

        logit[c] = scale * cos(project(x), embedding[c]) + bias

    Its linear part, for a length of project(x) that is held constant, is what direct logit attribution projects on.

    Args:
        project: From the pooled vector into the space of the texts: the image tower's own projection, by reference.
        embeddings: A vector per class, (class, dim), of any length.
        scale: What the cosine is multiplied by: CLIP's exp(logit_scale).
        bias: Added to every logit (SigLIP's logit_bias).

    Raises:
        ModelError: The embeddings hold NaN, infinity or a vector of length 0, or are not in `project`'s space.
    """

    embeddings: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(
        self,
        project: nn.Module,
        embeddings: Float[Tensor, "class dim"],
        *,
        scale: float = 100.0,
        bias: float | None = None,
    ) -> None:
        super().__init__()
        lengths = embeddings.norm(dim=-1, keepdim=True)
        if not bool((torch.isfinite(lengths) & (lengths > _SMALLEST)).all()):
            raise ModelError(
                "the class embeddings hold NaN, infinity, or a vector of length 0, which has no direction: leave that "
                "class out, or encode its text again."
            )
        wanted = getattr(project, "out_features", embeddings.shape[1])
        if wanted != embeddings.shape[1]:
            raise ModelError(
                f"the class embeddings have {embeddings.shape[1]} dimensions, but the image tower projects into "
                f"{wanted}: pass embeddings from the text tower that it was trained with."
            )
        self.project = project
        self.register_buffer("embeddings", (embeddings / lengths).detach())
        self.register_buffer("scale", torch.as_tensor(scale, dtype=embeddings.dtype, device=embeddings.device))
        offset = None if bias is None else torch.as_tensor(bias, dtype=embeddings.dtype, device=embeddings.device)
        self.register_buffer("bias", offset)

    def forward(self, x: Float[Tensor, "*batch model"]) -> Float[Tensor, "*batch class"]:
        """The logits."""
        image = self.project(x)
        return self._logits(image, image.norm(dim=-1, keepdim=True))

    def frozen(self, x: Float[Tensor, "*batch model"]) -> Float[Tensor, "*batch class"]:
        """The same logits, with the length of project(x) a constant in the backward pass."""
        image = self.project(x)
        return self._logits(image, image.detach().norm(dim=-1, keepdim=True))

    def _logits(self, image: Tensor, length: Tensor) -> Tensor:
        logits = self.scale * (image / length.clamp_min(_SMALLEST)) @ self.embeddings.T
        return logits if self.bias is None else logits + self.bias


class ProjectionHead(nn.Module):
    """x @ matrix: a projection that is a plain parameter of the image tower (open_clip's `proj`), by reference.

    Args:
        matrix: (model, dim).
    """

    def __init__(self, matrix: nn.Parameter) -> None:
        super().__init__()
        self.matrix = matrix
        self.in_features, self.out_features = matrix.shape

    def forward(self, x: Float[Tensor, "*batch model"]) -> Float[Tensor, "*batch dim"]:
        """The vector in the space of the texts."""
        return x @ self.matrix
