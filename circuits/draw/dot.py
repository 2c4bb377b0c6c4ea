r"""A circuit as DOT text, and drawn by Graphviz.

The text needs no Graphviz. Names are quoted, so that a dot in `a0.h1` is no syntax, and a head is a small table whose
cells are its ports: `"a0.h1" -> "a1.h0":q`. Nodes carry the positions of the SVG, which `dot` ignores and `neato -n2`
keeps; pictures are made with them, because dot's own layout breaks the grid. In a label `\n`, `\N` and `&amp;` have
meanings, so backslashes and ampersands in class names are escaped. Never `splines=ortho` (slow) or `concentrate`
(merges edges, and with them widths and colours).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from subprocess import TimeoutExpired

from ...models.errors import FormatError
from ...models.files import write_bytes_atomic, write_text_atomic
from ..circuit import Circuit
from ..formats.graphs import nodes_of
from ..names import Edge, End
from ..words import facts, group_title, title
from .layout import Box, Layout, place_lanes
from .strokes import Stroke, strokes
from .style import legible, text
from .svg import MAX_EDGES

_HEADER = """  graph [rankdir=BT, newrank=true, outputorder=edgesfirst, ranksep=0.6, nodesep=0.22, fontname="Helvetica",
    labelloc=t, labeljust=l, fontsize=13, tooltip=" "]
  node [shape=box, style="rounded,filled", fillcolor=white, color="#374151", fontname="Helvetica", fontsize=10,
    height=0.28, width=0.5, margin="0.06,0.03"]
  edge [arrowsize=0.45]"""
_LARGE = "  graph [splines=line, nslimit=0.5, nslimit1=0.5, mclimit=0.2]  // keeps dot fast"


def to_dot(circuit: Circuit, *, max_edges: int | None = None) -> str:
    """The circuit as DOT text.

    Edges carry `score` and `rank` as attributes of their own beside width, colour and dash.

    Args:
        max_edges: The most edges to write, the strongest; all by default. The title says how many were left out.
    """
    drawn = strokes(circuit, limit=max_edges)
    heading = [title(circuit), *(f"{label}: {value}" for label, value in facts(circuit)[:6])]
    if len(drawn) < len(circuit):
        heading.append(f"{len(drawn)} strongest edges drawn, {len(circuit) - len(drawn)} left out")
    ends = _nodes(stroke.edge for stroke in drawn)
    layout = place_lanes(circuit.graph, [stroke.edge for stroke in drawn])
    lines = ["digraph circuit {", _HEADER, *([_LARGE] if len(drawn) > 400 else [])]
    lines.append(f"  label={quoted(heading)}")
    lines += [f"  {quoted(name)} {_node(end, circuit, layout)}" for name, end in ends.items()]
    lines += _ranks(ends.values())
    lines += [_edge(stroke) for stroke in drawn]
    return "\n".join([*lines, "}", ""])


def save_dot(circuit: Circuit, path: str | Path, *, max_edges: int | None = None) -> Path:
    """Writes the circuit as text for Graphviz and returns the path; it drops the same as GraphML, and the task.

    Raises:
        FormatError: The file cannot be written.
    """
    return write_text_atomic(path, to_dot(circuit, max_edges=max_edges))


def save_rendered(circuit: Circuit, path: str | Path, *, max_edges: int | None = MAX_EDGES) -> Path:
    """Draws the circuit by Graphviz to a .png or .pdf and returns the path.

    Raises:
        FormatError: `dot` is missing or fails, or the file cannot be written.
    """
    kind = Path(path).suffix.lower().lstrip(".")
    return write_bytes_atomic(path, render(to_dot(circuit, max_edges=max_edges), kind))


def render(dot_text: str, kind: str, *, time_limit: float = 60.0) -> bytes:
    """The picture that Graphviz' `dot` draws, nodes where the text says, as `png` or `pdf`.

    Raises:
        FormatError: `dot` is missing, fails, or takes longer than the limit (seconds).
    """
    from graphviz.backend.dot_command import command
    from graphviz.backend.execute import CalledProcessError, ExecutableNotFound, run_check

    call = [*command("neato", kind, neato_no_op=2), "-Gdpi=150", "-Gsplines=true"]
    try:
        done = run_check(call, input=dot_text.encode(), capture_output=True, timeout=time_limit, quiet=True)
    except ExecutableNotFound as error:
        raise FormatError(
            f"a .{kind} is drawn by Graphviz, whose program `dot` is not installed here: install it with "
            f"`sudo apt install graphviz` (macOS: `brew install graphviz`), or draw an .svg, which needs nothing."
        ) from error
    except TimeoutExpired as error:
        raise FormatError(
            f"`dot` took more than {time_limit:g} s: draw fewer edges, such as scores.top(200), or draw an .svg."
        ) from error
    except OSError as error:
        raise FormatError(f"Graphviz' `dot` cannot be run: {error.strerror}. Draw an .svg instead.") from error
    except CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip() or f"exit status {error.returncode}"
        raise FormatError(f"`dot` could not draw the circuit: {reason[:300]}. Draw an .svg instead.") from error
    return done.stdout


def quoted(lines: str | list[str]) -> str:
    """A DOT string: quotes, backslashes and entities escaped; a list becomes left-aligned lines."""
    parts = [lines] if isinstance(lines, str) else lines
    clean = [legible(" ".join(part.split())) for part in parts]
    escaped = [part.replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"') for part in clean]
    return f'"{escaped[0]}"' if isinstance(lines, str) else '"' + "".join(f"{part}\\l" for part in escaped) + '"'


def _nodes(edges: Iterable[Edge]) -> dict[str, End]:
    """Every component that an edge touches, by name."""
    return dict(
        sorted(nodes_of(edges).items(), key=lambda item: (item[1].layer, item[1].kind, item[1].head, item[1].group))
    )


def _node(end: End, circuit: Circuit, layout: Layout) -> str:
    box = layout.boxes.get(str(end)) or layout.ports.get(str(end)) or _below(layout.frames[str(end)], layout)
    where_to = f'pos="{box.x:.1f},{layout.height - box.y:.1f}!"'
    where = f"<BR/><FONT POINT-SIZE='7'>{text(group_title(end.group))}</FONT>" if end.group else ""
    if end.kind == "head" and circuit.graph.ports == "qkv":
        ports = [port for port in "qkv" if str(replace(end, port=port)) in layout.ports]
        cells = "".join(f'<TD PORT="{port}"><FONT POINT-SIZE="7">{port}</FONT></TD>' for port in ports)
        return (
            f'[shape=plain, {where_to}, label=<<TABLE BORDER="0" CELLBORDER="1" CELLSPACING="0" CELLPADDING="2">'
            f'<TR><TD COLSPAN="{len(ports) or 1}">{end.node}{where}</TD></TR>'
            + f"<TR>{cells}</TR>" * bool(cells)
            + "</TABLE>>]"
        )
    fill = ', fillcolor="#fdf3d8"' if end.kind == "mlp" else ""
    wide = f", width={box.width / 72:.2f}" if box.width > 72 else ""
    return f"[{where_to}, label=<{end.node}{where}>{wide}{fill}]"


def _below(frame: Box, layout: Layout) -> Box:
    """Where a layer's attention would read at a token group, if it did."""
    return replace(frame, y=frame.bottom + layout.sizes.gap + 3.0, width=frame.width - 8.0)


def _ranks(ends: Iterable[End]) -> list[str]:
    """One rank per layer's heads, and one per layer's MLPs."""
    rows: dict[tuple[str, int], list[str]] = {}
    for end in ends:
        rows.setdefault((end.kind, end.layer), []).append(quoted(str(end)))
    kinds = {"input": "source", "logits": "sink"}
    return [f"  {{ rank={kinds.get(kind, 'same')}; {'; '.join(names)} }}" for (kind, _), names in rows.items()]


def _edge(stroke: Stroke) -> str:
    edge = stroke.edge
    source, target = quoted(str(edge.source.bare)), quoted(str(edge.destination.bare))
    if edge.inside and edge.port:
        source += f":{edge.port}:s"
    elif edge.port:
        target += f":{edge.port}:s"
    looks = [f'color="{stroke.colour}"', f"penwidth={stroke.width:.2f}", f"tooltip={quoted(stroke.tooltip)}"]
    if stroke.sign == "negative":
        looks.append("style=dashed")
    if edge.inside:
        looks.append("constraint=false")
    if stroke.score is not None:
        looks.append(f'score="{stroke.score!r}"')
    return f"  {source} -> {target} [{', '.join(looks)}, name={quoted(edge.name)}, rank={stroke.rank}]"
