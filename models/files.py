"""Files written whole or not at all, and read as text."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from . import processes
from .errors import FormatError, ModelError, VitCircuitsError
from .settings import short

WEIGHT_ENDINGS = (".safetensors", ".pth", ".pt", ".bin", ".pkl", ".pickle", ".ckpt", ".tar")
WEIGHT_FILES = "a .safetensors, .pth, .pt or .bin file"
READOUTS = "a readout or class embeddings in a .safetensors file, or of a run folder"
"""What files hold, for messages; and how names of weights end."""


def write_text_atomic(path: str | Path, text: str) -> Path:
    r"""Writes text as UTF-8 with `\n` line ends, and returns the path; see `write_bytes_atomic`."""
    # A lone surrogate (from a file name that is not UTF-8) becomes \udcxx, which is also how JSON spells it.
    return write_bytes_atomic(path, text.encode("utf-8", "backslashreplace"))


def write_bytes_atomic(path: str | Path, data: bytes) -> Path:
    """Writes a file and returns its path; whoever reads it meets the old content or the new, never a part.

    The data goes to a temporary file in the same folder that then takes the name. Missing folders are made. What is no
    file, such as /dev/stdout, is written to and stays what it is. Of processes that share their work only the first
    writes.

    Raises:
        FormatError: The file cannot be written. An earlier file of that name is left as it was.
    """
    path = Path(path)
    if not processes.writes():
        return path
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp") if path.name else path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file() and not path.is_dir():
            path.write_bytes(data)
            return path
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)  # noqa: PTH105 - the one call that tests interrupt
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise _unwritable(path, error) from error
    finally:
        if temporary != path:
            _remove(temporary)
    return path


_LOCKED: dict[Path, int] = {}
"""Folders that this process has locked: it may take its own again, after a run that failed."""


def lock_folder(path: str | Path) -> None:
    """Makes a folder if it is missing, and keeps other processes out until it is unlocked or this process ends.

    Raises:
        FormatError: It cannot be made, or another process has locked it.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        folder = Path(path).resolve()
        if folder not in _LOCKED and (descriptor := _locked(folder)) is not None:
            _LOCKED[folder] = descriptor
    except BlockingIOError as error:
        raise FormatError(f"another process writes into {shown(path)}: wait for it, or pass another folder.") from error
    except FileExistsError as error:
        raise FormatError(f"{shown(path)} is a file, but a folder was wanted: pass the path of a folder.") from error
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from error


def unlock_folder(path: str | Path) -> None:
    """Lets other processes in again."""
    descriptor = _LOCKED.pop(Path(path).resolve(), None)
    if descriptor is not None:
        os.close(descriptor)


def is_locked(path: str | Path) -> bool:
    """Whether a process, this one too, has locked the folder; no where there are no such locks."""
    try:
        descriptor = _locked(Path(path))
    except BlockingIOError:
        return True
    except OSError:  # there is no such folder
        return False
    if descriptor is not None:
        os.close(descriptor)
    return False


def _locked(folder: Path) -> int | None:
    """The open folder, locked; None where there are no such locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:  # a disk without locks
        os.close(descriptor)
        return None
    return descriptor


def _unwritable(path: str | Path, error: Exception) -> FormatError:
    reason = getattr(error, "strerror", None) or error
    return FormatError(
        f"cannot write {shown(path)}: {reason}. Pass a path that you may write to, or free space on its disk."
    )


def shown(path: str | Path) -> str:
    """A path as a message shows it, but for the middle of one that no disk has."""
    return short(str(path), 400)


def user_path(text: str | Path) -> Path:
    """A path that somebody wrote, with their home in place of ~; an unknown user's ~name stays as it is."""
    return Path(os.path.expanduser(text))  # noqa: PTH111 - Path.expanduser raises where there is no such user


def another_folder(path: Path) -> Path:
    """A folder to name beside one that is taken: `runs/cats-2` beside `runs/cats`."""
    path = path if path.name else path.resolve()
    return path.with_name(f"{path.name}-2") if path.name else path / "run-2"


def is_folder(path: str | Path) -> bool:
    """Whether there is such a folder; no for what can be no path, being too long or holding a null byte."""
    return os.path.isdir(path)  # noqa: PTH112 - Path.is_dir raises


def require_file(path: str | Path, wanted: str, error: type[VitCircuitsError] = ModelError) -> None:
    """Does nothing if there is such a file.

    Args:
        path: What was given.
        wanted: What it should have been, such as `a .safetensors file`.
        error: What is raised.

    Raises:
        VitCircuitsError: There is none.
    """
    if not os.path.isfile(user_path(path)):  # noqa: PTH113 - as above
        raise error(f"there is no file {shown(path)}: pass the path of {wanted}.")


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except (OSError, ValueError):  # the folder itself is missing or out of reach, so nothing was left in it
        return


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file.

    Raises:
        FormatError: There is no such file, or it is not text.
    """
    try:
        return Path(path).read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        raise FormatError(f"there is no file {shown(path)}. Pass the path of a file that was saved before.") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{shown(path)} is not a text file: byte {error.start} is not UTF-8.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FormatError(f"cannot read {shown(path)}: {reason}.") from error
