"""Interpretability of a model's heads, measured: factors and texts.

What heads write, and what they add to the output directly, taken from a model as plain arrays.

The direct effect of a head is what its write at the tokens that are read adds to each output, with the standard
deviations of the readout's norms, and what a head of texts divides by, held at their values; so it is linear in the
write (as in `attribution/direct`). What the head does through later layers is not in it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy.typing import NDArray
from torch import Tensor, nn

from ...circuits.baseline import DEFAULT_MEMORY, source_values
from ...circuits.circuit import Circuit
from ...circuits.graph import first_head
from ...circuits.judging.bootstrap import Resamples
from ...circuits.memory import batch_size_for
from ...circuits.names import parse_end
from ...models.errors import DataError, ModelError
from ...models.hooked import HookedViT
from ...models.readouts import NO_CLASSES, TextHead
from .factor_table import FactorTable
from .factors import as_factors, fit_factors
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


At = Literal["read", "patches"]
"""Where a head's write is taken: at the tokens that the readout reads, or at the patches; the mean over them."""

Heads = Sequence[str] | Circuit | None
"""Names such as `a0.h1`, a circuit, whose heads they are, or None for all."""


def head_names(vit: HookedViT, heads: Heads = None) -> tuple[str, ...]:
    """The names of some heads, in the order in which they write.

    Args:
        vit: The opened model.
        heads: Which: names, those of a circuit from which an edge starts, or None for all.

    Raises:
        ModelError: The model has no such head, or none is wanted.
    """
    cfg = vit.cfg
    every = tuple(f"a{layer}.h{head}" for layer in range(cfg.n_layers) for head in range(cfg.heads_of(layer)))
    if heads is None:
        return every
    wanted = circuit_heads(heads) if isinstance(heads, Circuit) else set(heads)
    if unknown := sorted(wanted - set(every)):
        raise ModelError(f"{cfg.name} has no head {unknown[0]!r}: pass names such as {every[0]!r} or {every[-1]!r}.")
    if not wanted:
        raise ModelError("there are no heads: pass names such as heads=['a0.h1'], a circuit with heads, or heads=None.")
    return tuple(name for name in every if name in wanted)


def circuit_heads(circuit: Circuit) -> set[str]:
    """The heads from which an edge of the circuit starts."""
    return {edge.source.node for edge in circuit if edge.source.kind == "head"}


def head_writes(
    vit: HookedViT,
    images: Float[Tensor, "image channel height width"],
    *,
    heads: Heads = None,
    at: At | str = "read",
    memory: int = DEFAULT_MEMORY,
) -> Float64[np.ndarray, "head image model"]:
    """What each head writes, averaged over some tokens. Costs a forward pass.

    In front of attention pooling no head writes to the token that is read: look at the patches there.

    Args:
        vit: The opened model.
        images: Preprocessed images.
        heads: Which heads.
        at: Which tokens.
        memory: Bytes to hold at once.

    Raises:
        ModelError: A head or the tokens are not known.
        DataError: The images don't fit the model.
    """
    if at not in get_args(At):
        raise ModelError(f"at={at!r} is not known: pass at='read' (what the readout reads) or at='patches'.")
    tokens = vit.readout.read if at == "read" else vit.cfg.tokens.patches
    places = _places(vit, head_names(vit, heads))
    with torch.no_grad():
        found = [_array(sources[places][:, :, tokens].mean(2)) for sources in _sources(vit, images, memory)]
    return np.concatenate(found, axis=1)


def head_effects(
    vit: HookedViT,
    images: Float[Tensor, "image channel height width"],
    *,
    heads: Heads = None,
    memory: int = DEFAULT_MEMORY,
) -> Float64[np.ndarray, "head image output"]:
    """What each head adds to each output directly; of logits of classes, less the mean over them (no softmax sees it).

    Costs a forward pass, and a backward pass through the readout for each output.

    Args:
        vit: The opened model; with `nn.Identity()` or a projection as readout, the outputs are a representation's.
        images: Preprocessed images.
        heads: Which heads.
        memory: Bytes to hold at once.

    Raises:
        ModelError: A head is not known.
        DataError: The images don't fit the model.
    """
    places, found = _places(vit, head_names(vit, heads)), []
    bias = sum(block.attn_bias for block in vit.blocks)
    with torch.no_grad():
        for sources in _sources(vit, images, memory):
            read = vit.readout.select(sources.sum(0) + bias).detach()
            found.append(_array(_effects(vit, read, vit.readout.select(sources[places]))))
    effects = np.concatenate(found, axis=1)
    return effects if vit.readout.kind in NO_CLASSES else effects - effects.mean(-1, keepdims=True)


def _effects(
    vit: HookedViT, read: Float[Tensor, "image read model"], writes: Float[Tensor, "head image read model"]
) -> Float[Tensor, "head image output"]:
    with torch.enable_grad():
        at = read.requires_grad_(True)
        outputs = vit.readout(at, freeze_norm=True)
        found = []
        for column in range(outputs.shape[-1]):
            (gradient,) = torch.autograd.grad(outputs[:, column].sum(), at, retain_graph=True)
            found.append(torch.einsum("hitd,itd->hi", writes, gradient))
    return torch.stack(found, -1)


def represented(vit: HookedViT, dim: int, project: nn.Module | None = None) -> HookedViT:
    """The same ViT, with the representation that texts are compared with as its outputs.

    Args:
        vit: A CLIP image tower, under its own projection or a readout of texts.
        dim: Dimensions of the texts' embeddings.
        project: From the pooled vector into their space, where the ViT does not say.

    Raises:
        ModelError: The ViT has no space that it shares with texts, or one of another number of dimensions.
    """
    head = vit.readout.head
    found = project if project is not None else head.project if isinstance(head, TextHead) else head
    if project is None and not isinstance(head, TextHead) and vit.readout.kind not in NO_CLASSES:
        raise ModelError(
            f"the outputs of {vit.cfg.name} are classes, not a space that images share with texts: pass a CLIP image "
            f"tower, or project=, the map from the pooled vector into the texts' space."
        )
    other = vit.with_readout(found, pool=vit.readout.info.get("pool", "own"), info={"kind": "embedding"})
    if other.cfg.n_classes != dim:
        raise ModelError(
            f"the texts have {dim} dimensions, but {vit.cfg.name} puts images into a space of {other.cfg.n_classes}: "
            f"pass embeddings from the text tower that it was trained with."
        )
    return other


def _sources(vit: HookedViT, images: Tensor, memory: int) -> Iterator[Float[Tensor, "source image token model"]]:
    with vit.borrowed():
        for batch in vit.check_images(images).split(batch_size_for(vit, memory, copies=2)):
            yield source_values(vit, batch)


def _places(vit: HookedViT, names: Sequence[str]) -> list[int]:
    """Indices of heads among the sources."""
    ends = [parse_end(name) for name in names]
    return [first_head(vit.cfg, end.layer) + end.head for end in ends]


def _array(values: Tensor) -> NDArray[np.float64]:
    return values.detach().double().cpu().numpy()
