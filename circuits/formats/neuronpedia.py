"""A circuit as a graph for circuit-tracer's and Neuronpedia's pages: `metadata`, `qParams`, `nodes`, `links`.

They were made for features of language models at positions of a prompt. Here the positions are the token groups
(`prompt_tokens`; one position, `all`, where there is one group), the prompt says what the circuit tells apart, and the
nodes are:

| node | layer | feature | feature_type |
| --- | --- | --- | --- |
| `input` | E | 0 | embedding |
| `a1.h0` | 1 | the head's index | attention head |
| `a1`, what a layer's heads read at `block` ports | 1 | heads + 1 | attention input |
| `m1` | 1 | heads | mlp |
| `logits` | layers + 1 | 0 | logit |

A link is all that one node reads from another: its weight adds up the scores of q, k and v, and is 1 for each edge of a
circuit without scores. Links inside a head run from its source group to its target group, so they may run back and
forth. Algorithm, ablation and task stand in `generation_settings`. The nodes are no features, so there is nothing to
fetch about them: pages show their names (`clerp`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...models.files import write_text_atomic
from ..names import End
from . import found
from .graphs import node_names, nodes_of
from .plain import json_text, plain
from .tables import edge_rows, finite

if TYPE_CHECKING:
    from ..circuit import Circuit
    from ..graph import Graph


def save_neuronpedia(circuit: Circuit, path: str | Path) -> Path:
    """Writes the circuit for Neuronpedia's graph page and circuit-tracer's, and returns the path.

    Raises:
        FormatError: A kept edge's score is not finite, or the file cannot be written.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", Path(path).name.lower().split(".")[0]).strip("-") or "circuit"
    return write_text_atomic(path, json_text(neuronpedia_table(circuit, slug)))


def neuronpedia_table(circuit: Circuit, slug: str = "circuit") -> dict[str, Any]:
    """The graph that the page shows, in plain values; `slug` is its name in the page's address.

    Raises:
        FormatError: A kept edge's score is not finite.
    """
    graph, title = circuit.graph, found("words.title")(circuit)
    rows = edge_rows(circuit)
    nodes = {name: _node(name, end, graph) for name, end in nodes_of(row.edge for row in rows).items()}
    weights: dict[tuple[str, str], float] = {}
    for row in rows:
        source, target = (nodes[name]["node_id"] for name in node_names(row.edge))
        weight = 1.0 if row.score is None else finite(row.edge, row.score)
        weights[source, target] = weights.get((source, target), 0.0) + weight
    settings = {"tokens": graph.groups.kind, "ports": graph.ports, "ablation": circuit.ablation.as_record()}
    metadata = {
        "slug": slug,
        "scan": graph.cfg.name,
        "prompt_tokens": [name or "all" for name in graph.groups.names],
        "prompt": title,
        "info": {"generator": {"name": "vitcircuits"}},
        "generation_settings": {**settings, "task": circuit.task, "provenance": circuit.provenance},
    }
    data = {
        "metadata": metadata,
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": list(nodes.values()),
        "links": [{"source": one, "target": other, "weight": weight} for (one, other), weight in weights.items()],
    }
    return plain(data, non_finite="null")


def _node(name: str, end: End, graph: Graph) -> dict[str, Any]:
    heads = graph.cfg.n_heads
    layer, feature, kind = {
        "input": ("E", 0, "embedding"),
        "head": (str(end.layer), end.head, "attention head"),
        "attention": (str(end.layer), heads + 1, "attention input"),
        "mlp": (str(end.layer), heads, "mlp"),
        "logits": (str(graph.cfg.n_layers + 1), 0, "logit"),
    }[end.kind]
    place = graph.groups.names.index(end.group)
    return {
        "node_id": f"{layer}_{feature}_{place}",
        "feature": feature,
        "layer": layer,
        "ctx_idx": place,
        "feature_type": kind,
        "jsNodeId": f"{layer}_{feature}-{place}",
        "clerp": name,
    }
