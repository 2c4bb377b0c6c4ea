"""`vitcircuits doctor`: does everything work on this machine?"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ..models.errors import VitCircuitsError
from .options import new_parser

EPILOG = """\
examples:
  vitcircuits doctor

Exits with 0 if circuits can be found and drawn here, and with 1 if something needed is broken.
"""


def add_parser(subparsers: Any) -> None:
    """Register `doctor`."""
    new_parser(subparsers, "doctor", "check versions, weights, drawing and this folder", EPILOG).set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints one line per check."""
    from ..circuits.run_folder import versions

    sound = True
    for name, value in versions().items():
        print(f"ok       {name} {value}")
    for name, check in (("device", _device), ("toy models", _toys), ("parity", _parity), ("folder", _folder)):
        try:
            print(f"ok       {name}: {check()}")
        except (VitCircuitsError, OSError) as error:
            sound = False
            print(f"broken   {name}: {error}")
    dot = shutil.which("dot")
    print(
        f"ok       dot: {dot}"
        if dot
        else "missing  dot: PNG and PDF need Graphviz; `apt-get install graphviz`. SVG works."
    )
    return 0 if sound else 1


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()} (use --device cuda)"
    return f"no GPU, {torch.get_num_threads()} CPU threads"


def _toys() -> str:
    from ..models.toys import list_toys, load_toy

    for name in list_toys():
        load_toy(name)
    return f"{', '.join(list_toys())} verified by hash"


def _parity() -> str:
    from ..models.load import load_vit

    return str(load_vit("toy/digits-2l").parity)


def _folder() -> str:
    with tempfile.NamedTemporaryFile(dir=Path.cwd()):
        return f"{Path.cwd()} can be written"
