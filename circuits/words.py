"""What is said of circuits, tasks and reports: titles and facts of pictures, and a report in the order to read it.

Of a crossed task: how many images the model itself gets wrong; what the circuit transmits, and whether that means that
it reads the image; what else tells a reader from a cheat; what chance and cheats get; and at the end one-sided
faithfulness, which a constant can win. Of a one-sided task: faithfulness, and that a constant cannot be told there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from .circuit import Circuit
from .figures import told_figures
from .report import Figure, Report
from .sizes import entries

_GROUPS = {"cls": "CLS", "dist": "distillation", "reg": "registers", "patch": "patches"}
_KEPT = {"smallest_transmitting": "transmission", "smallest_faithful": "faithfulness"}
_FRAME = re.compile(r"frame(\d+)")
_CELL = re.compile(r"cell(\d+)_(\d+)")


def title(circuit: Circuit) -> str:
    """The model, and what the circuit tells apart."""
    model = str(circuit.task.get("model") or circuit.graph.cfg.name)
    contrast = task_words(circuit.task)
    return f"{model}: {contrast}" if contrast else model


def task_words(task: Mapping[str, Any]) -> str:
    """`target vs foil`, as far as the task names them."""
    names = [named(task[key]) for key in ("target_name", "foil_name") if task.get(key) not in (None, "")]
    return " vs ".join(names)


def named(value: Any) -> str:
    """A class name, or the names of a set of classes."""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def facts(circuit: Circuit) -> list[tuple[str, str]]:
    """What has to stand beside any picture of a circuit, as (label, value); unknown facts are left out."""
    graph, task = circuit.graph, circuit.task
    found = [
        ("node circuit", _nodes(circuit.provenance)),
        ("edges", f"{len(circuit):,} of {len(graph):,}"),
        ("algorithm", _algorithm(circuit.provenance)),
        ("selection", _selection(circuit.provenance)),
        ("ablation", str(circuit.ablation)),
        ("design", _design(task)),
        ("metric", str(task.get("metric") or "").replace("_", " ")),
        ("graph", f"tokens={graph.groups.kind}, ports={graph.ports}"),
        ("objects", str(task.get("mask") or "") if graph.groups.per_pair else ""),
        ("data", str(task.get("data") or "")),
        ("corruption", str(task.get("corruption") or "").replace("_", " ")),
        ("discovery pairs", _plain(task.get("n_discovery"))),
        ("evaluation pairs", _plain(task.get("n_evaluation"))),
        ("seed", _plain(task.get("seed"))),
    ]
    return [(label, value) for label, value in found if value]


def group_title(group: str) -> str:
    """How a token group is called in a picture."""
    return _GROUPS.get(group) or _CELL.sub(r"cell row \1, column \2", _FRAME.sub(r"frame \1", group))


def shortened(text: str, length: int) -> str:
    """The text, cut with an ellipsis where it is longer than that."""
    return text if len(text) <= length else text[: max(1, length - 1)].rstrip() + "…"


def _plain(value: Any) -> str:
    return "" if value is None else str(value)


def _algorithm(provenance: Mapping[str, Any]) -> str:
    name, options = str(provenance.get("algorithm") or ""), provenance.get("options")
    if not name or not isinstance(options, Mapping) or not options:
        return name
    return f"{name} ({', '.join(f'{key}={value}' for key, value in options.items())})"


def _nodes(provenance: Mapping[str, Any]) -> str:
    """How many heads and MLPs a node circuit keeps whole."""
    return f"{len(provenance['nodes'])} heads and MLPs kept whole" if provenance.get("granularity") == "node" else ""


def _design(task: Mapping[str, Any]) -> str:
    """Whether clean images show both classes; records from before there was a choice are of one side."""
    if not task:
        return ""
    return "crossed" if task.get("sides") == "both" else "one-sided"


def _selection(provenance: Mapping[str, Any]) -> str:
    kind = str(provenance.get("selection") or "")
    by = f" by {str(provenance['by']).replace('_', ' ')}" if provenance.get("by") else ""
    if kind == "top":
        n = provenance.get("n", "")
        return f"top {f'{100 * n:g}% of the edges' if isinstance(n, float) and n < 1 else n}{by}"
    if kind == "threshold":
        return f"at least {provenance.get('tau', '')}{by}"
    if kind in _KEPT and "level" in provenance:
        missed = "" if provenance.get("reached", True) else " (no size reaches it: the best)"
        return f"smallest with {_KEPT[kind]} {provenance['level']:g}{missed}{by}"
    return kind + by


Row = tuple[str, str]
"""A label and what is said under it."""

READS_IT = "reads the image"
"""The verdict of a circuit that does."""

ONE_SIDED = "clean images show the target alone: a circuit that says so whatever it is shown passes every figure"
MOST_POINTS = 8
"""Sizes of a frontier that are printed."""

_NOT_CONTROLS = 3  # rows of the controls table before them: the circuit, the full model, no edge kept


def told(report: Report) -> list[Row]:
    """What a report says first, line by line."""
    return _crossed(report) if is_crossed(report) else _one_sided(report)


def is_crossed(report: Report) -> bool:
    """Whether the clean images showed both classes."""
    return report.method.get("sides") == "both"


def short(figure: Figure) -> str:
    """A figure in two decimals with its interval, or why there is none."""
    if figure.value is None:
        return f"undefined ({figure.reason})"
    unit = f" {figure.unit}" if figure.unit not in ("", "share") else ""
    if figure.low is None or figure.high is None:
        return f"{figure.value:.2f}{unit} ({figure.interval})"
    return f"{figure.value:.2f} [{figure.low:.2f}, {figure.high:.2f}]{unit}"


def verdict(report: Report) -> str:
    """The transmission, the size, and whether the circuit reads the image; or one-sided faithfulness."""
    size = f"with {report.n_edges:,} of {report.n_graph:,} edges ({report.n_edges / report.n_graph:.0%})"
    if report.method.get("granularity") == "node":
        kept = f"{report.method['n_nodes']} of {report.method['n_graph_nodes']} heads and MLPs kept whole"
        size = f"with {kept} ({report.n_edges:,} of {report.n_graph:,} edges run among them)"
    if not is_crossed(report):
        return f"one-sided f = {short(report['faithfulness'])} {size}"
    figure = report["transmission"]
    known = f"T = {short(figure)} {size}: {report.method['verdict']}"
    return known if figure.value is not None else f"{report.method['verdict']}, {size}"


def images_told(report: Report) -> str:
    """How many clean images there are, and how many of them the model gets wrong."""
    counts = {side: report.method[f"n_{side}_images"] for side in ("target", "foil")}
    wrong = {side: n - report.method[f"n_{side}_images_right"] for side, n in counts.items()}
    sides = ", ".join(f"{wrong[side]} of {n} of the {side}" for side, n in counts.items())
    return f"the model gets {sum(wrong.values())} of {sum(counts.values())} wrong ({sides})"


def _crossed(report: Report) -> list[Row]:
    figures = report.figures
    rows = [("evaluation images", images_told(report)), ("transmission", verdict(report))]
    if "transmission_raw" in figures and figures["transmission_empty"].value is not None:
        raw, empty = short(figures["transmission_raw"]), short(figures["transmission_empty"])
        rows.append(("", f"that is (T - T0) / (1 - T0): T = {raw}, and T0 = {empty} is what partners show themselves"))
    worst = _lowest_cell(figures)
    rows += [(one.label, one.said.format(short(figure), worst=worst)) for one, figure in told_figures(report, "both")]
    return [*rows, *_controls(report), *_older(figures)]


def _lowest_cell(figures: Mapping[str, Figure]) -> str:
    cells = {name: one for name, one in figures.items() if re.fullmatch(r"right_.*(?<!all_images)", name)}
    worst = min(cells, key=lambda name: cells[name].value or 0.0)
    return worst.removeprefix("right_").replace("_", " ")


def _controls(report: Report) -> list[Row]:
    """What answers without reading, or by chance, gets."""
    table = report.tables.get("controls")
    if table is None:
        return []
    return [("control", f"{name}: T = {_cell(value)}") for name, value, *_ in table.rows[_NOT_CONTROLS:]]


def _cell(value: str | Figure) -> str:
    return short(value) if isinstance(value, Figure) else value


def _older(figures: Mapping[str, Figure]) -> list[Row]:
    """One-sided faithfulness, with what a sham and equal logits make of it."""
    if "one_sided_faithfulness" not in figures:
        return []
    parts = [f"{short(figures['one_sided_faithfulness'])}: a constant can reach 1"]
    if "one_sided_sham" in figures:
        parts.append(f"sham (the clean image shows the foil) {short(figures['one_sided_sham'])}")
    if "no_opinion" in figures:
        parts.append(f"equal logits {figures['no_opinion'].value:.2f}")
    return [("one-sided f", "; ".join(parts))]


def _one_sided(report: Report) -> list[Row]:
    rows = [("faithfulness", verdict(report)), ("", report.method.get("sides_in_words", ONE_SIDED))]
    return [*rows, *((one.label, one.said.format(short(figure))) for one, figure in told_figures(report, "one"))]


def selection_told(circuit: Circuit) -> str:
    """How a size came about: by level, and what other sizes kept where none reaches it, or as many as there were.

    Empty where there is nothing to explain.
    """
    provenance, n_graph = circuit.provenance, len(circuit.graph)
    level = provenance.get("level")
    name = _KEPT.get(str(provenance.get("selection")), "")
    if not name or level is None:
        return fewer_told(circuit)
    where = "discovery images" if name == "transmission" else "discovery pairs"
    frontier = provenance.get("frontier", ())
    if provenance.get("reached", True):
        found = f"the smallest that keeps {name} {level:g} on {where} ({provenance[name]:.2f} there)"
        late = frontier and frontier[-1][0] > n_graph / 2
        return f"{found}; it takes more than half of all edges: {points(frontier)}" if late else found
    missed = f"reads the image at {level:g}" if name == "transmission" else f"keeps faithfulness {level:g}"
    best = f"no size {missed} on {where}; the best is {provenance[name]:.2f}"
    return f"{best}; edges and what they keep: {points(frontier)}" if frontier else best


def fewer_told(circuit: Circuit) -> str:
    """Why a circuit has fewer edges than were asked for; empty where it has as many.

    Sizes count edges on paths from input to logits, so a ranking's next edge may bring more than one.
    """
    asked = _asked(circuit)
    if asked is None or len(circuit) >= asked:
        return ""
    if len(circuit):
        return (
            f"{len(circuit)} of the {asked} edges asked for: the next edge of the ranking would complete paths of more "
            f"than the {asked - len(circuit)} that are left, and edges on no path are not counted"
        )
    first = first_size(circuit)
    return f"no edge of the {asked} asked for" + (
        f": the first path that the ranking completes from input to logits has {first} edges" if first else ""
    )


def _asked(circuit: Circuit) -> int | None:
    """How many edges were asked for, where a ranking was cut at a number."""
    n = circuit.provenance.get("n")
    if n is None or "nodes" in circuit.provenance or "level" in circuit.provenance:
        return None
    return max(1, round(n * len(circuit.graph))) if isinstance(n, float) and 0 < n < 1 else int(n)


def first_size(circuit: Circuit) -> int:
    """The edges of the first path that a circuit's ranking completes; 0 where there are no scores."""
    if circuit.scores is None:
        return 0
    entered = entries(circuit.graph, circuit.scores.ranking(circuit.provenance.get("by", "auto")))
    return int((entered == entered.min()).sum())


def points(frontier: Sequence[Sequence[int | float]]) -> str:
    """Some of the sizes that were tried, evenly spaced among them, with what each keeps; the best is one of them."""
    best = max(range(len(frontier)), key=lambda place: frontier[place][1])
    step = (len(frontier) - 1) / (MOST_POINTS - 1)
    places = sorted({best, *(round(place * step) for place in range(MOST_POINTS))})
    return ", ".join(f"{int(frontier[place][0])}: {frontier[place][1]:.2f}" for place in places)


WORST, BEST = 12, 4
"""Images that the page shows: those that the circuit is furthest off on, and the closest."""


def image_rows(report: Report) -> list[tuple[str, ...]]:
    """Rows of the report's table of images, furthest off first."""
    table = report.tables.get("images")
    return [] if table is None else [tuple(map(str, row)) for row in table.rows]


def image_number(row: Sequence[str]) -> int:
    """The number that a row of the table of images gives its image; -1 for an image with a name of its own."""
    found = re.fullmatch(r"image (\d+)", row[0])
    return int(found[1]) if found else -1


def images_shown(report: Report) -> list[int]:
    """The numbers of the images that a page shows."""
    rows = image_rows(report)
    return [number for row in [*rows[:WORST], *rows[WORST:][-BEST:]] if (number := image_number(row)) >= 0]


def measure(report: Report) -> str:
    """What a report's curves are of: `transmission` or `faithfulness`."""
    return "transmission" if is_crossed(report) else "faithfulness"
