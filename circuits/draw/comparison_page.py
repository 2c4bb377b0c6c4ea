"""A comparison as one page that opens from disk: what may be said, the circuits side by side, curves, tables.

Of two circuits colour says who has an edge (blue: only the first, orange: only the second, dark: both), dashes that its
score is negative, width its |score|. Circuits of one shape stand on the same places. Where graphs differ, or their
heads were matched by what they do, an edge is shared if the matched heads have it, and a box of the second says its
counterpart in its tooltip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...models.files import write_text_atomic
from ..circuit import Circuit
from ..compare.findings import Finding
from ..compare.matching import Matching, named_edge, named_edges
from ..compare.result import Comparison
from ..compare.subject import Subject
from ..report import Curve, Figure
from .curve import curves_svg, rank_overlap_svg
from .layout import Layout
from .page_data import pair_data, script_json
from .pages import NONE, explorer, markup, render, spelled
from .panels import place
from .strokes import DASH, Stroke, number, strokes
from .style import BLUE, FRAME, ORANGE, tag, text
from .svg import STYLE, diagram, document

_MAX_PAIRS = 3
_N_DRAWS = 300
_MAX_EXPLORED = 2000  # edges of each circuit in the diagrams of the script


def write_comparison_page(comparison: Comparison, path: str | Path) -> Path:
    """Writes the page, and returns the path.

    Raises:
        FormatError: The file cannot be written.
    """
    return write_text_atomic(path, comparison_page(comparison))


def comparison_page(comparison: Comparison) -> str:
    """The page as text."""
    counted = (kind if len(some) == 1 else f"{kind} ({len(some)} seeds)" for kind, some in comparison.kinds.items())
    names = list(comparison.names)
    return render(
        "comparison.html",
        title="Circuits compared: " + ", ".join(counted),
        facts=_facts(comparison),
        says=_says(comparison),
        pictures=[_side_by_side(comparison, i, j) for i, j in _firsts(comparison)],
        kept=_kept(comparison),
        rank_overlap=rank_overlap_svg(comparison.rank_curves, list(comparison.kinds)) if comparison.rank_curves else "",
        findings=[_finding_row(one) for one in comparison.findings],
        level=f"{comparison.method['level']:g}" if comparison.findings else "",
        names=names,
        missing=_missing(comparison),
        grids=_grids(comparison) if len(names) > 1 else [],
        figure_columns=[("figure", ""), *((name, "n") for name in names)],
        figures=_figures(comparison),
        heads=[found for i, j in _firsts(comparison) if (found := _heads(comparison, i, j))],
        condition_columns=[("", ""), ("all", ""), *((name, "") for name in names)],
        conditions=_conditions(comparison),
        method=_method(comparison),
        **explorer("comparison"),
    )


def _facts(comparison: Comparison) -> list[tuple[str, str]]:
    shared = {
        name: values.pop()
        for name in ("task", "data", "partners", "ablation", "metric")
        if len(values := {one[name] for one in comparison.conditions}) == 1 and values != {"-"}
    }
    return [*shared.items(), ("pairs", comparison.pairs_words())]


def _says(comparison: Comparison) -> list[tuple[str, str]]:
    """What may be said, each with what it is coloured by."""
    kinds = {str(one): one.verdict.split()[0] for one in comparison.findings}
    care = ("Not comparable", "With ")
    return [("care" if one.startswith(care) else kinds.get(one, ""), one) for one in comparison.conclusions()]


def _firsts(comparison: Comparison) -> list[tuple[int, int]]:
    """The first circuits of each two kinds."""
    first_of = [comparison.subjects.index(some[0]) for some in comparison.kinds.values()]
    return list(combinations(first_of, 2))[:_MAX_PAIRS]


def _side_by_side(comparison: Comparison, i: int, j: int) -> dict[str, Any]:
    one, other = comparison.subjects[i], comparison.subjects[j]
    names, matching = (one.name, other.name), comparison.agreement.matchings.get((i, j))
    pictures = side_by_side(one.circuit, other.circuit, names=names, matching=matching)
    how = "Heads were matched by what they do: an edge is shared if its counterpart is kept." if matching else ""
    return {
        "title": f"{one.name} and {other.name}",
        "data": markup(
            script_json(pair_data(one.circuit, other.circuit, names, matching=matching, limit=_MAX_EXPLORED))
        ),
        "legend": markup(legend_svg(names, pictures)),
        "circuits": [
            (f"{subject.name}: {_sizes(subject)}", markup(svg))
            for subject, svg in ((one, pictures.first), (other, pictures.second))
        ],
        "note": " ".join(filter(None, (how, "Point at an edge for its name and score.", *pictures.notes))),
    }


def _sizes(subject: Subject) -> str:
    circuit = subject.circuit
    return f"{len(circuit):,} of {len(circuit.graph):,} edges, {circuit.graph.cfg.name}"


def _kept(comparison: Comparison) -> dict[str, str] | None:
    curves = [curve for kind, some in comparison.kinds.items() if (curve := _kind_curve(kind, some)) is not None]
    if not curves:
        return None
    called = {curve.name for subject in comparison.subjects for curve in subject.curves.values()}
    name = " and ".join(sorted(called)).capitalize()
    return {"name": name, "svg": curves_svg(curves, measure=name.lower())}


def _kind_curve(kind: str, subjects: Sequence[Subject]) -> Curve | None:
    """The mean of a kind's seeds at each nominal size, with their range."""
    own = [subject.curves[subject.by] for subject in subjects if subject.by in subject.curves]
    if not own:
        return None
    if len(own) == 1 or len({len(curve.share) for curve in own}) > 1:
        return own[0].to_curve(kind, own[0].resamples(_N_DRAWS, seed=0))
    values = np.array([curve.kept() for curve in own])
    sizes = np.mean([curve.n_edges for curve in own], axis=0).round().astype(np.int64)
    return Curve(f"{kind}, {len(own)} seeds", sizes, sizes, values.mean(0), values.min(0), values.max(0))


def _finding_row(finding: Finding) -> list[str]:
    def two(values: Sequence[float] | None) -> str:
        return NONE if values is None else " | ".join(number(float(value)) for value in values)

    test = finding.test
    return [
        finding.figure,
        " | ".join(finding.kinds),
        two(finding.means),
        number(float(finding.difference)),
        NONE if finding.low is None or finding.high is None else _ends(finding.low, finding.high),
        NONE if finding.seeds is None else number(float(finding.seeds)),
        two(finding.chance),
        NONE if test is None else f"{test.p_value:.3g} (at least {test.smallest:.2g})",
        NONE if finding.p_holm is None else f"{finding.p_holm:.3g}",
        finding.verdict,
    ]


def _between(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values[~np.eye(len(values), dtype=bool)]


def _missing(comparison: Comparison) -> list[str]:
    """Measures that no two circuits have, by the reason."""
    found, missing = comparison.agreement, {}
    for measure, values in found.values.items():
        if np.isnan(_between(values)).all():
            missing.setdefault(found.why_not.get(measure, "not measured"), []).append(measure)
    return [f"{', '.join(measures).capitalize()}: {why}." for why, measures in missing.items()]


def _grids(comparison: Comparison) -> list[tuple[str, list[tuple[str, list[dict[str, Any]]]]]]:
    """Measure -> a row per circuit: by chance below the diagonal, what is shared above it."""
    found = comparison.agreement
    return [
        (
            measure,
            [
                (
                    name,
                    [*map(_by_chance, found.chance[measure][i, :i]), {"said": ""}, *map(_shared, values[i, i + 1 :])],
                )
                for i, name in enumerate(comparison.names)
            ],
        )
        for measure, values in found.values.items()
        if not np.isnan(_between(values)).all()
    ]


def _by_chance(value: float) -> dict[str, Any]:
    return {"said": NONE if np.isnan(value) else f"{value:.2f}", "chance": True}


def _shared(value: float) -> dict[str, Any]:
    if np.isnan(value):
        return {"said": NONE}
    return {"said": f"{value:.2f}", "shade": f"{0.08 + 0.42 * max(0.0, min(1.0, float(value))):.2f}"}


def _figures(comparison: Comparison) -> list[list[Any]]:
    names = list(dict.fromkeys(name for figures in comparison.figures for name in figures))
    each = list(zip(comparison.figures, comparison.chance, strict=True))
    return [
        [spelled(name), *(_figure_cell(figures.get(name), chance.get(name)) for figures, chance in each)]
        for name in names
    ]


def _figure_cell(figure: Figure | None, chance: float | None) -> Any:
    if figure is None or figure.value is None:
        return NONE
    below = [] if figure.low is None or figure.high is None else [_ends(figure.low, figure.high)]
    below += [] if chance is None or np.isnan(chance) else [f"random {number(float(chance))}"]
    small = markup('<span class="interval">{}</span>')
    return markup("").join([number(float(figure.value)), *(small.format(said) for said in below)])


def _heads(comparison: Comparison, i: int, j: int) -> dict[str, Any] | None:
    """Which head of two circuits is taken for which."""
    matching = comparison.agreement.matchings.get((i, j))
    if matching is None:
        return None
    one, other = comparison.subjects[i], comparison.subjects[j]
    used = [
        {end.node for edge in subject.circuit for end in (edge.source, edge.destination)} for subject in (one, other)
    ]
    who = {(True, True): "both", (True, False): one.name, (False, True): other.name, (False, False): NONE}
    rows = [
        [a, b, f"{matching.similarity[b]:.2f}", f"{matching.margin[b]:+.2f}", who[a in used[0], b in used[1]]]
        for b, a in sorted(matching.heads.items(), key=lambda pair: pair[1])
    ]
    method = matching.method[0].upper() + matching.method[1:]
    return {"first": one.name, "second": other.name, "method": method, "rows": rows}


def _conditions(comparison: Comparison) -> list[list[Any]]:
    """What is the same for all in one column, what is not in a column for each."""
    bold, rows = markup("<b>{}</b>"), []
    for name in comparison.conditions[0]:
        values = [one[name] for one in comparison.conditions]
        same = len(set(values)) == 1
        rows.append([name, values[0], *[""] * len(values)] if same else [bold.format(name), "", *values])
    return rows


def _method(comparison: Comparison) -> list[tuple[str, str]]:
    entries: dict[str, object] = {**comparison.method, "pairs": comparison.pairs_words()}
    return [
        (spelled(name), ", ".join(map(str, value)) if isinstance(value, list) else str(value))
        for name, value in entries.items()
    ]


def _ends(low: float, high: float) -> str:
    return f"[{number(float(low))}, {number(float(high))}]"


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
class PicturePair:
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
) -> PicturePair:
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
    return PicturePair(pictures[0], pictures[1], only[0], only[1], shared, notes)


def _members(
    circuit: Circuit, common: set[tuple[str, ...]], who: str, matching: Matching | None, limit: int
) -> list[Member]:
    found = []
    for stroke in strokes(circuit, limit=limit):
        has = "both" if named_edge(stroke.edge, matching) in common else who
        found.append(Member(**{field.name: getattr(stroke, field.name) for field in fields(Stroke)}, has=has))
    return found


def _svg(layout: Layout, drawn: Sequence[Member], name: str) -> str:
    size = layout.width + 2 * _MARGIN, layout.height + 2 * _MARGIN
    picture = tag("g", *diagram(layout, drawn), transform=f"translate({text(_MARGIN)} {text(_MARGIN)})")
    return document(size, name, _COLOURS, [picture])


def legend_svg(names: tuple[str, str], pictures: PicturePair) -> str:
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
