"""A certificate: the truth of a planted model, measured by ablation.

Everything outside the circuit is ablated at once, and the model must not change; every true edge is ablated alone (from
the full model, or where edges are redundant from each minimal circuit), and it must change.

Training of `planted/digit-pairs`: while it learns, edges that are not in the circuit carry another image's values.

All of them do in half of the steps, none in a fifth, else a random part. So the circuit alone must do the work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ...models.cards import WEIGHTS_FILE, Card, sha256, write_card
from ...models.data import ImageData, Split, load_data
from ...models.hooked import HookedViT
from ...models.planted.digit_pairs import DIGIT_PAIRS, PairsRecipe, build_module, open_pairs, pair_digits
from ...models.planted.vit import PlantedViT
from ...models.toys.model_folders import DATA_FACTS, save_weights, versions, writable_folder
from ...models.toys.training import borrowed_threads, learning_rate, make_optimizer
from ...models.watching import progress_bar
from ..baseline import source_values
from ..graph import compile_graph
from ..masked_run import MaskWeights, masked_logits
from ..tasks.metrics import kl_divergence
from .planted import truth_mask


@dataclass(frozen=True)
class Certificate:
    """What ablation says about a planted model's truth, under the partner's values.

    Args:
        model: Its name.
        n_pairs: Pairs of independent images that it was measured on.
        n_true: True edges.
        n_edges: All edges.
        unit: Of the next three: `logits` (largest difference over images) or `nats` (mean KL over images).
        unchanged: Change when everything outside the circuit is ablated.
        weakest_true: The smallest change of any true edge ablated alone.
        strongest_false: The largest change of any other edge ablated alone.
        weakest_edge: Which true edge that is.
        strongest_edge: Which other edge that is.
        accuracy: Share of images classified as labelled.
        circuit_accuracy: The same when everything outside the circuit is ablated.
        tolerance: The largest change that counts as none.
    """

    model: str
    n_pairs: int
    n_true: int
    n_edges: int
    unit: str
    unchanged: float
    weakest_true: float
    strongest_false: float
    weakest_edge: str
    strongest_edge: str
    accuracy: float
    circuit_accuracy: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether true edges stand out: exactly in hand-set models, by more than any other edge in trained ones."""
        if self.unit == "nats":
            return self.weakest_true > self.strongest_false
        return max(self.unchanged, self.strongest_false) <= self.tolerance < self.weakest_true

    def __str__(self) -> str:
        measured = "largest difference" if self.unit == "logits" else "mean KL"
        rows = {
            f"{self.model}": f"{self.n_true} true of {self.n_edges} edges, {self.n_pairs} pairs",
            "all false edges ablated": f"{measured} {self.unchanged:.2g} {self.unit}",
            "weakest true edge": f"{self.weakest_true:.3g} {self.unit}  {self.weakest_edge}",
            "strongest false edge": f"{self.strongest_false:.3g} {self.unit}  {self.strongest_edge}",
            "accuracy": f"{self.accuracy:.1%} full, {self.circuit_accuracy:.1%} with all false edges ablated",
            "certificate": "holds" if self.holds else "does not hold",
        }
        width = max(map(len, rows))
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())


def largest_difference(before: Tensor, after: Tensor) -> float:
    """Of any logit on any image."""
    return float((before - after).abs().max())


def mean_kl(before: Tensor, after: Tensor) -> float:
    """KL(p before || p after) in nats, averaged over images."""
    return float(kl_divergence(before, after).mean())


def verify_planted(vit: PlantedViT, n: int | None = None, *, seed: int = 0) -> Certificate:
    """A planted model's truth, measured on n pairs of independent images, with one token group and partner values.

    Costs one run per edge. A trained model's figures are those in its card for the default n and seed.

    Args:
        vit: The planted model.
        n: Pairs; 128 by default, or 512 for a trained model, whose figures are means.
        seed: Draws them.
    """
    n = n or (512 if vit.known.trained else 128)
    clean, labels = vit.sample(n, 2 * seed)
    partner, _ = vit.sample(n, 2 * seed + 1)
    unit = "nats" if vit.known.trained else "logits"
    return certify(vit, vit.minimal_circuits(), (clean, partner, labels), unit=unit)


@torch.no_grad()
def certify(
    vit: HookedViT,
    circuits: Sequence[frozenset[str]],
    pairs: tuple[Tensor, Tensor, Tensor],
    *,
    unit: str,
) -> Certificate:
    """The certificate of a model.

    Args:
        vit: The opened model.
        circuits: Its minimal circuits, as edge names; one if nothing is redundant.
        pairs: Images, their partners, and the images' labels.
        unit: `logits` or `nats`.
    """
    images, partners, labels = pairs
    every, true = frozenset(compile_graph(vit).edge_names()), frozenset().union(*circuits)
    with vit.borrowed(), progress_bar("certificate", len(every), unit="edge") as bar:
        measure = _Measure(vit, images, partners, largest_difference if unit == "logits" else mean_kl)
        kept, strong, weak = [measure.logits(circuit) for circuit in circuits], {}, {}
        for edge in sorted(every - true):
            strong[edge] = measure(every - {edge}, measure.full)
            bar.update()
        for edge, change in measure.drops([every] if len(circuits) == 1 else circuits, true, kept):
            weak[edge] = change
            bar.update()
    strongest, weakest = max(strong, key=strong.__getitem__), min(weak, key=weak.__getitem__)
    return Certificate(
        model=vit.cfg.name,
        n_pairs=len(images),
        n_true=len(true),
        n_edges=len(every),
        unit=unit,
        unchanged=max(measure.change(measure.full, logits) for logits in kept),
        weakest_true=weak[weakest],
        strongest_false=strong[strongest],
        weakest_edge=weakest,
        strongest_edge=strongest,
        accuracy=_accuracy(measure.full, labels),
        circuit_accuracy=min(_accuracy(logits, labels) for logits in kept),
        tolerance=1e-4 * max(1.0, float(measure.full.abs().max())),
    )


class _Measure:
    """Changes of the logits under sets of kept edges."""

    def __init__(self, vit: HookedViT, images: Tensor, partners: Tensor, change: Callable[[Tensor, Tensor], float]):
        self.vit, self.change, self.graph = vit, change, compile_graph(vit)
        self.images = vit.check_images(images)
        self.partner = source_values(vit, vit.check_images(partners))
        self.full = vit(self.images)

    def logits(self, kept: frozenset[str]) -> Tensor:
        weights = MaskWeights.from_mask(self.graph, truth_mask(self.graph, kept), self.vit)
        return masked_logits(self.vit, weights, self.images, self.partner)

    def __call__(self, kept: frozenset[str], before: Tensor) -> float:
        return self.change(before, self.logits(kept))

    def drops(
        self, circuits: Sequence[frozenset[str]], true: frozenset[str], kept: list[Tensor]
    ) -> Iterator[tuple[str, float]]:
        """Each true edge with its smallest change when it leaves a circuit (or the full model) that holds it."""
        for edge in sorted(true):
            found = [
                self(circuit - {edge}, self.full if len(circuits) == 1 else logits)
                for circuit, logits in zip(circuits, kept, strict=True)
                if edge in circuit
            ]
            yield edge, min(found)


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(-1).cpu() == labels).double().mean())


def train_digit_pairs(
    recipe: PairsRecipe | None = None, *, out: str | Path, seed: int | None = None, progress: bool | None = None
) -> Card:
    """The card of a model trained by the recipe; card and weights are written into `out`.

    Args:
        recipe: The shipped model's by default.
        out: Folder for `model.safetensors` (float32) and `card.json`; made if it isn't there.
        seed: In place of the recipe's.
        progress: Show a progress bar on stderr; None where somebody watches.

    Raises:
        ModelError: The folder cannot be written.
    """
    recipe = recipe or PairsRecipe()
    recipe = recipe if seed is None else replace(recipe, seed=seed)
    folder = writable_folder(out)
    data = load_data("digits", None)
    start = time.perf_counter()
    with borrowed_threads(recipe.threads):
        vit = open_pairs(build_module(recipe).eval(), recipe, DIGIT_PAIRS)
        _fit(vit, data.train, recipe, progress=progress)
        vit.module.eval().requires_grad_(False)
        seconds = time.perf_counter() - start
        save_weights(folder, vit.module)
        card = _card(vit, recipe, data, seconds, folder)
    write_card(folder, card)
    return card


def _fit(vit: PlantedViT, split: Split, recipe: PairsRecipe, *, progress: bool | None) -> None:
    from ...models.watching import progress_bar

    generator = torch.Generator().manual_seed(recipe.seed)
    graph, optimizer = compile_graph(vit), make_optimizer(vit.module, recipe)
    allowed = torch.from_numpy(truth_mask(graph, recipe.allowed)).to(vit.sum_dtype)
    vit.module.train()
    with progress_bar("train digit-pairs", recipe.steps, progress, "step") as bar:
        for step in range(recipe.steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, recipe.steps, recipe)
            images, labels = pair_digits(split, recipe.batch_size, generator)
            partners, _ = pair_digits(split, recipe.batch_size, generator)
            mask = torch.maximum(_random_mask(allowed, recipe, generator), allowed)
            with torch.no_grad():  # the other image's values are noise to train against
                partner = source_values(vit, partners)
            logits = masked_logits(vit, MaskWeights.from_tensor(graph, mask), images, partner)
            loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(vit.module.parameters(), 1.0)
            optimizer.step()
            bar.update()


def _random_mask(
    allowed: Float[Tensor, " edge"], recipe: PairsRecipe, generator: torch.Generator
) -> Float[Tensor, " edge"]:
    """Which edges a step keeps: those of the circuit alone, all, or a random part."""
    chance, share = torch.rand(2, generator=generator, device="cpu").tolist()
    kept = (torch.rand(len(allowed), generator=generator, device="cpu") < share).to(allowed)
    if chance < recipe.all_ablated:
        return torch.zeros_like(allowed)
    return torch.ones_like(allowed) if chance < recipe.all_ablated + recipe.none_ablated else kept


def _card(vit: PlantedViT, recipe: PairsRecipe, data: ImageData, seconds: float, folder: Path) -> Card:
    certificate = verify_planted(vit)
    n = certificate.n_pairs
    facts: dict[str, Any] = DATA_FACTS["digits"]
    return Card(
        name=DIGIT_PAIRS,
        description=f"A ViT of {recipe.layers} blocks with {recipe.heads} heads, d_model {recipe.d_model}, trained to "
        f"tell whether each of two digits side by side is 5 or more, through {len(recipe.allowed)} of "
        f"{certificate.n_edges} edges.",
        data={"name": "digits", **facts, "n_train_images": len(data.train), "digest": data.digest},
        augmentation="any two training digits make a pair",
        recipe=recipe.to_dict(),
        test_accuracy=certificate.accuracy,
        n_test_correct=round(certificate.accuracy * n),
        n_test_images=n,
        training_seconds=round(seconds, 1),
        versions=versions(),
        weights_sha256=sha256(folder / WEIGHTS_FILE),
        weights_licence="MIT",
        certificate=asdict(certificate),
    )
