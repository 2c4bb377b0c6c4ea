"""A comparison as one static page that opens from disk: what may be said, the circuits side by side, curves, tables.

Like a circuit's own page it loads nothing and runs nothing, and everything that came from outside is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..compare.findings import Finding
from ..compare.result import Comparison
from ..compare.subject import Subject
from ..formats.plain import write_text_atomic
from ..report import Curve, Figure
from .curve import curves_svg, rank_overlap_svg
from .html import html_page, html_table, section, svg_image
from .side_by_side import legend_svg, side_by_side
from .strokes import number
from .style import tag, text

_NONE = "\N{EN DASH}"
_MAX_PAIRS = 3
_N_DRAWS = 300

_STYLE = """
main{max-width:1560px}
.panels{display:flex;flex-wrap:wrap;gap:18px}.panels figure{flex:1 1 520px;min-width:0;overflow-x:auto}
.panels svg{max-width:100%;height:auto;min-width:440px}
.panels figcaption{font-size:14px;font-weight:600;color:var(--ink);max-width:none;margin:0 0 4px}
.says{margin:0;padding:0;list-style:none}
.says li{padding:6px 0 6px 12px;border-left:4px solid var(--line);margin:0 0 6px}
.says .differs{border-color:#15803d}.says .beyond{border-color:#b7791f}.says .care{border-color:#b91c1c}
.grids{display:grid;grid-template-columns:repeat(auto-fit,minmax(430px,1fr));gap:22px}.grids>div{overflow-x:auto}
.grids table{width:auto}.grids h3{font-size:14px;margin:0 0 6px}
.grids th,.grids td{padding:4px 10px 4px 0;position:static}
td.cell{text-align:center;min-width:62px;padding:4px 8px}section>p{max-width:110ch}.curve{max-width:860px}
.columns{grid-template-columns:repeat(auto-fit,minmax(480px,1fr))}
.wide{overflow-x:auto}.wide table{width:auto;min-width:50%}
.wide td,.wide th{white-space:nowrap}
.interval{display:block;font-size:11.5px;color:var(--soft)}
"""


def write_comparison_page(comparison: Comparison, path: str | Path) -> Path:
    """Writes the page, and returns the path.

    Raises:
        FormatError: The file cannot be written.
    """
    return write_text_atomic(path, comparison_page(comparison))


def comparison_page(comparison: Comparison) -> str:
    """The page as text."""
    heading = "Circuits compared: " + ", ".join(
        kind if len(some) == 1 else f"{kind} ({len(some)} seeds)" for kind, some in comparison.kinds.items()
    )
    body = [
        tag("header", tag("h1", text(heading)), tag("dl", *_facts(comparison), class_="facts")),
        section("What may be said", _says(comparison)),
        *_pictures(comparison),
        tag("div", _kept(comparison), _rank_overlap(comparison), class_="columns"),
        section("Kinds against each other", *_findings(comparison)),
        section("What each two circuits share", *_agreement(comparison)),
        section("Each circuit in figures", *_figures(comparison)),
        *_heads(comparison),
        section("How the circuits were found", _conditions(comparison)),
        section("How the comparison was made", html_table([("", ""), ("", "")], _method(comparison))),
    ]
    return html_page(heading, body, style=_STYLE)


def _facts(comparison: Comparison) -> list[str]:
    shared = {
        name: values.pop()
        for name in ("task", "data", "partners", "ablation", "metric")
        if len(values := {one[name] for one in comparison.conditions}) == 1 and values != {"-"}
    }
    facts = {**shared, "pairs": comparison.pairs_words()}
    return [tag("div", tag("dt", text(label)), tag("dd", text(value))) for label, value in facts.items()]


def _says(comparison: Comparison) -> str:
    classes = {str(one): one.verdict.split()[0] for one in comparison.findings}
    items = []
    for said in comparison.conclusions():
        care = said.startswith(("Not comparable", "With "))
        items.append(tag("li", text(said), class_="care" if care else classes.get(said, "")))
    return tag("ul", *items, class_="says") if items else ""


def _pictures(comparison: Comparison) -> list[str]:
    """The first circuits of each two kinds, side by side."""
    first_of = {kind: comparison.subjects.index(some[0]) for kind, some in comparison.kinds.items()}
    found = []
    for i, j in list(combinations(first_of.values(), 2))[:_MAX_PAIRS]:
        found.append(_side_by_side(comparison, i, j))
    return found


def _side_by_side(comparison: Comparison, i: int, j: int) -> str:
    one, other = comparison.subjects[i], comparison.subjects[j]
    names, matching = (one.name, other.name), comparison.agreement.matchings.get((i, j))
    pictures = side_by_side(one.circuit, other.circuit, names=names, matching=matching)
    figures = [
        tag("figure", tag("figcaption", text(f"{subject.name}: {_sizes(subject)}")), picture)
        for subject, picture in ((one, pictures.first), (other, pictures.second))
    ]
    how = "Heads were matched by what they do: an edge is shared if its counterpart is kept." if matching else ""
    note = " ".join(filter(None, (how, "Point at an edge for its name and score.", *pictures.notes)))
    title = f"{one.name} and {other.name}"
    return section(title, legend_svg(names, pictures), tag("div", *figures, class_="panels"), tag("p", text(note)))


def _sizes(subject: Subject) -> str:
    circuit = subject.circuit
    return f"{len(circuit):,} of {len(circuit.graph):,} edges, {circuit.graph.cfg.name}"


def _kept(comparison: Comparison) -> str:
    curves = [curve for kind, some in comparison.kinds.items() if (curve := _kind_curve(kind, some)) is not None]
    if not curves:
        return ""
    note = "Each kind: mean of its seeds, with their range; a single seed: its 95% interval over pairs."
    called = {curve.name for subject in comparison.subjects for curve in subject.curves.values()}
    name = " and ".join(sorted(called)).capitalize()
    return section(f"{name} by size", svg_image(curves_svg(curves, measure=name.lower()), name), tag("p", text(note)))


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


def _rank_overlap(comparison: Comparison) -> str:
    if not comparison.rank_curves:
        return ""
    picture = rank_overlap_svg(comparison.rank_curves, list(comparison.kinds))
    note = "Of the n highest-ranked edges of two circuits: the share that both have, without matching heads."
    return section("Overlap at equal rank", svg_image(picture, "Overlap at each rank"), tag("p", text(note)))


def _findings(comparison: Comparison) -> list[str]:
    if not comparison.findings:
        return []
    columns = [("figure", ""), ("kinds", ""), ("means", "n"), ("difference", "n"), ("over pairs", "n")]
    columns += [("two seeds", "n"), ("random circuits", "n"), ("p", "n"), ("p, corrected", "n"), ("verdict", "")]
    note = (
        "Two seeds: the largest difference between two seeds of one kind. p: permutation of the seeds' labels, then "
        f"corrected by Holm for {len(comparison.findings)} findings. "
        f"Kinds differ where the difference is larger than between two seeds and the corrected p is at most "
        f"{comparison.method['level']:g}."
    )
    table = html_table(columns, [_finding_row(one) for one in comparison.findings])
    return [tag("div", table, class_="wide"), tag("p", text(note))]


def _finding_row(finding: Finding) -> list[str]:
    def two(values: Sequence[float] | None) -> str:
        return _NONE if values is None else " | ".join(map(_number, values))

    interval = _NONE if finding.low is None or finding.high is None else _ends(finding.low, finding.high)
    test = finding.test
    cells = [
        finding.figure,
        " | ".join(finding.kinds),
        two(finding.means),
        _number(finding.difference),
        interval,
        _NONE if finding.seeds is None else _number(finding.seeds),
        two(finding.chance),
        _NONE if test is None else f"{test.p_value:.3g} (at least {test.smallest:.2g})",
        _NONE if finding.p_holm is None else f"{finding.p_holm:.3g}",
        finding.verdict,
    ]
    return [text(cell) for cell in cells]


def _agreement(comparison: Comparison) -> list[str]:
    if len(comparison.names) < 2:
        return []
    found, grids, missing = comparison.agreement, [], {}
    for measure, values in found.values.items():
        if np.isnan(values[~np.eye(len(values), dtype=bool)]).all():
            missing.setdefault(found.why_not.get(measure, "not measured"), []).append(measure)
        else:
            grids.append(tag("div", tag("h3", text(measure)), _grid(comparison.names, values, found.chance[measure])))
    note = (
        "Above the diagonal what two circuits share; below it, in grey, what random circuits like the two share (for "
        "rankings, random rankings)."
    )
    said = [f"{', '.join(measures).capitalize()}: {why}." for why, measures in missing.items()]
    return [tag("p", text(" ".join([note, *said]))), tag("div", *grids, class_="grids")]


def _grid(names: Sequence[str], values: NDArray[np.float64], chance: NDArray[np.float64]) -> str:
    rows = []
    for i, name in enumerate(names):
        above = [_cell(value) for value in values[i, i + 1 :]]
        below = [f'<td class="cell soft">{_NONE if np.isnan(one) else f"{one:.2f}"}</td>' for one in chance[i, :i]]
        rows.append(tag("tr", tag("th", text(name)), *below, '<td class="cell"></td>', *above))
    head = tag("tr", "<th></th>", *(tag("th", text(name)) for name in names))
    return tag("table", tag("thead", head), tag("tbody", *rows))


def _cell(value: float) -> str:
    if np.isnan(value):
        return f'<td class="cell">{_NONE}</td>'
    shade = f"background:rgba(43,108,176,{0.08 + 0.42 * max(0.0, min(1.0, float(value))):.2f})"
    return f'<td class="cell" style="{shade}">{value:.2f}</td>'


def _figures(comparison: Comparison) -> list[str]:
    names = list(dict.fromkeys(name for figures in comparison.figures for name in figures))
    columns = [("figure", ""), *((name, "n") for name in comparison.names)]
    rows = []
    for name in names:
        cells = [
            _figure_cell(figures.get(name), chance.get(name))
            for figures, chance in zip(comparison.figures, comparison.chance, strict=True)
        ]
        rows.append([text(name.replace("_", " ")), *cells])
    note = (
        "Shares are of |score|, counted over the kept edges; below them 95% intervals over pairs, where something was "
        "measured or found again, and the mean of random circuits of the same size and strengths."
    )
    return [tag("div", html_table(columns, rows), class_="wide"), tag("p", text(note))]


def _figure_cell(figure: Figure | None, chance: float | None) -> str:
    if figure is None or figure.value is None:
        return _NONE
    below = [] if figure.low is None or figure.high is None else [_ends(figure.low, figure.high)]
    below += [] if chance is None or np.isnan(chance) else [f"random {_number(chance)}"]
    return text(_number(figure.value)) + "".join(tag("span", text(said), class_="interval") for said in below)


def _heads(comparison: Comparison) -> list[str]:
    """For the first circuits of each two kinds, which head is taken for which."""
    first_of = [comparison.subjects.index(some[0]) for some in comparison.kinds.values()]
    found = []
    for i, j in list(combinations(first_of, 2))[:_MAX_PAIRS]:
        matching = comparison.agreement.matchings.get((i, j))
        if matching is None:
            continue
        one, other = comparison.subjects[i], comparison.subjects[j]
        used = [set(_used(subject)) for subject in (one, other)]
        rows = []
        for b, a in sorted(matching.heads.items(), key=lambda pair: pair[1]):
            numbers = (f"{matching.similarity[b]:.2f}", f"{matching.margin[b]:+.2f}")
            rows.append([text(a), text(b), *numbers, text(_who(a in used[0], b in used[1], one.name, other.name))])
        columns = [(one.name, "name"), (other.name, "name"), ("similarity", "n"), ("margin", "n")]
        columns.append(("in the circuit of", ""))
        table = tag("div", html_table(columns, rows), class_="scroll wide")
        note = f"{matching.method[0].upper()}{matching.method[1:]}. Margin: over the next best head."
        found.append(section(f"Heads of {one.name} and {other.name}", tag("p", text(note)), table))
    return found


def _used(subject: Subject) -> list[str]:
    return [end.node for edge in subject.circuit for end in (edge.source, edge.destination)]


def _who(first: bool, second: bool, one: str, other: str) -> str:
    return {(True, True): "both", (True, False): one, (False, True): other, (False, False): _NONE}[first, second]


def _conditions(comparison: Comparison) -> str:
    """What is the same for all in one column, what is not in a column for each."""
    columns = [("", ""), ("all", ""), *((name, "") for name in comparison.names)]
    rows = []
    for name in comparison.conditions[0]:
        values = [one[name] for one in comparison.conditions]
        same = len(set(values)) == 1
        cells = [values[0], *[""] * len(values)] if same else ["", *values]
        rows.append([text(name) if same else tag("b", text(name)), *map(text, cells)])
    return tag("div", html_table(columns, rows), class_="wide")


def _method(comparison: Comparison) -> list[list[str]]:
    entries: Mapping[str, object] = {**comparison.method, "pairs": comparison.pairs_words()}
    return [
        [text(name.replace("_", " ")), text(", ".join(map(str, value)) if isinstance(value, list) else str(value))]
        for name, value in entries.items()
    ]


def _number(value: float) -> str:
    return number(float(value))


def _ends(low: float, high: float) -> str:
    return f"[{_number(low)}, {_number(high)}]"
