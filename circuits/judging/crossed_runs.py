"""A circuit and no edge, run on crossed pairs, and what is read off: figures, single images, how many there are."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from numpy.typing import NDArray
from torch import Tensor

from ..baseline import Baseline
from ..graph import Graph
from ..report import Figure, Table
from ..run import MaskRuns, run_masks
from ..tasks.design import FOIL, TARGET, Design, one_partner_each
from ..tasks.metrics import kl_divergence
from ..tasks.task import Pairs, Task
from .bootstrap import FLOOR, Resamples
from .transmission import Crossed, reads, right_figures

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

FEWER_IMAGES, OF_LARGE = 32, 16
"""Clean images of each class on which curves and controls are run; of large graphs, where a run takes long."""


def fewer(pairs: Pairs, most: int = FEWER_IMAGES, *, one_partner: bool = False) -> Pairs:
    """The pairs that `fewer_rows` chooses of crossed pairs."""
    assert pairs.design is not None
    return pairs.select(fewer_rows(pairs.design, most, one_partner=one_partner))


def fewer_rows(design: Design, most: int = FEWER_IMAGES, *, one_partner: bool = False) -> Int[Tensor, " chosen"]:
    """The first clean images of each class that the model gets right, each with its first partner of each class.

    Args:
        design: Of crossed pairs.
        most: Clean images of each class.
        one_partner: Each with a partner of one class alone, of either class at every other place: images that stand at
            one place still meet the same partner, so what it adds still cancels in the clean contrast.
    """
    seen: dict[int, list[int]] = {}
    rows: list[int] = []
    sides, partners = design.clean_side.tolist(), design.partner_side.tolist()
    images, right = design.clean_image.tolist(), design.right.tolist()
    met: set[tuple[int, int]] = set()
    for row, (side, partner, image) in enumerate(zip(sides, partners, images, strict=True)):
        chosen = seen.setdefault(side, [])
        if right[row] and (image in chosen or len(chosen) < most) and (image, partner) not in met:
            met.add((image, partner))
            rows.append(row)
            if image not in chosen:
                chosen.append(image)
    found = torch.tensor(rows, device="cpu")
    return found[_alternating(design.select(found))] if one_partner and design.crossed else found


def _alternating(design: Design) -> Bool[Tensor, " pair"]:
    """Pairs whose partners show the target at every other place of clean images, and the foil at those between."""
    place = torch.unique(design.clean_place, return_inverse=True)[1]
    own = place % 2 == (design.partner_side == TARGET).long()
    kept = design.select(own)
    return own if len(dict(kept.cells())) == len(dict(design.cells())) else torch.ones_like(own)


@dataclass(frozen=True, eq=False)
class CrossedRuns:
    """The circuit (mask 0) and no edge (mask 1) on some pairs.

    Args:
        task: The task.
        pairs: The pairs, as the ablation needs them.
        runs: Of both masks, with their logits.
        interchange: Whether removed edges carry the partner's values.
        n_bootstrap: Draws of the images.
        seed: Of the draws.
    """

    task: Task
    pairs: Pairs
    runs: MaskRuns
    interchange: bool
    n_bootstrap: int
    seed: int

    @classmethod
    def of(
        cls,
        task: Task,
        graph: Graph,
        mask: Bools,
        pairs: Pairs,
        baseline: Baseline,
        *,
        n_bootstrap: int,
        seed: int,
        memory: int,
        progress: bool | None,
        label: str = "circuit",
    ) -> CrossedRuns:
        """Runs them."""
        masks = [mask, np.zeros_like(mask)]
        metric = task.metric.response
        runs = run_masks(
            task.vit, graph, masks, metric, pairs, baseline, n_logits=2, memory=memory, progress=progress, label=label
        )
        return cls(task, pairs, runs, baseline.ablation.kind == "partner", n_bootstrap, seed)

    def select(self, rows: Tensor) -> CrossedRuns:
        """On some of the pairs."""
        at = rows.numpy()
        runs = MaskRuns(
            self.runs.outputs[:, at],
            self.runs.clean_outputs[at],
            self.runs.logits[:, rows],
            self.runs.clean_logits[rows],
        )
        return dataclasses.replace(self, pairs=self.pairs.select(rows), runs=runs)

    @cached_property
    def crossed(self) -> Crossed:
        """The outputs on their design."""
        assert self.pairs.design is not None
        resamples = Resamples.of(self.pairs, self.n_bootstrap, seed=self.seed)
        outputs = self.runs.outputs
        return Crossed(self.pairs.design, outputs[0], self.runs.clean_outputs, outputs[1], resamples, self.interchange)

    @cached_property
    def right(self) -> CrossedRuns | None:
        """On the clean images that the model gets right; None where it gets none of a class right."""
        design = self.crossed.design
        found = self.select(torch.nonzero(design.right).flatten())
        return found if len(found.pairs) and found.crossed.design.sides == design.sides else None

    @cached_property
    def hits(self) -> Bools:
        """Where the circuit's top class is one of the clean image's own, shape (pair,)."""
        return self._hits(self.runs.logits[0])

    def _hits(self, logits: Tensor) -> Bools:
        top, side = logits.argmax(-1), self.crossed.design.clean_side
        own = [torch.isin(top, torch.tensor(classes or (-1,), device="cpu")) for classes in self._class_sets]
        return ((side == TARGET) & own[0] | (side == FOIL) & own[1]).numpy()

    @property
    def _class_sets(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        metric = self.task.metric
        rest = tuple(index for index in range(self.task.vit.cfg.n_classes) if index not in metric.target)
        return metric.target, metric.foil or rest

    def figures(self, suffix: str = "") -> dict[str, Figure]:
        """What reads the image, in the order in which it is told."""
        crossed, unit = self.crossed, self.task.metric.response.unit
        found = {"transmission": crossed.headline()}
        if crossed.design.follows and self.interchange:
            found |= {
                "transmission_raw": crossed.transmission(),
                "transmission_empty": crossed.empty_transmission(),
            }
        found |= {"leakage": crossed.leakage(), "offset": crossed.offset(unit), **crossed.within()}
        found["reproduced_variation"] = crossed.reproduced_headline()
        if crossed.design.follows and self.interchange:
            found |= {
                "reproduced_variation_raw": crossed.reproduced(),
                "reproduced_variation_empty": crossed.empty_reproduced(),
            }
        found |= {**right_figures(crossed.design, self.hits), "kl": self._kl()}
        return {name + suffix: figure for name, figure in found.items()}

    def _kl(self) -> Figure:
        values = kl_divergence(self.runs.clean_logits, self.runs.logits[0]).numpy()
        method = "mean KL(p of the full model || p of the circuit) over all classes, 0 is best"
        return self.crossed.resamples.mean(values, "nats", method)

    # One side alone, as most of the field measures.

    def _cell(self, clean: int, partner: int) -> Bools:
        """One cell; without partners of a class, the clean images of a class."""
        design = self.crossed.design
        inside = design.clean_side.numpy() == clean
        return inside & (design.partner_side.numpy() == partner) if design.crossed else inside

    def one_sided(self) -> dict[str, Figure]:
        """Faithfulness with clean images of the target and partners of the foil, and what a sham makes of it."""
        crossed = self.crossed
        cell, sham = self._cell(TARGET, FOIL), self._cell(FOIL, FOIL)
        method = "(m(C) - m(none)) / (m(E) - m(none)) over target images with foil partners: a constant can reach 1"
        if not cell.any():
            lacking = Figure(None, "share", reason="no clean image shows the target", method=method)
            return {"one_sided_faithfulness": lacking}
        own = [values[cell].mean() for values in (crossed.circuit, crossed.none, crossed.clean)]
        gap = own[2] - own[1]
        if abs(gap) < FLOOR:
            reason = f"|m(E) - m(none)| is {abs(gap):.1e}, below {FLOOR}"
            return {"one_sided_faithfulness": Figure(None, "share", reason=reason, method=method)}
        draws = crossed.resamples.weights
        drawn = [_masked_mean(draws, values, cell) for values in (crossed.circuit, crossed.none, crossed.clean)]
        f = crossed.resamples.figure(
            float((own[0] - own[1]) / gap), (drawn[0] - drawn[1]) / (drawn[2] - drawn[1]), "share", method
        )
        found = {}
        if sham.any():
            shown = _masked_mean(draws, crossed.circuit, sham)
            text = "the same with an image of the foil as the clean image: near f means that nothing is read"
            value = float((crossed.circuit[sham].mean() - own[1]) / gap)
            found["one_sided_sham"] = crossed.resamples.figure(
                value, (shown - drawn[1]) / (drawn[2] - drawn[1]), "share", text
            )
        found["no_opinion"] = self._no_opinion(own[1], gap)
        return {**found, "one_sided_faithfulness": f}

    def _no_opinion(self, none: float, gap: float) -> Figure:
        """One-sided faithfulness of equal logits for all classes."""
        equal = torch.zeros(1, self.task.vit.cfg.n_classes, dtype=torch.float64, device="cpu")
        value = (float(self.task.metric.response(equal)) - none) / gap
        return Figure(
            value, "share", reason="a constant", method="one-sided faithfulness of equal logits for all classes"
        )


def _masked_mean(weights: Floats, values: Floats, inside: Bools) -> Floats:
    own = weights[:, inside]
    with np.errstate(invalid="ignore", divide="ignore"):
        return (own @ values[inside]) / own.sum(-1)


def other_classes(runs: CrossedRuns | None) -> Figure:
    """R^2 on clean images of third classes."""
    method = "R^2 on clean images of third classes, met by partners of both"
    if runs is None:
        return Figure(None, "share", reason="the data have no third class", method=method)
    found = runs.crossed.reproduced()
    return dataclasses.replace(found, method=f"{method}; {found.method}")


def image_table(runs: CrossedRuns) -> Table:
    """The circuit's answer beside the model's for each clean image, worst first."""
    crossed, vit = runs.crossed, runs.task.vit
    design, rows = crossed.design, []
    sides, images = design.clean_side.numpy(), design.clean_image.numpy()
    for at in one_partner_each(design).tolist():
        own = images == images[at]
        errors = crossed.circuit[own] - crossed.clean[own]
        tops = runs.runs.logits[0][torch.from_numpy(own)].argmax(-1)
        said = vit.class_names[int(tops.mode().values)].split(",")[0]
        full = vit.class_names[int(runs.runs.clean_logits[at].argmax())].split(",")[0]
        rows.append(
            (
                float(np.sqrt(np.mean(errors**2))),
                (
                    f"image {images[at]}",
                    {TARGET: "target", FOIL: "foil"}.get(int(sides[at]), "other"),
                    full,
                    said,
                    f"{crossed.clean[at]:.2f}",
                    f"{crossed.circuit[own].mean():.2f}",
                    f"{crossed.circuit[own].min():.2f} to {crossed.circuit[own].max():.2f}",
                ),
            )
        )
    rows.sort(key=lambda row: -row[0])
    columns = ("image", "shows", "the model says", "the circuit says", "m of the model", "m of the circuit", "range")
    return Table(columns, tuple(row for _, row in rows), "each clean image, over its partners; furthest off first")


def words(transmission: Figure) -> str:
    """What a transmission means."""
    if transmission.value is None:
        return f"transmission undefined ({transmission.reason})"
    return reads(transmission.low)


def describe_images(runs: CrossedRuns) -> dict[str, Any]:
    """How many images there are and how many the model gets wrong, for the report's method."""
    design = runs.crossed.design
    counts = {}
    for name, side in (("target", TARGET), ("foil", FOIL)):
        own = design.clean_side == side
        counts[f"n_{name}_images"] = design.clean_image[own].unique().numel()
        counts[f"n_{name}_images_right"] = design.clean_image[own & design.right].unique().numel()
    return counts
