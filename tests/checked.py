"""Types and shapes of the library's functions and dataclasses, checked by beartype and jaxtyping.

jaxtyping's import hook puts `jaxtyping.jaxtyped` in front of each function. Its own one binds a signature and checks
all arguments twice at every call, and decorates a function within a function anew whenever the outer one runs: half of
the suite's processor time. `checked` checks once, lets axis names speak for one call only where there are any, and
leaves functions within functions alone. Those that yield keep jaxtyping's own: what they are given is checked when
they are called, not when the first value is asked for.

Each test, whatever its parameters, checks the first calls of a function, and of those that follow one in a few: a
function that is called a thousand times in a test is called alike.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from types import FunctionType, SimpleNamespace
from typing import Any, get_type_hints

import jaxtyping
from beartype import BeartypeConf, beartype

FIRST, EVERY = 8, 64
"""Calls of a function that a test checks, and of which of the rest it checks one."""

_jaxtyped = jaxtyping.jaxtyped
_context = functools.partial(_jaxtyped, "context")  # in which an axis has one size
_beartype = beartype(conf=BeartypeConf(violation_type=jaxtyping.TypeCheckError))
_test: object = None


def install(package: str) -> None:
    """Checks whatever of a package is imported from here on."""
    jaxtyping.jaxtyped = checked
    jaxtyping.install_import_hook(package, "beartype.beartype")


def begin(test: object) -> None:
    """Counts calls from here on, unless the same test has begun before."""
    global _test
    _test = _test if test == _test else test


def checked(*, typechecker: Any) -> Callable[[Any], Any]:
    """Decorates a function or a dataclass, as the import hook asks for it; the checker is beartype whatever it says."""

    def decorate(what: Any) -> Any:
        if isinstance(what, type):
            if dataclasses.is_dataclass(what) and "__init__" in vars(what):
                what.__init__ = _checked(what.__init__)
            return what
        if "<locals>" in what.__qualname__:
            return what
        return _jaxtyped(what, typechecker=beartype) if inspect.isgeneratorfunction(what) else _checked(what)

    return decorate


def _checked(function: Callable) -> Callable:
    hints = {name: _hint(written, function.__globals__) for name, written in function.__annotations__.items()}
    parts = function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    copy = FunctionType(*parts)
    copy.__kwdefaults__, copy.__annotations__ = function.__kwdefaults__, hints
    copy.__module__, copy.__qualname__ = function.__module__, function.__qualname__
    checks, shaped = _beartype(copy), any("jaxtyping" in repr(hint) for hint in hints.values())
    test, calls = None, 0

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal test, calls
        calls += 1
        if test is not _test:
            test, calls = _test, 1
        if (calls > FIRST and calls % EVERY) or jaxtyping.config.jaxtyping_disable:
            return function(*args, **kwargs)
        if not shaped:
            return checks(*args, **kwargs)
        with _context():
            return checks(*args, **kwargs)

    return call


def _hint(written: Any, names: dict[str, Any]) -> Any:
    """A hint without strings; nothing is known of one that only a type checker can read, or none yet."""
    try:
        return get_type_hints(SimpleNamespace(__annotations__={"one": written}), names, include_extras=True)["one"]
    except (NameError, TypeError):
        return Any
