"""A circuit as an SVG picture, written here without any other program.

From the back: bands for the layers and lanes for the token groups, edges (weak ones first), boxes and ports, and under
the diagram the images and the legend. The same circuit gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...models.files import write_text_atomic
from ..circuit import Circuit
from ..formats import draw_circuit as draw_circuit  # the package hands it on
from ..words import facts, group_title, shortened, title
from .images import caption, chips_width, image_with_grid, png_uri
from .layout import Box, Layout, MapLevel
from .panels import place
from .route import route
from .strokes import DASH, NEGATIVE, POSITIVE, UNSCORED, Stroke, legend, strokes
from .style import HEAT, tag, text

if TYPE_CHECKING:
    from ..figure_data import Exhibit

MAX_EDGES = 400
"""More edges than this are a hairball; only the strongest are drawn, and the picture says so."""

_MARGIN, _MIN_WIDTH = 24.0, 620.0
_ARROWS = {"": 7.0, "-large": 13.0, "-small": 4.0}  # px
STYLE = """
.vc{font-family:'Helvetica Neue',Helvetica,Arial,'Liberation Sans',sans-serif}
.vc .title{font-size:17px;font-weight:600;fill:#111827}
.vc .facts{font-size:11.5px;fill:#4b5563}
.vc .legend,.vc .caption{font-size:11px;fill:#374151}
.vc .row{font-size:10.5px;fill:#6b7280}
.vc .lane{font-size:12.5px;font-weight:600;fill:#374151}
.vc .chip,.vc .letter{font-size:8.5px;fill:#374151}
.vc .letter{font-size:7px}
.vc .edge:hover{stroke-opacity:1;stroke:#111827}
"""


def save_svg(circuit: Circuit, path: str | Path, *, exhibit: Exhibit | None = None, max_edges: int = MAX_EDGES) -> Path:
    """Writes the circuit as SVG and returns the path.

    Raises:
        FormatError: The file cannot be written.
    """
    return write_text_atomic(path, to_svg(circuit, exhibit=exhibit, max_edges=max_edges))


def to_svg(circuit: Circuit, *, exhibit: Exhibit | None = None, max_edges: int = MAX_EDGES, header: bool = True) -> str:
    """The circuit as SVG text.

    Args:
        exhibit: Images to show under the diagram: the first pair.
        max_edges: The most edges to draw.
        header: Whether the title and the facts stand on top.
    """
    drawn = strokes(circuit, limit=max_edges)
    layout = place(circuit.graph, [stroke.edge for stroke in drawn])
    width = max(layout.width, _MIN_WIDTH, foot_width(circuit, exhibit)) + 2 * _MARGIN
    head, top = _header(circuit, width) if header else ([], _MARGIN)
    left = (width - layout.width) / 2
    shown = png_uri(exhibit.clean[0]) if layout.picture and exhibit is not None and len(exhibit.clean) else ""
    picture = tag("g", *diagram(layout, drawn, shown), transform=f"translate({text(left)} {text(top)})")
    corner = (_MARGIN if exhibit is not None else left + 8.0, top + layout.height + 18.0)
    under, bottom = foot(circuit, layout, drawn, exhibit=exhibit, corner=corner)
    height = bottom + _MARGIN
    name = f"{title(circuit)}, {len(circuit)} of {len(circuit.graph)} edges"
    arrows = {"positive": POSITIVE, "negative": NEGATIVE, "unscored": UNSCORED}
    return document((width, height), name, arrows, [*head, picture, *under])


def document(size: tuple[float, float], name: str, arrows: Mapping[str, str], content: Sequence[str]) -> str:
    """A whole picture as SVG text, with arrowheads by name in these colours."""
    width, height = map(text, size)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="vc" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" role="img">',
            tag("title", text(name)),
            tag("style", STYLE),
            markers(arrows),
            tag("rect", width=size[0], height=size[1], fill="#ffffff"),
            *content,
            "</svg>\n",
        ]
    )


def _header(circuit: Circuit, width: float) -> tuple[list[str], float]:
    name = title(circuit)
    fitting = tag("title", text(name)) + text(shortened(name, int((width - 2 * _MARGIN) / 9.2)))
    parts = [tag("text", fitting, x=_MARGIN, y=36.0, class_="title")]
    y = 38.0
    for row in _lines(_headline(circuit), int((width - 2 * _MARGIN) / 5.7)):
        y += 17.0
        parts.append(tag("text", text(row), x=_MARGIN, y=y, class_="facts"))
    return parts, y + 22.0


def _headline(circuit: Circuit) -> list[str]:
    wanted = ("algorithm", "selection", "ablation", "design", "metric", "graph", "objects")
    known = dict(facts(circuit))
    whole = [f"node circuit: {known['node circuit']}"] if "node circuit" in known else []
    return [*whole, f"{known['edges']} edges", *(f"{label}: {known[label]}" for label in wanted if label in known)]


def _lines(items: list[str], length: int) -> list[str]:
    """Items joined by dots into lines of at most that many characters."""
    lines = [""]
    for item in items:
        joined = f"{lines[-1]}  ·  {item}" if lines[-1] else item
        if len(joined) > length and lines[-1]:
            lines.append(item)
        else:
            lines[-1] = joined
    return [shortened(line, length) for line in lines]


def markers(heads: Mapping[str, str]) -> str:
    """Arrowheads by name, in these colours."""
    shape = {"viewBox": "0 0 8 8", "refX": 6.0, "refY": 4.0, "orient": "auto", "markerUnits": "userSpaceOnUse"}
    return tag(
        "defs",
        *(
            tag(
                "marker",
                tag("path", d="M0 0.8L8 4L0 7.2z", fill=colour),
                id=f"vc-arrow-{name}{which}",
                markerWidth=size,
                markerHeight=size,
                **shape,
            )
            for name, colour in heads.items()
            for which, size in _ARROWS.items()
        ),
    )


def diagram(layout: Layout, drawn: Sequence[Stroke], picture: str = "") -> list[str]:
    """Bands, edges, boxes and ports; of a map the picture at this address below it."""
    weak_first = sorted(drawn, key=lambda stroke: (stroke.share, -stroke.rank))
    font = layout.sizes.font
    return [
        *(_panels(layout, drawn, picture) if layout.panels else _background(layout)),
        tag("g", *(_edge(layout, stroke) for stroke in weak_first), fill="none", class_="edges"),
        tag("g", *(_box(box, font) for box in layout.boxes.values()), class_="nodes"),
        tag("g", *(_port(box, layout) for box in layout.ports.values()), class_="ports"),
    ]


def _background(layout: Layout) -> list[str]:
    parts = []
    lanes = layout.lanes.values()
    first, last = min(lane.x for lane in lanes), max(lane.x + lane.width for lane in lanes)
    for lane in lanes:
        if lane.group:
            parts.append(
                tag("rect", x=lane.x, y=0.0, width=lane.width, height=layout.height, rx=8.0, fill="#f7f8fa")
                + tag(
                    "text",
                    text(group_title(lane.group)),
                    x=lane.x + lane.width / 2,
                    y=18.0,
                    class_="lane",
                    text_anchor="middle",
                )
            )
    parts += _bands(layout, first, last)
    return parts + _frames(layout)


def _frames(layout: Layout) -> list[str]:
    return [
        _rect(frame, 5.0, fill="none", stroke="#9ca3af" if frame.state != "unused" else "#e5e7eb")
        for frame in layout.frames.values()
    ]


def _panels(layout: Layout, drawn: Sequence[Stroke], picture: str) -> list[str]:
    """Every level's places, the more coloured the more the drawn edges carry there."""
    carried = carried_by(layout, drawn)
    parts, largest = [], max(carried.values(), default=0.0)
    for panel in layout.panels:
        path = "".join(_cell(layout, panel, group) for group in panel.groups)
        parts.append(tag("path", d=path, fill="#f7f8fa", stroke="#dfe3e8", stroke_width=0.6))
        if layout.picture and picture and not panel.level:
            parts.append(
                _leaning(layout, panel, picture)
                + tag("path", d=path, fill="none", stroke="#ffffff", stroke_width=min(1.0, layout.cell[1] / 20))
            )
        heats = ((group, carried.get((panel.level, group), 0.0)) for group in panel.groups)
        parts += [
            tag("path", tag("title", text(group)), d=_cell(layout, panel, group), fill=HEAT, fill_opacity=share)
            for group, heat in heats
            if (share := 0.7 * (heat / (largest or 1.0)) ** 0.5) > 0.01
        ]
        first = min(panel.groups, key=lambda group: layout.places[group])
        x, y = layout.places[first][0] - layout.cell[0] / 2 - layout.lean - 8.0, panel.y + layout.places[first][1]
        parts.append(tag("text", panel.title, x=x, y=y + 3.5, class_="row", text_anchor="end"))
    for group in layout.titles:
        place = {"x": layout.places[group][0], "y": 18.0, "class_": "lane", "text_anchor": "middle"}
        parts.append(tag("text", text(group_title(group)), **place))
    return parts + _frames(layout)


def _leaning(layout: Layout, panel: MapLevel, picture: str) -> str:
    """The picture on the patches of a panel."""
    assert layout.picture is not None
    x, y, width, height = layout.picture
    lean = layout.lean * height / layout.cell[1]
    matrix = " ".join(f"{value:.3f}" for value in (width, 0.0, lean, height, x, panel.y + y))
    size = {"width": 1.0, "height": 1.0, "preserveAspectRatio": "none"}
    return tag("image", href=picture, transform=f"matrix({matrix})", opacity=0.5, **size)


def carried_by(layout: Layout, drawn: Sequence[Stroke]) -> dict[tuple[int, str], float]:
    """By level and token group, the sum of |score| of the edges that start or end there, as shares of the largest."""
    last, found = len(layout.panels) - 1, {}
    for stroke in drawn:
        ends = (stroke.edge.source, stroke.edge.destination)
        for where in {(last if end.kind == "logits" else end.layer + 1, end.group) for end in ends}:
            found[where] = found.get(where, 0.0) + stroke.share
    return found


def _cell(layout: Layout, panel: MapLevel, group: str) -> str:
    (x, y), (width, height) = layout.places[group], layout.cell
    left, top = x - width / 2 - layout.lean / 2, panel.y + y - height / 2
    return f"M{text(left)} {text(top)}h{text(width)}l{text(layout.lean)} {text(height)}h{text(-width)}z"


def _bands(layout: Layout, first: float, last: float) -> list[str]:
    """A shade behind every other layer, and the layers' names."""
    parts, row = [], layout.sizes.row
    for layer, y in enumerate(layout.rows):
        if layer % 2 == 0:
            top = y - 0.5 * row - layout.sizes.box[1] / 2 - 6
            band = {"x": first, "y": top, "width": last - first, "height": row, "fill": "#1f2937"}
            parts.append(tag("rect", fill_opacity=0.035, **band))
        title = layout.row_titles[layer]
        parts.append(tag("text", title, x=first - 8, y=y + 3.5, class_="row", text_anchor="end"))
    return parts


def _edge(layout: Layout, stroke: Stroke) -> str:
    return tag(
        "path",
        tag("title", text(stroke.tooltip)),
        class_=f"edge {stroke.sign}",
        d=route(layout, stroke.edge),
        stroke=stroke.colour,
        stroke_width=stroke.width,
        stroke_opacity=stroke.opacity,
        stroke_dasharray=DASH if stroke.sign == "negative" else None,
        marker_end=f"url(#vc-arrow-{stroke.marker}{_arrow(layout, stroke)})",
    )


def _arrow(layout: Layout, stroke: Stroke) -> str:
    """Which arrowhead: large at wide edges, small on maps of small cells."""
    if layout.panels and not layout.sizes.port:
        return "-small"
    return "-large" if stroke.width > 2.5 else ""


def _rect(box: Box, radius: float, **attributes: object) -> str:
    size = {"x": box.left, "y": box.top, "width": box.width, "height": box.height, "rx": radius}
    return tag("rect", **size, **attributes)


def _box(box: Box, font: float) -> str:
    if not box.label:
        return _rect(box, 2.0, fill="#d1d5db")
    label = text(box.label) if font > 6 else ""
    state = "writes" if box.end.kind == "logits" and box.state == "reads" else box.state  # the logits write nowhere
    ink = {"writes": "#111827", "reads": "#6b7280", "unused": "#c3c8cf"}[state]
    outline = {"writes": "#374151", "reads": "#9ca3af", "unused": "#e2e5e9"}[state]
    fill = "#fdf3d8" if box.end.kind == "mlp" and box.state != "unused" else "#ffffff"
    words = tag("text", label, x=box.x, y=box.y + 0.35 * font, font_size=font, fill=ink, text_anchor="middle")
    shape = _rect(
        box, min(4.0, box.height / 4), fill=fill, stroke=outline, stroke_width=1.1 if state == "writes" else 0.9
    )
    return tag("g", tag("title", text(box.name)), shape, words if label else "", class_=f"node {box.state}")


def _port(box: Box, layout: Layout) -> str:
    used = box.state == "reads"
    outline = "#4b5563" if used else "#d5d9de"
    if box.width > box.height:
        shape = _rect(box, 3.0, fill="#ffffff", fill_opacity=0.5, stroke=outline, stroke_width=0.9)
        return tag("g", tag("title", text(box.name)), shape, class_="port")
    circle = tag("circle", cx=box.x, cy=box.y, r=box.width / 2, fill="#ffffff", stroke=outline, stroke_width=0.9)
    letter = ""
    if box.label:
        ink = "#374151" if used else "#c3c8cf"
        letter = tag("text", box.label, x=box.x, y=box.y + 2.4, font_size=7.0, fill=ink, text_anchor="middle")
    return tag("g", tag("title", text(box.name)), circle, letter, class_="port")


_IMAGE, _SPACE, _LEGEND = 132.0, 22.0, 310.0


def foot_width(circuit: Circuit, exhibit: Exhibit | None) -> float:
    """How wide the picture has to be for the images and the legend."""
    if exhibit is None or not len(exhibit.clean):
        return 0.0
    chips = chips_width(circuit.graph.cfg.tokens)
    height, width = exhibit.clean.shape[1:3]
    return 2 * (_IMAGE * width / height + chips + _SPACE) + _LEGEND


def foot(
    circuit: Circuit,
    layout: Layout,
    drawn: Sequence[Stroke],
    *,
    exhibit: Exhibit | None,
    corner: tuple[float, float],
) -> tuple[list[str], float]:
    """SVG of the foot with its upper left corner at `corner`, and where it ends."""
    x, y = corner
    parts: list[str] = []
    bottom = y
    if exhibit is not None and len(exhibit.clean):
        parts, x = _pair_under(circuit, exhibit, x, y)
        bottom = y + _IMAGE + 20.0
    words, height = legend(circuit.graph, layout, drawn, len(circuit), x=x, y=y - 6.0)
    return parts + words, max(bottom, y + height)


def _pair_under(circuit: Circuit, exhibit: Exhibit, x: float, y: float) -> tuple[list[str], float]:
    tokens, parts = circuit.graph.cfg.tokens, []
    for which, images in (("clean", exhibit.clean), ("corrupt", exhibit.corrupt)):
        x += chips_width(tokens)
        said = caption(exhibit, 0, which, length=200)
        words = tag("title", text(said)) + text(caption(exhibit, 0, which, length=14))
        parts += image_with_grid(images[0], tokens, x=x, y=y, size=_IMAGE, alt=said)
        parts.append(tag("text", words, x=x, y=y + _IMAGE + 15.0, class_="caption"))
        x += _IMAGE * images.shape[2] / images.shape[1] + _SPACE
    return parts, x + 8.0
