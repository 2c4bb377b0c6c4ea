"""From the last residual to the logits: final norm, pooling, head; and another head in place of a model's own.

A head is any module from the pooled vector to the logits. One may also have `frozen(x)`: the same values, with what it
divides by a constant in the backward pass, so that the logits are linear in x. It is called instead of the head
wherever norms are frozen.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .config import VitConfig
from .errors import ModelError
from .norms import Norm

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


Pool = Literal["own", "cls", "patches"]
"""What a head is given: what the model's own head gets, the class token, or the mean over the patches."""

NO_CLASSES = ("features", "embedding")
"""Kinds of readout whose outputs are no classes."""


@dataclass(frozen=True, eq=False)
class Readout:
    """A head over one token or an average of tokens, or two heads over one token each.

    Args:
        tokens: The tokens it looks at.
        norm: Norm of each token.
        fc_norm: Norm of the pooled vector.
        head: From the pooled vector to the logits; see above for what it may be besides a linear map.
        second_head: Of distilled models: `head` reads the first token and this one the second, and the logits are
            their mean.
        info: What a head is that took the place of the model's own, in plain values: `kind`, `classes`, `pool`,
            `sha256`, and what it was made of. Empty for the model's own.
        beside: The pooled vector is the first token beside the mean of those from this one on (DINOv2's classifier);
            None for one token or a mean.
    """

    tokens: tuple[int, ...]
    norm: Norm
    fc_norm: Norm
    head: nn.Module
    second_head: nn.Module | None = None
    info: Mapping[str, Any] = field(default_factory=dict)
    beside: int | None = None

    def __repr__(self) -> str:
        return f"Readout({self.kind!r}, {len(self.tokens)} of the tokens)"

    @property
    def kind(self) -> str:
        """What the logits are.

        `classes` (the model's own head, or another linear one), `text`, `means`, `ridge`, or what has no classes:
        `features` (a model without a head) and `embedding` (the projection of a CLIP image tower).
        """
        if "kind" in self.info:
            return str(self.info["kind"])
        if isinstance(self.head, TextHead | nn.Identity):
            return "text" if isinstance(self.head, TextHead) else "features"
        bare = isinstance(self.head, nn.Linear) and self.head.bias is None
        return "embedding" if bare or isinstance(self.head, ProjectionHead) else "classes"

    @property
    def read(self) -> slice:
        """The tokens that are read: they stand next to one another."""
        return slice(self.tokens[0], self.tokens[-1] + 1)

    def select(self, residual: Float[Tensor, "*batch token model"]) -> Float[Tensor, "*batch read model"]:
        """The tokens that are read (a view)."""
        return residual[..., self.read, :]

    def __call__(
        self, read: Float[Tensor, "*batch read model"], *, freeze_norm: bool = False
    ) -> Float[Tensor, "*batch class"]:
        """Logits from the residual at the read tokens.

        Args:
            read: What `select` gives.
            freeze_norm: Treat both norms' standard deviations, and what a head divides by, as constants in the
                backward pass.
        """
        if freeze_norm:
            return self.after_norm(self.norm.frozen(read), fc_norm=self.fc_norm.frozen, freeze_norm=True)
        return self.after_norm(self.norm(read))

    def after_norm(
        self,
        normed: Float[Tensor, "*batch read model"],
        *,
        fc_norm: Callable[[Tensor], Tensor] | None = None,
        freeze_norm: bool = False,
    ) -> Float[Tensor, "*batch class"]:
        """Logits from the normed tokens that are read.

        Args:
            normed: Behind the norm of each token.
            fc_norm: What to do in place of the pooled vector's norm.
            freeze_norm: Treat what a head divides by as a constant in the backward pass.
        """
        if self.second_head is not None:
            return (self.head(normed[..., 0, :]) + self.second_head(normed[..., 1, :])) / 2
        pooled = normed[..., 0, :] if len(self.tokens) == 1 else normed.mean(-2)
        if self.beside is not None:
            pooled = torch.cat([normed[..., 0, :], normed[..., self.beside :, :].mean(-2)], -1)
        head = getattr(self.head, "frozen", self.head) if freeze_norm else self.head
        return head((fc_norm or self.fc_norm)(pooled))

    def logits(self, residual: Float[Tensor, "*batch token model"]) -> Float[Tensor, "*batch class"]:
        """Logits from the whole last residual."""
        return self(self.select(residual))


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """The modules in evaluation mode, put back afterwards."""
    training = [part for module in modules for part in module.modules() if part.training]
    try:
        for part in training:
            part.training = False
        yield
    finally:
        for part in training:
            part.training = True


def replace_head(
    own: Readout,
    cfg: VitConfig,
    head: nn.Module,
    *,
    like: Tensor,
    labels: Sequence[str] | None = None,
    pool: Pool | str = "own",
    info: Mapping[str, Any] | None = None,
) -> tuple[Readout, VitConfig]:
    """The readout with another head, and the sizes that go with it. Weights of another type or place are copied.

    Args:
        own: The model's own readout.
        cfg: The model's own sizes.
        head: What takes the place of its head.
        like: One of the model's weights, in the type and the place that the head's are wanted in.
        labels: One name per logit.
        pool: What the head is given.
        info: What it is, for the record; `kind`, `classes`, `pool` and `sha256` are filled in.

    Raises:
        ModelError: The head does not fit the pooled vector, holds NaN, or has another number of labels; or the model
            has no such tokens to pool.
    """
    tokens = _tokens(own, cfg, pool)
    beside = own.beside if pool == "own" else None
    bare = Readout(tokens, own.norm, own.fc_norm, _placed(head, own.head, like), beside=beside)
    n_classes = _count_classes(bare, cfg, labels, like)
    kind = "classes" if labels and bare.kind in NO_CLASSES else bare.kind
    found = {"kind": kind, "classes": list(labels or ()), "pool": pool, **(info or {})}
    found["sha256"] = head_digest(head_tensors(bare.head, own.head), found)
    pooling = cfg.pooling if pool == "own" and cfg.pooling != "distilled" else _POOLING[len(tokens) > 1]
    read = cfg.read_tokens if pool == "own" else tokens
    sizes = dataclasses.replace(cfg, n_classes=n_classes, read_tokens=read, pooling=pooling)
    return dataclasses.replace(bare, info=found), sizes


_POOLING = {False: "token", True: "average"}


def head_tensors(head: nn.Module, own: nn.Module) -> dict[str, Tensor]:
    """What a head is made of, by name, without what it shares with the model's own head."""
    parts = {} if head is own else own.state_dict(keep_vars=True)
    shared = {id(value) for value in parts.values()}
    return {name: value.detach() for name, value in head.state_dict(keep_vars=True).items() if id(value) not in shared}


def head_digest(tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> str:
    """sha256 of what a head is made of, its classes and its pooling, in hexadecimal."""
    found = hashlib.sha256(repr((info["kind"], list(info["classes"]), info["pool"])).encode())
    for name, value in sorted(tensors.items()):
        found.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        found.update(value.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def _tokens(own: Readout, cfg: VitConfig, pool: str) -> tuple[int, ...]:
    layout = cfg.tokens
    if pool == "own":
        return own.tokens
    if cfg.pooling not in ("token", "average", "distilled", "cls+average"):
        raise ModelError(
            f'{cfg.name} pools by {cfg.pooling}, which is part of its graph: pass pool="own", what its own head gets.'
        )
    if pool == "cls" and layout.has_cls:
        return (0,)
    if pool == "patches":
        return tuple(range(layout.n_tokens)[layout.patches])
    if pool == "cls":
        raise ModelError(f'{cfg.name} has no class token: pass pool="patches", or pool="own".')
    raise ModelError(f"pool={pool!r} is not known: pass 'own', 'cls' or 'patches'.")


def _placed(head: nn.Module, own: nn.Module, like: Tensor) -> nn.Module:
    """The head, or a copy of it in the model's type and place; the model's own head is shared, not copied."""
    parts = [*head.parameters(), *head.buffers()]
    floats = [part for part in parts if part.is_floating_point()]
    if all(part.dtype == like.dtype and part.device == like.device for part in floats):
        return head
    return copy.deepcopy(head, {id(own): own}).to(device=like.device, dtype=like.dtype)


def _count_classes(bare: Readout, cfg: VitConfig, labels: Sequence[str] | None, like: Tensor) -> int:
    width = cfg.d_model * (1 if bare.beside is None else 2)
    for name, value in bare.head.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ModelError(f"the head for {cfg.name} holds NaN or infinity in {name!r}: make it again.")
    try:
        with torch.no_grad(), evaluating(bare.head):
            shape = tuple(bare.head(like.new_zeros(1, width)).shape)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ModelError(
            f"the head does not take the vector of {width} numbers that {cfg.name} gives it: "
            f"{str(error).splitlines()[0]}."
        ) from error
    if len(shape) != 2:
        raise ModelError(f"the head gives {shape} for one image, but (1, class) was wanted: one logit per class.")
    if labels is not None and len(labels) != shape[1]:
        raise ModelError(f"there are {len(labels)} labels for {shape[1]} logits: pass one name per logit.")
    return shape[1]
