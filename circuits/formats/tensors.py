"""Scores of all edges as safetensors, without loss.

The file holds four arrays in the graph's order (`values`, `mean_abs`, `std_err` as float64, `exact` as booleans) and
one metadata entry, `vitcircuits`: a JSON table with the schema, the graph and where the scores come from. One entry
only, because safetensors writes several in a different order each time.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...models.errors import FormatError
from ...models.files import write_bytes_atomic
from ..scores import Scores
from .json import graph_from_dict, graph_to_dict, scores_facts, scores_from_parts
from .schema import json_text, parse_json, reading, require_schema

SCORES_SCHEMA = "vitcircuits.scores/1"

_DTYPES = {"values": np.float64, "mean_abs": np.float64, "std_err": np.float64, "exact": np.bool_}


def save_scores(scores: Scores, path: str | Path) -> Path:
    """Writes the scores of all edges and returns the path.

    Raises:
        FormatError: The file cannot be written, or the task or the options hold something that is not plain.
    """
    from safetensors.numpy import save

    header = {"schema": SCORES_SCHEMA, "graph": graph_to_dict(scores.graph), "scores": scores_facts(scores)}
    arrays = {name: np.ascontiguousarray(getattr(scores, name), dtype=dtype) for name, dtype in _DTYPES.items()}
    return write_bytes_atomic(path, save(arrays, metadata={"vitcircuits": json_text(header)}))


def load_scores(path: str | Path) -> Scores:
    """The scores in a file, equal to those that were saved.

    Raises:
        FormatError: There is no such file, or it does not hold scores.
    """
    metadata, arrays = _read(Path(path))
    what = repr(str(path))
    if "vitcircuits" not in metadata:
        raise FormatError(f"{what} is a safetensors file, but not of scores: its metadata has no entry 'vitcircuits'.")
    header = parse_json(metadata["vitcircuits"], what)
    require_schema(header, SCORES_SCHEMA, what)
    with reading(what):
        chosen = {name: arrays[name] for name in _DTYPES}
        wrong = [name for name, dtype in _DTYPES.items() if chosen[name].dtype != dtype]
        if wrong:
            raise FormatError(f"{what} holds {wrong[0]} as {chosen[wrong[0]].dtype}; wanted {_DTYPES[wrong[0]]}.")
        return scores_from_parts(graph_from_dict(header["graph"]), chosen, header["scores"])


def _read(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FormatError(f"there is no file {str(path)!r}. Pass the path of scores that were saved before.")
    try:
        with safe_open(path, framework="np") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise FormatError(f"{str(path)!r} is not a safetensors file: {error}. Save the scores again.") from error
