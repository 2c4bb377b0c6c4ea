"""A function of a test file on several joined processes, as torchrun would start them: a program of its own."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent


def on_processes(folder: Path, count: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """What a function gives on each of several processes of one thread, by place.

    Args:
        folder: For what processes hand over.
        count: How many.
        function: Stands in a test file, by its name.
        args: What it is called with; can be pickled without the test file.
    """
    file = sys.modules[function.__module__].__file__
    (folder / "args.pkl").write_bytes(pickle.dumps(args))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(count)}
    started = []
    for place in range(count):
        command = [sys.executable, __file__, str(folder), str(file), function.__name__]
        started.append(subprocess.Popen(command, env={**environment, "RANK": str(place)}))
    codes = [one.wait() for one in started]
    assert codes == [0] * count, codes
    return [pickle.loads((folder / f"{place}.pkl").read_bytes()) for place in range(count)]


def _serve(folder: Path, file: Path, function: str) -> None:
    from _pytest.pathlib import ImportMode, import_path
    from torch import distributed

    place, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    module = import_path(file, mode=ImportMode.importlib, root=TESTS.parent, consider_namespace_packages=False)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=place, world_size=count)
    found = getattr(module, function)(*pickle.loads((folder / "args.pkl").read_bytes()))
    (folder / f"{place}.pkl").write_bytes(pickle.dumps(found))
    distributed.destroy_process_group()


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
