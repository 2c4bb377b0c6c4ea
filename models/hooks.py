"""Hook points under TransformerLens' names, and the forward pass that stops at them.

Names: `hook_embed`, `hook_pos_embed`, `blocks.{i}.hook_resid_pre|hook_resid_mid|hook_resid_post|hook_attn_out|
hook_mlp_out`, `blocks.{i}.attn.hook_q|hook_k|hook_v|hook_z|hook_result` (batch, token, head, ...; the result stands
after LayerScale), `blocks.{i}.attn.hook_attn_scores|hook_pattern` (batch, head, target, source),
`blocks.{i}.mlp.hook_pre|hook_post`, `blocks.{i}.ln1|ln2.hook_scale|hook_normalized`, `ln_final.hook_scale|
hook_normalized`. Only what somebody asked for is computed apart; everything else stays fused.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from .adapters.opened import Opened, Stem
from .blocks import OpenBlock
from .config import VitConfig
from .errors import ModelError
from .norms import Norm
from .readouts import Readout

NamesFilter = str | Sequence[str] | Callable[[str], bool] | None
HookFunction = Callable[..., Tensor | None]


def hook_names(cfg: VitConfig) -> tuple[str, ...]:
    """All hook names of a model of these sizes, in the order in which they are reached."""
    attn = [f"attn.hook_{part}" for part in ("q", "k", "v", "attn_scores", "pattern", "z", "result")]
    ln1, ln2 = (["%s.hook_scale" % ln, "%s.hook_normalized" % ln] for ln in ("ln1", "ln2"))  # noqa: UP031
    block = ["hook_resid_pre", *ln1, *attn, "hook_attn_out", "hook_resid_mid"]
    mlp = [*ln2, "mlp.hook_pre", "mlp.hook_post", "hook_mlp_out"]
    names = ["hook_embed", "hook_pos_embed"]
    for layer in range(cfg.n_layers):
        parts = [*block, *(mlp if cfg.has_mlp(layer) else ()), "hook_resid_post"]
        names += [f"blocks.{layer}.{part}" for part in parts]
    return (*names, "ln_final.hook_scale", "ln_final.hook_normalized")


@dataclass(frozen=True)
class HookPoint:
    """Where a hook function was called; passed to it as `hook`, as in TransformerLens."""

    name: str

    def layer(self) -> int:
        """Index of the block.

        Raises:
            ModelError: The hook is not inside a block.
        """
        parts = self.name.split(".")
        if parts[0] != "blocks":
            raise ModelError(f"{self.name} is not inside a block, so it has no layer.")
        return int(parts[1])


class ActivationCache(dict[str, Tensor]):
    """Activations by hook name; `cache["pattern", 3]` is short for `cache["blocks.3.attn.hook_pattern"]`."""

    def __getitem__(self, key: str | tuple[str, int]) -> Tensor:
        if isinstance(key, str):
            return super().__getitem__(key)
        part, layer = key
        for name in (f"blocks.{layer}.{place}hook_{part}" for place in ("", "attn.", "mlp.", "ln1.", "ln2.")):
            if name in self:
                return super().__getitem__(name)
        raise KeyError(key)


def select_names(names: Sequence[str], wanted: NamesFilter) -> frozenset[str]:
    """The hook names that a filter picks: None for all, a name, several names, or a function of the name.

    Raises:
        ModelError: A name is not among them.
    """
    if wanted is None:
        return frozenset(names)
    if callable(wanted):
        return frozenset(filter(wanted, names))
    asked = [wanted] if isinstance(wanted, str) else list(wanted)
    for name in asked:
        if name not in names:
            near = ", ".join(difflib.get_close_matches(name, names, 3, 0.3))
            raise ModelError(f"there is no hook {name!r}. The nearest names are {near}.")
    return frozenset(asked)


@dataclass
class Stops:
    """Where one hooked run stops: what it caches and which functions it calls."""

    cached: frozenset[str] = frozenset()
    functions: Mapping[str, list[HookFunction]] = field(default_factory=dict)
    cache: ActivationCache = field(default_factory=ActivationCache)

    def wants(self, *names: str) -> bool:
        """Whether any of these is cached or hooked."""
        return any(name in self.cached or name in self.functions for name in names)

    def __call__(self, name: str, value: Tensor) -> Tensor:
        """The value, or what a hook function puts in its place."""
        for function in self.functions.get(name, ()):
            replaced = function(value, hook=HookPoint(name))
            value = value if replaced is None else replaced
        if name in self.cached:
            self.cache[name] = value
        return value


def collect_hooks(
    names: Sequence[str], fwd_hooks: Iterable[tuple[str | Callable[[str], bool], HookFunction]]
) -> dict[str, list[HookFunction]]:
    """Hook functions by the names they are for."""
    functions: dict[str, list[HookFunction]] = {}
    for wanted, function in fwd_hooks:
        for name in select_names(names, wanted):
            functions.setdefault(name, []).append(function)
    return functions


def hooked_forward(opened: Opened, readout: Readout, images: Tensor, stop: Stops) -> Tensor:
    """Logits, with a stop at every hook that is wanted."""
    residual = _embed(opened.stem, images, stop)
    for layer, block in enumerate(opened.blocks):
        residual = _block(block, residual, stop, f"blocks.{layer}.")
    token_norm = readout.norm.scales or not readout.fc_norm.scales
    normed = _norm(readout.norm, residual, stop, "ln_final.") if token_norm else readout.norm(residual)
    read = readout.select(normed)
    return (
        readout.after_norm(read)
        if token_norm
        else readout.after_norm(read, fc_norm=lambda pooled: _norm(readout.fc_norm, pooled, stop, "ln_final."))
    )


def _embed(stem: Stem, images: Tensor, stop: Stops) -> Tensor:
    patches = stop("hook_embed", stem.patches(images))
    tokens = stem.positioned(patches)
    if stop.wants("hook_pos_embed"):
        content = stem.content(patches)
        tokens = content + stop("hook_pos_embed", tokens - content)
    return stem.finish(tokens)


def _norm(norm: Norm, x: Tensor, stop: Stops, at: str) -> Tensor:
    if not stop.wants(f"{at}hook_scale"):
        return stop(f"{at}hook_normalized", norm(x))
    xhat, inverse = norm.statistics(x)
    scale = stop(f"{at}hook_scale", 1 / inverse)
    return stop(f"{at}hook_normalized", norm.affine(xhat / (scale * inverse)))


def _block(block: OpenBlock, before: Tensor, stop: Stops, at: str) -> Tensor:
    before = stop(f"{at}hook_resid_pre", before)
    attn_out = _attention(block, _norm(block.norm1, before, stop, f"{at}ln1."), stop, f"{at}attn.")
    residual = stop(f"{at}hook_resid_mid", before + stop(f"{at}hook_attn_out", attn_out))
    if block.mlp is None:
        return stop(f"{at}hook_resid_post", residual)
    normed = _norm(block.norm2, block.mlp_input(before, residual), stop, f"{at}ln2.")
    written = block.mlp_written(_mlp(block.mlp, normed, stop, f"{at}mlp."))
    return stop(f"{at}hook_resid_post", residual + stop(f"{at}hook_mlp_out", written))


def _attention(block: OpenBlock, normed: Tensor, stop: Stops, at: str) -> Tensor:
    q, k, v = (
        stop(f"{at}hook_{port}", value.transpose(1, 2)).transpose(1, 2)
        for port, value in zip("qkv", block.read(normed), strict=True)
    )
    if stop.wants(f"{at}hook_attn_scores", f"{at}hook_pattern"):
        scores = stop(f"{at}hook_attn_scores", block.masked(block.scores(q, k)))
        z = block.close(q, stop(f"{at}hook_pattern", scores.softmax(-1)) @ v)
    else:
        z = block.attend(q, k, v)
    z = stop(f"{at}hook_z", z.transpose(1, 2)).transpose(1, 2)
    if not stop.wants(f"{at}hook_result"):
        return block.attn_write(z)
    result = stop(f"{at}hook_result", block.head_write(z).transpose(1, 2))
    return result.sum(2) + block.attn_bias


def _mlp(mlp: Any, normed: Tensor, stop: Stops, at: str) -> Tensor:
    """The original's MLP; its neurons are caught by forward hooks that are taken off again."""
    first = mlp.fc1 if hasattr(mlp, "fc1") else mlp.fc1_g
    with ExitStack() as stack:
        if stop.wants(f"{at}hook_pre"):
            handle = first.register_forward_hook(lambda _module, _args, out: stop(f"{at}hook_pre", out))
            stack.callback(handle.remove)
        if stop.wants(f"{at}hook_post"):
            handle = mlp.fc2.register_forward_pre_hook(lambda _module, args: (stop(f"{at}hook_post", args[0]),))
            stack.callback(handle.remove)
        return mlp(normed)


def original_blocks(opened: Opened, images: Tensor) -> list[Tensor]:
    """Output of each of the original's blocks, by forward hooks that are taken off again."""
    outputs: list[Any] = []
    with ExitStack() as stack:
        for block in opened.originals:
            handle = block.register_forward_hook(lambda _module, _args, out: outputs.append(out))
            stack.callback(handle.remove)
        opened.forward(images)
    return [out[0] if isinstance(out, tuple) else out for out in outputs]
