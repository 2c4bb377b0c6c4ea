"""Training of `planted/digit-pairs`: while it learns, edges that are not in the circuit carry another image's values.

All of them do in half of the steps, none in a fifth, else a random part. So the circuit alone must do the work.
"""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..models.cards import WEIGHTS_FILE, Card, sha256, write_card
from ..models.data import ImageData, Split, load_data
from ..models.planted.digit_pairs import DIGIT_PAIRS, PairsRecipe, build_module, open_pairs, pair_digits
from ..models.planted.vit import PlantedViT
from ..models.toys.model_folders import DATA_FACTS, save_weights, versions, writable_folder
from ..models.toys.training import borrowed_threads, learning_rate, make_optimizer
from .certificate import verify_planted
from .graph import compile_graph
from .run import MaskWeights, masked_logits
from .sources import source_values
from .truth import truth_mask


def train_digit_pairs(
    recipe: PairsRecipe | None = None, *, out: str | Path, seed: int | None = None, progress: bool = True
) -> Card:
    """The card of a model trained by the recipe; card and weights are written into `out`.

    Args:
        recipe: The shipped model's by default.
        out: Folder for `model.safetensors` (float32) and `card.json`; made if it isn't there.
        seed: In place of the recipe's.
        progress: Show a progress bar on stderr.

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


def _fit(vit: PlantedViT, split: Split, recipe: PairsRecipe, *, progress: bool) -> None:
    from tqdm import tqdm

    generator = torch.Generator().manual_seed(recipe.seed)
    graph, optimizer = compile_graph(vit), make_optimizer(vit.module, recipe)
    allowed = torch.from_numpy(truth_mask(graph, recipe.allowed)).to(vit.dtype)
    vit.module.train()
    with tqdm(total=recipe.steps, desc="train digit-pairs", unit="step", disable=not progress) as bar:
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
    chance, share = torch.rand(2, generator=generator).tolist()
    kept = (torch.rand(len(allowed), generator=generator) < share).to(allowed)
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
