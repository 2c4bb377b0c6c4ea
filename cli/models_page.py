"""The tables of docs/models.md, made from what is installed, so that the page stays true."""

from __future__ import annotations

from pathlib import Path

START, STOP = "<!-- made by `vitcircuits models --write` -->", "<!-- until here -->"


def write_page(path: Path) -> None:
    """Puts the tables between the page's two marks.

    Raises:
        ModelError: The page is not there, or lacks the marks.
    """
    from ..models.errors import ModelError
    from ..models.files import write_text_atomic

    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if START not in text or STOP not in text:
        raise ModelError(f"{path} lacks the lines {START!r} and {STOP!r}, between which the tables stand: add them.")
    head, tail = text.split(START)[0], text.split(STOP)[1]
    page = f"{head}{START}\n\n{tables()}\n{STOP}{tail}"
    write_text_atomic(path, page)


def tables() -> str:
    """timm's families, what is refused, and the toys."""
    return "\n".join([_families(), _refused(), _toys()])


def _families() -> str:
    import timm

    from ..models.census import FAMILIES, architectures, family_of

    names = architectures()
    of = {family.name: [name for name in names if family_of(name) == family] for family in FAMILIES}
    lines = [
        f"timm {timm.__version__}: {len(names)} architectures of its modules `vision_transformer`, `deit` and `eva`.",
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


def _toys() -> str:
    from ..models.toys import list_toys, toy_card

    lines = ["Shipped toys:", "", "| toy | test accuracy | what it is |", "| --- | ---: | --- |"]
    for name in list_toys():
        card = toy_card(name)
        lines.append(f"| `{name}` | {card['test_accuracy']:.2%} | {card['description']} |")
    return "\n".join(lines) + "\n"
