"""A feature program: what every head, neuron and logit of a planted ViT reads and writes, as plain frozen values.

A feature is a number at every token, +1 or -1 (or one of a one-hot group of which exactly one is on), with one writer.
It lives in a mirrored pair of residual dimensions (+f, -f). So the residual's mean is 0 and its norm depends only on
the stage, for every image and for every mix of clean and corrupted edges: LayerNorm with weight sqrt(variance + eps) is
the identity, and the model is exact with its LayerNorms alive.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

Terms = Mapping[str, float]
"""Features and their factors: a linear form to read, or a vector to write."""

POSITION = "pos"


@dataclass(frozen=True)
class Score:
    """A part of an attention score: (query + bias at the target) times (key at the source), times gain."""

    gain: float
    query: Terms
    bias: float
    key: Terms


@dataclass(frozen=True)
class Head:
    """A head: what decides where it looks, and what it copies from there.

    Args:
        layer: Its block.
        index: Its place in the block.
        scores: Parts of the attention score, which add up.
        values: What it reads there, one linear form per feature it writes.
        writes: The features written; several are one one-hot group.
    """

    layer: int
    index: int
    scores: tuple[Score, ...]
    values: tuple[Terms, ...]
    writes: tuple[str, ...]

    @property
    def node(self) -> str:
        """Its name in the graph."""
        return f"a{self.layer}.h{self.index}"


@dataclass(frozen=True)
class Neuron:
    """A hidden neuron: relu-like of (reads + bias), times what it writes."""

    reads: Terms
    bias: float
    writes: Terms


@dataclass(frozen=True)
class Mlp:
    """A block's MLP: its neurons and the constants it adds."""

    layer: int
    neurons: tuple[Neuron, ...]
    constants: Terms

    @property
    def node(self) -> str:
        """Its name in the graph."""
        return f"m{self.layer}"

    @property
    def writes(self) -> tuple[str, ...]:
        """The features written."""
        found = [name for neuron in self.neurons for name in neuron.writes]
        return tuple(dict.fromkeys([*found, *self.constants]))


@dataclass(frozen=True)
class Program:
    """A whole planted model.

    Args:
        name: What it is called, such as `planted/majority`.
        grid: Patch rows and columns.
        n_layers: Blocks.
        n_heads: Heads per block.
        d_model: Width; at least twice the number of features.
        bits: Features that each patch's pixels encode; CLS carries -1 for all of them.
        heads: The heads that do something.
        mlps: The MLPs that do something.
        logits: What each logit reads at CLS.
        sharpness: Neurons compute gelu(sharpness * z) / sharpness, which comes near relu(z).
        dead: Heads (layer, index) with random queries and keys that write nothing.
    """

    name: str
    grid: tuple[int, int]
    n_layers: int
    n_heads: int
    d_model: int
    bits: tuple[str, ...]
    heads: tuple[Head, ...]
    mlps: tuple[Mlp, ...]
    logits: tuple[Terms, ...]
    sharpness: float = 8.0
    dead: tuple[tuple[int, int], ...] = ()

    @property
    def n_tokens(self) -> int:
        """CLS and the patches."""
        return 1 + self.grid[0] * self.grid[1]

    @property
    def positions(self) -> tuple[str, ...]:
        """The one-hot group that says which token this is."""
        return tuple(f"{POSITION}{token}" for token in range(self.n_tokens))

    @cached_property
    def writer(self) -> dict[str, Head | Mlp | None]:
        """Who writes each feature, in the order of residual dimensions; None for the input."""
        found: dict[str, Head | Mlp | None] = dict.fromkeys((*self.positions, *self.bits))
        for layer in range(self.n_layers):
            parts: list[Head | Mlp] = [head for head in self.heads if head.layer == layer]
            parts += [mlp for mlp in self.mlps if mlp.layer == layer]
            found.update({name: part for part in parts for name in part.writes})
        return found

    @cached_property
    def place(self) -> dict[str, int]:
        """The pair of residual dimensions of each feature."""
        return {name: place for place, name in enumerate(self.writer)}

    def n_groups(self, stage: int) -> int:
        """How many numbers of size 1 a residual holds: in front of attention of layer l (2 l), of its MLP (2 l + 1)."""
        groups = set()
        for name, writer in self.writer.items():
            if writer is None:
                groups.add(POSITION if name.startswith(POSITION) else name)
            elif isinstance(writer, Head) and 2 * writer.layer + 1 <= stage:
                groups.add(writer.node if len(writer.writes) > 1 else name)
            elif isinstance(writer, Mlp) and 2 * writer.layer + 2 <= stage:
                groups.add(name)
        return len(groups)
