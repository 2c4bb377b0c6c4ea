"""Interpretability of a model's heads and layers, measured: factors, texts, and the lens."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from ...circuits.baseline import DEFAULT_MEMORY
from ...circuits.judging.bootstrap import Resamples
from ...models.errors import DataError, ModelError
from ...models.hooked import HookedViT
from .factor_table import FactorTable
from .factors import as_factors, fit_factors
from .gather import At, Heads, head_effects, head_names, head_writes, lens_logits, represented
from .lens import LensTable, read_lens
from .texts import HeadTexts, Pick, TextTable, explained_ends, principal_explained, random_explained, text_span

if TYPE_CHECKING:
    from ...models.toys.sprites import SpriteFactors


def head_factors(
    vit: HookedViT,
    images: Float[Tensor, "image channel height width"],
    factors: Mapping[str, NDArray] | SpriteFactors,
    *,
    heads: Heads = None,
    of: Literal["write", "effect"] | str = "write",
    at: At | str = "read",
    n_folds: int = 5,
    n_shuffles: int = 50,
    n_bootstrap: int = 1000,
    seed: int = 0,
    memory: int = DEFAULT_MEMORY,
) -> FactorTable:
    """How well each head is described by one known factor: R^2 of a ridge regression on images that were left out.

    It says what can be read off a head by a linear map, not what the model reads; an untrained model of the same
    shape is what to compare with. Costs a forward pass, and per head some regressions of the head's width.

    Args:
        vit: The opened model.
        images: Preprocessed images, a few hundred at least.
        factors: Name -> one value per image (integers and words are choices, other numbers numbers), or the factors of
            sprites, `factors_of(data.test.names)`.
        heads: Names, a circuit, whose heads they are, or None for all.
        of: What of a head: its `write`, or its direct `effect` on the outputs.
        at: Where its write is taken: at what the readout reads (`read`), or the mean over the `patches`.
        n_folds: Parts that the images are dealt into; each is predicted from the others.
        n_shuffles: How often the factors are dealt out to other images, for the null.
        n_bootstrap: Bootstrap draws of the images; 0 for no intervals.
        seed: Deals and draws.
        memory: Bytes to hold at once.

    Raises:
        DataError: Images or factors don't fit each other or the model, or are too few.
        ModelError: A head, `of` or `at` is not known.
    """
    if of not in ("write", "effect"):
        raise ModelError(f"of={of!r} is not known: pass of='write' (what heads write) or of='effect' (on the outputs).")
    known = as_factors(vars(factors) if dataclasses.is_dataclass(factors) else factors)  # type: ignore[arg-type]
    options: dict[str, Any] = {"heads": heads, "memory": memory}
    writes = head_effects(vit, images, **options) if of == "effect" else head_writes(vit, images, at=at, **options)
    how = {"n_folds": n_folds, "n_shuffles": n_shuffles, "n_bootstrap": n_bootstrap, "seed": seed}
    fits = fit_factors(writes, known, **how)
    method = {"of": of, "at": at if of == "write" else "read", "n_images": len(images), **how}
    return FactorTable(vit.cfg.name, head_names(vit, heads), tuple(factor.name for factor in known), fits, method)


def head_texts(
    vit: HookedViT,
    images: Float[Tensor, "image channel height width"],
    texts: Sequence[str],
    embeddings: Float[Tensor, "text dim"],
    *,
    n: int = 5,
    heads: Heads = None,
    project: nn.Module | None = None,
    pick: Pick | str = "variance",
    n_random: int = 20,
    n_bootstrap: int = 1000,
    seed: int = 0,
    memory: int = DEFAULT_MEMORY,
) -> TextTable:
    """Which texts span what each head of a CLIP image tower adds to the image representation (TextSpan).

    They are the best of the list that is given, and direct contributions leave out what a head does through later
    layers (Gandelsman, Efros and Steinhardt 2024, section 4.1; see `text_span`). Costs a forward pass, and a backward
    pass through the readout per dimension.

    Args:
        vit: The image tower, under its own projection or a readout of texts.
        images: Preprocessed images.
        texts: The list of descriptions.
        embeddings: Of the texts, by the text tower that the image tower was trained with, of any length.
        n: Texts per head.
        heads: Names, a circuit, whose heads they are, or None for all.
        project: From the pooled vector into the texts' space, where the ViT does not say.
        pick: What the next text has most of: `variance` of the products, as in the paper, or variance `explained`.
        n_random: Lists of as many random directions to compare with.
        n_bootstrap: Bootstrap draws of the images; 0 for no intervals.
        seed: Of both.
        memory: Bytes to hold at once.

    Raises:
        DataError: Texts and embeddings don't fit each other, n is below 1, or images don't fit the model.
        ModelError: A head is not known, or the model has no space that it shares with texts.
    """
    if len(texts) != len(embeddings):
        raise DataError(f"there are {len(texts)} texts and {len(embeddings)} embeddings: pass one for each text.")
    other = represented(vit, embeddings.shape[1], project)
    contributions = head_effects(other, images, heads=heads, memory=memory)
    directions = embeddings.detach().double().cpu().numpy()
    whole = _variance(_outputs(other, images, memory))
    resamples = Resamples.draw(len(images), n_bootstrap, seed=seed)
    found = []
    for row, (name, rows) in enumerate(zip(head_names(vit, heads), contributions, strict=True)):
        span = text_span(rows, directions, n, pick=pick)
        steps, chosen = len(span.taken), {"pick": pick, "n_draws": n_random, "seed": [seed, 2, row]}
        drawn = random_explained(rows, len(texts), steps, **chosen) if steps else np.zeros(0)
        low, high = explained_ends(span, resamples)
        taken = tuple(texts[int(place)] for place in span.taken)
        principal = principal_explained(rows, steps) if steps else np.zeros(0)
        found.append(HeadTexts(name, taken, span.explained, low, high, drawn, principal, _variance(rows) / whole))
    method = {"n_texts": len(texts), "n": n, "pick": pick, "n_images": len(images), "n_random": n_random, "seed": seed}
    return TextTable(vit.cfg.name, tuple(found), method)


def _variance(rows: NDArray[np.float64]) -> float:
    return float(np.square(rows - rows.mean(0)).sum(1).mean())


def _outputs(vit: HookedViT, images: Tensor, memory: int) -> NDArray[np.float64]:
    from ...circuits.memory import batch_size_for

    with torch.no_grad():
        parts = [vit(batch) for batch in images.split(batch_size_for(vit, memory))]
    return torch.cat(parts).double().cpu().numpy()


def logit_lens(
    vit: HookedViT,
    images: Float[Tensor, "image channel height width"],
    targets: Int[Tensor, " image"] | None = None,
    *,
    n_bootstrap: int = 1000,
    seed: int = 0,
    memory: int = DEFAULT_MEMORY,
) -> LensTable:
    """How soon the layers' readings agree with the output: top-1 agreement, KL and rank of the target, by layer.

    The readout's basis is the last layer's, so that a layer that disagrees may hold the answer in another one. Where
    attention pooling follows the last block, every layer is pooled by it before it is read.

    Args:
        vit: The opened model, with a readout whose outputs are classes.
        images: Preprocessed images.
        targets: The class of each image whose rank is wanted, such as its label; by default the model's answer.
        n_bootstrap: Bootstrap draws of the images; 0 for no intervals of KL and rank.
        seed: Draws them.
        memory: Bytes to hold at once.

    Raises:
        DataError: Images or targets don't fit the model or each other.
        ModelError: The outputs are no classes.
    """
    logits, layers = lens_logits(vit, images, memory=memory)
    readings = read_lens(logits, None if targets is None else targets.cpu().numpy())
    method = {
        "targets": "the model's answer" if targets is None else "the given classes",
        "pooling": "each layer is pooled by the model's attention pooling" if vit.cfg.pools else "",
        "n_bootstrap": n_bootstrap,
        "seed": seed,
    }
    return LensTable(vit.cfg.name, layers, readings, logits.shape[-1], method)
