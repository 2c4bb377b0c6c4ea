"""What a picture says in words: its title, the facts under it, the names of token groups; and escaping."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from typing import Any

from ..circuit import Circuit

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_GROUPS = {"cls": "CLS", "dist": "distillation", "reg": "registers", "patch": "patches"}
_FRAME = re.compile(r"frame(\d+)")


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
        ("data", str(task.get("data") or "")),
        ("corruption", str(task.get("corruption") or "").replace("_", " ")),
        ("discovery pairs", _plain(task.get("n_discovery"))),
        ("evaluation pairs", _plain(task.get("n_evaluation"))),
        ("seed", _plain(task.get("seed"))),
    ]
    return [(label, value) for label, value in found if value]


def group_title(group: str) -> str:
    """How a token group is called in a picture."""
    return _GROUPS.get(group) or _FRAME.sub(r"frame \1", group)


def shortened(text: str, length: int) -> str:
    """The text, cut with an ellipsis where it is longer than that."""
    return text if len(text) <= length else text[: max(1, length - 1)].rstrip() + "…"


def tag(name: str, /, *children: str, **attributes: object) -> str:
    """An XML element; attributes are escaped, children are markup already.

    An attribute's underscores become hyphens and a trailing one is dropped, so `class_` and `stroke_width` can be
    written as keywords; None leaves it out.
    """
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    head = name + "".join(f' {key}="{text(value)}"' for key, value in given.items())
    return f"<{head}>{''.join(children)}</{name}>" if children else f"<{head}/>"


def text(value: object) -> str:
    """Escaped for XML and HTML, in text and in attributes; numbers to a tenth, control characters replaced."""
    if isinstance(value, float):
        return f"{round(value, 1) + 0.0:g}" if abs(value) >= 1 or value == 0 else f"{value:.2g}"
    return escape(legible(str(value)))


def legible(text: str) -> str:
    """The text with what no file can hold, such as control characters and lone surrogates, replaced."""
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)


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
    kept = {"smallest_transmitting": "transmission", "smallest_faithful": "faithfulness"}
    if kind in kept and "level" in provenance:
        missed = "" if provenance.get("reached", True) else " (no size reaches it: the best)"
        return f"smallest with {kept[kind]} {provenance['level']:g}{missed}{by}"
    return kind + by
