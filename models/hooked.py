"""A Vision Transformer opened up: the same forward pass as the original's, with every head's part in it apart."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .adapters.find import Opener, open_module
from .blocks import OpenBlock
from .config import VitConfig
from .devices import reproducible
from .errors import DataError, ModelError
from .hooks import (
    ActivationCache,
    HookFunction,
    NamesFilter,
    Stops,
    collect_hooks,
    hook_names,
    hooked_forward,
    original_blocks,
    select_names,
)
from .precision import ROUNDING, SHORT, in_fewer_bits, wide
from .readouts import Pool, Readout, evaluating, replace_head
from .threads import suited_threads

if TYPE_CHECKING:
    from .preprocess import Preprocess
    from .text_tower import TextTower


@dataclass(frozen=True)
class Parity:
    """How far the opened-up forward pass is from the original's on a random batch.

    Args:
        max_difference: Largest absolute difference of logits.
        tolerance: The largest that is accepted: 1e-4 x max(1, largest |logit|) in float32; where passes are in 16 bits,
            what rounding may do (see `models/precision.py`).
    """

    max_difference: float
    tolerance: float

    def __str__(self) -> str:
        return f"parity {self.max_difference:.1e} (accepted up to {self.tolerance:.1e})"


class HookedViT:
    """An opened ViT. The original module is used by reference and left as it was.

    Args:
        module: One of timm's ViTs, of transformers' or open_clip's, or a module of one's own (see docs/models.md).
        name: What to call it.
        preprocess: From a picture to the model's input, where it is known.
        labels: One name per logit, where they are known.
        attention_mask: `causal`, or a boolean tensor (target, source) that is True where a token may see another.
        head: What takes the place of the module's own head, once the module has been compared with its original.
        adapter: Who opens the module, where that is not to be found out.
        image_size: Height and width of the images of a module of one's own, or their side; None to find them.

    Raises:
        ModelError: The module cannot be opened, holds NaN, is in 16 bits (load it with `load_vit`), or the opened-up
            forward pass differs from the original's.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        name: str = "vit",
        preprocess: Preprocess | None = None,
        labels: tuple[str, ...] | None = None,
        attention_mask: str | Tensor | None = None,
        head: nn.Module | None = None,
        adapter: Opener | None = None,
        image_size: int | tuple[int, int] | None = None,
    ) -> None:
        opened = open_module(module, name, mask=attention_mask, adapter=adapter, image_size=image_size)
        self.module = module
        self.opened = opened
        self.cfg: VitConfig = opened.cfg
        self.blocks: tuple[OpenBlock, ...] = opened.blocks
        self.readout: Readout = opened.readout
        self.own_readout, self._own_cfg = self.readout, self.cfg
        self.preprocess = preprocess
        self.labels = labels
        self.attention_mask = attention_mask
        self.opened_by: dict[str, Any] = {"adapter": adapter, "image_size": image_size}
        self.text_tower: TextTower | None = None
        self._short: torch.dtype | None = None
        self._is_borrowed = False
        _check_weights(module, name)
        self.parity = self._check_parity()
        if head is not None:
            self._replace_head(head, labels)

    def __repr__(self) -> str:
        return repr(self.cfg).replace("VitConfig", "HookedViT", 1)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights and the passes."""
        return self._short or next(self.module.parameters()).dtype

    @property
    def sum_dtype(self) -> torch.dtype:
        """Of the residual stream, and of whatever is added up or decided on: float32 where passes are in 16 bits."""
        return wide(self.dtype)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.module.parameters()).device

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per logit; the index where no label is known."""
        return self.labels or tuple(str(index) for index in range(self.cfg.n_classes))

    def digest(self) -> str:
        """sha256 of sizes, parts and weights, and of an attention mask if there is one, in hexadecimal."""
        # as dataclasses spell them, so that earlier digests hold whatever `repr` says
        sizes = ", ".join(f"{name}={value!r}" for name, value in {**vars(self.cfg), "name": ""}.items())
        sizes = f"VitConfig({sizes})"
        built = re.sub("0x[0-9a-f]+", "", repr(self.module))  # activations, norms and their constants
        found = hashlib.sha256((sizes + built).encode())
        for mask in {id(mask): mask for block in self.blocks if (mask := block.mask) is not None}.values():
            found.update(mask.value.cpu().numpy().tobytes())
        for name, value in sorted(self.module.state_dict().items()):
            raw = value.detach().cpu().contiguous().flatten().view(torch.uint8)  # numpy has no bfloat16
            found.update(name.encode() + raw.numpy().tobytes())
        found.update(str(self.readout.info.get("sha256", "")).encode())
        return found.hexdigest()

    def with_readout(
        self,
        head: nn.Module,
        labels: Sequence[str] | None = None,
        *,
        pool: Pool | str = "own",
        info: Mapping[str, Any] | None = None,
    ) -> HookedViT:
        """The same ViT, sharing the module, with another head in place of the module's own.

        Args:
            head: From the pooled vector to the logits: a linear map, a `TextHead`, `nn.Identity()` for the features
                themselves, or any module (see `models/readouts.py`).
            labels: One name per logit.
            pool: What the head is given: `own` (what the module's own head gets), `cls`, or `patches` (their mean);
                each after the final norm.
            info: What the head is, in plain values, for the record.

        Raises:
            ModelError: The head does not fit, or the model has no such tokens.
        """
        other = copy.copy(self)
        other._is_borrowed = False
        other._replace_head(head, labels, pool, info)
        return other

    def _replace_head(
        self,
        head: nn.Module,
        labels: Sequence[str] | None,
        pool: Pool | str = "own",
        info: Mapping[str, Any] | None = None,
    ) -> None:
        like = torch.empty(0, dtype=self.sum_dtype, device=self.device)
        options: dict[str, Any] = {"like": like, "labels": labels, "pool": pool, "info": info}
        self.readout, self.cfg = replace_head(self.own_readout, self._own_cfg, head, **options)
        self.labels = None if labels is None else tuple(labels)

    def shorten(self, dtype: torch.dtype) -> None:
        """Has the passes in 16 bits from now on: rounds the module's weights in place (see `models/precision.py`).

        The opened model has been compared with its original in float32; now its logits are compared with those.

        Args:
            dtype: float16 or bfloat16.

        Raises:
            ModelError: Logits move by more than rounding explains: a number is too large for the dtype.
        """
        assert dtype in SHORT and self._short is None
        images = self._random_images()
        with torch.no_grad(), self.borrowed():
            wanted = self.readout.logits(self.run_blocks(self.embed(images)))
            self.opened = in_fewer_bits(self.module, self.opened, self.readout, dtype)
            self.blocks, self._short = self.opened.blocks, dtype
            got = self.readout.logits(self.run_blocks(self.embed(images)))
        tolerance = ROUNDING[dtype] * max(1.0, float(wanted.abs().max()))
        self.parity = Parity(float((wanted - got).abs().max()), tolerance)
        if not self.parity.max_difference <= tolerance:
            raise ModelError(
                f"{self.cfg.name} does not compute the same in {str(dtype)[6:]}: its logits move by "
                f"{self.parity.max_difference:.2e} (accepted: {tolerance:.2e}). Pass dtype='float32'"
                f"{', or bfloat16, which holds larger numbers' if dtype == torch.float16 else ''}."
            )

    @contextmanager
    def borrowed(self) -> Iterator[None]:
        """The module in evaluation mode with frozen weights, run as suits the device; all is put back."""
        if self._is_borrowed:  # by a caller; to look through all parameters again takes as long as a small block
            yield
            return
        both = (self.module, self.readout.head)  # the head may be another than the module's own
        learning = [parameter for part in both for parameter in part.parameters() if parameter.requires_grad]
        try:
            self._is_borrowed = True
            for parameter in learning:
                parameter.requires_grad_(False)
            with evaluating(*both), self._threads():
                yield
        finally:
            self._is_borrowed = False
            for parameter in learning:
                parameter.requires_grad_(True)

    def _threads(self) -> AbstractContextManager[None]:
        def two_blank_images() -> None:
            shape = (2, self.cfg.n_channels, *self.cfg.image_size)
            blank = torch.zeros(shape, dtype=self.sum_dtype, device=self.device)
            with torch.no_grad():
                self.run_blocks(self.embed(blank))

        return suited_threads(self.cfg, two_blank_images) if self.device.type == "cpu" else reproducible()

    def embed(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch token model"]:
        """The residual in front of block 0: patches, positions, CLS, pre-norm, by the original's own code."""
        stem = self.opened.stem
        return stem.finish(stem.positioned(stem.patches(images)))

    def run_blocks(
        self, residual: Float[Tensor, "batch token model"], *, start: int = 0, skip_attention: bool = False
    ) -> Float[Tensor, "batch token model"]:
        """The last residual, from the residual in front of block `start`, or of its MLP if attention is skipped."""
        for layer, block in enumerate(self.blocks[start:], start):
            residual = block.run(residual, skip_attention=skip_attention and layer == start)
        return residual

    def finish(
        self, residual: Float[Tensor, "batch token model"], *, start: int = 0, skip_attention: bool = False
    ) -> Float[Tensor, "batch class"]:
        """Logits from the residual in front of block `start`, or of its MLP if attention is skipped.

        The same as `readout.logits(run_blocks(...))`, but the last block is only computed for the tokens that the
        readout looks at.
        """
        last = self.cfg.n_layers - 1
        for layer in range(start, last):
            residual = self.blocks[layer].run(residual, skip_attention=skip_attention and layer == start)
        read = self.readout.select(residual)
        if start <= last:
            block, before, tokens = self.blocks[last], read, self.readout.read
            assert not (skip_attention and start == last and block.parallel), "as in `OpenBlock.run`"
            if not (skip_attention and start == last):
                z = block.attend(*block.read_at(block.norm1(residual), tokens), tokens)
                read = read + block.attn_write(z)
            read = read + block.mlp_write(block.mlp_input(before, read))
        return self.readout(read)

    def __call__(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch class"]:
        """Logits.

        Raises:
            DataError: The images don't fit the model.
        """
        images = self.check_images(images)
        with self.borrowed():
            return self.readout.logits(self.run_blocks(self.embed(images)))

    def run_with_cache(
        self, images: Float[Tensor, "batch channel height width"], names_filter: NamesFilter = None
    ) -> tuple[Float[Tensor, "batch class"], ActivationCache]:
        """Logits, and the activations at the hooks that the filter picks (all by default).

        Args:
            images: Preprocessed images.
            names_filter: A hook name, several, or a function of the name that says whether it is wanted.

        Raises:
            DataError: The images don't fit the model.
            ModelError: A hook name does not exist.
        """
        stop = Stops(cached=select_names(self.hook_names, names_filter))
        with self.borrowed():
            return hooked_forward(self.opened, self.readout, self.check_images(images), stop), stop.cache

    def run_with_hooks(
        self,
        images: Float[Tensor, "batch channel height width"],
        fwd_hooks: Iterable[tuple[str | Callable[[str], bool], HookFunction]] = (),
    ) -> Float[Tensor, "batch class"]:
        """Logits, with functions called on activations; what a function returns takes the activation's place.

        Args:
            images: Preprocessed images.
            fwd_hooks: Pairs of a hook name (or a function of the name) and a function `fn(activation, hook)`.

        Raises:
            DataError: The images don't fit the model.
            ModelError: A hook name does not exist.
        """
        stop = Stops(functions=collect_hooks(self.hook_names, fwd_hooks))
        with self.borrowed():
            return hooked_forward(self.opened, self.readout, self.check_images(images), stop)

    @property
    def hook_names(self) -> tuple[str, ...]:
        """All hook names, in the order in which they are reached."""
        return hook_names(self.cfg)

    def require_separate_heads(self, what: str) -> None:
        """Does nothing if a head's write depends on that head alone.

        Raises:
            ModelError: Heads share a norm in front of the output projection, so that none can be computed by itself.
        """
        if any(block.joint is not None for block in self.blocks):
            raise ModelError(
                f"the heads of {self.cfg.name} share a norm in front of the output projection, so that one head's "
                f"write depends on all of them; {what} compute heads one at a time. Use a gradient method, such as "
                f"eap_ig, whose gradients pass that norm."
            )

    def check_images(self, images: Tensor) -> Tensor:
        """The images on the model's device, in the dtype of its residual stream.

        Raises:
            DataError: They are not a non-empty batch of the model's size, or hold NaN or infinity.
        """
        wanted = (self.cfg.n_channels, *self.cfg.image_size)
        if not isinstance(images, Tensor):
            raise DataError(f"images are a {type(images).__name__}: pass a tensor of shape (batch, {wanted}).")
        if images.ndim != 4 or tuple(images.shape[1:]) != wanted:
            hint = " For a single image pass image[None]." if tuple(images.shape) == wanted else ""
            hint = " Make images of clips by clips_to_images(clips)." if self.cfg.clip_frames > 1 else hint
            raise DataError(
                f"images have shape {tuple(images.shape)}, but {self.cfg.name} wants "
                f"(batch, {', '.join(map(str, wanted))}): channels, height, width.{hint} "
                f"vit.preprocess(picture) makes one that fits."
            )
        if len(images) == 0:
            raise DataError("there are no images in the batch: pass at least one.")
        if not images.is_floating_point():
            raise DataError(
                f"images have type {images.dtype}: pass floating-point images as vit.preprocess makes them, "
                f"for instance images.float() / 255, normalised."
            )
        if not bool(torch.isfinite(images).all()):
            bad = torch.nonzero(~torch.isfinite(images).flatten(1).all(1)).flatten().tolist()
            raise DataError(f"images {bad[:10]} hold NaN or infinity: leave them out, or repair them first.")
        return images.to(device=self.device, dtype=self.sum_dtype)

    def _random_images(self) -> Tensor:
        shape, generator = (2, self.cfg.n_channels, *self.cfg.image_size), torch.Generator().manual_seed(0)
        return torch.randn(shape, generator=generator, device="cpu").to(device=self.device, dtype=self.dtype)

    def _check_parity(self) -> Parity:
        images = self._random_images()
        with torch.no_grad(), self.borrowed():
            wanted, got = self.opened.forward(images), self.readout.logits(self.run_blocks(self.embed(images)))
            if not isinstance(wanted, Tensor) or wanted.shape != got.shape:
                raise ModelError(
                    f"{self.cfg.name} returns {_said(wanted)} for {len(images)} images, but one row of {got.shape[-1]} "
                    f"logits for each was wanted: wrap it so that its forward pass returns its logits alone."
                )
            self.cfg = dataclasses.replace(self.cfg, n_classes=got.shape[-1])
            factor = 1e-9 if self.dtype == torch.float64 else 1e-4
            tolerance = factor * max(1.0, float(wanted.abs().max()))
            parity = Parity(float((wanted - got).abs().max()), tolerance)
            agree = self._agreements(images, factor)
            if not (parity.max_difference <= tolerance and all(agree[-1:])):
                odd = [f"The first block that differs is block {layer}" for layer, same in enumerate(agree) if not same]
                where = (*odd, "All blocks agree; the readout differs")[0]
                raise ModelError(
                    f"{self.cfg.name} cannot be opened faithfully: the opened-up logits differ from the original's by "
                    f"{parity.max_difference:.2e} (accepted: {tolerance:.2e}). {where}."
                )
        return parity

    def _agreements(self, images: Tensor, factor: float) -> list[bool]:
        """For each of the original's blocks, whether the residual behind the opened one is the same, by its own scale.

        Logits of a new head are near 0, and say nothing.
        """
        residual, found = self.embed(images), []
        for block, wanted in zip(self.blocks, original_blocks(self.opened, images), strict=False):
            residual = block.run(residual)
            if wanted.shape[0] != len(images) or wanted.ndim != 3:
                found.append(True)  # some libraries hand tokens on in another layout
                continue
            difference = (residual[:, : wanted.shape[1]] - wanted).abs().max()
            found.append(bool(difference <= factor * wanted.abs().max()))
        return found


def _said(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _check_weights(module: nn.Module, name: str) -> None:
    for key, parameter in module.state_dict().items():  # what is not in it, such as a mask, is no weight
        if parameter.is_floating_point() and not bool(torch.isfinite(parameter).all()):
            raise ModelError(f"{name} holds NaN or infinity in its weight {key!r}: load a sound checkpoint.")
    parameter = next(module.parameters())
    if parameter.dtype not in (torch.float32, torch.float64):
        raise ModelError(f"{name} is in {parameter.dtype}: pass module.float(), or load it by load_vit, which upcasts.")
