"""Weights by name, from the cache where the network is gone: huggingface_hub would try for half a minute a file."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

_SECONDS = 3.0  # a connection that takes longer is taken for none


@contextmanager
def hub() -> Iterator[str]:
    """Inside, Hugging Face's library looks at its cache alone where its server can't be reached.

    Yields a sentence's end that says so, empty where the server answers.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    online = not before and _reachable(constants.ENDPOINT)
    constants.HF_HUB_OFFLINE = not online
    host = urlsplit(constants.ENDPOINT).hostname
    why = "HF_HUB_OFFLINE is set" if before else f"{host} cannot be reached"
    try:
        yield "" if online else f"it is not in the cache, and {why}"
    finally:
        constants.HF_HUB_OFFLINE = before


def _reachable(url: str) -> bool:
    """Whether something answers there, or at the proxy that leads there."""
    asked = urlsplit(url)
    proxy = None if proxy_bypass(asked.hostname or "") else getproxies().get(asked.scheme)
    to = asked if proxy is None else urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    found = []

    def ask() -> None:
        with suppress(OSError):
            socket.create_connection((to.hostname, to.port or {"http": 80}.get(to.scheme, 443)), _SECONDS).close()
            found.append(True)

    thread = Thread(target=ask, daemon=True)  # looking up a name has no time limit of its own
    thread.start()
    thread.join(_SECONDS)
    return bool(found)
