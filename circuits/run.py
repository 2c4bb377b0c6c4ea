"""The model run under a circuit.

An edge in the circuit carries what its source computes in this run, an edge outside carries the ablation's value. For
each destination r,

    x_r = x'_r + sum over kept u of (a_u - a'_u)      or      x_r = x_now - sum over dropped u of (a_u - a'_u)

whichever has fewer terms (a: this run, a': ablated; x' holds every bias that belongs to no source). A source with no
kept path from the input carries a' by definition. Inside a head with several token groups, an edge from group s to
group t decides whether tokens of t see this run's keys (or values) of the tokens of s, or those that the head reads
from the ablated residual x'.

Many circuits run on the same pairs (`run_masks`) share the ablated values and the clean run, computed once per batch:
batches are the outer loop, masks the inner one. Masks that occur twice run once, and the mask that keeps every edge is
the clean run itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from ..models import processes
from ..models.devices import pace
from ..models.errors import GraphError
from ..models.hooked import HookedViT
from ..models.watching import progress_bar
from .ablation import Ablation, as_ablation
from .baseline import DEFAULT_MEMORY, Baseline, constants, images_at_once, make_baseline
from .circuit import Circuit
from .graph import Graph, first_head
from .masked_run import MaskWeights, SharedValues, masked_logits, run_mask
from .memory import batch_size_for, chunk_size, pairs_within
from .tasks.metrics import Metric
from .tasks.task import Pairs
from .token_parts import Part, groups_of, parts_of, rows_of


def run_circuit(
    vit: HookedViT,
    circuit: Circuit,
    clean: Float[Tensor, "batch channel height width"],
    corrupt: Float[Tensor, "batch channel height width"],
    *,
    ablation: Ablation | str | None = None,
    reference: Tensor | None = None,
    ids: Tensor | None = None,
    objects: Bool[Tensor, "batch token"] | None = None,
    memory: int = DEFAULT_MEMORY,
) -> Float[Tensor, "batch class"]:
    """Logits of the model on `clean` when only the circuit's edges carry this run's values.

    Args:
        vit: The opened model.
        circuit: Which edges are kept.
        clean: Preprocessed images.
        corrupt: Their corrupted partners.
        ablation: What the other edges carry; the circuit's own description by default.
        reference: Images that all ablations but `partner` and `zero` draw on, such as `task.reference`; those of
            `optimal` are to be the ones that it was learned with.
        ids: A number of its own for each pair, by which `another` and `noise` are drawn.
        objects: Where the object is in each pair, for a graph over `tokens="mask"`.
        memory: Bytes to hold at once; pairs are run in batches that fit.

    Raises:
        GraphError: The circuit belongs to a graph of another model.
        TaskError: Shapes differ, or reference images or objects are missing.
        DataError: The images don't fit the model.
    """
    require_model(vit, circuit.graph)
    chosen = circuit.ablation if ablation is None else as_ablation(ablation)
    baseline = make_baseline(vit, chosen, reference, memory=memory)
    where = None if objects is None else objects[:, None].expand(-1, 2, -1)
    pairs = Pairs(vit.check_images(clean), vit.check_images(corrupt), ids=ids, objects=where)
    return run_pairs(vit, circuit.graph, circuit.mask, pairs, baseline, memory=memory)


def require_model(vit: HookedViT, graph: Graph) -> None:
    """Does nothing if the graph was compiled for a model of this shape.

    Raises:
        GraphError: It was not.
    """
    wanted = Graph(vit.cfg, graph.groups, graph.ports)
    if vit.cfg.tokens.n_tokens != len(graph.groups.of_token) or wanted.signature != graph.signature:
        raise GraphError(
            f"the circuit belongs to another graph: it was made for {graph.cfg.name} ({graph.cfg.n_layers} layers of "
            f"{graph.cfg.n_heads} heads, {graph.cfg.tokens.n_tokens} tokens), but the model is {vit.cfg.name} "
            f"({vit.cfg.n_layers} layers of {vit.cfg.n_heads} heads, {vit.cfg.tokens.n_tokens} tokens). "
            f"Load the model that it was made for."
        )


def run_pairs(
    vit: HookedViT,
    graph: Graph,
    mask: NDArray[np.bool_],
    pairs: Pairs,
    baseline: Baseline,
    *,
    memory: int = DEFAULT_MEMORY,
) -> Float[Tensor, "pair class"]:
    """Logits under a mask of kept edges, in batches that fit into `memory` bytes."""
    parts = parts_of(graph, pairs, alike=False)
    size = chunk_size(vit, len(pairs), masked_at_once(vit, baseline.ablation, memory))

    def one(chunk: tuple[Part, Pairs, MaskWeights]) -> Tensor:
        part, batch, weights = chunk
        images, of_token = vit.check_images(batch.clean), groups_of(part.graph, batch)
        return masked_logits(vit, weights, images, baseline(batch), of_token).cpu()

    with torch.no_grad(), vit.borrowed():
        weights = [MaskWeights.from_mask(part.graph, mask[part.edges], vit) for part in parts]
        chunks = [
            (part, batch, own) for part, own in zip(parts, weights, strict=True) for batch in part.pairs.batches(size)
        ]
        return torch.cat(list(processes.in_order(one, chunks)))[rows_of(parts)].to(vit.device)


def masked_at_once(vit: HookedViT, ablation: Ablation, memory: int) -> int:
    """Pairs whose runs under a mask fit beside an ablation's constants; at least 1."""
    return batch_size_for(vit, memory - constants(vit, ablation), copies=3)


def masks_sizes(vit: HookedViT, ablation: Ablation) -> list[Callable[[int], int]]:
    """What runs under masks ask of a budget, from the ablation's statistics on; see `require_memory`."""
    return [partial(images_at_once, vit, ablation), partial(masked_at_once, vit, ablation)]


@dataclass(frozen=True, eq=False)
class MaskRuns:
    """What the model said under each mask.

    Args:
        outputs: Metric of each mask on each pair, shape (mask, pair).
        clean_outputs: Metric of the clean run, shape (pair,).
        logits: Of the first masks, as many as were asked for, shape (mask, pair, class), float64 on the CPU.
        clean_logits: Of the clean run, shape (pair, class), likewise.
    """

    outputs: NDArray[np.float64]
    clean_outputs: NDArray[np.float64]
    logits: Float[Tensor, "mask pair class"]
    clean_logits: Float[Tensor, "pair class"]


def run_masks(
    vit: HookedViT,
    graph: Graph,
    masks: Sequence[NDArray[np.bool_]],
    metric: Metric,
    pairs: Pairs,
    baseline: Baseline,
    *,
    clean_logits: Float[Tensor, "pair class"] | None = None,
    n_logits: int = 0,
    memory: int = DEFAULT_MEMORY,
    progress: bool | None = None,
    label: str = "circuits",
) -> MaskRuns:
    """The metric of every mask on every pair. Costs one clean run, the baseline's runs, and one run per mask.

    Args:
        vit: The opened model.
        graph: The graph of the masks.
        masks: Kept edges, each of shape (edge,).
        metric: Logits -> one number per pair.
        pairs: Pairs of images.
        baseline: What removed edges carry.
        clean_logits: Of the clean run, where an earlier one on the same pairs has said them.
        n_logits: Keep the logits of the first so many masks.
        memory: Bytes to hold at once; pairs are run in batches that fit.
        progress: Show a bar on stderr; None where somebody watches.
        label: What the bar is called.
    """
    distinct, place = _distinct(masks)
    parts = parts_of(graph, pairs, alike=False)
    size = chunk_size(vit, len(pairs), masked_at_once(vit, baseline.ablation, memory))
    chunks = [(part, slice(start, start + size)) for part in parts for start in range(0, len(part.pairs), size)]
    known = None if clean_logits is None else clean_logits.to(vit.device, vit.sum_dtype)

    @lru_cache(maxsize=1)  # chunks of one part follow one another
    def weights(part: Part) -> list[MaskWeights | None]:
        own = [mask[part.edges] for mask in distinct]
        return [None if mask.all() else MaskWeights.from_mask(part.graph, mask, vit) for mask in own]

    def one(chunk: tuple[Part, slice]) -> tuple[Tensor, ...]:
        part, rows = chunk
        batch = part.pairs.select(rows)
        reference = _clean_logits(vit, batch.clean) if known is None else known[part.rows][rows]
        found = _one_batch(vit, part.graph, weights(part), batch, baseline, reference, bar)
        wanted = batch.wanted(reference)
        outputs, clean = metric(found, wanted.expand_as(found)), metric(reference, wanted)
        return _cpu(outputs), _cpu(found[place[:n_logits]]), _cpu(clean), _cpu(reference)

    total = len(distinct) * len(chunks) // processes.count()
    with torch.no_grad(), vit.borrowed(), progress_bar(label, total, progress, "run") as bar:
        outputs, logits, clean, full = zip(*processes.in_order(one, chunks), strict=True)
    rows = rows_of(parts)
    return MaskRuns(
        torch.cat(outputs, 1)[place][:, rows].numpy(),
        torch.cat(clean)[rows].numpy(),
        torch.cat(logits, 1)[:, rows],
        torch.cat(full)[rows],
    )


def _clean_logits(vit: HookedViT, images: Tensor) -> Float[Tensor, "batch class"]:
    """Logits of the whole model; an image that follows itself, as in pairs with several partners, runs once."""
    first, place = _following(images)
    return vit(images[first])[place]


def _ablated(baseline: Baseline, pairs: Pairs) -> Float[Tensor, "source pair token model"]:
    """The ablated values of some pairs; a partner that follows itself runs once, if that halves the runs."""
    first, place = _following(pairs.corrupt)
    if baseline.ablation.kind != "partner" or 2 * int(first.sum()) > len(pairs):
        return baseline(pairs)
    return baseline(pairs.select(first))[:, place]


def _following(images: Tensor) -> tuple[Bool[Tensor, " image"], Int[Tensor, " image"]]:
    """Which images differ from the one before, and which of these each image is."""
    new = [True, *(images[1:] != images[:-1]).flatten(1).any(1).tolist()]
    first = torch.tensor(new, device=images.device)
    return first, first.cumsum(0) - 1


def _one_batch(
    vit: HookedViT,
    graph: Graph,
    weights: Sequence[MaskWeights | None],
    batch: Pairs,
    baseline: Baseline,
    reference: Tensor,
    bar: Any,
) -> Float[Tensor, "mask batch class"]:
    """Logits of each mask on one batch; None is the mask that keeps every edge."""
    found = reference.new_empty(len(weights), *reference.shape)
    partners = torch.arange(len(batch), device="cpu") if batch.design is None else batch.design.partner_image
    for rows in partners.argsort(stable=True).split(_at_hand(vit)):
        some = batch.select(rows)
        embedded = vit.embed(vit.check_images(some.clean))
        shared = SharedValues.of(vit, graph, embedded, _ablated(baseline, some), groups_of(graph, some))
        before = None
        for at, own in enumerate(weights):
            found[at, rows] = reference[rows] if own is None else run_mask(vit, own, shared, before)
            before = before if own is None else own
            bar.update(len(rows) / len(batch))
    return found


def _at_hand(vit: HookedViT) -> int:
    """Pairs at once: on a CPU as many as keep all that sources write in a cache."""
    return pairs_within(vit, pace(vit.device).source_bytes, residuals=first_head(vit.cfg, vit.cfg.n_layers))


def mask_key(mask: NDArray[np.bool_]) -> bytes:
    """What tells a mask from others. Edges are numbered layer by layer, so that masks that keep the same edges of the
    first layers are neighbours in the order of their keys.
    """
    return np.packbits(mask).tobytes()


def _distinct(masks: Sequence[NDArray[np.bool_]]) -> tuple[list[NDArray[np.bool_]], list[int]]:
    """The different masks in the order of their keys, and each mask's place among them."""
    keys = [mask_key(mask) for mask in masks]
    distinct = dict(sorted(zip(keys, masks, strict=True), key=lambda item: item[0]))
    places = {key: place for place, key in enumerate(distinct)}
    return list(distinct.values()), [places[key] for key in keys]


def _cpu(values: Tensor) -> Tensor:
    return values.double().cpu()
