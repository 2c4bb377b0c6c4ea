"""The logit lens in numbers: how soon the layers' readings agree with the answer, of arrays alone.

Each layer's residual is read by the model's own readout as if it were the last (nostalgebraist 2020). Against the final
logits, for each image:

    agreement   whether the two have the same highest class; with it, beyond chance, Cohen's kappa
    KL          sum p log(p / q) in nats, p the final probabilities and q the lens's
    rank        of the target class in the lens's logits: 1 is the highest, classes that tie share their places' mean

Caveat: the readout's basis is the last layer's. A layer that disagrees may hold the answer in another basis, which
later layers turn (Belrose et al. 2023), so a low agreement does not say that the answer is not there. KL grows with
the scale of the logits: between models, compare agreement and rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int

from ...circuits.bootstrap import divide
from ...models.errors import DataError

Logits = Float64[np.ndarray, "layer image class"]


@dataclass(frozen=True, eq=False)
class LensReadings:
    """Each layer's reading of each image, (layer, image).

    Args:
        answers: The highest class.
        kl: KL divergence of the final probabilities from the lens's, in nats.
        ranks: Rank of the target, from 1.
    """

    answers: Int[np.ndarray, "layer image"]
    kl: Float64[np.ndarray, "layer image"]
    ranks: Float64[np.ndarray, "layer image"]

    @property
    def agreement(self) -> Bool[np.ndarray, "layer image"]:
        """Whether the highest class is the final one's."""
        return self.answers == self.answers[-1]


def read_lens(logits: Logits, targets: Int[np.ndarray, " image"] | None = None) -> LensReadings:
    """Agreement, KL and rank of every layer's logits against the last one's.

    Args:
        logits: Of each layer, the last being the model's own.
        targets: The class whose rank is wanted; by default the one that the model answers.

    Raises:
        DataError: There are other numbers of targets than images, or a target is no class.
    """
    final = logits[-1]
    answers = final.argmax(-1)
    wanted = answers if targets is None else targets
    if wanted.shape != answers.shape or not bool(((wanted >= 0) & (wanted < final.shape[-1])).all()):
        raise DataError(
            f"there are {len(wanted)} targets for {len(answers)} images and {final.shape[-1]} classes: pass the index "
            f"of one class per image."
        )
    log_q, log_p = log_softmax(logits), log_softmax(final)
    kl = np.maximum((np.exp(log_p) * (log_p - log_q)).sum(-1), 0)
    own = np.take_along_axis(logits, np.broadcast_to(wanted[None, :, None], (*logits.shape[:2], 1)), -1)
    ranks = (logits > own).sum(-1) + ((logits == own).sum(-1) + 1) / 2
    return LensReadings(logits.argmax(-1), kl, ranks)


def kappas(
    answers: Int[np.ndarray, " image"], final: Int[np.ndarray, " image"], weights: Float64[np.ndarray, "draw image"]
) -> Float64[np.ndarray, " draw"]:
    """Agreement beyond chance, (agreement - chance) / (1 - chance), for images weighted in different ways.

    Chance is how often two would agree that give each class as often as these do, independently (Cohen 1960). NaN where
    both always give one class, so that they could not but agree.
    """
    kinds = np.unique(np.concatenate([answers, final]))
    shares = [weights @ (given[:, None] == kinds) for given in (answers, final)]  # draw, class
    chance = (shares[0] * shares[1]).sum(1)
    return divide(weights @ (answers == final) - chance, 1 - chance)


def log_softmax(logits: Float64[np.ndarray, "*batch class"]) -> Float64[np.ndarray, "*batch class"]:
    """Logarithms of the probabilities, in nats."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
