"""Does a wheel hold every module and data file of the packages' folders? usage: check_wheel.py WHEEL"""

import sys
import zipfile
from pathlib import Path

wanted = {
    path if folder == "vitcircuits" else f"vitcircuits/{path}"
    for folder in ("vitcircuits", "models", "circuits", "algorithms", "cli")
    for path in map(Path.as_posix, Path(folder).rglob("*"))
    if Path(path).is_file() and "__pycache__" not in path
}
held = set(zipfile.ZipFile(sys.argv[1]).namelist())
missing = sorted(wanted - held)
strangers = sorted(name for name in held - wanted if ".dist-info/" not in name)
if missing or strangers or not wanted:
    sys.exit(f"missing from the wheel: {missing}; in the wheel but not in the folders: {strangers}")
sys.stdout.write(f"{len(wanted)} files, all in the wheel\n")
