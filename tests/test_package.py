"""What is installed is what stands in the folders."""

import ast
import re
import subprocess
import sys
import tomllib
from contextlib import suppress
from importlib import import_module
from importlib.metadata import version
from importlib.util import resolve_name
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("models", "circuits", "algorithms", "cli")
TOP = "vitcircuits"  # what stands in this folder hands on names of the others
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def package_of(path):
    """The package whose folder this is."""
    parts = path.relative_to(ROOT).parts
    return ".".join(parts if parts[0] == TOP else (TOP, *parts))


def test_every_package_is_listed():
    found = {package_of(path.parent) for folder in (TOP, *FOLDERS) for path in (ROOT / folder).rglob("__init__.py")}
    assert set(SETTINGS["packages"]) == found


def test_every_data_file_is_covered():
    for folder in (TOP, *FOLDERS):
        globs = SETTINGS["package-data"][package_of(ROOT / folder)]
        covered = {path for glob in globs for path in (ROOT / folder).glob(glob)}
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
    for stub in (path for folder in (TOP, *FOLDERS) for path in (ROOT / folder).rglob("*.pyi")):
        package = import_module(package_of(stub.parent))
        listed = {alias.name: node.module for node in ast.parse(stub.read_text()).body for alias in node.names}
        assert set(package.__all__) == set(dir(package)) == set(listed)
        for name, module in listed.items():  # a function, never a module of the same name
            assert isinstance(getattr(package, name), ModuleType) == (module is None)


def test_what_users_are_shown_comes_from_packages_and_from_no_file_within():
    packages = {package_of(stub.parent) for folder in (TOP, *FOLDERS) for stub in (ROOT / folder).rglob("*.pyi")}
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").rglob("*.py")]
    pages += (ROOT / "examples").rglob("*.ipynb")
    shown = {
        (page.name, name) for page in pages for name in re.findall(r"from (vitcircuits\S*) import", page.read_text())
    }
    assert len(shown) > 30 and not [(page, name) for page, name in shown if name not in packages]


IN_A_CHECKOUT = """
import sys
from pathlib import Path
import vitcircuits
from vitcircuits import load_vit
root = Path(sys.argv[1])
assert Path(vitcircuits.__file__).parents[1] == root, vitcircuits.__file__
assert Path(vitcircuits.models.__file__).parents[1] == root, vitcircuits.models.__file__
assert load_vit is vitcircuits.models.load_vit and "circuits" not in dir(vitcircuits.models)
"""


def test_a_checkout_imports_its_own_packages():
    """Python finds the folder `vitcircuits` first where it runs inside a checkout, whatever is installed."""
    subprocess.run([sys.executable, "-c", IN_A_CHECKOUT, str(ROOT)], check=True, cwd=ROOT)


def test_the_command_line_runs_as_a_module():
    run = subprocess.run([sys.executable, "-m", "vitcircuits", "--version"], capture_output=True, text=True, check=True)
    assert run.stdout == f"vitcircuits {version('vitcircuits')}\n"


def test_importing_a_package_imports_no_torch():
    script = f"import sys, {', '.join(SETTINGS['packages'])}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_imports_point_one_way():
    allowed = {"models": set(), "circuits": {"models"}, "algorithms": {"models", "circuits"}, "cli": set(FOLDERS)}
    for folder, may in allowed.items():
        for path in [*(ROOT / folder).rglob("*.py"), *(ROOT / folder).rglob("*.pyi")]:
            package = package_of(path.parent)
            for other in folders(path.read_text(), package) - may - {folder}:
                raise AssertionError(f"{path.relative_to(ROOT)} imports {other}")
