"""What registers are for: which heads attend to them, and what breaks without one, some, or all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...circuits.baseline import DEFAULT_MEMORY
from ...circuits.judging.bootstrap import Resamples, share
from ...circuits.memory import pairs_within
from ...circuits.report import Figure, Table, Tabular
from ...models.config import TokenLayout
from ...models.errors import TaskError
from ...models.hooked import HookedViT
from ..patching.patch_points import layer_traces
from ..patching.token_ablation import By, ablate_tokens
from .lens import log_softmax


@dataclass(frozen=True, eq=False, repr=False)
class RegisterReport(Tabular):
    """Registers of a model.

    Args:
        model: The model's name.
        n_images: Images.
        heads: A row per head: attention to each register from CLS, and to all from the patches.
        without: A row per set of registers and what replaces them: agreement, KL, accuracy.
    """

    caveat: ClassVar[str] = (  # type: ignore[override]
        "Replaced in front of every block. The mean takes away what differs between images; another image's says what "
        "another state does; shuffled, each register is another image's of its own."
    )

    model: str
    n_images: int
    heads: Table
    without: Table

    @property
    def headline(self) -> str:
        """What was looked at, and the head that attends to registers most."""
        most = max(self.heads.rows, key=lambda row: row[-1].value or 0.0)  # type: ignore[union-attr]
        return f"{self.model}: registers on {self.n_images:,} images; {most[0]} attends to them most ({most[-1]})"

    def table(self) -> Table:
        """What breaks without registers."""
        return self.without

    def __str__(self) -> str:
        return f"{super().__str__()}\n{self.heads}"


def register_report(
    vit: HookedViT,
    images: Float[Tensor, "image channel height width"],
    labels: Tensor | None = None,
    *,
    by: Sequence[By] = ("mean", "another", "shuffle"),
    sets: Sequence[Sequence[str]] | None = None,
    reference: Float[Tensor, "reference channel height width"] | None = None,
    n_bootstrap: int = 1000,
    seed: int = 0,
    memory: int = DEFAULT_MEMORY,
) -> RegisterReport:
    """Which heads attend to the registers, and what the answers lose without one, some, or all of them.

    Costs a forward pass with patterns kept apart, and two or three for each set and kind (see `ablate_tokens`).

    Args:
        vit: The opened model, with registers.
        images: Preprocessed images.
        labels: The class of each image, by index of the logit, for accuracy.
        by: What replaces them.
        sets: Names of registers that go together; by default each by itself, the first half of them, and all.
        reference: Images that means and others are taken from; the images themselves by default.
        n_bootstrap: Bootstrap draws of the images; 0 for no intervals.
        seed: Draws other images, and the bootstrap's.
        memory: Bytes to hold at once.

    Raises:
        TaskError: The model has no registers, or a choice is not possible.
        GraphError: A register is not known.
        DataError: The images don't fit the model.
    """
    names = [f"reg{i}" for i in range(vit.cfg.tokens.n_registers)]
    if not names:
        raise TaskError(
            f"{vit.cfg.name} has no registers. Whether patches serve it as such is said by find_outliers(vit, images)."
        )
    images = vit.check_images(images)
    draws = Resamples.draw(len(images), n_bootstrap, seed=seed)
    half = [names[: len(names) // 2]] if len(names) > 3 else []
    chosen = sets if sets is not None else [*([name] for name in names if len(names) > 1), *half, names]
    with torch.no_grad():
        clean = _logits(torch.cat([vit(batch) for batch in images.split(_size(vit, memory))]))
    rows = [("none", "", *_judged(clean, clean, labels, draws))]
    for some in chosen:
        for kind in by:
            if kind == "shuffle" and len(some) == 1:
                continue  # one register of another image
            options = {"by": kind, "reference": reference, "seed": seed, "memory": memory}
            logits = _logits(ablate_tokens(vit, images, list(some), **options))
            rows.append((", ".join(some), kind, *_judged(clean, logits, labels, draws)))
    columns = ("without", "replaced by", "agreement", "KL", *(["accuracy"] if labels is not None else []))
    return RegisterReport(vit.cfg.name, len(images), _heads(vit, images, draws, memory), Table(columns, tuple(rows)))


def _logits(logits: Tensor) -> Float[np.ndarray, "image class"]:
    return logits.detach().double().cpu().numpy()


def _judged(
    clean: Float[np.ndarray, "image class"],
    logits: Float[np.ndarray, "image class"],
    labels: Tensor | None,
    draws: Resamples,
) -> list[Figure]:
    log_p, log_q = log_softmax(clean), log_softmax(logits)
    agree = share(clean.argmax(-1) == logits.argmax(-1), "answers as with all registers")
    found = [agree, draws.mean((np.exp(log_p) * (log_p - log_q)).sum(-1), "nats", "KL from the whole model")]
    if labels is not None:
        found.append(share(logits.argmax(-1) == labels.cpu().numpy(), "images answered rightly"))
    return found


def _heads(vit: HookedViT, images: Tensor, draws: Resamples, memory: int) -> Table:
    """Attention to each register from CLS, and to all of them from CLS and from the patches, of each head."""
    layout, found = vit.cfg.tokens, []
    for batch in images.split(_size(vit, memory)):
        with torch.no_grad(), vit.borrowed():
            steps = zip(vit.blocks, layer_traces(vit, vit.embed(batch)), strict=True)
            rows = [block.pattern(step.q, step.k)[..., layout.registers] for block, step in steps]
        found.append([torch.cat([_from_cls(row, layout.has_cls), _from_patches(row, layout)], -1) for row in rows])
    every = [torch.cat(parts).double().cpu().numpy() for parts in zip(*found, strict=True)]  # image, head, column
    rows = []
    for layer, values in enumerate(every):
        for head in range(vit.cfg.heads_of(layer)):
            cells = [draws.mean(values[:, head, column], "share", "attention") for column in range(values.shape[-1])]
            rows.append((f"a{layer}.h{head}", *cells))
    each = [f"CLS to reg{i}" for i in range(layout.n_registers)] if layout.has_cls else []
    return Table(("head", *each, "patches to all"), tuple(rows), "mean attention over images")


def _from_cls(rows: Float[Tensor, "image head token register"], has_cls: bool) -> Tensor:
    return rows[:, :, 0] if has_cls else rows[:, :, 0, :0]


def _from_patches(rows: Float[Tensor, "image head token register"], layout: TokenLayout) -> Tensor:
    return rows[:, :, layout.patches].sum(-1).mean(-1, keepdim=True)


def _size(vit: HookedViT, memory: int) -> int:
    return pairs_within(vit, memory, residuals=20, hidden=4, patterns=6)
