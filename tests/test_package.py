"""What is installed is what stands in the folders."""

import tomllib
from pathlib import Path

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


def test_imports_point_one_way():
    allowed = {"models": set(), "circuits": {"models"}, "algorithms": {"models", "circuits"}, "cli": set(FOLDERS)}
    for folder, may in allowed.items():
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text()
            for other in set(FOLDERS) - may - {folder}:
                assert f"..{other}" not in text, f"{path.relative_to(ROOT)} imports {other}"
