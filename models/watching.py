"""What whoever waits sees on stderr: bars and lines, on where somebody watches, off in scripts.

Somebody watches a terminal and a notebook; of several processes only the first is heard. `show_progress` says otherwise
for everything that is not told itself by `progress=`, and so does `VITCIRCUITS_PROGRESS=1` or `0` in the environment,
for commands as well.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from typing import Any
from weakref import WeakKeyDictionary

from . import processes
from .errors import VitCircuitsError

VARIABLE = "VITCIRCUITS_PROGRESS"
DELAY = 0.5
"""Seconds of work before a bar appears."""

_said: list[bool] = []


def show_progress(shown: bool | None) -> None:
    """Shows bars or hides them from now on; None leaves it to whether somebody watches.

    Args:
        shown: What `progress=None`, the default everywhere, means.
    """
    _said[:] = [] if shown is None else [shown]


def watched(shown: bool | None = None) -> bool:
    """Whether bars are shown: on the first of several processes only.

    Args:
        shown: What a caller asked for; None where nothing was said.

    Raises:
        VitCircuitsError: The environment says something else than 0 or 1.
    """
    if not processes.is_first():
        return False
    if shown is not None:
        return shown
    if _said:
        return _said[0]
    asked = os.environ.get(VARIABLE, "")
    if asked not in ("", "0", "1"):
        raise VitCircuitsError(f"{VARIABLE}={asked} is neither 0 nor 1: unset it to see bars where somebody watches.")
    return asked == "1" if asked else _in_notebook() or sys.stderr.isatty()


def progress_bar(name: str, total: int | None, shown: bool | None = None, unit: str = "pair") -> Any:
    """A tqdm bar, silent where nobody watches; it appears once the work has taken half a second, and goes with it.

    Its clock goes on while nothing is counted.

    Args:
        name: What is being done.
        total: How many units there are; None where that is not known, and only the time is told.
        shown: Whether it is shown; None where somebody watches.
        unit: What is counted.
    """
    if _in_notebook() and find_spec("ipywidgets") is not None:
        from tqdm.notebook import tqdm
    else:
        from tqdm import tqdm

    on = watched(shown)
    if on:
        _keep_clocks()
    told: Any = {"bar_format": "{desc} {elapsed}"} if total is None else {}
    return tqdm(total=total, desc=name, unit=unit, disable=not on, delay=DELAY, file=sys.stderr, leave=False, **told)


@cache
def _keep_clocks() -> None:
    """Lets the bars that are open appear, and tell the time once a second."""
    from tqdm import tqdm

    told: WeakKeyDictionary[Any, float] = WeakKeyDictionary()  # not a bar's own clock, which its rate is taken from

    def tell() -> None:
        while True:
            time.sleep(DELAY / 2)
            with suppress(AttributeError, RuntimeError):  # a bar that is being made or closed meanwhile
                for bar in list(getattr(tqdm, "_instances", ())):
                    last = max(bar.last_print_t, told.get(bar, 0.0))
                    if not bar.disable and time.time() - last > (bar.delay if last == bar.start_t else 1):
                        told[bar] = time.time()
                        bar.refresh()  # which puts up a notebook's bar, while it has a delay
                        bar.delay = 0  # or it would not go when it is closed: tqdm thinks that nobody has seen it

    threading.Thread(target=tell, daemon=True, name="clocks of progress bars").start()


def say(text: str, shown: bool | None = None) -> None:
    """A line for whoever watches.

    Args:
        text: The line.
        shown: Whether it is shown; None where somebody watches.
    """
    if watched(shown):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def _in_notebook() -> bool:
    """Whether this runs in a Jupyter kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")
