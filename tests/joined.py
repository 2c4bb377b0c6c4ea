"""A function of a test file on several joined processes, as torchrun would start them: a program of its own.

The program is started once a session and forks the processes: each importing torch for itself would cost seconds.
"""

import json
import os
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent


@contextmanager
def started() -> Iterator[Callable[..., list[Any]]]:
    """What calls a function on several processes of one thread: `call(folder, count, function, *args)`.

    `folder` is for what processes hand over; the function stands in a test file, by its name; arguments can be
    pickled without the test file. What it gives on each process comes back by place.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, __file__], env=environment, **pipes) as server:

        def call(folder: Path, count: int, function: Callable[..., Any], *args: Any) -> list[Any]:
            (folder / "args.pkl").write_bytes(pickle.dumps(args))
            asked = [str(folder), sys.modules[function.__module__].__file__, function.__name__, count]
            print(json.dumps(asked), file=server.stdin, flush=True)
            codes = json.loads(server.stdout.readline())
            assert codes == [0] * count, codes
            return [pickle.loads((folder / f"{place}.pkl").read_bytes()) for place in range(count)]

        yield call


def _serve() -> None:
    from _pytest.pathlib import ImportMode, import_path

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a test prints is no answer
    for line in sys.stdin:
        folder, file, function, count = json.loads(line)
        module = import_path(file, mode=ImportMode.importlib, root=TESTS.parent, consider_namespace_packages=False)
        children = [_fork(Path(folder), getattr(module, function), place, count) for place in range(count)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps(codes), file=answers, flush=True)


def _fork(folder: Path, function: Callable[..., Any], place: int, count: int) -> int:
    from torch import distributed

    child = os.fork()
    if child == 0:
        try:
            os.environ.update(RANK=str(place), WORLD_SIZE=str(count))
            distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=place, world_size=count)
            found = function(*pickle.loads((folder / "args.pkl").read_bytes()))
            (folder / f"{place}.pkl").write_bytes(pickle.dumps(found))
            if distributed.is_initialized():
                distributed.destroy_process_group()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return child


if __name__ == "__main__":
    _serve()
