"""How nodes and edges are spelled, and read back.

With one token group the names are exactly EAP-IG's and MIB's: `input->a0.h1<q>`, `a0.h1->a5.h3<k>`, `m3->logits`.
With several groups each end says where: `a0.h1@cls->a5.h3<q>@cls`, and inside a head `a5.h3<v>@patch->a5.h3@cls`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from ..models.errors import GraphError

_END = re.compile(
    r"(input|logits|m(?P<mlp>\d+)|a(?P<attn>\d+)(\.h(?P<head>\d+))?)(<(?P<port>[qkv])>)?(@(?P<group>\w+))?"
)


@dataclass(frozen=True)
class End:
    """One end of an edge.

    Args:
        kind: `input`, `head`, `attention` (a layer's one attention input at `block` ports), `mlp` or `logits`.
        layer: The block's index; -1 for `input` and `logits`.
        head: The head's index; -1 where there is none.
        port: `q`, `k`, `v`, or empty.
        group: The token group's name, or empty.
    """

    kind: str
    layer: int = -1
    head: int = -1
    port: str = ""
    group: str = ""

    @property
    def node(self) -> str:
        """The component's name without port and group, such as `a5.h3`."""
        match self.kind:
            case "head":
                return f"a{self.layer}.h{self.head}"
            case "attention":
                return f"a{self.layer}"
            case "mlp":
                return f"m{self.layer}"
            case _:
                return self.kind

    @property
    def bare(self) -> End:
        """The component at its token group, without the port."""
        return replace(self, port="")

    def __str__(self) -> str:
        return self.node + f"<{self.port}>" * bool(self.port) + f"@{self.group}" * bool(self.group)

    def __repr__(self) -> str:
        return f"End({str(self)!r})"


def parse_end(text: str) -> End:
    """The end that `text` spells.

    Raises:
        GraphError: It spells none.
    """
    match = _END.fullmatch(text)
    if match is None:
        raise GraphError(
            f"{text!r} is not the name of a node: write input, a0.h1 (a head), a0.h1<q> (its query, key or value "
            f"port), m3 (an MLP) or logits, followed by @cls, @patch, ... where the graph has token groups."
        )
    port, group = match["port"] or "", match["group"] or ""
    if match["mlp"]:
        return End("mlp", int(match["mlp"]), port=port, group=group)
    if match["head"]:
        return End("head", int(match["attn"]), int(match["head"]), port, group)
    if match["attn"]:
        return End("attention", int(match["attn"]), port=port, group=group)
    return End(match[1], port=port, group=group)


@dataclass(frozen=True)
class Edge:
    """A single edge, made when somebody asks for it.

    Args:
        index: Its place in the graph's order.
        source: Where it starts: a node that writes, or inside a head, the port at the source tokens.
        destination: Where it ends: a place that reads, or inside a head, the head at the target tokens.
        score: How much of the metric it carries, where scores or a circuit with scores gave it; positive helps. Edges
            are equal whatever their scores.
    """

    index: int
    source: End
    destination: End
    score: float | None = field(default=None, compare=False)

    @property
    def inside(self) -> bool:
        """Whether it runs between token groups inside an attention head."""
        return self.source.node == self.destination.node

    @property
    def layer(self) -> int:
        """The block where it ends; -1 for the logits."""
        return self.destination.layer

    @property
    def port(self) -> str:
        """`q`, `k` or `v` where the graph tells them apart, else empty."""
        return self.source.port if self.inside else self.destination.port

    @property
    def name(self) -> str:
        """The printable name, which `Graph.index` reads back."""
        return f"{self.source}->{self.destination}"

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"Edge({self.name!r})" if self.score is None else f"Edge({self.name!r}, score={self.score:.4g})"


def halves(text: str) -> list[str]:
    """What could be meant as source and destination, whichever arrow stands between them; one text without any."""
    return re.split(r"[-=]+>?|\N{RIGHTWARDS ARROW}|(?<!<[qkv])>", text.replace(" ", ""), maxsplit=1)


def parse_edge(text: str) -> tuple[End, End]:
    """The two ends that an edge's name spells.

    Raises:
        GraphError: It is not an edge's name.
    """
    parts = text.replace(" ", "").split("->")
    if len(parts) != 2:
        raise GraphError(
            f"{text!r} is not the name of an edge: write source->destination, such as "
            f"'a0.h1->a1.h0<q>' or 'm0->logits'."
        )
    return parse_end(parts[0]), parse_end(parts[1])
