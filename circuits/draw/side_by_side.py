"""Two circuits side by side: which edges only the one has, which only the other, and which both.

Colour says who has an edge (blue: only the first, orange: only the second, dark: both), dashes that its score is
negative, width its |score|. Circuits of one shape stand on the same places. Where graphs differ, or their heads were
matched by what they do, an edge is shared if the matched heads have it, and a box of the second says its counterpart in
its tooltip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from ..circuit import Circuit
from ..compare.matching import Matching, named_edge, named_edges
from .layout import Layout, place
from .strokes import DASH, Stroke, strokes
from .style import BLUE, FRAME, ORANGE, tag, text
from .svg import STYLE, diagram, markers

ONLY_FIRST, ONLY_SECOND, BOTH, ALONE = BLUE, ORANGE, "#1f2937", FRAME
MAX_EDGES = 250

_COLOURS = {"first": ONLY_FIRST, "second": ONLY_SECOND, "both": BOTH, "alone": ALONE}
_MARGIN = 16.0


@dataclass(frozen=True)
class Member(Stroke):
    """An edge drawn by who has it.

    Args:
        has: `first`, `second`, `both`, or `alone` where circuits cannot be compared edge by edge.
    """

    has: str = "alone"

    @property
    def colour(self) -> str:
        """Of who has it."""
        return _COLOURS[self.has]

    @property
    def marker(self) -> str:
        """Likewise."""
        return self.has

    @property
    def tooltip(self) -> str:
        """Name, score and rank, and who has it."""
        said = {"first": "only here", "second": "only here", "both": "in both", "alone": ""}[self.has]
        return "   ".join(filter(None, (super().tooltip, said)))


@dataclass(frozen=True)
class SideBySide:
    """Two pictures and the numbers of their legend.

    Args:
        first: SVG text of the first circuit.
        second: SVG text of the second.
        only_first: Edges that only the first has; None where edges cannot be compared.
        only_second: Likewise.
        both: Edges that both have.
        notes: What the pictures leave out.
    """

    first: str
    second: str
    only_first: int | None
    only_second: int | None
    both: int | None
    notes: tuple[str, ...]


def side_by_side(
    first: Circuit, second: Circuit, *, names: tuple[str, str], matching: Matching | None = None, limit: int = MAX_EDGES
) -> SideBySide:
    """Both circuits as SVG, edges coloured by who has them.

    Args:
        first: The one.
        second: The other.
        names: What they are called.
        matching: Heads of the second in the names of the first. Without one, edges are shared by name if the graphs
            have one shape, and not compared if they have not.
        limit: The most edges to draw of each, the strongest.
    """
    one_shape = first.graph.signature == second.graph.signature
    comparable = one_shape or matching is not None
    sets = named_edges(first), named_edges(second, matching)
    common = sets[0] & sets[1] if comparable else set()
    drawn = [
        _members(circuit, common, who, own, limit) if comparable else _members(circuit, set(), "alone", own, limit)
        for circuit, who, own in ((first, "first", None), (second, "second", matching))
    ]
    if one_shape:
        layouts = [place(first.graph, [stroke.edge for some in drawn for stroke in some])] * 2
    else:
        layouts = [place(c.graph, [s.edge for s in some]) for c, some in zip((first, second), drawn, strict=True)]
    pictures = [_svg(layout, some, name) for layout, some, name in zip(layouts, drawn, names, strict=True)]
    only = [len(own - common) if comparable else None for own in sets]
    shared = len(common) if comparable else None
    notes = tuple(
        f"{name}: the {len(some)} strongest of {len(circuit):,} edges are drawn"
        for name, some, circuit in zip(names, drawn, (first, second), strict=True)
        if len(some) < len(circuit)
    )
    return SideBySide(pictures[0], pictures[1], only[0], only[1], shared, notes)


def _members(
    circuit: Circuit, common: set[tuple[str, ...]], who: str, matching: Matching | None, limit: int
) -> list[Member]:
    found = []
    for stroke in strokes(circuit, limit=limit):
        has = "both" if named_edge(stroke.edge, matching) in common else who
        found.append(Member(**{field.name: getattr(stroke, field.name) for field in fields(Stroke)}, has=has))
    return found


def _svg(layout: Layout, drawn: Sequence[Member], name: str) -> str:
    width, height = layout.width + 2 * _MARGIN, layout.height + 2 * _MARGIN
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="vc" width="{text(width)}" height="{text(height)}" '
            f'viewBox="0 0 {text(width)} {text(height)}" role="img">',
            tag("title", text(name)),
            tag("style", STYLE),
            markers(_COLOURS),
            tag("rect", width=width, height=height, fill="#ffffff"),
            tag("g", *diagram(layout, drawn), transform=f"translate({text(_MARGIN)} {text(_MARGIN)})"),
            "</svg>\n",
        ]
    )


def legend_svg(names: tuple[str, str], pictures: SideBySide) -> str:
    """The legend of both pictures as SVG text."""
    entries = [
        (ONLY_FIRST, f"only {names[0]}", pictures.only_first),
        (ONLY_SECOND, f"only {names[1]}", pictures.only_second),
        (BOTH, "both", pictures.both),
    ]
    if pictures.both is None:
        entries = [(ALONE, "graphs of other shapes: edges are not compared", None)]
    parts, x = [], 4.0
    for colour, said, count in entries:
        words = said if count is None else f"{said}: {count} edges"
        parts.append(tag("line", x1=x, y1=12.0, x2=x + 30, y2=12.0, stroke=colour, stroke_width=3.0))
        parts.append(tag("text", text(words), x=x + 37, y=16.0, class_="legend"))
        x += 60 + 6.4 * len(words)
    parts.append(tag("line", x1=x, y1=12.0, x2=x + 30, y2=12.0, stroke=ALONE, stroke_width=2.4, stroke_dasharray=DASH))
    parts.append(tag("text", "negative score", x=x + 37, y=16.0, class_="legend"))
    width = x + 140
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="vc" width="{text(width)}" height="24" role="img">'
        f"{tag('style', STYLE)}{''.join(parts)}</svg>"
    )
