"""`vitcircuits export`: a saved circuit in another format."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..circuits.formats import FORMATS, SAVED, ending_of, told
from ..models.model_config import ModelConfig
from .options import add_settings, model_config, new_parser

EPILOG = f"""\
endings of FILE:
{told(SAVED)}

pictures and pages are made by `vitcircuits draw`

examples:
  vitcircuits export vitcircuits-demo edges.csv                        for pandas or a spreadsheet
  vitcircuits export vitcircuits-demo/circuit.json circuit.graphml     for networkx, Gephi, Cytoscape
  vitcircuits export vitcircuits-demo/circuit.json circuit.dot         for Graphviz
  vitcircuits export vitcircuits-demo importances.mib.json             for EAP-IG and the MIB benchmark
  vitcircuits export theirs.json circuit.json --model toy/mnist-2l     a file of theirs, which names no ViT
"""


def add_parser(subparsers: Any) -> None:
    """Register `export`."""
    parser = new_parser(subparsers, "export", f"write a saved circuit as {', '.join(SAVED)}", EPILOG)
    what = "a circuit.json, the run folder that holds it, or a file of EAP-IG"
    parser.add_argument("circuit", type=Path, metavar="CIRCUIT", help=what)
    parser.add_argument("file", type=Path, metavar="FILE", help="its ending says what is written")
    add_settings(parser.add_argument_group("model, of a file of EAP-IG"), ModelConfig, ("model", "checkpoint"))
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Writes it."""
    from ..circuits.circuit import Circuit
    from ..circuits.graph import compile_graph

    graph = compile_graph(model_config(args).load()) if args.model or args.checkpoint else None
    print(f"wrote {Circuit.load(args.circuit, graph=graph).save(args.file)}")
    if lost := FORMATS[ending_of(args.file)].lost:
        print(f"not held: {lost}")
    return 0
