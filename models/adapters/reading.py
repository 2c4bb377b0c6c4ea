"""From a watched pass to canonical blocks: what each part is, told by its values and not by its name.

The residual is followed from the first attention on. A norm (or nothing) reads it; linear layers read what the norm
gives; the last of them writes; and the residual behind is the first value whose difference from the one before is what
was written, times one number per channel (LayerScale). What stands in between is computed in every way that is known
here until it equals what the module computed:

- attention: numbers of heads, the order of q, k, v and heads in the projections' rows, the scale, a causal mask;
- an MLP: the activation between two linear layers (a part, or one of `FUNCTIONS`), a gate, a norm behind.

At the end each block is run as a whole against the residual behind it. What fits no way is refused.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import JointNorm, Scaled, additive_mask
from ..blocks import OpenBlock
from ..errors import ModelError
from ..mlps import GatedMlp, PackedMlp, PlainMlp
from ..norms import Norm, open_norm, recognise_norm
from ..projections import CallableReads, FusedReads, IdentityWrites, LinearWrites, Part, Reads, SeparateReads
from .opened import Original, Seen
from .watching import ADAPTER, Call, Watched, no_blocks, same


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

POST_NORM = (
    "its writes pass a norm before they are added to the residual, so that what a head adds depends on all other heads "
    "and cannot be told apart. Pass a model with pre-norm blocks."
)

Lookup = Callable[[nn.Module], nn.Module]
"""From a part of the copy to the part that is meant: itself, or the original's."""

Parts = Callable[[Lookup, nn.Module], dict[str, Any]]
"""Parts of an `OpenBlock` by name, of the copy or the original, from what LayerScale does."""


@dataclass(frozen=True, eq=False)
class Flow:
    """The residual, followed through the blocks.

    Args:
        first: The call, of the copy, that is handed the first residual.
        residual: The last one, (batch, token, model).
        end: When it was there.
        blocks: The canonical blocks, over the original's parts.
        originals: Where the residual behind each block is seen; empty if one of them is seen nowhere.
        why: Why nothing more was read behind them; empty if nothing more read the residual.
    """

    first: Call
    residual: Tensor
    end: int
    blocks: tuple[OpenBlock, ...]
    originals: tuple[Original, ...]
    why: str = ""


@dataclass(frozen=True, eq=False)
class _Unit:
    """Attention or an MLP between two residuals, and when the second was there."""

    parts: Callable[[Lookup], dict[str, Any]]
    is_attention: bool
    before: Tensor
    after: Tensor
    end: int
    seen: Seen | None


def read_blocks(watched: Watched, name: str) -> Flow:
    """The residual and its blocks.

    Raises:
        ModelError: No attention can be read, or a block is none that is known here.
    """
    reader = _Reader(watched, name)
    units = reader.units()
    pairs: list[list[_Unit]] = []
    for unit in units:
        if not unit.is_attention and len(pairs[-1]) == 2:
            raise ModelError(f"{name} runs two MLPs in a row in block {len(pairs) - 1}, which is not opened. {ADAPTER}")
        pairs = [*pairs, [unit]] if unit.is_attention else [*pairs[:-1], [*pairs[-1], unit]]
    blocks = tuple(_block(pair, watched, f"{name} block {place}") for place, pair in enumerate(pairs))
    places = [pair[-1].seen for pair in pairs]
    originals = tuple(place for place in places if place is not None) if None not in places[:-1] else ()
    last = units[-1]
    first = next(call for call in watched.calls if same(call.x, units[0].before))  # the outermost that is handed it
    return Flow(first, last.after, last.end, blocks, originals, reader.why)


def _block(units: list[_Unit], watched: Watched, where: str) -> OpenBlock:
    """The canonical block, compared as a whole with the copy's."""

    def make(of: Lookup) -> OpenBlock:
        found: dict[str, Any] = {"norm2": open_norm(nn.Identity(), where), "mlp": None}
        for unit in units:
            found |= unit.parts(of)
        return OpenBlock(**found)

    got = make(lambda part: part).run(units[0].before)
    if not same(got, units[-1].after):
        by = float((got - units[-1].after).abs().max())
        raise ModelError(f"{where} is read as attention and MLP, but what it computes differs by {by:.1e}. {ADAPTER}")
    return make(watched.original)


@dataclass(eq=False)
class _Reader:
    """Follows the residual; `why` is the sentence on what was seen and not read."""

    watched: Watched
    name: str
    why: str = ""
    _likely: bool = False
    _norms: dict[int, Callable[[nn.Module], Norm] | None] = field(default_factory=dict)

    def units(self) -> list[_Unit]:
        """Attention and MLPs, from the first attention on.

        Raises:
            ModelError: There is no attention that can be read.
        """
        for call in self.watched.calls:
            if call.x.ndim == 3 and (self._projects(call) or self.norm(call)):
                unit = self._unit(call.x, call.start)
                if unit is not None and unit.is_attention:
                    found = []
                    while unit is not None:
                        found.append(unit)
                        self.why, self._likely = "", False
                        unit = self._unit(unit.after, unit.end)
                    return found
        raise ModelError(self.why or no_blocks(self.watched.module, self.name))

    def _projects(self, call: Call) -> bool:
        return isinstance(call.module, nn.Linear | nn.MultiheadAttention)

    def norm(self, call: Call) -> Callable[[nn.Module], Norm] | None:
        """How a norm is made of the part, if it is one."""
        if id(call) not in self._norms:
            self._norms[id(call)] = recognise_norm(call.module, call.x, call.y)
        return self._norms[id(call)]

    def _unit(self, residual: Tensor, start: int) -> _Unit | None:
        """What reads a residual from some time on; None if nothing does that can be read."""
        later = [call for call in self.watched.calls if call.start >= start]
        for reader in later:
            if not same(reader.x, residual):
                continue
            norm = self.norm(reader)
            if norm is None and not self._projects(reader):
                continue
            normed = residual if norm is None else reader.y
            reads = [call for call in later if self._projects(call) and same(call.x, normed)]
            if reads:
                return self._read(residual, reader, norm, normed, reads)
        return None

    def _read(
        self,
        residual: Tensor,
        reader: Call,
        norm: Callable[[nn.Module], Norm] | None,
        normed: Tensor,
        reads: list[Call],
    ) -> _Unit | None:
        for write, written, end in self._writes(residual, normed, reads):
            found = self._next(residual, written, end)
            if found is None:
                self._require_pre_norm(residual, normed, written, end)
                continue
            after, scale, time, place = found
            attention = _read_attention(self, reads, write, normed, written)
            inside = attention or _read_mlp(self, reads, write)
            if inside is None:
                continue

            parts = _around(inside, attention is not None, scale, reader, norm)
            return _Unit(parts, attention is not None, residual, after, time, place)
        self._note(residual, reads)
        return None

    def _writes(self, residual: Tensor, normed: Tensor, reads: list[Call]) -> Iterator[tuple[Call | None, Tensor, int]]:
        """What may be written: the call of the last projection (None for none), its value, and when."""
        if isinstance(reads[0].module, nn.MultiheadAttention):
            yield reads[0], reads[0].y, reads[0].end
            return
        later = [call for call in self.watched.calls if call.start > reads[-1].end and call.x.ndim == 3]
        linear = [call for call in later if isinstance(call.module, nn.Linear)]
        for call in [call for call in linear if call.y.shape == residual.shape][:3]:
            yield call, call.y, call.end
        for _, value, _ in self._values(reads[-1].end, residual)[:4]:  # heads that are written without a projection
            yield None, value - residual, reads[-1].end

    def _values(self, start: int, like: Tensor) -> list[tuple[int, Tensor, Seen | None]]:
        """What was seen in the residual's shape from some time on: when, what, and where if a part sees it once."""
        found: list[tuple[int, Tensor, Seen | None]] = []
        often = Counter(id(call.module) for call in self.watched.calls)
        for call in self.watched.calls:
            once = often[id(call.module)] == 1
            for time, value, handed in ((call.start, call.x, True), (call.end, call.y, False)):
                if time >= start and value.shape == like.shape:
                    turned = call.turned[0 if handed else 1]
                    place = Seen(self.watched.original(call.module), handed, turned) if once else None
                    found.append((time, value, place))
        return sorted(found, key=lambda one: one[0])

    def _next(
        self, residual: Tensor, written: Tensor, end: int
    ) -> tuple[Tensor, Callable[[Lookup], nn.Module], int, Seen | None] | None:
        """The next residual, LayerScale, and when and where the residual was seen."""
        values = self._values(end, residual)
        for time, value, _ in values:
            scale = self._scale(value - residual, written)
            if scale is not None:
                places = (place for _, other, place in values if place is not None and same(other, value))
                return value, scale, time, next(places, None)
        if any(
            isinstance(call.module, nn.Linear) and call.start > end and call.x.ndim == 3 for call in self.watched.calls
        ):
            return None
        return residual + written, lambda of: nn.Identity(), end, None  # nothing is handed it whole

    def _scale(self, added: Tensor, written: Tensor) -> Callable[[Lookup], nn.Module] | None:
        """LayerScale, if what was added is what was written times one number per channel."""
        if same(added, written):
            return lambda of: nn.Identity()
        a, w = added.flatten(0, -2).double(), written.flatten(0, -2).double()
        gamma = (a * w).sum(0) / w.square().sum(0).clamp_min(1e-30)
        if not same(w * gamma, a) or not bool(gamma.abs().max() > 1e-6):
            return None
        gamma = gamma.to(added.dtype)
        for values in (gamma, gamma[:1]):
            found = self.watched.find_parameter(values) if same(gamma, values.expand_as(gamma)) else None
            if found is not None:
                return lambda of: Scaled(found(of(self.watched.shadow)))
        if same(gamma, gamma[:1].expand_as(gamma)):
            number = gamma[0].clone()
            return lambda of: Scaled(lambda: number)
        return None

    def _require_pre_norm(self, residual: Tensor, normed: Tensor, written: Tensor, end: int) -> None:
        """Does nothing unless a norm stands between what is written and the residual."""
        values = [value for _, value, _ in self._values(end, residual)]
        behind = [
            call.y for call in self.watched.calls if call.start >= end and same(call.x, written) and self.norm(call)
        ]
        post = any(same(value, normed + written) for value in values) and normed is not residual
        if post or any(same(value, residual + norm) for norm in behind for value in values):
            raise ModelError(f"{self.name} has blocks of another order: {POST_NORM}")

    def _note(self, residual: Tensor, reads: list[Call]) -> None:
        """Keeps the sentence on projections that were seen and not read; the first that may be attention's is kept."""
        calls, columns = self.watched.calls, sum(call.y.shape[-1] for call in reads)
        behind = [call for call in calls if call.start > reads[-1].end and isinstance(call.module, nn.Linear)]
        back = next((call.x.shape[-1] for call in behind if call.y.shape == residual.shape), columns)
        likely = columns > back
        if self.why and (self._likely or not likely):
            return
        around = [call.module for call in calls if call.start < reads[0].start and call.end > reads[-1].end]
        kind = type(around[-1] if around else self.watched.module).__name__
        self._likely = likely
        self.why = (
            f"{self.name} runs a {kind} with projections of {columns} columns in all, and one of {back} columns behind "
            f"them. What it computes in between, or adds to the residual, is neither softmax attention of separate "
            f"heads nor an MLP that is known here (talking heads, rotations, relative positions and learnt "
            f"temperatures are not). {ADAPTER}"
        )


def _around(
    inside: Parts,
    is_attention: bool,
    scale: Callable[[Lookup], nn.Module],
    reader: Call,
    norm: Callable[[nn.Module], Norm] | None,
) -> Callable[[Lookup], dict[str, Any]]:
    """Parts of attention or an MLP with the norm in front and the LayerScale behind."""

    def parts(of: Lookup) -> dict[str, Any]:
        made = open_norm(nn.Identity(), "") if norm is None else norm(of(reader.module))
        return {"norm1" if is_attention else "norm2": made, **inside(of, scale(of))}

    return parts


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


def _read_attention(
    reader: _Reader, reads: list[Call], write: Call | None, normed: Tensor, written: Tensor
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
        joint = _joint_norm(reader, z, reads[-1].end) if write is not None else None
        z = z if joint is None else joint.x
        width, fits = z.shape[-1], _fits(z[0, some])
    norms = [
        call.module
        for call in reader.watched.calls
        if reads[0].start < call.start and (write is None or call.start < write.start) and reader.norm(call)
    ]
    heads = _find_heads(ports[0], width, normed.shape[-1], sizes, some, fits, norms, _said(reader.watched, first))
    if heads is None:
        return None
    joined = None if joint is None else (joint.module, reader.norm(joint))
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
        "mask": additive_mask(torch.ones(n_tokens, n_tokens, dtype=torch.bool).tril()) if heads.causal else None,
        "joint": None if joined is None else JointNorm(joined[1](of(joined[0]))),
    }


def _joint_norm(reader: _Reader, z: Tensor, start: int) -> Call | None:
    """The norm across all heads that gave what the output projection was handed; None if there is none."""
    calls = (call for call in reader.watched.calls if call.start > start and call.x.shape == z.shape)
    return next((call for call in calls if same(call.y, z) and reader.norm(call)), None)


def _fits(wanted: Tensor, out: nn.Module | None = None) -> Callable[[Tensor], float | None]:
    """What heads' outputs (some tokens, head x d_head) are to be multiplied by to be those wanted; None if others are.

    Args:
        wanted: The heads' outputs, or what `out` gives of them.
        out: The output projection.
    """

    def fits(z: Tensor) -> float | None:
        if same(z if out is None else out(z), wanted):
            return 1.0
        if out is not None:
            return None
        factor = float((z * wanted).sum() / z.square().sum())
        return factor if factor and same(z * factor, wanted) else None

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
    n, in_order = rows[0].numel(), torch.arange(rows.numel())
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
    allowed = torch.ones(n, n, dtype=torch.bool, device=ports.device).tril()[some]
    heads = [count for count in (*said[0], *range(1, width + 1)) if width and width % count == 0]
    for n_heads in dict.fromkeys(heads):
        d_head = width // n_heads
        scales = dict.fromkeys((*said[1], d_head**-0.5, width**-0.5, model**-0.5, 1.0, 1 / d_head))
        own = [norm for norm in norms if _width(norm) == d_head][:2]
        orders = [(nn.Identity(), nn.Identity()), *itertools.permutations(own, 2)]
        for rows, pair in itertools.product(_orders(ports.shape[-1], n_heads, d_head, sizes), orders):
            q, k, v = ports[:, rows.to(ports.device)].permute(1, 2, 0, 3)  # each (head, token, d_head)
            q, k, v = pair[0](q)[:, some].double(), pair[1](k).double(), v.double()
            for scale, causal in itertools.product(scales, (False, True)):
                scores = q @ k.transpose(-1, -2) * scale
                scores = scores.masked_fill(~allowed, -torch.inf) if causal else scores
                z = (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)
                factor = fits(z.to(ports.dtype))
                if factor is not None:
                    return _Heads(rows, scale, factor, causal, pair)
    return None


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
                q = torch.arange(width).view(1, n_heads, d_head) + (2 * width if kv_first else 0)
                yield torch.cat([q, _arranged((2, n_heads, d_head), axes) + (0 if kv_first else width)])
    shared = (total - width) // 2
    groups = shared // d_head
    if 0 < shared < width and total == width + 2 * shared and shared % d_head == 0 and n_heads % groups == 0:
        # keys and values that several heads share, in front of the queries, behind them or on both sides
        rows = torch.arange(total).split(sizes if len(sizes) == 3 else [width, shared, shared])
        q = next((part for part in rows if len(part) == width), None)
        if q is not None:
            kv = [part.view(groups, d_head).repeat_interleave(n_heads // groups, 0) for part in rows if part is not q]
            yield torch.stack([q.view(n_heads, d_head), *kv])


def _arranged(shape: tuple[int, int, int], axes: tuple[int, ...]) -> Tensor:
    """Numbers in a row, read as axes in another order, with the axes put back."""
    count = shape[0] * shape[1] * shape[2]
    return torch.arange(count).view([shape[axis] for axis in axes]).permute([axes.index(axis) for axis in range(3)])


def _read_mlp(reader: _Reader, reads: list[Call], write: Call | None) -> Parts | None:
    """An MLP's canonical parts; None if it is none that is known here."""
    if write is None or len(reads) > 2 or isinstance(write.module, nn.MultiheadAttention):
        return None
    calls = [call for call in reader.watched.calls if call.start >= reads[0].start and call.end <= write.end]
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
