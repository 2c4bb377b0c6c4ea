"""A command never looks dead: after a second and a half without a word a terminal is told how long it has been at work.

What is told stands in one line, which goes with the next word. Bars tell the time themselves.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from ..models.watching import watched

SILENCE = 1.5
"""Seconds."""

_CLEAR = "\r\033[K"


@contextmanager
def heartbeat() -> Iterator[None]:
    """Tells the time while the block runs and says nothing else; does nothing where nobody watches a terminal."""
    if not (watched() and sys.stderr.isatty()):
        yield
        return
    heart, before, over = _Heart(sys.stderr), (sys.stdout, sys.stderr), threading.Event()
    sys.stdout, sys.stderr = (_Heard(stream, heart) for stream in before)  # type: ignore[assignment]
    thread = threading.Thread(target=heart.beat, args=(over,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        sys.stdout, sys.stderr = before


class _Heart:
    """Says on a terminal how long a command has been at work, once it has said nothing for a while."""

    def __init__(self, terminal: TextIO) -> None:
        self.terminal = terminal
        self.lock = threading.RLock()  # what is collected while a word is written may close a bar
        self.start = self.last = time.monotonic()
        self.told = False

    def beat(self, over: threading.Event) -> None:
        """Until the command is over."""
        while not over.wait(0.5):
            with self.lock:
                if time.monotonic() - self.last > SILENCE:
                    self._tell(f"{_CLEAR}... {time.monotonic() - self.start:.0f} s")
                    self.told = True
        with self.lock:
            self.clear()

    def clear(self) -> None:
        """Takes the time away, for a word to stand in its place."""
        if self.told:
            self._tell(_CLEAR)
            self.told = False

    def _tell(self, text: str) -> None:
        self.terminal.write(text)
        self.terminal.flush()


class _Heard:
    """A stream, of which every word is heard."""

    def __init__(self, stream: TextIO, heart: _Heart) -> None:
        self._stream, self._heart = stream, heart

    def write(self, text: str) -> int:
        """Writes, in place of the time."""
        with self._heart.lock:
            self._heart.clear()
            self._heart.last = time.monotonic()
            return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
