"""What is installed is what lies in the folders."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("models", "circuits", "algorithms", "cli")
SETUP = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]


def _package(folder):
    return ".".join(("vitcircuits", *folder.relative_to(ROOT).parts))


def test_every_folder_with_modules_is_a_package_that_pyproject_lists():
    found = {_package(path.parent) for name in FOLDERS for path in (ROOT / name).rglob("*.py")}
    assert set(SETUP["packages"]) == found


def test_package_data_covers_every_other_file():
    covered = {
        path
        for package, patterns in SETUP["package-data"].items()
        for pattern in patterns
        for path in ROOT.joinpath(*package.split(".")[1:]).glob(pattern)
    }
    files = {path for name in FOLDERS for path in (ROOT / name).rglob("*") if path.is_file()}
    assert {p for p in files if p.suffix != ".py" and "__pycache__" not in p.parts} == covered
