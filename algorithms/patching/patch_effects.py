"""What a circuit sees in the image: every patch's input patched, under the circuit and in the full model.

    noising:   effect = m(clean input) - m(clean input, the patch's from the partner)
    denoising: effect = m(partner's input, the patch's from the clean image) - m(partner's input)

A patch's input is its token in front of block 0: pixels embedded, position added, pre-norm passed. Partner's means what
the ablation puts there: the partner's own under `partner`, else another image's, the mean, zero or noise.

m is the metric of a run *under the circuit* from such an input: a kept edge carries what its source computes in this
run, a removed one what the ablation says, whichever input the run has. So all edges that leave the input at the patch
carry ablated values, and what lies behind them follows as far as kept edges lead. In the full model it is an ordinary
run of the model, and the effects are those of `activation_patch(graph, task, "resid")` in front of block 0.

CLS and registers are left out: in front of block 0 they are the same for every image, and so is attention pooling's
query. Where nothing can change, nothing is run and the effect is exactly 0: at patches whose input is the partner's
already, and, under a circuit, at patches whose token group's input has no kept path to the logits.

Patch by patch it is occlusion (Zeiler and Fergus 2014, section 4.2) with a partner in the place of grey, by interchange
(Geiger et al. 2021) and under a circuit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from ...circuits.ablation import Ablation
from ...circuits.baseline import DEFAULT_MEMORY, make_baseline
from ...circuits.circuit import Circuit
from ...circuits.effect_table import Direction, require_direction
from ...circuits.figure_data import image_keys, in_turn, pixels
from ...circuits.judging.evaluation import ablation_of
from ...circuits.masked_run import MaskWeights, masked_logits_from
from ...circuits.memory import batch_size_for
from ...circuits.patch_effects import PatchEffects
from ...circuits.run import require_model
from ...circuits.tasks.task import Pairs, Task
from ...circuits.token_parts import parts_of
from ...models.config import TokenLayout
from ...models.errors import GraphError, TaskError
from ...models.hooked import HookedViT
from ...models.threads import is_small
from ...models.watching import progress_bar
from ..discovery import N_PATCHED
from .patch_points import RunContrast, clean_embedded

_AT_ONCE = 1 << 26  # bytes of runs on a CPU: of more, caches hold less (DeiT-Tiny: 8 runs take .07 s each, 32 .10 s)

Run = Callable[[Tensor, Tensor], Tensor]
"""Residuals in front of block 0, (run, token, model), and what removed edges carry, (source, 1, token, model) -> logits
(run, class)."""


def patch_effects(
    circuit: Circuit,
    task: Task,
    *,
    grid: tuple[int, int] | None = None,
    patches: Sequence[str] | str | None = None,
    direction: Direction | str = "noising",
    n: int = N_PATCHED,
    split: Literal["evaluation", "discovery"] | str = "evaluation",
    pairs: Pairs | None = None,
    ablation: Ablation | str | None = None,
    memory: int = DEFAULT_MEMORY,
    progress: bool | None = None,
) -> PatchEffects:
    """How much of the metric each patch of the image carries through a circuit, beside the same for the full model.

    Positive: what the clean image shows there speaks for its class, against what stands in its place. Costs a masked
    run and a forward pass for each patch and pair (DeiT-Tiny: 196 patches, .12 s each on one core).

    Args:
        circuit: The circuit; `effects.model` is the same for the full model.
        task: The model, the metric and the pairs.
        grid: Rows and columns of blocks of patches that are patched together, such as (7, 7); each patch by default.
        patches: Only these, such as ["r3c4"]: row and column in the grid.
        direction: `noising` or `denoising`.
        n: At most so many pairs, each with another clean image that the model gets right, target and foil in turn.
        split: `evaluation` or `discovery`.
        pairs: Instead of both: these pairs; of crossed ones those of two classes are taken.
        ablation: What removed edges and patched tokens carry; by default as in `evaluate`.
        memory: Bytes to hold at once.
        progress: Show a bar on stderr; None where somebody watches.

    Returns:
        Effects in the metric's unit, shape (pair, row, column); of a video all frames of a place together.

    Raises:
        TaskError: A choice is not possible.
        GraphError: There is no such patch, or the circuit belongs to another model.
    """
    from ..estimate import say_runs

    vit = task.vit
    require_model(vit, circuit.graph)
    require_direction(direction)
    chosen = ablation_of(circuit, task, ablation)
    pairs = _chosen(task, chosen, pairs, n, split)
    regions = _Regions.of(vit.cfg.tokens, grid, patches)
    say_runs(task, circuit.graph, len(pairs) * len(regions), progress=progress)
    kept = None if circuit.mask.all() else circuit
    measured = _measure(task, kept, regions, pairs, chosen, direction, memory, progress)
    (images,) = pixels(vit, pairs.clean)
    common = {"direction": direction, "unit": task.metric.unit, "ablation": chosen, "task": task.info}
    common |= {"design": pairs.design, "images": images, "keys": image_keys(pairs.clean)}

    def laid_out(subject: str, values: NDArray, flips: NDArray, clean: NDArray, corrupt: NDArray) -> PatchEffects:
        values, flips = regions.laid_out(values, np.nan), regions.laid_out(flips, False)
        return PatchEffects(subject=subject, values=values, flips=flips, clean=clean, corrupt=corrupt, **common)

    found = laid_out(f"circuit of {len(circuit):,} edges", *measured[0])
    return replace(found, model=laid_out("full model", *measured[-1]))


def effects_in_run(
    circuit: Circuit, task: Task, n: int | None, *, memory: int, progress: bool | None
) -> PatchEffects | None:
    """What a run folder gets: effects on so many pairs, and where that is left open, of small models only.

    These take a second. It goes by the model's size and not by the clock, so that one command leaves the same files
    on every machine.
    """
    n = (N_PATCHED if is_small(task.vit.cfg) else 0) if n is None else n
    return patch_effects(circuit, task, n=n, memory=memory, progress=progress) if n else None


def _chosen(task: Task, ablation: Ablation, pairs: Pairs | None, n: int, split: str) -> Pairs:
    if pairs is not None:
        return pairs.under(ablation).opposed
    if n < 1 or split not in ("evaluation", "discovery"):
        raise TaskError(
            f'patch_effects(n={n}, split={split!r}) is not possible: pass n of at least 1, and "evaluation" or '
            f'"discovery".'
        )
    return in_turn(getattr(task, split).under(ablation).opposed.right, n)


@dataclass(frozen=True, eq=False)
class _Regions:
    """Which patches are patched together.

    Args:
        shape: Rows and columns of the grid of regions.
        places: Where each region stands in it, counted row by row, shape (region,).
        member: The tokens of each region.
    """

    shape: tuple[int, int]
    places: NDArray[np.int64]
    member: Bool[Tensor, "region token"]

    @classmethod
    def of(cls, tokens: TokenLayout, grid: tuple[int, int] | None, patches: Sequence[str] | str | None) -> _Regions:
        """Of the grid's blocks those that are asked for."""
        shape = tokens.grid if grid is None else grid
        if len(shape) != 2 or not all(1 <= n <= most for n, most in zip(shape, tokens.grid, strict=True)):
            raise TaskError(
                f"grid={grid!r} is not possible over {tokens.grid[0]} x {tokens.grid[1]} patches: pass rows and "
                f"columns up to these, such as grid={tuple(-(-n // 2) for n in tokens.grid)}, or leave it out."
            )
        row, column = (np.arange(n) * cells // n for n, cells in zip(tokens.grid, shape, strict=True))
        of_patch = (row[:, None] * shape[1] + column).ravel()  # a patch's region
        of_token = np.full(tokens.n_tokens, -1)
        of_token[tokens.patches] = np.tile(of_patch, tokens.frames)
        places = _named(shape, patches)
        return cls(shape, places, torch.from_numpy(places[:, None] == of_token))

    def __len__(self) -> int:
        return len(self.member)

    def laid_out(self, values: np.ndarray, empty: float | bool) -> np.ndarray:
        """(pair, region) -> (pair, row, column)."""
        laid = np.full((len(values), self.shape[0] * self.shape[1]), empty, dtype=values.dtype)
        laid[:, self.places] = values
        return laid.reshape(-1, *self.shape)


def _named(shape: tuple[int, int], patches: Sequence[str] | str | None) -> NDArray[np.int64]:
    names = {f"r{row}c{column}": row * shape[1] + column for row, column in np.ndindex(*shape)}
    wanted = list(names) if patches is None else [patches] if isinstance(patches, str) else list(patches)
    unknown = [name for name in wanted if name not in names]
    if unknown or not wanted:
        raise GraphError(
            f"patches={patches!r} {'names none' if not wanted else f'is not known: {unknown[0]!r}'}: pass names from "
            f'"r0c0" to "r{shape[0] - 1}c{shape[1] - 1}", such as patches=["r{shape[0] // 2}c{shape[1] // 2}"].'
        )
    return np.array([names[name] for name in dict.fromkeys(wanted)])


@dataclass(frozen=True, eq=False)
class _Subject:
    """Whose runs are patched.

    Args:
        run: Its run.
        reads: Tokens whose input can reach the logits, shape (token,).
    """

    run: Run
    reads: Bool[Tensor, " token"]

    @classmethod
    def full_model(cls, vit: HookedViT) -> _Subject:
        everywhere = torch.ones(vit.cfg.tokens.n_tokens, dtype=torch.bool, device="cpu")
        return cls(lambda embedded, _: vit.finish(embedded), everywhere)

    @classmethod
    def circuit(cls, circuit: Circuit, vit: HookedViT, pair: Pairs) -> _Subject:
        """In a pair, whose token groups may be its own."""
        (part,) = parts_of(circuit.graph, pair)
        weights = MaskWeights.from_mask(part.graph, circuit.mask[part.edges], vit)

        def run(embedded: Tensor, ablated: Tensor) -> Tensor:
            return masked_logits_from(vit, weights, embedded, ablated.expand(-1, len(embedded), -1, -1))

        return cls(run, torch.from_numpy(weights.needed[0][np.array(part.graph.groups.of_token)]))


def _measure(
    task: Task,
    circuit: Circuit | None,
    regions: _Regions,
    pairs: Pairs,
    ablation: Ablation,
    direction: str,
    memory: int,
    progress: bool | None,
) -> list[list[np.ndarray]]:
    """Of a circuit if there is one, then of the full model: effects and flips (pair, region), both ends (pair,)."""
    vit, n_subjects = task.vit, 1 + (circuit is not None)
    found, model = [[] for _ in range(n_subjects)], _Subject.full_model(vit)
    baseline = make_baseline(vit, ablation, task.reference, memory=memory)
    runs = memory if vit.device.type != "cpu" else min(memory, _AT_ONCE)
    at_once, total = batch_size_for(vit, runs // 2, copies=1), n_subjects * len(pairs) * len(regions)
    with torch.no_grad(), vit.borrowed(), progress_bar("patches", total, progress, "run") as bar:
        for batch in pairs.batches(batch_size_for(vit, memory // 2, copies=3)):
            ends, ablated = clean_embedded(vit, batch), baseline(batch)
            logits: list[list[Tensor]] = [[] for _ in found]
            for pair, clean in enumerate(ends):
                subjects = [model] if circuit is None else [_Subject.circuit(circuit, vit, batch.select([pair])), model]
                for own, subject in zip(logits, subjects, strict=True):
                    own.append(_patched(subject, regions, clean, ablated[:, [pair]], direction, at_once))
                    bar.update(len(regions))
            each = [torch.stack(own) for own in logits]  # pair, run, class
            signs, foil, full = task.signs(batch).to(vit.device), (batch.sign < 0).to(vit.device), each[-1][:, 0]
            for parts, own in zip(found, each, strict=True):
                contrast = RunContrast(task.metric, own[:, 0], own[:, 1], direction, signs, foil, batch.wanted(full))
                values = (part.cpu().numpy() for part in contrast(own[:, 2:]))
                parts.append((*values, *contrast.ends()))
    return [[np.concatenate(parts) for parts in zip(*own, strict=True)] for own in found]


def _patched(
    subject: _Subject,
    regions: _Regions,
    clean: Float[Tensor, "token model"],
    ablated: Float[Tensor, "source 1 token model"],
    direction: str,
    at_once: int,
) -> Float[Tensor, "run class"]:
    """Logits of one pair: of the clean input, of the ablated one, and with each region patched."""
    other = ablated[0, 0]
    base, donor, row = (clean, other, 0) if direction == "noising" else (other, clean, 1)
    member = regions.member.to(clean.device)
    moves = member & subject.reads.to(member) & (clean != other).any(-1)
    rows = torch.nonzero(moves.any(1)).flatten()
    ends = subject.run(torch.stack([clean, other]), ablated)
    found = torch.cat([ends, ends[row].expand(len(member), -1)])  # where nothing moves, the run is the base's
    for some in rows.split(at_once):
        found[2 + some] = subject.run(torch.where(member[some][..., None], donor, base), ablated)
    return found
