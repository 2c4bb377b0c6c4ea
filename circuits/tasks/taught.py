"""Answers that a search is taught in place of the full model's own.

Searches bring a circuit's output on each clean image close to the full model's (`Pairs.wanted`), or score what speaks
for the image's class (`Task.signs`). A task whose discovery pairs are taught hands both the answers given here: logits
for each clean image, and with them the class that each image counts as showing. Control searches
(`algorithms/control_search.py`) teach one model's answers to another, and one image's answers for another.
"""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...models.hooked import HookedViT
from .design import FOIL, TARGET, one_partner_each
from .task import Pairs

BATCH = 32


def full_answers(vit: HookedViT, pairs: Pairs) -> Float[Tensor, "pair class"]:
    """The full model's logits on each pair's clean image, float64 on the CPU."""
    with torch.no_grad():
        return torch.cat([vit(batch.clean).double().cpu() for batch in pairs.batches(BATCH)])


def with_answers(pairs: Pairs, answers: Float[Tensor, "pair class"]) -> Pairs:
    """The pairs with the answers that a search is to aim at; what each image shows stays."""
    return dataclasses.replace(pairs, answers=answers)


def with_permuted_answers(pairs: Pairs, answers: Float[Tensor, "pair class"], *, seed: int) -> Pairs:
    """Each clean image with the answers for another image, whose class it then counts as showing.

    As many images change their class as make the two independent: half of them where the classes are equally large (to
    the nearest image), so that knowing what an image shows says nothing of what is taught for it. All pairs of one
    image get one answer. Partners keep their class. Places of two images fall apart, so each image has one of its own.

    Args:
        pairs: Crossed pairs.
        answers: Logits for each pair's clean image.
        seed: Draws who gets whose.
    """
    design = pairs.design
    assert design is not None and design.sided, "only crossed pairs have two classes"
    giver = _givers(design.clean_side[one_partner_each(design)], torch.Generator().manual_seed(seed))
    images = design.clean_image[one_partner_each(design)].tolist()
    place = {image: at for at, image in enumerate(images)}
    rows = one_partner_each(design)[giver[[place[image] for image in design.clean_image.tolist()]]]
    taught = dataclasses.replace(
        design,
        clean_side=design.clean_side[rows],
        clean_place=design.clean_image,
        partner_place=design.partner_image,
    )
    return dataclasses.replace(pairs, design=taught, answers=answers[rows])


def _givers(side: Int[Tensor, " image"], generator: torch.Generator) -> Int[Tensor, " image"]:
    """For each image the one whose answers it gets: never itself where a class has two, of either class evenly."""
    giver, drawn = torch.arange(len(side), device="cpu"), {}
    for value in (TARGET, FOIL):
        rows = torch.nonzero(side == value).flatten()
        drawn[value] = rows[torch.randperm(len(rows), generator=generator, device="cpu")]
        giver[drawn[value]] = drawn[value].roll(1)
    n, m = len(drawn[TARGET]), len(drawn[FOIL])
    crossed = max(1, round(n * m / (n + m)))
    first, second = drawn[TARGET][:crossed], drawn[FOIL][:crossed]
    giver[first], giver[second] = giver[second].clone(), giver[first].clone()
    return giver
