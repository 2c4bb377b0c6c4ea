"""The pages of the API, from the names that the packages hand on in their `__init__.pyi`.

A page per package and a heading per module, under which stand what the module says of its idea and the public names
that it holds. A name without a docstring ends the build.
"""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGES = {
    "vitcircuits.models": "Models: a ViT, opened",
    "vitcircuits.circuits": "Circuits: graph, tasks, judging",
    "vitcircuits.algorithms": "Algorithms: how circuits are found",
    "vitcircuits.circuits.compare": "Circuits side by side",
    "vitcircuits.circuits.draw": "Pictures and pages",
}

_SECTION = re.compile(r"^(Args|Returns|Yields|Raises|Attributes|Examples?|Notes?):$")
_CODE = re.compile(r"``(.+?)``|`([^`]+)`", re.S)
_NAME = re.compile(r"[A-Za-z_][\w.]*")


def public_names(package: str) -> dict[str, list[str]]:
    """Module -> the public names that come from it, in the stub's order; modules are named in full."""
    stub = Path(str(importlib.import_module(package).__file__)).with_suffix(".pyi")
    found: dict[str, list[str]] = {}
    for line in ast.parse(stub.read_text(encoding="utf-8")).body:
        assert isinstance(line, ast.ImportFrom), f"{stub}: only `from .module import name as name` is read"
        module = f"{package}.{line.module}" if line.module else package
        found.setdefault(module, []).extend(str(name.asname) for name in line.names)
    return found


def write(folder: Path) -> None:
    """Writes a page per package, and the page that lists them."""
    folder.mkdir(exist_ok=True)
    pages = {package.removeprefix("vitcircuits.").replace(".", "-"): package for package in PACKAGES}
    for page, package in pages.items():
        _save(folder / f"{page}.rst", "\n".join(_page(package)))
    listed = "\n".join(f"   {page}" for page in pages)
    _save(folder / "index.rst", f"{_heading('API', '=')}\n.. toctree::\n   :maxdepth: 2\n\n{listed}\n")


def _save(path: Path, text: str) -> None:
    if not path.exists() or path.read_text(encoding="utf-8") != text:  # Sphinx reads again what is newer
        path.write_text(text, encoding="utf-8")


def _page(package: str) -> Iterator[str]:
    yield _heading(PACKAGES[package], "=")
    yield f".. automodule:: {package}\n"
    for module, names in public_names(package).items():
        yield _heading(module.removeprefix(f"{package}.").replace(".", " / ").replace("_", " "), "-")
        yield f".. automodule:: {module}\n   :no-index:\n"
        yield from (_directive(package, name) for name in names)


def _directive(package: str, name: str) -> str:
    thing = getattr(importlib.import_module(package), name)
    if isinstance(thing, dict):  # a registry: its rows are its description
        rows = "".join(f"\n   ``{key}``: {row.summary}\n" for key, row in thing.items())
        return f".. py:currentmodule:: {package}\n\n.. py:data:: {name}\n{rows}"
    if not inspect.getdoc(thing):
        raise ValueError(f"{package}.{name} has no docstring, and public names have one: write what it returns.")
    if not inspect.isclass(thing):
        return f".. autofunction:: {package}.{name}\n"
    kind = "autoexception" if issubclass(thing, Exception) else "autoclass"
    return f".. {kind}:: {package}.{name}\n   :members:\n"


def _heading(title: str, under: str) -> str:
    return f"{title}\n{under * len(title)}\n"


def as_rst(app, what, name, obj, options, lines: list[str]) -> None:
    """Our docstrings as reStructuredText, in place: equations are literal blocks, other markup of it is escaped."""
    paragraphs = re.split(r"\n{2,}", "\n".join(lines))
    told, inside = [], False
    for paragraph in paragraphs:
        inside = inside or bool(_SECTION.match(paragraph.split("\n", 1)[0]))
        if not inside and paragraph.startswith("    "):
            told += ([] if told[-1:] and told[-1].startswith("    ") else ["::"]) + [paragraph]
        else:
            told.append(_inline(paragraph))
    lines[:] = "\n\n".join(told).split("\n")


def plain_signature(app, what, name, obj, options, signature: str | None, returned: str | None):
    """A signature as it is written: without the ranges of numbers, which errors tell, and NDArray by its name."""
    if signature is None:
        return None
    plain = re.sub(r"~typing\.Annotated\[(.+?), ~[\w.]+\.Range\(.*?\)\]", r"\1", signature)
    array = re.compile(r"~numpy\.ndarray\[tuple\[~typing\.Any, \.\.\.\], ~numpy\.dtype\[(.+?)\]\]")
    return array.sub(r"NDArray[\1]", plain), array.sub(r"NDArray[\1]", returned or "")


def _inline(text: str) -> str:
    """Names in backticks as links where they lead somewhere, other code as it is, and no other markup."""
    parts, last = [], 0
    for match in _CODE.finditer(text):
        code = match[1] or match[2]
        linked = f":py:obj:`.{code}`" if _NAME.fullmatch(code) else f"``{code}``"
        glued = "\\ " if match.end() < len(text) and text[match.end()].isalnum() else ""
        parts += [_escaped(text[last : match.start()]), linked, glued]
        last = match.end()
    return "".join([*parts, _escaped(text[last:])])


def _escaped(text: str) -> str:
    return re.sub(r"(?<=\w)_(?!\w)|[*|\\]", lambda found: f"\\{found[0]}", text)
