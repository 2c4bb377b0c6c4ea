"""What is installed is what stands in the folders."""

import ast
import re
import subprocess
import sys
import tomllib
from contextlib import suppress
from importlib import import_module
from importlib.util import resolve_name
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("models", "circuits", "algorithms", "cli")
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def test_every_package_is_listed():
    found = {
        "vitcircuits." + path.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert set(SETTINGS["packages"]) == found


def test_every_data_file_is_covered():
    for folder in FOLDERS:
        covered = {
            path for glob in SETTINGS["package-data"][f"vitcircuits.{folder}"] for path in (ROOT / folder).glob(glob)
        }
        files = {p for p in (ROOT / folder).rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")}
        assert files == covered


def imported(text, package):
    """Every module that a file names: by `import`, by `from`, or in a string, as `import_module` and lazy names do."""
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                for alias in names:
                    yield resolve_name("." * level + ".".join(filter(None, (module, alias.name))), package)
            case ast.Constant(value=str(name)) if re.fullmatch(r"\.*\w+(\.\w+)*", name):
                with suppress(ImportError):  # dots that lead out of the package: no module's name
                    yield resolve_name(name, package)


def folders(text, package):
    """Those of our folders that a file in a package imports from."""
    return {
        other for name in imported(text, package) for other in FOLDERS if f"{name}.".startswith(f"vitcircuits.{other}.")
    }


@pytest.mark.parametrize(
    "text",
    [
        "from ...circuits import compile_graph",
        "from ...circuits.graph import Graph",
        "from ... import circuits",
        "import vitcircuits.circuits.graph as graph",
        "from vitcircuits.circuits import compile_graph",
        "from vitcircuits import circuits",
        "def late():\n    from ...circuits.graph import Graph",
        "import_module('...circuits.graph', __package__)",
        "importlib.import_module('vitcircuits.circuits')",
        "LAZY = {'compile_graph': '...circuits.graph'}",
    ],
)
def test_an_import_is_seen_however_it_is_written(text):
    assert folders(text, "vitcircuits.models.toys") == {"circuits"}


def test_what_only_looks_like_an_import_is_none():
    text = (
        "from .circuits import one\nfrom ..algorithms import two\nENDING = '.circuits'\n# from ...circuits import all"
    )
    assert folders(text, "vitcircuits.models.toys") == {"models"}


def test_every_name_that_a_package_hands_on_is_there():
    for stub in (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.pyi")):
        package = import_module(".".join(("vitcircuits", *stub.parent.relative_to(ROOT).parts)))
        listed = {alias.name for node in ast.parse(stub.read_text()).body for alias in node.names}
        assert set(package.__all__) == set(dir(package)) == listed
        for name in listed:  # a function, never a module of the same name
            assert not isinstance(getattr(package, name), ModuleType)


def test_importing_a_package_imports_no_torch():
    script = f"import sys, {', '.join(SETTINGS['packages'])}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_imports_point_one_way():
    allowed = {"models": set(), "circuits": {"models"}, "algorithms": {"models", "circuits"}, "cli": set(FOLDERS)}
    for folder, may in allowed.items():
        for path in [*(ROOT / folder).rglob("*.py"), *(ROOT / folder).rglob("*.pyi")]:
            package = ".".join(("vitcircuits", *path.parent.relative_to(ROOT).parts))
            for other in folders(path.read_text(), package) - may - {folder}:
                raise AssertionError(f"{path.relative_to(ROOT)} imports {other}")
