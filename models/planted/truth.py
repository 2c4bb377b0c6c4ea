"""The true edges of a program, derived: walked back from the logits through what is read and written at each token.

An edge is true if what it carries is read by something that reaches the logits, and if the ablation puts something else
there. Under another image's values that is what depends on the image; under zero also positions and CLS.

Where a head looks is derived too: if its scores are the same for every image, it reads only the tokens that get
attention, else all of them. What an MLP's feature depends on is found by trying all values of what its neurons read: it
depends on another feature if turning that one over (+1 to -1) changes it for some values of the others, so an even
function such as |x| depends on nothing. Features that copy one another are redundant: then a part of them is enough.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from ..config import TokenLayout
from .program import POSITION, Head, Mlp, Program, Terms

UNSEEN = 1e-6  # attention below this counts as none

Grouping = str | Sequence[str]
"""Token groups: `all`, `role` or `each`; or the name of each token's group."""
Place = tuple[str, int]  # a feature at a token
Ends = tuple[str, int, str, int]  # an edge: node and token where it starts, node and token where it ends


def true_edges(program: Program, tokens: Grouping, *, constants: bool = False) -> frozenset[str]:
    """Names of the true edges.

    Args:
        program: The program.
        tokens: The token groups.
        constants: Also those that carry the same for every image.
    """
    return _names(program, _Walk(program, constants).ends(), tokens)


def minimal_circuits(program: Program, tokens: Grouping) -> tuple[frozenset[str], ...]:
    """The smallest sets of true edges that keep the function; several where features copy one another."""
    choices = {(mlp.node, name): sufficient(program, mlp, name) for mlp in program.mlps for name in mlp.writes}
    found: dict[frozenset[str], None] = {}
    for chosen in itertools.product(*choices.values()):
        needs = {name: part for (_, name), part in zip(choices, chosen, strict=True)}
        found[_names(program, _Walk(program, needs=needs).ends(), tokens)] = None
    return tuple(found)


def _names(program: Program, ends: Iterator[Ends], tokens: Grouping) -> frozenset[str]:
    layout = TokenLayout(has_cls=True, n_registers=0, grid=program.grid)
    known = {
        "all": ("",) * layout.n_tokens,
        "role": ("cls", *["patch"] * layout.n_patches),
        "each": layout.token_names(),
    }
    groups = known[tokens] if isinstance(tokens, str) else tuple(tokens)
    names = set()
    for source, start, destination, end in ends:
        if not any(groups) and source.startswith(f"{destination}<"):
            continue  # with one group the edges inside heads vanish into the head
        first, last = (f"@{groups[token]}" if groups[token] else "" for token in (start, end))
        names.add(f"{source}{first}->{destination}{last}")
    return frozenset(names)


@dataclass
class _Walk:
    """A walk back from the logits. `needs`: what each MLP feature is taken to read, if not all that it depends on."""

    program: Program
    constants: bool = False
    needs: dict[str, frozenset[str]] = field(default_factory=dict)

    def ends(self) -> Iterator[Ends]:
        """The ends of every true edge."""
        found: dict[Place, None] = {}
        for terms in self.program.logits:
            yield from self._read(terms, 0, "logits", found)
        waiting = list(found)
        while waiting:
            known = set(found)
            yield from self._behind(*waiting.pop(), found)
            waiting += [place for place in found if place not in known]

    def _read(self, names: Terms | frozenset[str], token: int, reader: str, found: dict[Place, None]) -> Iterator[Ends]:
        """Edges that bring features to a reader at a token; the features are added to `found`."""
        for name in names:
            if self.constants or (name, token) in self.varying:
                writer = self.program.writer[name]
                found[name, token] = None
                yield ("input" if writer is None else writer.node), token, reader, token

    def _behind(self, name: str, token: int, found: dict[Place, None]) -> Iterator[Ends]:
        """Edges that the writer of a feature at a token reads through."""
        writer = self.program.writer[name]
        if isinstance(writer, Mlp):
            yield from self._read(self.needs.get(name, self.reads[name]), token, writer.node, found)
        elif isinstance(writer, Head):
            for port, place, terms in self._head_reads(writer, name, token):
                edges = list(self._read(terms, place, f"{writer.node}<{port}>", found))
                yield from edges
                if edges and port != "q":
                    yield f"{writer.node}<{port}>", place, writer.node, token

    def _head_reads(self, head: Head, name: str, target: int) -> Iterator[tuple[str, int, Terms]]:
        """Port, token and features behind a head's feature at a token."""
        for score in head.scores:
            yield "q", target, score.query
            yield from (("k", source, score.key) for source in range(self.program.n_tokens))
        for source in self._looks_at(head, target):
            yield "v", source, head.values[head.writes.index(name)]

    def _looks_at(self, head: Head, target: int) -> list[int]:
        """The tokens that a head may read from a target."""
        tokens = list(range(self.program.n_tokens))
        scores = [_fixed_score(self.program, head, target, source) for source in tokens]
        highest = max((score for score in scores if score is not None), default=0.0)
        if None in scores:
            return tokens
        weights = [math.exp(score - highest) for score in scores if score is not None]
        return [token for token in tokens if weights[token] > UNSEEN * sum(weights)]

    @cached_property
    def reads(self) -> dict[str, frozenset[str]]:
        """What each feature that an MLP writes depends on."""
        program = self.program
        return {name: dependencies(program, mlp, name) for mlp in program.mlps for name in mlp.writes}

    @cached_property
    def varying(self) -> set[Place]:
        """The features that depend on the image, by token."""
        program = self.program
        found = {(bit, token) for bit in program.bits for token in range(1, program.n_tokens)}
        for name, writer in program.writer.items():  # in the order in which they write
            for token in range(program.n_tokens):
                if isinstance(writer, Mlp) and any((read, token) in found for read in self.reads[name]):
                    found.add((name, token))
                if isinstance(writer, Head) and any(
                    (read, place) in found
                    for _, place, terms in self._head_reads(writer, name, token)
                    for read in terms
                ):
                    found.add((name, token))
        return found


def _fixed_score(program: Program, head: Head, target: int, source: int) -> float | None:
    """A head's score from target to source, if it is the same for every image."""
    total = 0.0
    for score in head.scores:
        query = _fixed_value(program, score.query, target)
        key = _fixed_value(program, score.key, source)
        if query is None or key is None:
            return None
        total += score.gain * (query + score.bias) * key
    return total


def _fixed_value(program: Program, terms: Terms, token: int) -> float | None:
    """A linear form at a token, if it reads only positions, and bits at CLS."""
    total = 0.0
    for name, factor in terms.items():
        if name.startswith(POSITION):
            total += factor * (name == f"{POSITION}{token}")
        elif name in program.bits and token == 0:
            total -= factor  # CLS carries -1 for every bit
        else:
            return None
    return total


CHANGE = 1e-4  # a feature that moves by less is unchanged

Values = Mapping[str, float]


def dependencies(program: Program, mlp: Mlp, name: str) -> frozenset[str]:
    """The features that one of an MLP's features dependencies on."""
    reads = _reads(mlp, name)
    found = set()
    for values in _assignments(reads):
        before = _output(program, mlp, name, values)
        for read in reads:
            after = _output(program, mlp, name, {**values, read: -values[read]})
            if abs(after - before) > CHANGE:
                found.add(read)
    return frozenset(found)


def sufficient(program: Program, mlp: Mlp, name: str) -> list[frozenset[str]]:
    """The smallest parts of what a feature depends on that fix it, whatever an image's partner puts in for the rest."""
    needed = sorted(dependencies(program, mlp, name))
    found: list[frozenset[str]] = []
    for size in range(len(needed) + 1):
        for part in map(frozenset, itertools.combinations(needed, size)):
            if not any(smaller <= part for smaller in found) and _is_enough(program, mlp, name, part):
                found.append(part)
    return found


def _is_enough(program: Program, mlp: Mlp, name: str, part: frozenset[str]) -> bool:
    """Whether the rest may come from any other image, for every image."""
    reads = _reads(mlp, name)
    meaning = {read: _meaning(program, read) for read in reads}
    for clean in _assignments(sorted(set(meaning.values()))):
        kept = {read: clean[meaning[read]] for read in reads}
        wanted = _output(program, mlp, name, kept)
        for other in _assignments(sorted(set(meaning.values()))):
            mixed = {read: kept[read] if read in part else other[meaning[read]] for read in reads}
            if abs(_output(program, mlp, name, mixed) - wanted) > CHANGE:
                return False
    return True


def _meaning(program: Program, name: str) -> str:
    """Equal for features that copy one another: written by heads that look in the same way for the same thing."""
    writer = program.writer[name]
    if not isinstance(writer, Head) or len(writer.writes) > 1:
        return name
    return f"{writer.layer} {writer.scores} {writer.values}"


def _reads(mlp: Mlp, name: str) -> list[str]:
    """Everything that the neurons behind a feature read."""
    return list(dict.fromkeys(read for neuron in mlp.neurons if name in neuron.writes for read in neuron.reads))


def _assignments(names: list[str]) -> Iterator[dict[str, float]]:
    for signs in itertools.product((-1.0, 1.0), repeat=len(names)):
        yield dict(zip(names, signs, strict=True))


def _output(program: Program, mlp: Mlp, name: str, values: Values) -> float:
    """The feature's value, less its constant."""
    total, sharpness = 0.0, program.sharpness
    for neuron in mlp.neurons:
        if name in neuron.writes:
            z = sharpness * (neuron.bias + sum(factor * values[read] for read, factor in neuron.reads.items()))
            total += neuron.writes[name] * z * 0.5 * math.erfc(-z / math.sqrt(2)) / sharpness  # gelu
    return total
