"""What an MLP's feature depends on, found by trying all values of what its neurons read.

A feature depends on another if turning that one over (+1 to -1) changes it for some values of the others: an even
function such as |x| depends on nothing. Features that copy one another are redundant: then a part of them is enough.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping

from .program import Head, Mlp, Program

CHANGE = 1e-4  # a feature that moves by less is unchanged

Values = Mapping[str, float]


def depends(program: Program, mlp: Mlp, name: str) -> frozenset[str]:
    """The features that one of an MLP's features depends on."""
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
    needed = sorted(depends(program, mlp, name))
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
