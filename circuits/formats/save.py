"""One call that writes a circuit in the format that the path's ending names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ...models.errors import FormatError
from ...models.files import write_text_atomic
from .json import save_circuit_json
from .networkx import save_graphml
from .tables import save_csv

if TYPE_CHECKING:
    from ..circuit import Circuit


def save_circuit(circuit: Circuit, path: str | Path) -> Path:
    """Writes the circuit and returns the path: .json (lossless), .csv, .graphml or .dot.

    Raises:
        FormatError: The ending is not known, or the file cannot be written.
    """
    writer = _WRITERS.get(Path(path).suffix.lower())
    if writer is None:
        raise FormatError(
            f"cannot tell a format from the ending of {str(path)!r}: use one of {', '.join(_WRITERS)}, such as "
            f'circuit.save("circuit.json"). Pictures are drawn by circuit.draw("circuit.svg").'
        )
    return writer(circuit, path)


def save_dot(circuit: Circuit, path: str | Path) -> Path:
    """Writes the circuit as text for Graphviz and returns the path; it drops the same as GraphML, and the task.

    Raises:
        FormatError: The file cannot be written.
    """
    from ..draw.dot import to_dot

    return write_text_atomic(path, to_dot(circuit))


_WRITERS: dict[str, Callable[[Circuit, str | Path], Path]] = {
    ".json": save_circuit_json,
    ".csv": save_csv,
    ".graphml": save_graphml,
    ".dot": save_dot,
}
