"""Settings declared once, as fields of frozen dataclasses; from each field come its check, its record, its flag and its
help on the command line, and its key in TOML.

    @dataclass(frozen=True)
    class Example(Settings):
        tokens: str = setting("all", "token groups", choices=("all", "role"))

Nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from datetime import date, time
from typing import Any, TypeVar

from .errors import TaskError

S = TypeVar("S", bound="Settings")


@dataclass(frozen=True)
class Range:
    """Numbers that make sense for a setting or an option.

    Args:
        least: The smallest.
        above: All are larger than this.
        most: The largest.
        below: All are smaller than this.
    """

    least: float | int | None = None
    above: float | int | None = None
    most: float | int | None = None
    below: float | int = float("inf")

    def __contains__(self, value: Any) -> bool:
        low = value < self.least if self.least is not None else not value > (self.above or 0)
        return not low and value < self.below and (self.most is None or value <= self.most)

    def __str__(self) -> str:
        said = f"at least {self.least}" if self.least is not None else f"a number above {self.above}"
        said += "" if self.most is None else f" and at most {self.most}"
        return said if self.below == float("inf") else f"{said} and below {self.below}"


SEEDS = Range(least=0, most=2**32 - 1)
"""What generators take, also where one seed is the start of several streams."""

COUNTS = Range(least=1, most=1_000_000)
FROM_NONE = Range(least=0, most=1_000_000)

DTYPES = ("float32", "bfloat16", "float16")

DEFAULT_MEMORY = 2_000_000_000
"""Bytes that a run may hold at once, unless told otherwise and where no GPU is."""


def is_gpu(device: str) -> bool:
    """Whether a device is called as torch calls NVIDIA's and AMD's GPUs."""
    return device.startswith("cuda")


@dataclass(frozen=True)
class Setting:
    """What is known of one field beside its name and default.

    Args:
        help: What it does, for help texts.
        read: Text -> value; raises ValueError or argparse's error where the text does not fit.
        choices: The values that it can take, where they are few.
        metavar: What stands for a value in help texts.
        many: Whether it takes several values.
        flags: On the command line, where that is not `--name`.
        range: The numbers that make sense, where not all do.
        in_memory: Whether from Python it may also be an object that no file holds, such as images.
    """

    help: str
    read: Callable[[str], Any] = str
    choices: tuple[Any, ...] = ()
    metavar: str = ""
    many: bool = False
    flags: tuple[str, ...] = ()
    range: Range | None = None
    in_memory: bool = False

    def value(self, name: str, given: Any) -> Any:
        """A value in the field's type, from text, TOML or JSON.

        Raises:
            TaskError: It does not fit.
        """
        if given is None or self.many:
            return given if given is None else [str(one) for one in (given if isinstance(given, list) else [given])]
        if self.in_memory and is_in_memory(given):
            return given
        words = isinstance(given, list | tuple) and all(isinstance(one, str | int) for one in given)
        if words and self.read is str:  # several classes, written as a list
            given = ",".join(map(str, given))
        if self.read not in _KINDS and not isinstance(given, str):  # a number from TOML, for a reader of its own
            given = str(given)
        if isinstance(given, str) or (self.read is str and type(given) is int):
            given = read(self.read, name, str(given))
        kind, wrong = _KINDS.get(self.read, ("", ()))
        # NaN compares with nothing, so it would pass every check
        if isinstance(given, wrong) or (isinstance(given, float) and given != given):
            raise TaskError(f"{name}={short(given)}: pass {kind}.")
        if self.choices and given not in self.choices:
            raise TaskError(f"{name}={short(given)} is not known: pass one of {', '.join(map(repr, self.choices))}.")
        if self.range is not None and given not in self.range:
            raise TaskError(f"{name}={short(given)}: pass {self.range}.")
        return given


_TABLES = (Mapping, list, tuple, bool, date, time)  # what TOML has beside numbers and texts
_KINDS: dict[Any, tuple[str, tuple[type, ...]]] = {
    int: ("a whole number", (float, *_TABLES)),
    float: ("a number", _TABLES),
    str: ("a text", (float, Mapping, bool, date, time)),
}
"""What is read by Python's own types: what a message calls it, and what cannot stand for it."""


def is_in_memory(value: Any) -> bool:
    """Whether a value is, or holds, what neither a text nor TOML can say."""
    if isinstance(value, Mapping | list | tuple):
        return any(map(is_in_memory, value.values() if isinstance(value, Mapping) else value))
    return not isinstance(value, str | int | float | bool | date | time | None)


def read(reader: Callable[[str], Any], name: str, text: str) -> Any:
    """What a reader makes of a text.

    Raises:
        TaskError: The text does not fit.
    """
    try:
        return reader(text)
    except Exception as error:
        raise TaskError(
            f"{name}={short(text)}: {f'pass {_KINDS[reader][0]}' if reader in _KINDS else error}."
        ) from error


def short(value: Any, most: int = 80) -> str:
    """A value as a message shows it: written out, but for the middle of a long one."""
    text = repr(value)
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-8:]} ({len(text)} characters)"


def setting(default: Any, help: str, **more: Any) -> Any:
    """A field of a `Settings` class; `more` are `Setting`'s."""
    return field(default=default, metadata={"setting": Setting(help, **more)})


@dataclass(frozen=True)
class Settings:
    """A frozen dataclass of settings, each in its field's type."""

    def __repr__(self) -> str:
        return brief(self)

    def __post_init__(self) -> None:
        for name, known in settings_of(type(self)).items():
            object.__setattr__(self, name, known.value(name, getattr(self, name)))

    @classmethod
    def of(cls: type[S], given: Mapping[str, Any]) -> S:
        """From values by name; None stands for the default.

        Raises:
            TaskError: A name is not known, or a value does not fit.
        """
        known = [one.name for one in fields(cls)]
        for name in given:
            if name not in known:
                raise TaskError(f"there is no setting {name!r}.{nearest(name, known)}")
        declared = settings_of(cls)
        asked = {name: value for name, value in given.items() if value is not None}
        return cls(**{n: declared[n].value(n, value) if n in declared else value for n, value in asked.items()})

    def as_dict(self) -> dict[str, Any]:
        """Every setting by name, in plain values."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    def changed(self: S, **changes: Any) -> S:
        """The same settings but for some; None leaves one as it is."""
        return dataclasses.replace(self, **{name: value for name, value in changes.items() if value is not None})


def brief(record: Any) -> str:
    """A dataclass as the call that makes it, without the fields that have their default."""
    given = ((one.name, getattr(record, one.name), one.default, one.default_factory) for one in fields(record))
    said = (
        f"{name}={value!r}"
        for name, value, default, factory in given
        if factory is dataclasses.MISSING or value != factory()
        if default is dataclasses.MISSING or value != default
    )
    return f"{type(record).__name__}({', '.join(said)})"


def settings_of(cls: type[Any]) -> dict[str, Setting]:
    """The declared settings of a class by name."""
    return {one.name: one.metadata["setting"] for one in fields(cls) if "setting" in one.metadata}


def nearest(word: str, known: Collection[str]) -> str:
    """A sentence with the most similar of the known words, or with all of them."""
    near = difflib.get_close_matches(word[:100], known, n=1)
    return f" Did you mean {near[0]!r}?" if near else f" Write one of {', '.join(sorted(known))}."
