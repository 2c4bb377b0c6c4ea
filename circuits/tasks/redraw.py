"""Pairs drawn again and divided, for whoever asks what other images would have given.

What is drawn is an image: the pair of a one-sided task, and of a crossed one (`design.py`) the clean image, within its
class and with all its pairs, so that no cell grows at another's cost. An image that is drawn twice counts as two, also
under ablations that take each clean image once.

Two halves of a crossed task share no image, partners included: where partners are clean images of the same pairs, each
half's images meet one another, in circles as when they were drawn first (`crossing.py`).
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray

from ...models.errors import TaskError
from .crossing import in_circles
from .design import FOIL, TARGET, Design
from .task import Pairs

Rows = NDArray[np.intp]

LEAST_IN_HALF = 2  # images of a class: none is its own partner


def redrawn_rows(pairs: Pairs, rng: np.random.Generator) -> Rows:
    """Rows of as many images, drawn with replacement; `at_rows` makes pairs of them."""
    if pairs.design is None:
        return rng.integers(len(pairs), size=len(pairs))
    drawn = [own[place] for own in _images(pairs.design) for place in rng.integers(len(own), size=len(own))]
    return np.concatenate(drawn)


def halved_rows(pairs: Pairs, rng: np.random.Generator) -> list[Rows]:
    """Rows of two disjoint halves of the images; `half` makes pairs of them."""
    if pairs.design is None:
        return np.array_split(rng.permutation(len(pairs)), 2)
    halves: list[list[Rows]] = [[], []]
    for own in _images(pairs.design):
        for half, places in zip(halves, np.array_split(rng.permutation(len(own)), 2), strict=True):
            half += [own[place] for place in places]
    return [np.concatenate(half) for half in halves]


def require_halves(pairs: Pairs) -> None:
    """Does nothing if the pairs can be divided.

    Raises:
        TaskError: There are too few.
    """
    if pairs.design is None:
        return
    fewest = min(len(own) for own in _images(pairs.design))
    if fewest < 2 * LEAST_IN_HALF:
        raise TaskError(
            f"a class has {fewest} discovery images, and two halves need {2 * LEAST_IN_HALF} of each: make the task "
            f"with more, such as n_discovery={4 * LEAST_IN_HALF}."
        )


def at_rows(pairs: Pairs, rows: Rows) -> Pairs:
    """The pairs of some rows; where a row comes again, its clean image is a further image."""
    found = pairs.select(torch.from_numpy(rows))
    if found.design is None:
        return found
    copy = torch.from_numpy(_earlier(rows))
    stride = 1 + int(torch.stack([found.design.clean_image, found.design.partner_image]).max())
    image = found.design.clean_image + stride * copy
    return dataclasses.replace(found, design=dataclasses.replace(found.design, clean_image=image))


def half(pairs: Pairs, rows: Rows) -> Pairs:
    """The pairs of one half, whose partners are of this half."""
    return met_again(pairs.select(torch.from_numpy(rows)))


def met_again(pairs: Pairs) -> Pairs:
    """Pairs whose partners were other images of the same task, with partners among their own clean images.

    Partners are the images that the model gets right, as many for each clean image as the most had. Pairs without a
    design, with partners that are chosen for or made from their clean image, or that may show any class, stay as they
    are. Each pair keeps an id of its clean image.
    """
    design = pairs.design
    if design is None or design.follows or not design.crossed:
        return pairs
    rows = {int(own[0]): own for side in _images(design) for own in side}
    sides = {side: [row for row in rows if design.clean_side[row] == side] for side in (TARGET, FOIL)}
    partners = {
        side: torch.tensor([row for row in own if design.right[row]] or own, device="cpu")
        for side, own in sides.items()
    }
    clean = [(side, torch.tensor(own, device="cpu")) for side, own in sides.items()]
    most = max(_partners_of(design, own) for own in rows.values())
    jobs = sorted(in_circles(clean, partners, most), key=lambda job: job[0])  # clean images keep their order
    first, _, other, other_side = (torch.tensor(column, device="cpu") for column in zip(*jobs, strict=True))
    again = pairs.select(first)
    assert again.design is not None
    place = {row: at for own in sides.values() for at, row in enumerate(own)}
    met = dataclasses.replace(
        again.design,
        partner_side=other_side,
        partner_image=design.clean_image[other],
        clean_place=torch.tensor([place[row] for row in first.tolist()], device="cpu"),
        partner_place=torch.tensor([place[row] for row in other.tolist()], device="cpu"),
    )
    places = zip(first.tolist(), _earlier(first.numpy()).tolist(), strict=True)
    own = torch.tensor([rows[row][min(place, len(rows[row]) - 1)] for row, place in places], device="cpu")
    objects = pairs.objects
    if objects is not None:
        objects = torch.stack([objects[first, 0], objects[other, 0]], 1)
    return dataclasses.replace(again, corrupt=pairs.clean[other], ids=pairs.pair_ids[own], design=met, objects=objects)


def _partners_of(design: Design, rows: Rows) -> int:
    """Partners of one class that a clean image meets, in the class where they are most."""
    sides = design.partner_side[torch.from_numpy(rows)]
    return int(max((sides == side).sum() for side in (TARGET, FOIL)))


def _images(design: Design) -> list[list[Rows]]:
    """For each side, the rows of each of its clean images."""
    images, sides = design.clean_image.numpy(), design.clean_side.numpy()
    found = []
    for side in design.sides:
        own = dict.fromkeys(images[sides == side].tolist())
        found.append([np.flatnonzero((images == image) & (sides == side)) for image in own])
    return found


def _earlier(values: Rows) -> NDArray[np.int64]:
    """How often each value came before."""
    seen: dict[int, int] = {}
    found = []
    for value in values.tolist():
        found.append(seen.get(value, 0))
        seen[value] = found[-1] + 1
    return np.array(found, dtype=np.int64)
