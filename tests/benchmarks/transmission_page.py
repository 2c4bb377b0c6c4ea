"""Tables and pictures of docs/faithfulness.md, from whatever cells are there; those that are missing are shown so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cells import COUNTING, LESSON_STUDY, Cell, as_figure, enough, read
from fooled import LESSON
from performance import machine
from studies import FIRST, LEAST, METHODS, RANKINGS, REMOVED, STUDIES
from vitcircuits.circuits.draw.intervals import Line, Panel, draw_panels
from vitcircuits.circuits.report import Figure

MARKS = {
    "lesson": ("<!-- lesson: begin -->", "<!-- lesson: end -->"),
    "measured": ("<!-- measured: begin -->", "<!-- measured: end -->"),
    "ideas": ("<!-- ideas: begin -->", "<!-- ideas: end -->"),
}
LEVELS = (0.5, 0.8, 0.9)
NOTHING = Figure(None, reason="missing")
CARRIED = {
    "swap": "class swap",
    "means": "means",
    "nearest": "nearest image of each class",
    "object_fill": "animal filled",
    "object_blur": "animal blurred",
    "optimal": "constants learned for each circuit",
}
RANKED = {"": "", "signed": ", signed", "mean_abs": ", mean of abs", "abs_mean": ", abs of mean"}


@dataclass(frozen=True)
class Row:
    """One circuit of a cell; without figures where the cell is missing."""

    cell: Cell
    ranking: str
    asked: float
    edges: int | None
    figures: Mapping[str, Figure]
    why: str = ""

    @property
    def method(self) -> str:
        """Method, ranking and seed."""
        seed = f", seed {self.cell.seed}" if self.cell.seed else ""
        return f"`{self.cell.method}`{RANKED[self.ranking]}{seed}"

    def __getitem__(self, name: str) -> Figure:
        return self.figures.get(name, NOTHING)


def rows_of(cell: Cell, record: Mapping[str, Any] | None) -> list[Row]:
    """A cell's circuits, or one row that says why there are none."""
    if record is None:
        return [Row(cell, "", share, None, {}, "not run yet") for share in cell.shares]
    if "error" in record:
        return [Row(cell, "", share, None, {}, f"failed: {record['error']}") for share in cell.shares]
    return [
        Row(cell, row["ranking"], row["asked"], row["edges"], {n: as_figure(v) for n, v in row["figures"].items()})
        for row in record["rows"]
    ]


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    lines = ["| " + " | ".join(columns) + " |", "| " + " | ".join("---" for _ in columns) + " |"]
    return "\n".join(lines + ["| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in rows])


def said(figure: Figure, *, interval: bool = False) -> str:
    """A figure in a cell of a table."""
    if figure.value is None:
        return "" if figure is NOTHING else "undefined"
    ends = "" if not interval or figure.low is None else f" [{figure.low:.2f}, {figure.high:.2f}]"
    return f"{figure.value:.2f}{ends}"


def size(asked: float) -> str:
    """A size as it was asked for."""
    return f"{asked:.0%}" if asked < 1 else f"{asked:.0f} edges"


# The lesson.


def lesson(cells: Sequence[Cell], work: Path) -> str:
    """Circuits found on one-sided tasks: what the field measures, what a sham makes of it, and what is transmitted."""
    out = []
    for cell in cells:
        for row in rows_of(cell, read(cell, work)):
            found = LESSON[cell.method]
            figures = ("one_sided_faithfulness", "one_sided_sham", "transmission")
            shown = [said(row[name], interval=name == "transmission") for name in figures]
            shown = shown if row.figures else [row.why, "", ""]
            edges = "" if row.edges is None else f"{row.edges:,}"
            name = STUDIES[found.study].title
            out.append((name, f"{found.title}, {size(row.asked)}", edges, *shown, said(row["right"])))
    heads = ("behaviour", "found on one side", "edges", "f", "f of the sham", "T", "right, lowest cell")
    return table(heads, out)


# One behaviour.

_MAIN: dict[str, tuple[str, bool]] = {
    "T": ("transmission", True),
    "L": ("leakage", False),
    "offset": ("offset", False),
    "T within": ("transmission_within", True),
    "R^2": ("reproduced_variation", True),
    "right, lowest cell": ("right", False),
    "KL": ("kl", False),
    "other classes, R^2": ("other_classes", True),
    "T, random": ("random_transmission", True),
}
_BESIDE: dict[str, tuple[str, bool]] = {
    "f, one-sided": ("one_sided_faithfulness", False),
    "f of the sham": ("one_sided_sham", False),
    "T0": ("transmission_empty", False),
    "T, all images": ("transmission_all_images", True),
    "L, all": ("leakage_all_images", False),
    "R^2, all": ("reproduced_variation_all_images", False),
    "right, all": ("right_all_images", False),
    "KL, all": ("kl_all_images", False),
}


def figures_table(rows: Sequence[Row], columns: Mapping[str, tuple[str, bool]]) -> str:
    """Figures of circuits, without columns that none of them has."""
    kept = {title: way for title, way in columns.items() if any(row[way[0]].value is not None for row in rows)}
    out = []
    for row in rows:
        shown = [said(row[name], interval=interval) for name, interval in kept.values()]
        shown = shown if row.figures else [row.why, *[""] * (len(kept) - 1)][: max(len(kept), 1)]
        out.append((row.method, size(row.asked), "" if row.edges is None else f"{row.edges:,}", *shown))
    return table(("method", "asked", "edges", *(kept or {"figures": 0})), out)


def smallest_table(rows: Mapping[str, Sequence[Row]]) -> str:
    """The smallest share of the edges with T at least a level, for each method and what removed edges carry."""
    methods = list(dict.fromkeys(row.method for some in rows.values() for row in some if row.figures))
    heads = [f"{CARRIED[name]}: T >= {level}" for name in rows for level in LEVELS]
    return table(("method", *heads), [(method, *_smallest(method, rows)) for method in methods])


def _smallest(method: str, rows: Mapping[str, Sequence[Row]]) -> list[str]:
    out = []
    for some in rows.values():
        own = {row.asked: row["transmission"].value for row in some if row.method == method and row.figures}
        for level in LEVELS:
            reach = [asked for asked, value in own.items() if value is not None and value >= level]
            none = f"above {size(max(own))}" if own else ""
            out.append(size(min(reach)) if reach else none)
    return out


def cost_table(cells: Sequence[Cell], work: Path) -> str:
    """What each search cost."""
    out = []
    for cell in cells:
        record = read(cell, work)
        if record is not None and "error" not in record:
            part = " (last go)" * (record["goes"] > 1)
            shown = (f"{record['seconds']:,.0f}{part}", f"{record['passes']:,.0f}{part}", f"{record['goes']}")
            out.append((f"`{cell.method}`", CARRIED[cell.removed], f"{cell.seed}", f"{record['n_pairs']}", *shown,
                        f"{record['whole_seconds'] / 3600:.2f}"))  # fmt: skip
    return table(("method", "removed edges carry", "seed", "pairs", "seconds", "forward passes", "goes",
                  "hours on the clock"), out)  # fmt: skip


def facts(cells: Sequence[Cell], work: Path) -> str:
    """One sentence about what the circuits were found and judged on."""
    for cell in cells:
        record = read(cell, work)
        if record is not None and "rows" in record and cell.removed == "swap":
            images = record["images"]
            sides = [f"{images[f'n_{s}_images']} of the {s} ({images[f'n_{s}_images_right']} that the model gets right)"
                     for s in ("target", "foil")]  # fmt: skip
            return (
                f"{record['n_graph']:,} edges; {record['all_pairs']} discovery pairs; held-out images: "
                f"{' and '.join(sides)}, {record['n_held_out']} pairs."
            )
    return "No cell under class swap is there yet."


def picture(name: str, rows: Mapping[str, Sequence[Row]], folder: Path) -> str:
    """T against the share of the edges, for the first methods under class swap and means; empty without rows."""
    panels, shares = [], STUDIES[name].shares
    first = {one: [row for row in rows.get(one, ()) if row.figures and row.cell.method in FIRST and not row.cell.seed]
             for one in ("swap", "means")}  # fmt: skip
    methods = [method for method in FIRST if any(row.cell.method == method for own in first.values() for row in own)]
    for removed, own in first.items():
        for ranking in RANKINGS[:2] if own else ():
            lines = tuple(_line(method, ranking, own, shares) for method in methods)
            panels.append(Panel(f"{CARRIED[removed]}, scores{RANKED[ranking]}", lines))
    if not panels:
        return ""
    for ending in ("svg", "png"):
        draw_panels(
            panels,
            folder / f"transmission-{name}.{ending}",
            ticks=[size(share) for share in shares],
            axis="share of the edges",
            title=f"{STUDIES[name].title}: T of circuits under",
            same_scale=True,
        )
    return f"![T against the share of the edges](transmission-{name}.svg)"


def _line(method: str, ranking: str, rows: Sequence[Row], shares: Sequence[float]) -> Line:
    own = {row.asked: row["transmission"] for row in rows if row.cell.method == method and row.ranking in ("", ranking)}
    return Line(method, tuple(own.get(share, NOTHING) for share in shares))


def folded(title: str, text: str) -> str:
    """Text that opens when its title is clicked."""
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"


def study(name: str, cells: Sequence[Cell], work: Path, folder: Path) -> str:
    """Everything about one behaviour."""
    removed = list(dict.fromkeys(cell.removed for cell in cells))
    rows = {one: [row for cell in cells if cell.removed == one for row in rows_of(cell, read(cell, work))]
            for one in removed}  # fmt: skip
    present = {one: some for one, some in rows.items() if any(row.figures for row in some)}
    parts = [f"### {STUDIES[name].title}", facts(cells, work)]
    missing = [cell.name for cell in cells if read(cell, work) is None]
    if missing:
        shown = ", ".join(f"`{cell}`" for cell in missing[:6]) + f" and {len(missing) - 6} more" * (len(missing) > 6)
        parts.append(f"Not run yet: {len(missing)} of {len(cells)} cells ({shown}).")
    if present:
        parts += ["Smallest of the sizes that were tried with T of at least .5, .8 and .9:", smallest_table(present)]
        parts.append(picture(name, present, folder))
    for one, some in rows.items():
        if one in present or any(row.why.startswith("failed") for row in some):
            there = [row for row in some if row.why != "not run yet"]
            there.sort(key=_place)
            both = f"{figures_table(there, _MAIN)}\n\n{figures_table(there, _BESIDE)}"
            parts.append(folded(f"Removed edges carry: {CARRIED[one]} ({len(there)} circuits)", both))
    if present:
        parts.append(folded("What the searches cost", cost_table(cells, work)))
    return "\n\n".join(part for part in parts if part)


def _place(row: Row) -> tuple[int, int, int]:
    return METHODS.index(row.cell.method), row.cell.seed, list(RANKED).index(row.ranking)


def kinds(work: Path) -> str:
    """What was counted for a contrast of kinds of cat or breeds of dog."""
    record = read(COUNTING, work)
    if record is None or "kinds" not in record:
        return "Kinds of cat and breeds of dog have not been counted yet."
    rows = [(name, *(" and ".join(map(str, counts[which])) for which in ("discovery", "held_out")))
            for name, counts in record["kinds"].items()]  # fmt: skip
    used = STUDIES["kinds"].title.split(", ", 1)[1]
    verdict = f"{used} have them" if enough(record) else "none has them, so none is measured"
    text = "The photographs don't name kinds or breeds; these are counted by the full model's top-1. A contrast needs "
    text += f"{LEAST} held-out images of each side: {verdict}."
    return f"{text}\n\n{table(('contrast', 'discovery images', 'held-out images'), rows)}"


def measured(cells: Sequence[Cell], work: Path, folder: Path) -> str:
    """Every behaviour."""
    by_study = {name: [cell for cell in cells if cell.study == name] for name in STUDIES if not STUDIES[name].idea}
    parts = [machine()]
    for name, own in by_study.items():
        if name == "kinds":
            parts += ["### Kinds of cat, breeds of dog", kinds(work)]
        if own:
            parts.append(study(name, own, work, folder))
    return "\n\n".join(parts)


def ideas(cells: Sequence[Cell], work: Path) -> str:
    """Methods with one thing changed at a time, beside the same as they are; scores by the mean of absolute values."""
    changed = [cell for cell in cells if cell.study in STUDIES and STUDIES[cell.study].idea]
    out = []
    for of in dict.fromkeys(STUDIES[cell.study].of for cell in changed):
        own = [cell for cell in changed if STUDIES[cell.study].of == of]
        as_they_are = [cell for cell in cells if cell.study == of]
        for removed in REMOVED:
            asked = {share for cell in own if cell.removed == removed for share in cell.shares}
            beside = [cell for cell in (*as_they_are, *own) if cell.removed == removed]
            rows = [(row, read(cell, work)) for cell in beside for row in rows_of(cell, read(cell, work))]
            rows = [(row, record) for row, record in rows if row.figures and row.ranking in ("", "mean_abs")]
            tried = {row.cell.method for row, _ in rows if STUDIES[row.cell.study].idea}
            shown = [(row, record) for row, record in rows if row.cell.method in tried and row.asked in asked]
            order = [cell.method for cell in own]
            shown.sort(key=lambda pair: (order.index(pair[0].cell.method), pair[0].asked))
            out += [_idea(row, record) for row, record in shown]
    heads = ("behaviour", "removed edges carry", "method", "asked", "changed", "seed", "edges", *_IDEA)
    return table(heads, out)


def _idea(row: Row, record: Mapping[str, Any] | None) -> tuple[str, ...]:
    """A line of the table of ideas."""
    study = STUDIES[row.cell.study]
    edges = f"{row.edges:,} of {record['n_graph']:,}" if record else ""
    shown = [said(row[name], interval=interval) for name, interval in _IDEA.values()]
    title = STUDIES[study.of].title if study.idea else study.title
    return (
        title,
        CARRIED[row.cell.removed],
        f"`{row.cell.method}`",
        size(row.asked),
        study.idea or "as it is",
        f"{row.cell.seed}",
        edges,
        *shown,
    )


_IDEA = {title: _MAIN[title] for title in ("T", "L", "T within", "R^2", "right, lowest cell", "KL")}


def sections(asked: Iterable[str], cells: Sequence[Cell], work: Path, folder: Path) -> dict[str, str]:
    """What stands between the page's marks, of those that are asked for; pictures are drawn into the folder."""
    make = {
        "lesson": lambda: lesson([cell for cell in cells if cell.study == LESSON_STUDY], work),
        "measured": lambda: measured(cells, work, folder),
        "ideas": lambda: ideas(cells, work),
    }
    return {name: make[name]() for name in MARKS if name in asked}
