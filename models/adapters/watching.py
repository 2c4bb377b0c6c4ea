"""One pass of a module, watched: what each of its parts is handed and gives, in order.

The pass is that of a copy whose weights are drawn at random. In the original a zero-initialised head, a LayerScale of
1e-6 or positions of zero would hide what reads what; in the copy every part matters, so that a part that is told by its
values is told for certain. The copy's parts are the original's by name.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..readouts import evaluating
from .opened import first_tensor, pair

ADAPTER = "docs/models.md shows, under 'An adapter', how about 30 lines open it: load_vit(module, adapter=...)."
"""Where every refusal of a module of one's own ends."""

_TOLERANCE = 1e-5


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same values, to 1e-5 of the largest."""
    if a is b or a.shape != b.shape:
        return a is b
    limit = _TOLERANCE * float(b.abs().max()) + 1e-12
    first = (0,) * (a.ndim - 1)  # most that differ do so in their first row
    return float((a[first] - b[first]).abs().max()) <= limit and float((a - b).abs().max()) <= limit


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a part.

    Args:
        module: The part, of the copy.
        x: The first tensor that it was handed; (batch, token, width) for tokens.
        y: The first tensor that it gave.
        start: When it began, counted in beginnings and ends.
        end: When it ended.
        turned: Whether what it was handed, and what it gave, were tokens of the shape (token, batch, width).
    """

    module: nn.Module
    x: Tensor
    y: Tensor
    start: int
    end: int
    turned: tuple[bool, bool]


@dataclass(frozen=True, eq=False)
class Watched:
    """A module's copy, and its pass.

    Args:
        module: The original.
        shadow: The copy with random weights; the original itself where it cannot be copied.
        images: What the copy was handed, (2, channel, height, width).
        calls: In the order in which they began.
        output: What the copy gave.
    """

    module: nn.Module
    shadow: nn.Module
    images: Tensor
    calls: list[Call]
    output: Any

    @cached_property
    def _originals(self) -> dict[int, nn.Module]:
        return {id(part): self.module.get_submodule(name) for name, part in self.shadow.named_modules()}

    def original(self, part: nn.Module) -> nn.Module:
        """The original's part of the same name; a part that is none of the copy's is handed back."""
        return self._originals.get(id(part), part)

    def find_parameter(self, values: Tensor) -> Callable[[nn.Module], Callable[[], Tensor]] | None:
        """Where a parameter with these values stands: from the copy or the original to a look-up, (n,); else None."""
        named = self.shadow.named_parameters()
        found = (name for name, own in named if own.numel() == values.numel() and same(own.flatten(), values))
        name = next(found, None)
        return None if name is None else lambda root: lambda: root.get_parameter(name).flatten()


def watch(module: nn.Module, name: str, image_size: Any = None) -> Watched:
    """A pass of a copy of a module with random weights, on images of the size that it takes.

    Args:
        module: Any module from images to logits.
        name: What to call it in a message.
        image_size: Height and width of its images, or their side; None to find them.

    Raises:
        ModelError: It runs on no size that was tried, or on several.
    """
    parts = list(module.modules())
    if sum(isinstance(part, nn.Linear) for part in parts) < 2 and not any(
        isinstance(part, nn.MultiheadAttention) for part in parts
    ):
        raise ModelError(no_blocks(module, name))
    shadow = shadow_of(module)
    with evaluating(shadow), torch.no_grad():
        images, output = _images(shadow, name, image_size)
        for cloned in (False, True):
            calls, again, versions = _record(shadow, images, cloned)
            if all(tensor._version == version for tensor, version in versions):  # nothing was changed in place
                break
    before, now = first_tensor(output), first_tensor(again)
    if before is not None and now is not None and not same(now, before):
        raise ModelError(
            f"{name} gives other values for the same images each time, in evaluation mode too: drop out by nn.Dropout, "
            f"or by F.dropout(x, training=self.training)."
        )
    return Watched(module, shadow, images, sorted(calls, key=lambda call: call.start), again)


def no_blocks(module: nn.Module, name: str) -> str:
    """The sentence on a module that is no ViT."""
    return (
        f"{name} is a {type(module).__module__}.{type(module).__name__} without a stack of transformer blocks: it has "
        f"no attention whose projections are nn.Linear or nn.MultiheadAttention. Pass a name such as "
        f"'deit_tiny_patch16_224'. If it is a ViT, {ADAPTER[0].lower()}{ADAPTER[1:]}"
    )


def shadow_of(module: nn.Module) -> nn.Module:
    """A copy with random weights in which every part matters; the module itself if it cannot be copied."""
    try:
        shadow = copy.deepcopy(module)
    except Exception:
        return module
    draw_weights(shadow)
    return shadow


def draw_weights(module: nn.Module) -> None:
    """Puts random weights at which every part matters into a module, the same ones each time."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, parameter in module.named_parameters():
            if not parameter.is_floating_point() or parameter.numel() == 0:
                continue
            noise = torch.randn(parameter.shape, generator=generator, device="cpu")
            if parameter.ndim <= 1:
                parameter.copy_(0.1 * noise + float(not key.endswith("bias")))
            else:
                parameter.copy_(min(0.3, parameter[0].numel() ** -0.5) * noise)


def _record(module: nn.Module, images: Tensor, cloned: bool) -> tuple[list[Call], Any, list[tuple[Tensor, int]]]:
    """Calls of every part, the output, and what was kept with its version."""
    clock, running, calls = itertools.count(), [], []
    versions: list[tuple[Tensor, int]] = []

    def keep(value: Any, part: nn.Module) -> tuple[Tensor, bool] | None:
        """The tensor as (batch, token, width), and whether it was turned for that."""
        tensor = first_tensor(value)
        if tensor is None or not tensor.is_floating_point():
            return None
        if tensor.ndim not in (2, 3) and not (tensor.ndim == 4 and "norm" in type(part).__name__.lower()):
            return None
        tensor = tensor.detach().clone() if cloned else tensor.detach()
        versions.append((tensor, tensor._version))
        turned = tensor.ndim == 3 and len(tensor) != len(images) and tensor.shape[1] == len(images)
        return (tensor.transpose(0, 1) if turned else tensor), turned

    def began(part: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        running.append((next(clock), keep((*args, *options.values()), part)))

    def ended(part: nn.Module, _args: Any, out: Any) -> None:
        (start, x), y = running.pop(), keep(out, part)
        if x is not None and y is not None:
            calls.append(Call(part, x[0], y[0], start, next(clock), (x[1], y[1])))

    with ExitStack() as stack, _slow_attention():
        for part in module.modules():
            if not isinstance(part, nn.Dropout | nn.Identity):
                stack.callback(part.register_forward_pre_hook(began, with_kwargs=True).remove)
                stack.callback(part.register_forward_hook(ended).remove)
        output = module(images)
    return calls, output, versions


@contextmanager
def _slow_attention() -> Iterator[None]:
    """PyTorch's encoder layers run part by part, not in one fused step that calls none of them."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


_SIZE = ("image_size", "img_size", "input_size", "im_size", "imgsize", "image_shape", "input_resolution")
_CHANNELS = ("in_channels", "in_chans", "num_channels", "n_channels", "channels", "in_ch")
_CONFIG = ("config", "cfg", "args", "hparams", "params", "opt")
_COMMON = tuple((side, side) for side in (16, 28, 32, 64, 96, 224))
_PREFIX = (1, 0, 2, 5, 3, 4, 6, 7, 8, 9)


def _images(module: nn.Module, name: str, image_size: Any) -> tuple[Tensor, Any]:
    """Two random images of the size that a module takes (passed, said, or the only one that fits), and its output."""
    like, channels = next(module.parameters()), _channels(module)
    generator, why = torch.Generator().manual_seed(0), "it says nothing of it"

    def run(size: tuple[int, int]) -> tuple[Tensor, Any] | None:
        nonlocal why
        for count in channels:
            images = torch.randn(2, count, *size, generator=generator, device="cpu").to(
                device=like.device, dtype=like.dtype
            )
            try:
                return images, module(images)
            except Exception as error:
                why = f"{count} x {size[0]} x {size[1]}: {' '.join(str(error).split())[:200]}"
        return None

    sure = [*_said_sizes(module), *_fitting_sizes(module, learnt=True)] if image_size is None else [pair(image_size)]
    for size in dict.fromkeys(sure):
        if (one := run(size)) is not None:
            return one
    found: list[tuple[Tensor, Any]] = []
    for size in () if image_size is not None else dict.fromkeys((*_fitting_sizes(module, learnt=False), *_COMMON)):
        found += [one for one in (run(size),) if one is not None]
        if len(found) > 1:
            why = "several run, such as " + " and ".join(
                f"{images.shape[2]} x {images.shape[3]}" for images, _ in found
            )
            break
    if len(found) == 1:
        return found[0]
    raise ModelError(
        f"the size of the images that {name} takes cannot be found ({why}). Pass it: load_vit(module, "
        f"image_size=224) or image_size=(height, width)."
    )


def _settings(module: nn.Module) -> Iterator[Mapping[str, Any]]:
    """What a module and its parts, and their configurations, hold by name."""
    for part in module.modules():
        held = vars(part)
        yield held
        for key in _CONFIG:
            config = held.get(key)
            yield config if isinstance(config, Mapping) else getattr(config, "__dict__", {})


def _said_sizes(module: nn.Module) -> Iterator[tuple[int, int]]:
    """Sizes of images that a module says it takes."""
    for held in _settings(module):
        for key in _SIZE:
            value = held.get(key)
            sides = value[-2:] if isinstance(value, tuple | list) else (value,)
            if sides and all(type(side) is int and 2 <= side <= 4096 for side in sides):
                yield pair(sides if len(sides) == 2 else sides[0])


def _channels(module: nn.Module) -> list[int]:
    """Channels of the images: what the first convolution takes, or what is said, or 3, or 1."""
    conv = [part.in_channels for part in module.modules() if isinstance(part, nn.Conv2d)][:1]
    said = [held[key] for held in _settings(module) for key in _CHANNELS if type(held.get(key)) is int]
    return list(dict.fromkeys([*conv, *said[:2], 3, 1]))


def _fitting_sizes(module: nn.Module, *, learnt: bool) -> Iterator[tuple[int, int]]:
    """Square images whose patches, with some tokens in front, are as many as there are positions (learnt, or fixed)."""
    patches = _patches(module)
    parts = [part for part in module.modules() if not isinstance(part, nn.Linear | nn.Conv2d | nn.MultiheadAttention)]
    held = [
        part.parameters(recurse=False) if learnt else (*part.buffers(recurse=False), *vars(part).values())
        for part in parts
    ]
    tables = [value for values in held for value in values if isinstance(value, Tensor) and value.ndim in (2, 3)]
    for prefix in _PREFIX:
        for side, width in patches:
            for table in tables:
                count = table.numel() // width - prefix
                if width in table.shape and count > 1 and round(count**0.5) ** 2 == count:
                    yield pair(round(count**0.5) * side)


def _patches(module: nn.Module) -> list[tuple[int, int]]:
    """Sides of patches with the width that they are embedded in: of convolutions, else of linear layers."""
    parts = list(module.modules())
    found = [
        (part.kernel_size[0], part.out_channels)
        for part in parts
        if isinstance(part, nn.Conv2d) and part.kernel_size == part.stride
    ]
    for part in [part for part in parts if isinstance(part, nn.Linear) and not found]:
        for channels in _channels(module):
            side = round((part.in_features / channels) ** 0.5)
            if side > 1 and side * side * channels == part.in_features:
                found.append((side, part.out_features))
    return list(dict.fromkeys(found))
