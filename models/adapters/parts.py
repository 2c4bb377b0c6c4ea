"""Attention and MLPs, told by their values: computed in every way that is known here until they give what was seen.

- Attention: numbers of heads, the order of q, k, v and heads in the projections' rows, the scale, a causal mask, norms.
- An MLP: the activation between two linear layers (a part, or one of `FUNCTIONS`), a gate, a norm behind.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import JointNorm, additive_mask
from ..mlps import GatedMlp, PackedMlp, PlainMlp
from ..norms import Norm, recognise_norm
from ..projections import CallableReads, FusedReads, IdentityWrites, LinearWrites, Part, Reads, SeparateReads
from .watching import Call, Watched, same


class _QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * (1.702 * x).sigmoid()


class _SquaredReLU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x).square()


FUNCTIONS: tuple[nn.Module, ...] = (
    nn.GELU(),
    nn.ReLU(),
    nn.SiLU(),
    nn.GELU("tanh"),
    nn.Tanh(),
    _QuickGELU(),
    nn.Sigmoid(),
    nn.LeakyReLU(),
    nn.ELU(),
    nn.Mish(),
    nn.Hardswish(),
    nn.ReLU6(),
    nn.Softplus(),
    _SquaredReLU(),
    nn.LogSoftmax(-1),
    nn.Softmax(-1),
)
"""Functions that a module may call without having a part for them."""

Lookup = Callable[[nn.Module], nn.Module]
"""From a part of the copy to the part that is meant: itself, or the original's."""

Parts = Callable[[Lookup, nn.Module], dict[str, Any]]
"""Parts of an `OpenBlock` by name, of the copy or the original, from what LayerScale does."""


NormOf = Callable[[Call], Callable[[nn.Module], Norm] | None]
"""From a call to how a norm is made of its part, if it is one."""


@dataclass(frozen=True, eq=False)
class _Heads:
    """How attention's projections are shared out among heads.

    Args:
        rows: Which row of all projections in a row belongs to q, k, v of which head, (3, head, d_head).
        scale: Factor on q.k.
        factor: Factor on what the pattern weighs, 1 as a rule.
        causal: Whether a token sees those in front of it and itself only.
        norms: Of queries and keys, of the copy.
    """

    rows: Tensor
    scale: float
    factor: float
    causal: bool
    norms: tuple[nn.Module, nn.Module]


def read_attention(
    watched: Watched, norm_of: NormOf, reads: list[Call], write: Call | None, normed: Tensor, written: Tensor
) -> Parts | None:
    """Attention's canonical parts; None if it is no attention that is known here."""
    first: Any = reads[0].module
    whole = isinstance(first, nn.MultiheadAttention)  # which calls its projections without their modules
    some = sorted({0, normed.shape[1] // 2, normed.shape[1] - 1})
    joint: Call | None = None
    if whole:
        ports, sizes, width = F.linear(normed, *_rows_of(first)), [], first.out_proj.in_features
        fits = _fits(written[0, some], first.out_proj)
    else:
        ports, sizes = torch.cat([call.y for call in reads], -1), [call.y.shape[-1] for call in reads]
        z = written if write is None else write.x
        joint = _joint_norm(watched, norm_of, z, reads[-1].end) if write is not None else None
        z = z if joint is None else joint.x
        width, fits = z.shape[-1], _fits(z[0, some])
    norms = [
        call.module
        for call in watched.calls
        if reads[0].start < call.start and (write is None or call.start < write.start) and norm_of(call)
    ]
    heads = _find_heads(ports[0], width, normed.shape[-1], sizes, some, fits, norms, _said(watched, first))
    if heads is None:
        return None
    joined = None if joint is None else (joint.module, norm_of(joint))
    return partial(_attention, heads, [call.module for call in reads], write and write.module, joined, normed.shape[1])


def _attention(
    heads: _Heads,
    layers: list[nn.Module],
    out: nn.Module | None,
    joined: tuple[nn.Module, Any] | None,
    n_tokens: int,
    of: Lookup,
    scale: nn.Module,
) -> dict[str, Any]:
    """Parts of an `OpenBlock` by name, from what was found of its attention."""
    own: list[Any] = [of(layer) for layer in layers]
    _, n_heads, d_head = heads.rows.shape
    last: Any = own[0].out_proj if isinstance(own[0], nn.MultiheadAttention) else None if out is None else of(out)
    width = n_heads * d_head
    return {
        "reads": _reads(own, heads.rows, heads.factor),
        "writes": IdentityWrites(width, own[0], scale) if last is None else LinearWrites(last, scale),
        "n_heads": n_heads,
        "d_head": d_head,
        "scale": heads.scale,
        "q_norm": of(heads.norms[0]),
        "k_norm": of(heads.norms[1]),
        "mask": additive_mask(torch.ones(n_tokens, n_tokens, dtype=torch.bool, device="cpu").tril())
        if heads.causal
        else None,
        "joint": None if joined is None else JointNorm(joined[1](of(joined[0]))),
    }


def _joint_norm(watched: Watched, norm_of: NormOf, z: Tensor, start: int) -> Call | None:
    """The norm across all heads that gave what the output projection was handed; None if there is none."""
    calls = (call for call in watched.calls if call.start > start and call.x.shape == z.shape)
    return next((call for call in calls if same(call.y, z) and norm_of(call)), None)


def _fits(wanted: Tensor, out: nn.Module | None = None) -> Callable[[Tensor], float | None]:
    """What heads' outputs (some tokens, head x d_head) are to be multiplied by to be those wanted; None if others are.

    Outputs of the first heads at the last of the tokens may be asked for by themselves, without `out`.

    Args:
        wanted: The heads' outputs, or what `out` gives of them.
        out: The output projection.
    """

    def fits(z: Tensor) -> float | None:
        goal = wanted[-len(z) :, : z.shape[1]] if out is None else wanted
        if same(z if out is None else out(z), goal):
            return 1.0
        if out is not None:
            return None
        factor = float((z * goal).sum() / z.square().sum())
        return factor if factor and same(z * factor, goal) else None

    return fits


def _rows_of(layer: Any) -> Part:
    """Weight and bias of a projection; of `nn.MultiheadAttention` those of q, k and v."""
    if not isinstance(layer, nn.MultiheadAttention):
        return layer.weight, layer.bias
    if layer.in_proj_weight is not None:
        return layer.in_proj_weight, layer.in_proj_bias
    own: Any = layer
    return torch.cat([own.q_proj_weight, own.k_proj_weight, own.v_proj_weight]), layer.in_proj_bias


def _reads(layers: list[Any], rows: Tensor, factor: float) -> Reads:
    """The projections' rows in canonical order, by reference where they stand in it; values times a factor."""
    n, in_order = rows[0].numel(), torch.arange(rows.numel(), device="cpu")
    if factor == 1 and len(layers) == 1 and torch.equal(rows.flatten(), in_order):
        return FusedReads(lambda: _rows_of(layers[0]))
    starts = [int(part.flatten()[0]) for part in rows]
    if (
        factor == 1
        and len(layers) == 3
        and all(torch.equal(part.flatten(), in_order[:n] + start) for part, start in zip(rows, starts, strict=True))
    ):
        q, k, v = (layers[start // n] for start in starts)
        return SeparateReads((q, k, v), rows.shape[2])

    def part(port: int) -> Part:
        found = [_rows_of(layer) for layer in layers]
        weight, wanted = torch.cat([weight for weight, _ in found]), rows[port].flatten().to(found[0][0].device)
        times = factor if port == 2 else 1.0
        if all(bias is None for _, bias in found):
            return weight[wanted] * times, None
        biases = [weight.new_zeros(len(weight)) if bias is None else bias for weight, bias in found]
        return weight[wanted] * times, torch.cat(biases)[wanted] * times

    return CallableReads(part)


def _said(watched: Watched, part: nn.Module) -> tuple[list[int], list[float]]:
    """Numbers of heads and scales that the modules around a part hold."""
    names = {id(module): name for name, module in watched.shadow.named_modules()}
    own = names[id(part)]
    around = [module for module in watched.shadow.modules() if own.startswith(names[id(module)])]
    held = [(key.lower(), value) for module in reversed(around) for key, value in vars(module).items()]
    heads = [value for key, value in held if type(value) is int and value > 0 and ("head" in key or key == "h")]
    scales = [float(value) for key, value in held if type(value) is float and "scal" in key]
    return heads, scales


def _find_heads(
    ports: Tensor,
    width: int,
    model: int,
    sizes: list[int],
    some: list[int],
    fits: Callable[[Tensor], float | None],
    norms: list[nn.Module],
    said: tuple[list[int], list[float]],
) -> _Heads | None:
    """The way to share out projections among heads under which attention gives what it gave.

    Args:
        ports: What the projections gave for one image, (token, rows of all projections).
        width: Head x d_head.
        model: Width of the residual.
        sizes: Rows of each projection; none for `nn.MultiheadAttention`.
        some: Tokens whose outputs are compared.
        fits: See `_fits`.
        norms: Norms that ran between the projections and the output.
        said: Numbers of heads and scales to try first.
    """
    n = len(ports)
    allowed = torch.ones(n, n, dtype=torch.bool, device=ports.device).tril()
    heads = [count for count in (*said[0], *range(1, width + 1)) if width and width % count == 0]
    for n_heads in dict.fromkeys(heads if sizes else heads[:1]):
        d_head = width // n_heads
        scales = dict.fromkeys((*said[1], d_head**-0.5, width**-0.5, model**-0.5, 1.0, 1 / d_head))
        own = [norm for norm in norms if _width(norm) == d_head][:2]
        orders = [(nn.Identity(), nn.Identity()), *itertools.permutations(own, 2)]
        for rows, pair in itertools.product(_orders(ports.shape[-1], n_heads, d_head, sizes), orders):
            for scale, causal in itertools.product(scales, (False, True)):
                mask = allowed if causal else None
                if sizes and fits(_weighted(ports, rows[:, :1], pair, some[-1:], scale, mask)) is None:
                    continue  # one head at one token is quickly told to be another
                factor = fits(_weighted(ports, rows, pair, some, scale, mask))
                if factor is not None:
                    return _Heads(rows, scale, factor, causal, pair)
    return None


def _weighted(
    ports: Tensor, rows: Tensor, norms: tuple[nn.Module, nn.Module], some: list[int], scale: float, mask: Tensor | None
) -> Tensor:
    """Heads' outputs at some tokens, (token, head x d_head), from what the projections gave for one image."""
    q, k, v = ports[:, rows.to(ports.device)].permute(1, 2, 0, 3)  # each (head, token, d_head)
    q, k, v = norms[0](q)[:, some].double(), norms[1](k).double(), v.double()
    scores = q @ k.transpose(-1, -2) * scale
    scores = scores if mask is None else scores.masked_fill(~mask[some], -torch.inf)
    return (scores.softmax(-1) @ v).transpose(0, 1).flatten(1).to(ports.dtype)


def _width(norm: nn.Module) -> int:
    """Width of what a norm norms."""
    weight = next(norm.parameters(), None)
    shape: Any = getattr(norm, "normalized_shape", None) if weight is None else weight.shape
    return int(shape[-1]) if shape else 0


def _orders(total: int, n_heads: int, d_head: int, sizes: list[int]) -> Iterator[Tensor]:
    """Rows of q, k and v of each head, (3, head, d_head), in the orders that they may stand in; usual ones first."""
    width = n_heads * d_head
    for ports in ((0, 1, 2), (1, 0, 2), (2, 1, 0), (0, 2, 1), (1, 2, 0), (2, 0, 1)):
        for rows in _tables(total, n_heads, d_head, width, sizes):
            yield rows[list(ports)]


def _tables(total: int, n_heads: int, d_head: int, width: int, sizes: list[int]) -> Iterator[Tensor]:
    if total == 3 * width:
        for axes in itertools.permutations(range(3)):  # (3, head, d_head), (3, d_head, head), (head, 3, d_head), ...
            yield _arranged((3, n_heads, d_head), axes)
        if len(sizes) == 2:
            kv_first = sizes[0] > sizes[1]
            for axes in itertools.permutations(range(3)):
                q = torch.arange(width, device="cpu").view(1, n_heads, d_head) + (2 * width if kv_first else 0)
                yield torch.cat([q, _arranged((2, n_heads, d_head), axes) + (0 if kv_first else width)])
    shared = (total - width) // 2
    groups = shared // d_head
    if 0 < shared < width and total == width + 2 * shared and shared % d_head == 0 and n_heads % groups == 0:
        # keys and values that several heads share, in front of the queries, behind them or on both sides
        rows = torch.arange(total, device="cpu").split(sizes if len(sizes) == 3 else [width, shared, shared])
        q = next((part for part in rows if len(part) == width), None)
        if q is not None:
            kv = [part.view(groups, d_head).repeat_interleave(n_heads // groups, 0) for part in rows if part is not q]
            yield torch.stack([q.view(n_heads, d_head), *kv])


def _arranged(shape: tuple[int, int, int], axes: tuple[int, ...]) -> Tensor:
    """Numbers in a row, read as axes in another order, with the axes put back."""
    count = shape[0] * shape[1] * shape[2]
    return (
        torch.arange(count, device="cpu")
        .view([shape[axis] for axis in axes])
        .permute([axes.index(axis) for axis in range(3)])
    )


def read_mlp(watched: Watched, reads: list[Call], write: Call | None) -> Parts | None:
    """An MLP's canonical parts; None if it is none that is known here."""
    if write is None or len(reads) > 2 or isinstance(write.module, nn.MultiheadAttention):
        return None
    calls = [call for call in watched.calls if call.start >= reads[0].start and call.end <= write.end]
    hidden, out = write.x, write.module
    first, last = reads[0].module, reads[-1].module
    if len(reads) == 2:
        if not reads[0].y.shape == reads[1].y.shape == hidden.shape:
            return None
        for (gate, value), (one, other) in (((first, last), reads), ((last, first), reads[::-1])):
            act = _gate(calls, one.y, other.y, hidden)
            if act is not None:
                return lambda of, scale: {"mlp": GatedMlp(of(gate), of(value), of(act), of(out)), "scale2": scale}
        return None
    a = reads[0].y
    if a.shape[-1] == 2 * hidden.shape[-1]:
        for gate_last, (gate, value) in ((False, a.chunk(2, -1)), (True, a.chunk(2, -1)[::-1])):
            act = _gate(calls, gate, value, hidden)
            if act is not None:
                return lambda of, scale: {"mlp": PackedMlp(of(first), of(act), of(out), gate_last), "scale2": scale}
    chain = find_chain(calls, a, hidden)
    if chain is None or not _is_local(chain, a, hidden):
        return None
    norm = chain[-1] if len(chain) == 2 and recognise_norm(chain[-1], chain[0](a), hidden) else None
    acts = chain if norm is None else chain[:-1]

    def parts(of: Lookup, scale: nn.Module) -> dict[str, Any]:
        act = of(acts[0]) if len(acts) == 1 else nn.Sequential(*map(of, acts))
        return {"mlp": PlainMlp(of(first), act, of(out), None if norm is None else of(norm)), "scale2": scale}

    return parts


def _gate(calls: Iterable[Call], gate: Tensor, value: Tensor, hidden: Tensor) -> nn.Module | None:
    """The activation f for which f(gate) x value are the hidden neurons."""
    seen = [call.module for call in calls if same(call.x, gate) and same(call.y * value, hidden)]
    return next(iter(seen), next((function for function in FUNCTIONS if same(function(gate) * value, hidden)), None))


def _is_local(chain: list[nn.Module], a: Tensor, hidden: Tensor) -> bool:
    """Whether one token by itself gives the same: nothing mixes tokens."""
    return same(nn.Sequential(*chain)(a[:, :1]), hidden[:, :1])


def find_chain(calls: list[Call], x: Tensor, goal: Tensor, depth: int = 6) -> list[nn.Module] | None:
    """Parts, and functions that stand between them, that lead from one value to another; None if none do.

    Args:
        calls: The calls to choose from; the innermost parts are preferred.
        x: Where to begin.
        goal: Where to end.
        depth: The most parts.
    """
    if same(x, goal):
        return []
    if depth == 0:
        return None
    for call in sorted(calls, key=lambda call: call.end - call.start):
        if same(call.x, x) and not same(call.y, x):
            rest = find_chain(calls, call.y, goal, depth - 1)
            if rest is not None:
                return [call.module, *rest]
    for function in FUNCTIONS:
        y = function(x)
        if same(y, goal):
            return [function]
        if any(same(call.x, y) for call in calls):
            rest = find_chain(calls, y, goal, depth - 1)
            if rest is not None:
                return [function, *rest]
    return None
