"""`vitcircuits models`: what can be loaded by name, how large it is, and whether it is opened faithfully.

The tables of docs/models.md, made from what is installed, so that the page stays true.
"""

from __future__ import annotations

import argparse
import fnmatch
from pathlib import Path
from typing import Any

from .options import new_parser

EPILOG = """\
examples:
  vitcircuits models toy                       the shipped toys with their figures
  vitcircuits models planted                   models with a known circuit
  vitcircuits models 'deit*'                   timm's, with layers, heads, tokens and edges
  vitcircuits models --check 'eva02*'          builds each with two blocks and random weights, and verifies the laws
  vitcircuits models --write docs/models.md    writes the tables of that page anew

The toys and the models with planted circuits are shipped and need no network. timm's names are loaded with their
weights from timm's cache or the network, or with --checkpoint from a file. A planted model's options follow its name:
  planted/neighbour-xor:trap,step    planted/neighbour-xor:norm=none,gain=soft    planted/majority:disguise=1
"""


def add_parser(subparsers: Any) -> None:
    """Register `models`."""
    parser = new_parser(subparsers, "models", "list models that can be loaded by name", EPILOG)
    parser.add_argument(
        "pattern", nargs="?", default="*", metavar="PATTERN", help="part of a name, or a pattern with *"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="build timm's architectures that match, with two blocks and random weights, and verify the laws on them",
    )
    parser.add_argument("--write", metavar="FILE", type=Path, help="write the tables of this page anew")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the toys, then timm's architectures, those of a pattern with their sizes; or checks or writes them."""
    if args.write is not None:
        from .models import write_page

        write_page(args.write)
        print(args.write)
        return 0
    pattern = args.pattern if "*" in args.pattern else f"*{args.pattern}*"
    return _check(pattern, args.pattern) if args.check else _list(pattern, args.pattern)


def _list(pattern: str, said: str) -> int:
    from ..models.census import architectures
    from ..models.planted.load import list_planted, planted_summary
    from ..models.toys import list_toys, toy_card

    toys = fnmatch.filter(list_toys(), pattern)
    planted, found = fnmatch.filter(list_planted(), pattern), architectures(pattern)
    _require(toys or planted or found, said)
    for name in toys:
        card = toy_card(name)
        print(f"{name:<22} {card['test_accuracy']:.2%} on {card['n_test_images']} test images, shipped")
    for name in planted:
        print(f"{name:<22} {planted_summary(name)}")
    for name in found:
        print(name if said == "*" else _sizes(name), flush=True)
    if said == "*":
        print("`vitcircuits models 'deit*'` shows layers, heads, tokens and edges of those that match.")
    return 0


def _require(found: Any, said: str) -> None:
    from ..models.errors import ModelError

    if not found:
        raise ModelError(f"no model matches {said!r}: `vitcircuits models` lists all.")


def _sizes(name: str) -> str:
    """One line on an architecture of timm: its sizes, or why it is not opened."""
    from ..circuits.graph import compile_graph
    from ..models.census import describe
    from ..models.errors import ModelError

    try:
        cfg = describe(name)
    except ModelError as error:
        return f"{name:<42} not opened: {str(error).split(': ', 1)[-1]}"
    edges = len(compile_graph(cfg))
    return (
        f"{name:<42} {cfg.n_layers:>3} layers {cfg.n_heads:>3} heads {cfg.tokens.n_tokens:>6,} tokens {edges:>9,} edges"
    )


def _check(pattern: str, said: str) -> int:
    """Each architecture's laws; 1 if one of them fails."""
    from ..circuits.truths.architecture_check import check_architecture
    from ..models.census import architectures
    from ..models.errors import ModelError

    names = architectures(pattern)
    if not names:
        raise ModelError(f"{said!r} matches none of timm's ViT architectures, which --check is for: try 'deit*'.")
    failed = opened = 0
    for name in names:
        found = check_architecture(name)
        print(found, flush=True)
        failed += found.cfg is not None and not found.holds
        opened += found.cfg is not None
    print(f"{opened} of {len(names)} are opened, {len(names) - opened} refused; the laws fail on {failed}.")
    return int(failed > 0)


START, STOP = "<!-- made by `vitcircuits models --write` -->", "<!-- until here -->"


def write_page(path: Path) -> None:
    """Puts the tables between the page's two marks.

    Raises:
        ModelError: The page is not there, or lacks the marks.
    """
    from ..models.errors import ModelError
    from ..models.files import read_text, write_text_atomic

    text = read_text(path) if path.is_file() else ""
    if START not in text or STOP not in text:
        raise ModelError(f"{path} lacks the lines {START!r} and {STOP!r}, between which the tables stand: add them.")
    head, tail = text.split(START)[0], text.split(STOP)[1]
    page = f"{head}{START}\n\n{tables()}\n{STOP}{tail}"
    write_text_atomic(path, page)


def tables() -> str:
    """timm's families, what is refused, other libraries with models of one's own, and the toys."""
    return "\n".join([_families(), _refused(), _foreign(), _toys()])


def versions() -> str:
    """The libraries that the tables are made with."""
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for name in ("timm", "torchvision", "vit-pytorch", "transformers", "transformer-lens"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} not installed")
    return f"Made with {', '.join(found)}."


def _families() -> str:
    from ..models.census import FAMILIES, architectures, family_of

    names = architectures()
    of = {family.name: [name for name in names if family_of(name) == family] for family in FAMILIES}
    lines = [
        versions(),
        "",
        f"timm: {len(names)} architectures of its modules `vision_transformer`, `deit` and `eva`.",
        "",
        "| family | architectures | one line | how it is opened |",
        "| --- | ---: | --- | --- |",
    ]
    for family in FAMILIES:
        code = f'`load_vit("{family.example}")`' if family.example else "not opened"
        lines.append(f"| {family.name} | {len(of[family.name])} | {code} | {family.special} |")
    return "\n".join(lines) + "\n"


def _refused() -> str:
    from ..models.census import architectures, refusal

    reasons = {name: reason for name in architectures() if (reason := refusal(name))}
    lines = [f"Not opened, {len(reasons)} of them:", "", "| architecture | why |", "| --- | --- |"]
    lines += [f"| {name} | {reason.split(': ', 1)[-1]} |" for name, reason in reasons.items()]
    return "\n".join(lines) + "\n"


def _foreign() -> str:
    """Models of other libraries and of one's own; the laws are verified on a small one of each."""
    from ..circuits.truths.architecture_check import check_module
    from ..models.foreign import FOREIGN

    lines = [
        "Other libraries and your own; the laws are verified on a small one of each as this is written:",
        "",
        "| library | model | one line | laws |",
        "| --- | --- | --- | --- |",
    ]
    for kind, one in FOREIGN.items():
        try:
            found = check_module(one.small, kind)
        except ImportError:
            said = "not installed here"
        else:
            said = "hold" if found.holds else f"FAIL: {found}"
        lines.append(f"| {one.library} | {one.name} | `{one.line}` | {said} |")
    return "\n".join(lines) + "\n"


def _toys() -> str:
    from ..models.toys import list_toys, toy_card

    lines = ["Shipped toys:", "", "| toy | test accuracy | what it is |", "| --- | ---: | --- |"]
    for name in list_toys():
        card = toy_card(name)
        lines.append(f"| `{name}` | {card['test_accuracy']:.2%} | {card['description']} |")
    return "\n".join(lines) + "\n"
