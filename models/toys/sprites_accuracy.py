"""How much a sprite ViT knows of each facet (size, colour, shape, place): by a linear probe, and zero-shot.

The probe is a ridge regression in closed form from what the head reads (the class token after the last norm,
standardised) to one column per phrase, fitted on the training split; the highest column is its answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from ..data import ImageData
from ..preprocess import Preprocess
from .objectives import Captions, ClassLabels, CosineReader, nearest
from .sprites_captions import FACETS, facet_labels
from .sprites_data import factors_of

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

RIDGE = 1.0


def sprite_accuracies(
    objective: ClassLabels | Captions, data: ImageData, preprocess: Preprocess
) -> dict[str, dict[str, float]]:
    """Accuracies on the test split, by method and facet.

    Args:
        objective: What was trained.
        data: Sprites, as pixels.
        preprocess: What the ViT wants.
    """
    found = {"linear_probe": probe_accuracies(objective.vit, data, preprocess)}
    if isinstance(objective, Captions):
        test = preprocess.normalise(data.test.images)
        truth = facet_labels(factors_of(data.test.names))
        readers = {
            facet: CosineReader(objective.vit, objective.text.facet_embeddings(facet), objective.scale.detach())
            for facet in FACETS
        }
        found["zero_shot"] = {
            facet: _share(nearest(reader, test), torch.from_numpy(truth[facet])) for facet, reader in readers.items()
        }
    return found


def probe_accuracies(vit: VisionTransformer, data: ImageData, preprocess: Preprocess) -> dict[str, float]:
    """The accuracy of a linear probe for each facet."""
    train, test = (features(vit, preprocess.normalise(split.images)) for split in (data.train, data.test))
    mean, std = train.mean(0), train.std(0) + 1e-6
    train, test = (torch.cat([(part - mean) / std, torch.ones(len(part), 1)], dim=1) for part in (train, test))
    wanted = facet_labels(factors_of(data.train.names))
    truth = facet_labels(factors_of(data.test.names))
    found = {}
    for facet, phrases in FACETS.items():
        columns = torch.eye(len(phrases), dtype=torch.float64)[torch.from_numpy(wanted[facet])]
        weights = torch.linalg.solve(train.T @ train + RIDGE * torch.eye(train.shape[1]), train.T @ columns)
        found[facet] = _share((test @ weights).argmax(-1), torch.from_numpy(truth[facet]))
    return found


@torch.no_grad()
def features(vit: VisionTransformer, images: Tensor) -> Float[Tensor, "image model"]:
    """What the head reads, in float64."""
    vit.eval()
    parts = [vit.forward_head(vit.forward_features(part), pre_logits=True) for part in images.split(1000)]
    return torch.cat(parts).double()


def _share(answers: Tensor, truth: Tensor) -> float:
    return float((answers == truth).double().mean())
