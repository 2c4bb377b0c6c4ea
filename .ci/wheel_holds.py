"""Fails if a wheel lacks a module or data file of the four folders: `python .ci/wheel_holds.py WHEEL`."""

import sys
import zipfile
from pathlib import Path

FOLDERS = ("models", "circuits", "algorithms", "cli")


def main() -> int:
    """1, and the missing files, if there are any."""
    root = Path(__file__).parent.parent
    inside = set(zipfile.ZipFile(sys.argv[1]).namelist())
    found = [path for folder in FOLDERS for path in (root / folder).rglob("*") if path.is_file()]
    wanted = {f"vitcircuits/{path.relative_to(root).as_posix()}" for path in found if "__pycache__" not in path.parts}
    missing = sorted(wanted - inside)
    print(
        "\n".join(f"missing from the wheel: {name}" for name in missing) or f"the wheel holds all {len(wanted)} files"
    )
    return int(bool(missing))


if __name__ == "__main__":
    sys.exit(main())
