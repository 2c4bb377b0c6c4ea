"""`PlantedViT`: an opened ViT that knows its own circuit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..data import ImageData, load_data
from ..errors import DataError, ModelError
from ..hooked import HookedViT
from .truth import Grouping
from .zoo import Samples

TOKENS = ("all", "role", "each")
INTERCHANGE = ("partner", "resample", "another")  # ablations by another image's values


@dataclass(frozen=True)
class Known:
    """What is known about a planted model.

    Args:
        circuits: The smallest circuits at a choice of tokens, under the values of another image.
        zeroed: The true edges under zero ablation, with one token group.
        sample: A number of images, a generator, and `train` or `test` -> images and labels.
        trained: Whether the weights were trained, so that the truth is near but not exact.
        hard: Whether attention picks one token, so that features stay +1 or -1.
        norm: Whether there are LayerNorms, which are the identity only on mixes of images.
        even: Whether it computes even functions, which are constant only on mixes of images.
        tokens: The choices of tokens that a truth is known for.
    """

    circuits: Callable[[Grouping], Sequence[frozenset[str]]]
    zeroed: Callable[[], frozenset[str]]
    sample: Callable[[int, torch.Generator, str], Samples]
    trained: bool = False
    hard: bool = True
    norm: bool = True
    even: bool = False
    tokens: Sequence[str] = TOKENS

    @property
    def exact(self) -> bool:
        """Whether everything outside the circuit can be ablated by another image's values without any change."""
        return not self.trained and (self.hard or not (self.norm or self.even))


class PlantedViT(HookedViT):
    """An opened ViT whose circuit is known. Load it by `load_vit("planted/neighbour-xor")`.

    Args:
        module: A timm `VisionTransformer`.
        name: What to call it.
        known: What is known about it.
        labels: One name per logit.
    """

    def __init__(self, module: nn.Module, *, name: str, known: Known, labels: tuple[str, ...]) -> None:
        super().__init__(module, name=name, labels=labels)
        self.known = known

    @property
    def exact(self) -> bool:
        """Whether the truth is exact; soft attention with LayerNorm, and trained weights, only come near."""
        return self.known.exact

    def truth(self, ablation: Any = "partner", tokens: Grouping = "all") -> frozenset[str]:
        """Names of the true edges, in the spelling of the graph with these tokens and `qkv` ports.

        A true edge carries something that reaches the logits and that the ablation replaces:

        - `partner` (or `resample`) and `another`: what depends on the image, at any `tokens` (with soft attention only
          at `all`), edges inside heads included. Exact where `exact` says so.
        - `mean` (per token): the same edges, only without LayerNorm and with `tokens="all"`.
        - `zero`: also positions and CLS, only without LayerNorm and with `tokens="all"`.
        - `noise`, and `mean` over tokens: none is exact.

        LayerNorm is the identity only on mixes of images, and even functions (`trap=True`) are constant only there, so
        such models have no exact truth under `mean` or `zero`. With several token groups these two leave more than one
        key standing or none, and then single edges are redundant.

        Args:
            ablation: A kind of ablation, or an object with a `kind`, such as `Ablation("zero")`.
            tokens: `all`, `role` or `each`; or the name of each token's group, as `planted_truth` passes them for any
                graph.

        Raises:
            ModelError: There is no truth for this ablation or these tokens, or the word is not known.
        """
        kind = getattr(ablation, "kind", ablation)
        self._require(kind, tokens, over=getattr(ablation, "over", "token"))
        if kind == "zero":
            return self.known.zeroed()
        return frozenset().union(*self.known.circuits(tokens))

    def minimal_circuits(self, tokens: Grouping = "all") -> tuple[frozenset[str], ...]:
        """The smallest faithful circuits under another image's values: three for majority, else the one truth.

        Raises:
            ModelError: There is no truth for these tokens.
        """
        self._require("partner", tokens)
        return tuple(self.known.circuits(tokens))

    def sample(self, n: int, seed: int = 0, *, split: str = "test") -> Samples:
        """Images and the labels that the model was built or trained to give.

        Args:
            n: How many; each is drawn by itself.
            seed: Draws them.
            split: `train` or `test`; only trained models tell them apart.

        Raises:
            ModelError: n is below 1, or there is no such split.
        """
        if n < 1 or split not in ("train", "test"):
            raise ModelError(
                f'sample({n}, split={split!r}) is not possible: pass n of at least 1 and "train" or "test".'
            )
        return self.known.sample(n, torch.Generator().manual_seed(seed), split)

    def images(self, n: int = 512, seed: int = 0) -> ImageData:
        """Drawn images as data in a train and a test split that share no image, for tasks.

        Args:
            n: Images to draw for each split; those drawn twice are left out.
            seed: Draws them.
        """
        halves = [self.sample(n, 2 * seed + half, split=split) for half, split in enumerate(("train", "test"))]
        if not self.known.trained:  # small models have few images: shared ones would all fall to one split
            halves = _divide(torch.cat([images for images, _ in halves]), torch.cat([labels for _, labels in halves]))
        data = load_data(dict(zip(("train", "test"), halves, strict=True)), None)
        return replace(data, name="planted", class_names=self.class_names)

    def _require(self, kind: Any, tokens: Grouping, *, over: str = "token") -> None:
        """Does nothing where there is a truth."""
        name, known = self.cfg.name, self.known
        if (tokens if isinstance(tokens, str) else "each") not in known.tokens:
            choices = ", ".join(map(repr, known.tokens))
            raise ModelError(f"{name} has no truth for tokens={tokens!r}: pass one of {choices}.")
        if kind in INTERCHANGE:
            return
        if kind not in ("mean", "zero", "noise"):
            raise ModelError(f'ablation {kind!r} is not known: pass "partner", "another", "mean" or "zero".')
        why = _why_not(known, kind, over, tokens)
        if why:
            raise ModelError(f'{name} has no exact truth under {kind} ablation: {why}. Pass truth("partner").')


def planted_images(vit: HookedViT, *, seed: int) -> ImageData:
    """What `data="planted"` means: images from the model's own sampler.

    Raises:
        DataError: The model is not a planted one.
    """
    if not isinstance(vit, PlantedViT):
        raise DataError(
            f'the data "planted" is drawn from a planted model, but {vit.cfg.name} is none: load one, such as '
            f'load_vit("planted/neighbour-xor").'
        )
    return vit.images(seed=seed)


def _why_not(known: Known, kind: str, over: str, tokens: Grouping) -> str:
    """Why there is no truth under an ablation that leaves the data; empty if there is one."""
    if known.trained:
        return "it was trained with the values of another image in the place of ablated edges"
    if kind == "noise":
        return "noise also runs in directions that nobody writes"
    if over != "token":
        return "a mean over tokens mixes positions; pass a mean per token"
    if known.norm:
        return 'its LayerNorms are the identity only on mixes of images; load it with norm="none"'
    if known.even:
        return "its trap is constant only on mixes of images; load it with trap=False"
    return "" if tokens == "all" else 'single edges are redundant there; pass tokens="all"'


def _divide(images: Tensor, labels: Tensor) -> list[Samples]:
    """Each image once, half of them in either split, in the order drawn."""
    first = {image.numpy().tobytes(): row for row, image in reversed(list(enumerate(images)))}
    rows = torch.tensor(sorted(first.values()), device="cpu")
    return [(images[part], labels[part]) for part in (rows[: len(rows) // 2], rows[len(rows) // 2 :])]
