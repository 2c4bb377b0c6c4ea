"""From a watched pass to canonical blocks: what each part is, told by its values and not by its name.

The residual is followed from the first attention on. A norm (or nothing) reads it; linear layers read what the norm
gives; the last of them writes; and the residual behind is the first value whose difference from the one before is what
was written, times one number per channel (LayerScale). What stands in between is attention or an MLP (see `parts`). At
the end each block is run as a whole against the residual behind it. What fits no way is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ..attention import Scaled
from ..blocks import OpenBlock
from ..errors import ModelError
from ..norms import Norm, open_norm, recognise_norm
from .opened import Original, Seen
from .parts import Lookup, Parts, read_attention, read_mlp
from .timm_blocks import POST_NORM
from .watching import ADAPTER, Call, Watched, no_blocks, same


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


_FAILURES = 2  # of what may be attention, until the rest of a module is not tried any more


@dataclass(eq=False)
class _Reader:
    """Follows the residual; `why` is the sentence on what was seen and not read."""

    watched: Watched
    name: str
    why: str = ""
    _likely: bool = False
    _failures: int = 0
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
                if self._failures >= _FAILURES:
                    break
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
        projected = False
        for write, written, end in self._writes(residual, normed, reads):
            if write is None and projected:
                break  # what is written has a projection
            found = self._next(residual, written, end)
            if found is None:
                self._require_pre_norm(residual, normed, written, end)
                continue
            after, scale, time, place = found
            attention = read_attention(self.watched, self.norm, reads, write, normed, written)
            inside = attention or read_mlp(self.watched, reads, write)
            if inside is None:
                projected |= write is not None and time > end  # the sum of both was seen
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
        self._failures += likely
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
