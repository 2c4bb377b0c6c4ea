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
from typing import Any, TypeVar

from .errors import TaskError

S = TypeVar("S", bound="Settings")


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
    """

    help: str
    read: Callable[[str], Any] = str
    choices: tuple[Any, ...] = ()
    metavar: str = ""
    many: bool = False
    flags: tuple[str, ...] = ()

    def value(self, name: str, given: Any) -> Any:
        """A value in the field's type, from text, TOML or JSON.

        Raises:
            TaskError: It does not fit.
        """
        if given is None or self.many:
            return given if given is None else [str(one) for one in (given if isinstance(given, list) else [given])]
        words = isinstance(given, list | tuple) and all(isinstance(one, str | int) for one in given)
        if words and self.read is str:  # several classes, written as a list
            given = ",".join(map(str, given))
        if isinstance(given, str) or (self.read is str and isinstance(given, int)):
            try:
                given = self.read(str(given))
            except Exception as error:
                raise TaskError(f"{name}={given!r}: {error}") from error
        if self.choices and given not in self.choices:
            raise TaskError(f"{name}={given!r} is not known: pass one of {', '.join(map(str, self.choices))}.")
        return given


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
    near = difflib.get_close_matches(word, known, n=1)
    return f" Did you mean {near[0]!r}?" if near else f" Write one of {', '.join(sorted(known))}."
