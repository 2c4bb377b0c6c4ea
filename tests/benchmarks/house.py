"""Counts the house: files, lines of code, imports, rooms that one other room uses, long functions, circles.

    python tests/benchmarks/house.py             # the working tree
    python tests/benchmarks/house.py COMMIT      # a commit, beside the working tree

Only the standard library is needed. Counted are the files that git knows below circuits/, models/, algorithms/ and
cli/; stubs (.pyi) hold no code and are counted apart. A line of code holds a token that is neither comment nor
docstring; a line of imports belongs to an import statement. A module's importers are the library's other modules that
import it, at the top, inside a function or for typing, names that a package hands on included; circles are counted at
the top of modules, and with imports inside functions (what is imported for typing alone never runs).
"""

from __future__ import annotations

import ast
import io
import json
import subprocess
import sys
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

FOLDERS = ("algorithms", "circuits", "cli", "models")
LONG = 60
_SILENT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING,
           tokenize.ENDMARKER}  # fmt: skip
_DEFINES = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass
class Module:
    """One file."""

    path: str
    lines: int
    code: set[int]
    imports: set[int]
    functions: list[tuple[str, int]]
    top: set[str] = field(default_factory=set)
    inner: set[str] = field(default_factory=set)
    typing: set[str] = field(default_factory=set)

    @property
    def name(self) -> str:
        """Its dotted name, a package's without `__init__`."""
        parts = PurePosixPath(self.path).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def package(self) -> list[str]:
        """The parts of the package that relative imports start from."""
        parts = list(PurePosixPath(self.path).with_suffix("").parts)
        return parts[:-1]


def read_module(path: str, text: str) -> Module:
    """What one file holds."""
    tree = ast.parse(text)
    silent = docstring_lines(tree)
    code = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _SILENT:
            code |= set(range(token.start[0], token.end[0] + 1)) - silent
    found = Module(path, text.count("\n"), code, set(), [])
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.functions.append((node.name, (node.end_lineno or node.lineno) - node.lineno + 1))
        if isinstance(node, ast.Import | ast.ImportFrom):
            found.imports |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    _arrows(tree, found, found.top)
    return found


def docstring_lines(tree: ast.AST) -> set[int]:
    """Lines of strings that stand as statements of their own."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        string = (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        )
        if string:
            lines |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))  # type: ignore[attr-defined]
    return lines


def _arrows(node: ast.AST, module: Module, into: set[str]) -> None:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ImportFrom):
            into |= set(_targets(child, module))
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            _arrows(child, module, module.inner)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for part in child.body:
                _arrows(ast.Module([part], []), module, module.typing)
            for part in child.orelse:
                _arrows(ast.Module([part], []), module, into)
        else:
            _arrows(child, module, into)


def _targets(node: ast.ImportFrom, module: Module) -> Iterator[str]:
    """Dotted names that may be modules: `from .a import b` is a, and a.b."""
    if node.level:
        base = module.package[: len(module.package) - node.level + 1]
    elif node.module and node.module.startswith("vitcircuits."):
        base = []
    else:
        return
    parts = (node.module or "").removeprefix("vitcircuits.").split(".") if node.module else []
    whole = ".".join([*base, *parts])
    yield whole
    yield from (f"{whole}.{alias.name}" for alias in node.names)


def lazy_homes(path: str, text: str, stub: str | None) -> set[str]:
    """Modules that a package hands names on from, where they stand in a table or in the stub beside it."""
    package = ".".join(PurePosixPath(path).parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("."):
            found.add(package + node.value)
    return found | (set() if stub is None else read_module(path, stub).top)


def circles(arrows: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Modules that import one another, directly or not (strongly connected, more than one)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in arrows[name]:
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            at = stack.index(name)
            if len(stack) - at > 1:
                found.append(sorted(stack[at:]))
            del stack[at:]

    sys.setrecursionlimit(10_000)
    for name in arrows:
        if name not in index:
            visit(name)
    return found


def count(files: Mapping[str, str]) -> dict[str, Any]:
    """Every figure of some files, path -> text."""
    stubs = {path: text for path, text in files.items() if path.endswith(".pyi")}
    files = {path: text for path, text in files.items() if path not in stubs}
    modules = {module.name: module for module in (read_module(path, text) for path, text in files.items())}
    importers: dict[str, set[str]] = {name: set() for name in modules}
    for module in modules.values():
        named = module.top | module.inner | module.typing
        if module.path.endswith("__init__.py"):
            named |= lazy_homes(module.path, files[module.path], stubs.get(f"{module.path}i"))
        for other in named & modules.keys() - {module.name}:
            if not modules[other].path.endswith("__init__.py"):
                importers[other].add(module.name)
    inside = [name for name, module in modules.items() if not module.path.endswith("__init__.py")]
    n_lines = sum(module.lines for module in modules.values())
    n_imports = sum(len(module.imports) for module in modules.values())
    functions = [function for module in modules.values() for function in module.functions]
    top = {name: (module.top & modules.keys()) - {name} for name, module in modules.items()}
    lazy = {name: ((module.top | module.inner) & modules.keys()) - {name} for name, module in modules.items()}
    return {
        "files": len(modules),
        "lines": n_lines,
        "lines of stubs": sum(text.count("\n") for text in stubs.values()),
        "code lines": sum(len(module.code) for module in modules.values()),
        "files with one importer": sum(len(importers[name]) == 1 for name in inside),
        "lines of imports, share": round(n_imports / n_lines, 4),
        "functions": len(functions),
        f"functions over {LONG} lines": sorted(name for name, length in functions if length > LONG),
        "circles": circles(top),
        "circles with imports inside functions": [len(circle) for circle in circles(lazy)],
        "most files in a folder": max(
            sum(str(PurePosixPath(path).parent) == folder for path in files)
            for folder in {str(PurePosixPath(path).parent) for path in files}
        ),
    }


def files_of(commit: str | None) -> dict[str, str]:
    """Path -> text of the library's files."""
    root = Path(__file__).parents[2]
    if commit is None:
        names = _git(root, "ls-files", "-co", "--exclude-standard", *FOLDERS).split()
        return {
            name: (root / name).read_text()
            for name in names
            if name.endswith((".py", ".pyi")) and (root / name).exists()
        }
    names = _git(root, "ls-tree", "-r", "--name-only", commit, *(f"{name}/" for name in FOLDERS)).split()
    return {name: _git(root, "show", f"{commit}:{name}") for name in names if name.endswith((".py", ".pyi"))}


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(root), *arguments], check=True, text=True, capture_output=True).stdout


def main(arguments: list[str]) -> None:
    """Prints the figures, as JSON without a commit, and beside it with one."""
    now = count(files_of(None))
    if not arguments:
        print(json.dumps(now, indent=1))
        return
    before = count(files_of(arguments[0]))
    for name, value in now.items():
        was = before[name]
        ratio = f"  {value / was:.1%}" if isinstance(value, int | float) and was else ""
        print(f"{name}: {was} -> {value}{ratio}")


if __name__ == "__main__":
    main(sys.argv[1:])
