"""A progress bar on stderr for long work."""

from __future__ import annotations

import sys
from typing import Any


def progress_bar(name: str, total: int, shown: bool, unit: str = "pair") -> Any:
    """A tqdm bar, silent unless it is wanted; it appears once the work has taken half a second."""
    from tqdm import tqdm

    return tqdm(total=total, desc=name, unit=unit, disable=not shown, delay=0.5, file=sys.stderr, leave=False)
