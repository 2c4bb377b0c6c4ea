"""What each head attends to, measured: by position, by image, at CLS and registers, and what excites it most.

Two passes over the images, of which nothing is kept but sums over images and a few numbers for each: the first takes
mean patterns, the second how far each image's pattern is from the mean.

    position R^2 = 1 - sum over images |p_n - mean of the others' p|^2 / sum over images |p_n - m|^2

with p_n a head's attention to patches on image n, from the patches or from the token that gathers for the readout, and
m its mean over images and cells: the share of the pattern's variance that position alone accounts for, on images that
were left out. 0 or a little below: it tells nothing; 1: the same pattern whatever the image. The rest depends on the
image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ...circuits.baseline import DEFAULT_MEMORY
from ...circuits.figure_data import pixels
from ...circuits.judging.bootstrap import Resamples
from ...circuits.memory import pairs_within
from ...circuits.names import parse_end
from ...circuits.report import Figure
from ...models.blocks import OpenBlock
from ...models.errors import DataError, ModelError
from ...models.hooked import HookedViT
from ..patching.patch_points import LayerTrace, layer_traces
from .head_table import HeadCatalogue, HeadEntry, Looking
from .measure import Heads, head_factors, head_names
from .templates import UNLIKELY, fit_templates, name_of, offset_counts, offset_sums, shuffled_fits
from .top import Top

if TYPE_CHECKING:
    from ...models.toys.sprites import SpriteFactors

_FLAT = 1e-9  # variance over mean square: a pattern that varies less is the same everywhere
_NUMBERS = ("error", "spread", "entropy", "to_cls", "to_registers")  # of each image


def head_catalogue(
    vit: HookedViT,
    images: Float[Tensor, "image channel height width"],
    *,
    heads: Heads = None,
    factors: Mapping[str, NDArray] | SpriteFactors | None = None,
    least: float = 0.5,
    beyond: float = 0.1,
    n_top: int = 6,
    n_shuffles: int = 50,
    n_bootstrap: int = 1000,
    seed: int = 0,
    memory: int = DEFAULT_MEMORY,
) -> HeadCatalogue:
    """Every head's attention described: which position pattern it is, how far by position alone, what excites it most.

    A head is named after a template of `templates.py` (same, offset, near, row, column, corner, edge, modulus; else
    place or relative) if position accounts for `least` of its pattern on images left out, the template for `least` of
    its mean pattern and for more than in 95% of shuffles of positions, and `beyond` of all its attention stands there
    beyond an even spread. Costs two forward passes with patterns kept apart, and 8 bytes x patches^2 per head.

    What excites a head on an image is the length of what it writes at the token that gathers for the readout (CLS, or
    that of attention pooling; without one the mean over patches). A patch excites it by its own part in that write,
    attention x |value x W_O|, before a gate or a norm that heads share.

    Args:
        vit: The opened model, of images.
        images: Preprocessed images: 50 or more for figures that hold.
        heads: Names, a circuit, whose heads they are, or None for all.
        factors: What is known of each image, as in `head_factors`, which needs some hundred images.
        least: Shares that a name needs.
        beyond: Attention beyond an even spread that a name needs.
        n_top: Images and patches that are kept for each head.
        n_shuffles: How often positions are dealt out anew, for the null.
        n_bootstrap: Bootstrap draws of the images; 0 for no intervals.
        seed: Deals and draws.
        memory: Bytes to hold at once, beside the mean patterns.

    Raises:
        DataError: The images don't fit the model, or there are fewer than two.
        ModelError: A head is not known, or the model is one of videos.
    """
    names, images = head_names(vit, heads), vit.check_images(images)
    _require_images(vit, images)
    seen = _Seen(vit, images, names, memory)
    seen.take_means()
    seen.take_numbers(n_top)
    draws = Resamples.draw(len(images), n_bootstrap, seed=seed)
    method = {"n_images": len(images), "least": least, "beyond": beyond, "n_shuffles": n_shuffles, "seed": seed}
    entries = []
    for row, name in enumerate(names):
        looking = {}
        for at in seen.places_of(row):
            looking[at] = _looking(seen, at, row, draws, (least, beyond, n_shuffles, seed))
        entries.append(_entry(seen, row, name, looking))
    table = None if factors is None else head_factors(vit, images, factors, heads=names, seed=seed, memory=memory)
    return HeadCatalogue(vit.cfg.name, vit.cfg.tokens.grid, tuple(entries), method, table)


def _require_images(vit: HookedViT, images: Tensor) -> None:
    if vit.cfg.tokens.frames > 1:
        raise ModelError(
            f"{vit.cfg.name} sees videos, and templates are of images: a catalogue needs a model of images."
        )
    if len(images) < 2:
        raise DataError("a catalogue of one image cannot tell position from image: pass two at least, better 50.")


@dataclass(eq=False)
class _Seen:
    """What the passes leave.

    Args:
        vit: The opened model.
        images: What is run.
        names: The heads, a row each.
        memory: Bytes to hold at once.
        means: `patches` or `cls` -> mean attention to patches, (head, target, patch).
        numbers: The same -> of each image, (number, head, image).
        top_images: By the length of the write.
        top_patches: By the patch's part in it; the best of each image.
    """

    vit: HookedViT
    images: Tensor
    names: tuple[str, ...]
    memory: int
    means: dict[str, Tensor] = field(default_factory=dict)
    numbers: dict[str, Tensor] = field(default_factory=dict)
    top_images: dict[int, Top] = field(default_factory=dict)
    top_patches: dict[int, Top] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.n_patches = self.vit.cfg.tokens.n_patches
        self.rows: dict[int, list[tuple[int, int]]] = {}
        for row, name in enumerate(self.names):
            end = parse_end(name)
            self.rows.setdefault(end.layer, []).append((row, end.head))

    def places_of(self, row: int) -> list[str]:
        """Where a head attends from."""
        layer = parse_end(self.names[row]).layer
        return [at for at, _ in self._targets(layer)]

    def _targets(self, layer: int) -> list[tuple[str, slice]]:
        """The tokens that a layer's heads attend from, by what they are."""
        cfg = self.vit.cfg
        gathering = cfg.gathering(layer)
        found = [] if cfg.is_pool(layer) else [("patches", cfg.tokens.patches)]
        alone = gathering.stop <= cfg.tokens.n_prefix or cfg.is_pool(layer)
        return [*found, ("cls", gathering)] if alone else found

    def take_means(self) -> None:
        """Mean patterns over images, in float64."""
        cfg = self.vit.cfg
        widths = {at: self.n_patches if at == "patches" else 1 for layer in self.rows for at, _ in self._targets(layer)}
        shape = len(self.names), self.n_patches
        self.means = {
            at: torch.zeros(shape[0], n, shape[1], dtype=torch.float64, device="cpu") for at, n in widths.items()
        }
        for _, layer, pattern, _ in self._batches():
            for at, tokens in self._targets(layer):
                for row, head in self.rows[layer]:
                    to_patches = self._from(pattern[:, head], at, tokens)[..., cfg.tokens.patches]
                    self.means[at][row] += to_patches.double().sum(0).cpu() / len(self.images)

    def take_numbers(self, n_top: int) -> None:
        """Numbers of each image, and what excites each head most."""
        patches, shape = self.vit.cfg.tokens.patches, (len(_NUMBERS), len(self.names), len(self.images))
        self.numbers = {at: torch.zeros(shape, dtype=torch.float64, device="cpu") for at in self.means}
        for start, layer, pattern, excited in self._batches(writes=True):
            here = slice(start, start + len(pattern))
            for at, tokens in self._targets(layer):
                for row, head in self.rows[layer]:
                    found = self._from(pattern[:, head], at, tokens).double().cpu()
                    mean = self.means[at][row]
                    self.numbers[at][:2, row, here] = _squares(found[..., patches], mean)
                    self.numbers[at][2:, row, here] = self._shares(found)
            self._take_top(layer, start, excited, n_top)

    @staticmethod
    def _from(
        pattern: Float[Tensor, "image token source"], at: str, tokens: slice
    ) -> Float[Tensor, "image row source"]:
        rows = pattern[:, tokens]
        return rows if at == "patches" else rows.mean(1, keepdim=True)

    def _shares(self, rows: Float[Tensor, "image row source"]) -> Float[Tensor, "number image"]:
        layout = self.vit.cfg.tokens
        entropy = -torch.special.xlogy(rows, rows).sum(-1).mean(-1)
        cls = rows[..., : layout.n_prefix - layout.n_registers].sum(-1).mean(-1)
        return torch.stack([entropy, cls, rows[..., layout.registers].sum(-1).mean(-1)])

    def _take_top(self, layer: int, start: int, excited: tuple[Tensor, Tensor], n_top: int) -> None:
        writes, parts = excited
        best, patch = parts.max(-1)  # head, image
        images = torch.arange(start, start + writes.shape[1], device="cpu")
        for row, head in self.rows[layer]:
            for tops, scores, places in (
                (self.top_images, writes, images),
                (self.top_patches, best, images * self.n_patches + patch[head].cpu()),
            ):
                top = tops.get(row, Top.of(1, min(n_top, len(self.images))))
                tops[row] = top.with_more(scores[head][None], places)

    def _batches(self, *, writes: bool = False) -> Iterator[tuple[int, int, Tensor, tuple[Tensor, Tensor]]]:
        """First image, layer, pattern (image, head, target, source), and the heads' writes and the patches' parts."""
        vit, none = self.vit, (torch.zeros(0, device="cpu"), torch.zeros(0, device="cpu"))
        size = pairs_within(vit, self.memory, residuals=16, patterns=8)
        for start in range(0, len(self.images), size):
            with torch.no_grad(), vit.borrowed():
                steps = layer_traces(vit, vit.embed(self.images[start : start + size]))
                for layer, step in zip(range(max(self.rows) + 1), steps, strict=False):
                    if layer in self.rows:
                        pattern = vit.blocks[layer].pattern(step.q, step.k)
                        yield start, layer, pattern, self._excited(layer, pattern, step) if writes else none

    def _excited(self, layer: int, pattern: Tensor, step: LayerTrace) -> tuple[Tensor, Tensor]:
        """Length of each head's write, (head, image), and of each patch's part in it, (head, image, patch)."""
        block, patches = self.vit.blocks[layer], self.vit.cfg.tokens.patches
        tokens = self._targets(layer)[-1][1]
        lengths = _lengths(block, step.z[..., tokens, :]).mean(-1)
        weights = pattern[..., tokens, patches].mean(-2)
        return lengths.T, (weights * _lengths(block, step.v[..., patches, :])).transpose(0, 1)


def _squares(found: Float[Tensor, "image row patch"], mean: Float[Tensor, "row patch"]) -> Float[Tensor, "2 image"]:
    """Each image's squared distance from the mean pattern, and from the mean over cells."""
    return torch.stack([(found - mean).square().sum((1, 2)), (found - mean.mean()).square().sum((1, 2))])


def _lengths(block: OpenBlock, z: Float[Tensor, "image head token d_head"]) -> Float[Tensor, "image head token"]:
    """|z W_O|, by W_O W_O' of each head instead of the wide write itself."""
    out = block.out_weight
    return torch.einsum("bhti,hij,bhtj->bht", z, out @ out.transpose(-1, -2), z).clamp_min(0).sqrt()


def _looking(seen: _Seen, at: str, row: int, draws: Resamples, settings: tuple[float, float, int, int]) -> Looking:
    least, beyond, n_shuffles, seed = settings
    grid, mean = seen.vit.cfg.tokens.grid, seen.means[at][row].numpy()
    error, spread, entropy, to_cls, to_registers = seen.numbers[at][:, row].numpy()
    fits, null = fit_templates(mean, grid), shuffled_fits(mean, grid, n_shuffles, seed=seed)
    position = _position(error, spread, float(np.square(mean).sum()), draws)
    fixed = position.value is not None and position.value >= least
    layout = seen.vit.cfg.tokens
    return Looking(
        name_of(fits, null, least, beyond) if fixed else "",
        fits,
        {name: float(np.quantile(drawn, UNLIKELY)) for name, drawn in null.items()},
        position,
        draws.mean(entropy, "nats", "entropy over all tokens, mean over targets and images"),
        _share(to_cls, draws, layout.has_cls or layout.has_dist, "CLS"),
        _share(to_registers, draws, layout.n_registers > 0, "registers"),
        mean.mean(0).reshape(grid),
    )


def _position(error: NDArray[np.float64], spread: NDArray[np.float64], size: float, draws: Resamples) -> Figure:
    n = len(error)
    if spread.mean() <= _FLAT * size:
        return Figure(None, "share", reason="the pattern is the same everywhere")
    others = (n / (n - 1)) ** 2  # p - the others' mean is n / (n - 1) times p - the mean of all
    drawn = 1 - others * draws.means(error) / draws.means(spread)
    return draws.figure(1 - others * float(error.sum() / spread.sum()), drawn, "share", "R^2 on images left out")


def _share(values: NDArray[np.float64], draws: Resamples, there: bool, what: str) -> Figure:
    if not there:
        return Figure(None, "share", reason=f"the model has no {what}")
    return draws.mean(values, "share", f"attention to {what}, mean over targets and images")


def _entry(seen: _Seen, row: int, name: str, looking: dict[str, Looking]) -> HeadEntry:
    layout = seen.vit.cfg.tokens
    offsets = None
    if "patches" in looking:
        offsets = offset_sums(seen.means["patches"][row].numpy(), layout.grid) / offset_counts(layout.grid)
    tops = [(score, *divmod(place, layout.n_patches)) for score, place in seen.top_patches[row].row(0)]
    patches = tuple((score, image, *divmod(patch, layout.grid[1])) for score, image, patch in tops)
    crops = [crop(seen.vit, seen.images[image], r, c) for _, image, r, c in patches]
    pictures, boxes = tuple(one[0] for one in crops), tuple(one[1] for one in crops)
    return HeadEntry(name, looking, offsets, seen.top_images[row].row(0), patches, pictures, boxes)


def crop(
    vit: HookedViT, image: Float[Tensor, "channel height width"], row: int, column: int, *, reach: int = 1
) -> tuple[NDArray[np.float32], tuple[float, float, float, float]]:
    """Pixels of a patch and so many patches around it, and where it is in them: left, top, width, height as shares.

    Args:
        vit: The opened model.
        image: A preprocessed image.
        row: Of the patch.
        column: Of the patch.
        reach: Patches on each side, as far as the image goes.
    """
    height, width = vit.cfg.patch_size
    rows, columns = vit.cfg.tokens.grid
    top, left = max(row - reach, 0), max(column - reach, 0)
    down, right = min(row + reach + 1, rows), min(column + reach + 1, columns)
    (shown,) = pixels(vit, image[None])
    across, along = right - left, down - top
    box = (column - left) / across, (row - top) / along, 1 / across, 1 / along
    return shown[0, top * height : down * height, left * width : right * width], box
