"""The errors a user can cause, each of which says what it got, what it wanted and the repaired call."""

import difflib
from collections.abc import Iterable


class VitCircuitsError(Exception):
    """Base of every error that vitcircuits raises on purpose; the command line prints it and exits with code 2."""


class ModelError(VitCircuitsError):
    """A model cannot be found, read, or opened up."""


class DataError(VitCircuitsError):
    """Images or labels are missing, malformed, or don't fit the model."""


class GraphError(VitCircuitsError):
    """A graph option, an edge name, or two graphs that should be one don't fit."""


class MissingEdgeError(GraphError, KeyError):
    """There is no edge of this name, or a circuit does not keep it."""

    __str__ = Exception.__str__  # a KeyError would quote its message


class TaskError(VitCircuitsError):
    """A task's classes, pairs, metric or ablation don't make sense."""


class MemoryTooSmallError(TaskError):
    """A budget of bytes does not hold what is needed at once; `least` would."""

    def __init__(self, message: str, least: int = 0) -> None:
        super().__init__(message)
        self.least = least

    def __reduce__(self) -> tuple[type, tuple[str, int]]:
        return type(self), (str(self), self.least)  # as another process is sent it


class FormatError(VitCircuitsError):
    """A file cannot be read or written."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence that names the nearest of the known names, with a space in front; empty where none is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
