"""The Jacobian lens: each layer is carried to the last by the mean derivative of the last residual by its own.

    W_l = mean over images of d h_L[t] / d h_l[t]        b_l = mean h_L[t] - W_l mean h_l[t]

at the one token that is read (Hernandez et al. 2024, section 3, linearise a model's relation between subject and
object so). Nothing is fitted to the output: unlike a tuned lens it cannot find what the model does not read there. What
passes through other tokens on the way is in it only as far as it comes back.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ...circuits.baseline import DEFAULT_MEMORY
from ...circuits.judging.bootstrap import Resamples
from ...circuits.memory import batch_size_for
from ...models.errors import DataError, ModelError
from ...models.hooked import HookedViT
from ...models.watching import progress_bar
from .fitted_lens import FittedLens
from .logit_lens import Points, layer_names, require_lens, residuals
from .tuned_lens import FEWEST, cache_residuals, deal, judge, lens_card


def jacobian_lens(
    vit: HookedViT,
    images: Float[Tensor, "image channel height width"],
    *,
    points: Points | str = "post",
    data: str = "",
    n_bootstrap: int = 1000,
    seed: int = 0,
    memory: int = DEFAULT_MEMORY,
    progress: bool | None = None,
) -> FittedLens:
    """The mean Jacobian per layer in front of the readout, with its figures on images that it was not taken on.

    Three quarters of the images are averaged over. Costs a backward pass through the model for each dimension of the
    residual and batch.

    Args:
        vit: The opened model; its readout reads one token.
        images: Preprocessed images.
        points: Of each block `pre`, `mid` or `post`.
        data: What the images are, for the card.
        n_bootstrap: Bootstrap draws of the held-out images.
        seed: Deals the images.
        memory: Bytes to hold at once.
        progress: Show a bar on stderr; None where somebody watches.

    Raises:
        DataError: There are too few images, or they don't fit the model.
        ModelError: The outputs are no classes, or more than one token is read.
    """
    _require_possible(vit, len(images), points)
    first, second, held_out = deal(len(images), torch.Generator().manual_seed(seed))
    taken = torch.cat([first, second])
    with vit.borrowed():
        jacobian = mean_jacobians(vit, images[taken], points, memory=memory, progress=progress)
        cached = cache_residuals(vit, images, points=points, memory=memory)
        mean = cached.residuals[:, taken.to(cached.images.device), 0].mean(1)
        biases = mean[-1] - torch.einsum("lji,li->lj", jacobian, mean[:-1])
        with torch.no_grad():
            final = cached.log_probabilities(cached.residuals[-1])
        resamples = Resamples.draw(len(held_out), n_bootstrap, seed=seed)
        eye = torch.eye(vit.cfg.d_model, device="cpu").to(mean)
        rows = held_out.to(cached.images.device)
        figures = [
            {"layer": name, **judge(cached, layer, final, rows, jacobian[layer] - eye, biases[layer], resamples)}
            for layer, name in enumerate(layer_names(vit, points)[:-1])
        ]
    card = lens_card(vit, images, "cls", points, data, seed) | {
        "layers": list(layer_names(vit, points)[:-1]),
        "n_fitted": len(taken),
        "n_held_out": len(held_out),
        "figures": figures,
    }
    return FittedLens("Jacobian lens", jacobian, biases, card)


def _require_possible(vit: HookedViT, n_images: int, points: Points | str) -> None:
    require_lens(vit, points=points)
    if len(vit.readout.tokens) != 1 or vit.cfg.pools:
        raise ModelError(
            f"the readout of {vit.cfg.name} reads {vit.cfg.pooling!r}, and a Jacobian lens is of one token: fit a "
            f"tuned_lens(vit, images) instead."
        )
    if n_images < FEWEST:
        raise DataError(f"a lens is judged on other images than it is taken on: pass at least {FEWEST}.")


def mean_jacobians(
    vit: HookedViT,
    images: Float[Tensor, "image channel height width"],
    points: Points | str = "post",
    *,
    memory: int = DEFAULT_MEMORY,
    progress: bool | None = None,
) -> Float[Tensor, "layer model model"]:
    """Mean over images of the last residual's derivative by each layer's, at the token that is read; rows are the last.

    Raises:
        DataError: The images don't fit the model.
    """
    n_layers, width = len(layer_names(vit, points)) - 1, vit.cfg.d_model
    found = torch.zeros(n_layers, width, width, dtype=vit.sum_dtype, device=vit.device)
    batches = vit.check_images(images).split(batch_size_for(vit, memory, copies=4))
    with torch.enable_grad(), progress_bar("jacobian_lens", len(batches) * width, progress) as bar:
        for batch in batches:
            *every, last = residuals(vit, batch.clone().requires_grad_(True), points)
            read = vit.readout.select(last)[:, 0].sum(0)
            for row in range(width):
                gradients = torch.autograd.grad(read[row], every, retain_graph=True, allow_unused=True)
                for layer, gradient in enumerate(gradients):
                    if gradient is not None:
                        found[layer, row] += vit.readout.select(gradient)[:, 0].sum(0)
                bar.update(1)
    return found / len(images)
