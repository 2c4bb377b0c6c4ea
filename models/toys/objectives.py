"""What a toy ViT is trained for: class labels, or telling its image's caption from those of the rest of the batch.

And what one trained on sprites knows of each facet (size, colour, shape, place), zero-shot and by a linear probe: a
ridge regression in closed form from what the head reads (the class token after the last norm, standardised) to one
column per phrase, fitted on the training split; the highest column is its answer.
"""

from __future__ import annotations

import math
from itertools import product
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..data import ImageData, Split
from ..preprocess import Preprocess
from .recipes import Recipe, build
from .sprites import FACETS, captions, facet_labels, factors_of
from .text_side import TextEncoder

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

MAX_SCALE = 100.0  # CLIP's own
OPTIONAL = ("size", "colour")  # what a caption may leave unsaid: these are easy, and would let shape and place wait


class ClassLabels(nn.Module):
    """Cross-entropy with the class labels.

    Args:
        recipe: Of the ViT.
        split: What it is trained on.
    """

    def __init__(self, recipe: Recipe, split: Split) -> None:
        super().__init__()
        self.vit = build(recipe)
        self._labels, self._smoothing = split.labels, recipe.label_smoothing

    def loss(self, images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The batch's loss in nats and its accuracy."""
        logits, labels = self.vit(images), self._labels[rows]
        accuracy = (logits.argmax(-1) == labels).float().mean()
        return F.cross_entropy(logits, labels, label_smoothing=self._smoothing), accuracy

    def reader(self) -> nn.Module:
        """The ViT itself."""
        return self.vit


class Captions(nn.Module):
    """CLIP's loss (Radford et al. 2021, figure 3): with unit vectors u of images, w of captions and a learnt scale s,

        logits[i, j] = s u_i . w_j,    loss = (cross-entropy of the rows + of the columns) / 2, the truth being i = j

    Images with the same caption are told apart no better than by chance, and pull on no one on that account.

    Args:
        recipe: Of the ViT and, under `text`, of the text encoder.
        split: Sprites to train on.
    """

    def __init__(self, recipe: Recipe, split: Split) -> None:
        super().__init__()
        assert recipe.text is not None  # make_objective has looked
        self.vit = build(recipe)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.text = TextEncoder(recipe.text)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(recipe.text.temperature), device="cpu"))
        factors = factors_of(split.names)
        chosen = product(*(("", facet) for facet in OPTIONAL))
        variants = [self.text.tokenise(captions(factors, said=("shape", "place", *said))) for said in chosen]
        self._tokens = torch.stack(variants, dim=1)  # image, which facets are said, word
        self._said = recipe.text.said

    @property
    def scale(self) -> Float[Tensor, ""]:
        """What cosines are multiplied with."""
        return self.log_scale.exp().clamp(max=MAX_SCALE)

    def loss(self, images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The batch's loss in nats and the share of images that are nearest to their own caption."""
        is_said = torch.rand(len(rows), len(OPTIONAL), device="cpu") < self._said
        variant = (is_said * torch.tensor([2, 1], device="cpu")).sum(-1)
        logits = self.scale * F.normalize(self.vit(images), dim=-1) @ self.text(self._tokens[rows, variant]).T
        truth = torch.arange(len(rows), device=logits.device)
        loss = (F.cross_entropy(logits, truth) + F.cross_entropy(logits.T, truth)) / 2
        return loss, (logits.argmax(-1) == truth).float().mean()

    def reader(self) -> nn.Module:
        """Zero-shot: each shape's logit is the scale times the cosine with what its captions have in common."""
        return CosineReader(self.vit, self.text.facet_embeddings("shape"), self.scale.detach())


class CosineReader(nn.Module):
    """logits = scale x cosine(image, each of some unit vectors).

    Args:
        vit: Images into the shared space.
        embeddings: Of length 1 each.
        scale: A number above 0.
    """

    def __init__(self, vit: nn.Module, embeddings: Float[Tensor, "class embedding"], scale: Tensor) -> None:
        super().__init__()
        self.vit, self.embeddings, self.scale = vit, embeddings, scale

    def forward(self, images: Float[Tensor, "image channel height width"]) -> Float[Tensor, "image class"]:
        """The logits."""
        return self.scale * F.normalize(self.vit(images), dim=-1) @ self.embeddings.T


def make_objective(recipe: Recipe, split: Split) -> ClassLabels | Captions:
    """What the recipe asks for."""
    return ClassLabels(recipe, split) if recipe.text is None else Captions(recipe, split)


def nearest(reader: nn.Module, images: Tensor) -> Int[Tensor, " image"]:
    """The class with the highest logit, a thousand images at a time."""
    with torch.no_grad():
        return torch.cat([reader(part).argmax(-1) for part in images.split(1000)])


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
    train, test = (
        torch.cat([(part - mean) / std, torch.ones(len(part), 1, device="cpu")], dim=1) for part in (train, test)
    )
    wanted = facet_labels(factors_of(data.train.names))
    truth = facet_labels(factors_of(data.test.names))
    found = {}
    for facet, phrases in FACETS.items():
        columns = torch.eye(len(phrases), dtype=torch.float64, device="cpu")[torch.from_numpy(wanted[facet])]
        weights = torch.linalg.solve(
            train.T @ train + RIDGE * torch.eye(train.shape[1], device="cpu"), train.T @ columns
        )
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
