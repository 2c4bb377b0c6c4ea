"""Files written whole or not at all, and read as text."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from .errors import FormatError


def write_text_atomic(path: str | Path, text: str) -> Path:
    r"""Writes text as UTF-8 with `\n` line ends, and returns the path; see `write_bytes_atomic`."""
    # A lone surrogate (from a file name that is not UTF-8) becomes \udcxx, which is also how JSON spells it.
    return write_bytes_atomic(path, text.encode("utf-8", "backslashreplace"))


def write_bytes_atomic(path: str | Path, data: bytes) -> Path:
    """Writes a file and returns its path; whoever reads it meets the old content or the new, never a part.

    The data goes to a temporary file in the same folder that then takes the name. Missing folders are made.

    Raises:
        FormatError: The file cannot be written. An earlier file of that name is left as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp") if path.name else path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)  # noqa: PTH105 - the one call that tests interrupt
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = getattr(error, "strerror", None) or error
        raise FormatError(
            f"cannot write {str(path)!r}: {reason}. Pass a file in a folder that you may write to."
        ) from error
    finally:
        if temporary != path:
            _remove(temporary)
    return path


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
        raise FormatError(f"there is no file {str(path)!r}. Pass the path of a file that was saved before.") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{str(path)!r} is not a text file: byte {error.start} is not UTF-8.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FormatError(f"cannot read {str(path)!r}: {reason}.") from error
