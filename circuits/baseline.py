"""The values that removed edges carry: an `Ablation` worked out for batches of pairs.

Everything drawn by chance is drawn per pair and source from the ablation's seed and the pair's id, on the CPU, so that
neither the batch size nor the device changes a value.

What every source writes on a batch of images, from one plain fused forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..models import processes
from ..models.errors import TaskError
from ..models.hooked import HookedViT
from ..models.settings import DEFAULT_MEMORY
from .ablation import Ablation
from .graph import first_head
from .memory import bytes_of_pair, chunk_size, note_room, pairs_within
from .tasks.task import Pairs
from .tokens import group_tokens

ROUNDING = 1e-12  # of the mean square: what sums of squares in float64, less the mean's, don't tell from 0


@dataclass(frozen=True, eq=False)
class Baseline:
    """What sources carry on removed edges, for any batch of pairs.

    Args:
        vit: The opened model.
        ablation: The description.
        reference: Images that `another`, `mean`, `noise` and `optimal` draw on.
        mean: Mean of each source over the reference, (source, 1, token, model); None where it is not needed. Under
            `optimal` with what was learned added.
        std: Its standard deviation, likewise.
    """

    vit: HookedViT
    ablation: Ablation
    reference: Tensor | None = None
    mean: Tensor | None = None
    std: Tensor | None = None

    def images(self, pairs: Pairs) -> Float[Tensor, "batch channel height width"] | None:
        """The images whose values removed edges carry, for the ablations that take them from images."""
        match self.ablation.kind:
            case "partner":
                return self.vit.check_images(pairs.corrupt)
            case "another":
                return self.vit.check_images(self._others(pairs))
            case _:
                return None

    def start(self, pairs: Pairs) -> Float[Tensor, "pair token model"]:
        """The residual in front of block 0 that removed edges carry, and that a corrupted run starts from."""
        images = self.images(pairs)
        return self(pairs)[0] if images is None else self.vit.embed(images)

    def __call__(self, pairs: Pairs) -> Float[Tensor, "source batch token model"]:
        """The ablated values of every source; call it under `vit.borrowed()`."""
        images = self.images(pairs)
        if images is not None:
            return source_values(self.vit, images)
        match self.ablation.kind:
            case "mean" | "optimal":
                assert self.mean is not None
                return self.mean.expand(-1, len(pairs), -1, -1)
            case "noise":
                return self._noise(pairs)
            case _:
                return self._zeros(len(pairs))

    def _zeros(self, n_pairs: int) -> Tensor:
        cfg = self.vit.cfg
        sources = first_head(cfg, cfg.n_layers)
        zero = torch.zeros(1, 1, 1, 1, dtype=self.vit.sum_dtype, device=self.vit.device)
        return zero.expand(sources, n_pairs, cfg.tokens.n_tokens, cfg.d_model)

    def _others(self, pairs: Pairs) -> Tensor:
        assert self.reference is not None
        chosen = []
        images = self.vit.check_images(pairs.clean), self.vit.check_images(pairs.corrupt)
        for clean, corrupt, pair in zip(*images, pairs.pair_ids.tolist(), strict=True):
            at = int(
                torch.randint(
                    len(self.reference), (), generator=generator_for(self.ablation.seed, pair, 0), device="cpu"
                )
            )
            for _ in range(len(self.reference)):
                image = self.reference[at]
                if not torch.equal(image, clean) and not torch.equal(image, corrupt):
                    break
                at = (at + 1) % len(self.reference)
            chosen.append(self.reference[at])
        return torch.stack(chosen)

    def _noise(self, pairs: Pairs) -> Tensor:
        assert self.mean is not None and self.std is not None
        cfg = self.vit.cfg
        shape = (cfg.tokens.n_tokens, cfg.d_model)
        values = self.mean.new_empty(len(self.mean), len(pairs), *shape)
        for place, pair in enumerate(pairs.pair_ids.tolist()):
            for source in range(len(values)):
                drawn = torch.randn(shape, generator=generator_for(self.ablation.seed, pair, source), device="cpu")
                values[source, place] = drawn.to(values)
        return self.mean + self.std * values


def generator_for(seed: int, pair: int, source: int) -> torch.Generator:
    """Chance for one pair and source: equal on every machine, whatever else is drawn."""
    return torch.Generator().manual_seed(((seed * 1_000_003 + pair) * 100_003 + source) % 2**63)


def make_baseline(
    vit: HookedViT, ablation: Ablation, reference: Tensor | None = None, *, memory: int = DEFAULT_MEMORY
) -> Baseline:
    """The baseline of an ablation, with the statistics that it needs taken over the reference images.

    Args:
        vit: The opened model.
        ablation: What a removed edge carries.
        reference: Images that all but `partner` and `zero` draw on, shape (image, channel, height, width).
        memory: Bytes to hold at once.

    Raises:
        TaskError: The ablation needs reference images and there are none, or constants that nobody has learned or
            that were learned for another model.
    """
    if ablation.kind == "optimal":
        _require_learned(vit, ablation)
    if not ablation.needs_reference:
        return Baseline(vit, ablation)
    if reference is None or len(reference) == 0:
        raise TaskError(
            f"the ablation {ablation} draws on reference images: pass reference=, such as task.reference, or use "
            f'Ablation("partner").'
        )
    if ablation.kind == "another":
        return Baseline(vit, ablation, vit.check_images(reference))
    mean, std = _statistics(vit, ablation, vit.check_images(reference), memory)
    if ablation.shifts is not None:
        mean = mean + shifts_of_tokens(vit, torch.tensor(ablation.shifts.values, device="cpu").to(mean))
    return Baseline(vit, ablation, reference, mean, std)


def shifts_of_tokens(
    vit: HookedViT, shifts: Float[Tensor, "source role model"]
) -> Float[Tensor, "source 1 token model"]:
    """What every token's role says, for all tokens."""
    roles = group_tokens(vit.cfg.tokens, "role")
    member = torch.tensor(roles.one_hot().T, device="cpu").to(
        shifts
    )  # a product, whose backward pass adds up in one order
    return torch.einsum("srd,tr->std", shifts, member)[:, None]


def _require_learned(vit: HookedViT, ablation: Ablation) -> None:
    if ablation.shifts is None:
        raise TaskError(
            'the ablation "optimal" has no values before they are learned, and they are learned for one circuit: '
            'search under another, such as task.with_ablation("mean"), then call optimal_ablation(circuit, task).'
        )
    sources = first_head(vit.cfg, vit.cfg.n_layers)
    wanted = (sources, len(group_tokens(vit.cfg.tokens, "role")), vit.cfg.d_model)
    if ablation.shifts.values.shape != wanted:
        raise TaskError(
            f"the optimal ablation was learned for another model: its shifts have shape "
            f"{ablation.shifts.values.shape}, but {vit.cfg.name} needs {wanted}. Call optimal_ablation(circuit, task) "
            f"with a task of this model."
        )


def _statistics(vit: HookedViT, ablation: Ablation, reference: Tensor, memory: int) -> tuple[Tensor, Tensor | None]:
    """Mean of every source, and for noise its standard deviation, summed in float64, (source, 1, token, model)."""
    axes = (0, 1) if ablation.over == "tokens" else (0,)  # of one source's values
    memory -= reference.numel() * reference.element_size()  # often a copy
    size = chunk_size(vit, len(reference), images_at_once(vit, ablation, memory))

    def one(images: Tensor) -> list[Tensor]:
        values, found = source_values(vit, images), []
        for power in (1, 2) if ablation.kind == "noise" else (1,):
            n_tokens = 1 if ablation.over == "tokens" else values.shape[2]
            sums = values.new_empty(len(values), 1, n_tokens, values.shape[3], dtype=torch.float64)
            for own, total in zip(values, sums, strict=True):  # all in float64 at once would be twice the values
                torch.sum(own.double().pow_(power), axes, keepdim=True, out=total)
            found.append(sums.cpu())
        return found

    totals: list[Tensor] = []
    with torch.no_grad(), vit.borrowed():
        for sums in processes.in_order(one, reference.split(size)):
            totals = [total.add_(own) for total, own in zip(totals, sums, strict=True)] if totals else sums
            del sums  # before the next are made
    count = len(reference) * (vit.cfg.tokens.n_tokens if ablation.over == "tokens" else 1)
    shape = (-1, -1, vit.cfg.tokens.n_tokens, -1)
    mean, *squares = (total.div_(count) for total in totals)
    std = _deviation(mean, squares[0]) if squares else None
    place = {"dtype": vit.sum_dtype, "device": vit.device}
    return mean.to(**place).expand(shape), None if std is None else std.to(**place).expand(shape)


def _deviation(mean: Tensor, squares: Tensor) -> Tensor:
    """From means of values and of squares, which are used up; 0 where the variance is nothing but rounding."""
    rounding = ROUNDING * squares
    variance = squares.sub_(mean.square())
    return variance.masked_fill_(variance < rounding, 0).sqrt_()


def constants(vit: HookedViT, ablation: Ablation) -> int:
    """Bytes of the statistics that an ablation holds as long as it is used."""
    arrays = {"mean": 1, "optimal": 1, "noise": 2}.get(ablation.kind, 0)
    every = arrays * bytes_of_pair(vit, residuals=first_head(vit.cfg, vit.cfg.n_layers))
    return int(every if ablation.over == "token" or ablation.kind == "optimal" else every // vit.cfg.tokens.n_tokens)


def images_at_once(vit: HookedViT, ablation: Ablation, memory: int) -> int:
    """Reference images whose sources are held while statistics are taken, beside two sums in float64; at least 1."""
    held = constants(vit, ablation)
    if held == 0:
        return 1
    note_room(memory > 4 * held)
    sources = first_head(vit.cfg, vit.cfg.n_layers)
    return pairs_within(vit, memory - 4 * held, residuals=sources + 3 * vit.cfg.n_heads + 8, hidden=3)


def source_values(
    vit: HookedViT, images: Float[Tensor, "batch channel height width"]
) -> Float[Tensor, "source batch token model"]:
    """The input's, every head's and every MLP's write, in the graph's order of sources.

    Together with each block's attention bias they add up to the last residual. Call it under `vit.borrowed()`.
    """
    return values_from(vit, vit.embed(images))


def values_from(
    vit: HookedViT, residual: Float[Tensor, "batch token model"]
) -> Float[Tensor, "source batch token model"]:
    """The same for a run that starts from a residual in front of block 0."""
    n_heads = vit.cfg.n_heads
    values = residual.new_empty(first_head(vit.cfg, vit.cfg.n_layers), *residual.shape)
    values[0] = residual
    for layer, block in enumerate(vit.blocks):
        first = first_head(vit.cfg, layer)
        z, middle = block.attended(residual)
        values[first : first + n_heads] = block.head_write(z).transpose(0, 1)
        values[first + n_heads] = block.mlp_write(block.mlp_input(residual, middle))
        residual = middle + values[first + n_heads]
    return values
