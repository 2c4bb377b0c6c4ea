"""Planted models by name: `planted/neighbour-xor`, with options as keywords or in the name itself.

The name of a loaded model spells its options (`planted/neighbour-xor:gain=soft,norm=none,trap`), so that what is
recorded in a circuit loads the same model again.
"""

from __future__ import annotations

import ast
import difflib
import math
from collections.abc import Mapping
from typing import Any

from ..errors import ModelError
from .compiler import change_of_basis, compile_program
from .digit_pairs import DIGIT_PAIRS, load_digit_pairs
from .truth import minimal_circuits, true_edges
from .vit import TOKENS, Known, PlantedViT
from .zoo import PLANTED, Planted

GAINS = {"soft": 2.0, "medium": 12.0, "hard": 200.0}
DEFAULTS: dict[str, Any] = {"norm": "layer", "gain": "hard", "trap": False, "step": False, "disguise": None}
_HARD = 12.0  # from here on attention to any but one token is below rounding


def list_planted() -> list[str]:
    """Names of the planted models."""
    return [*PLANTED, DIGIT_PAIRS]


def planted_summary(name: str) -> str:
    """One line about a planted model."""
    return PLANTED[name].summary if name in PLANTED else "two real digits, trained, 12 of 110 edges"


def load_planted(text: str, *, name: str | None = None, **options: Any) -> PlantedViT:
    """A planted model; `exact` unless options say otherwise.

    Args:
        text: One of `list_planted()`, with options after a colon if need be.
        name: What to call it, when it is not its source.
        **options: `norm` ("layer" or "none"), `gain` of attention ("soft", "medium", "hard" or a number), `trap`
            (functions with a slope and no effect), `step` (an effect without a slope), `disguise` (a seed: the same
            function in a random basis). The trap and the step are in neighbour-xor only.

    Raises:
        ModelError: A name, an option or its value is not known.
    """
    base, _, spelled = text.partition(":")
    if base not in list_planted():
        near = difflib.get_close_matches(base, list_planted(), 1, 0.0)[0]
        raise ModelError(
            f"there is no model {base!r}. The nearest name is {near!r}; planted are {', '.join(list_planted())}."
        )
    options = {**_spelled(spelled), **options}
    if base == DIGIT_PAIRS:
        if options:
            raise ModelError(f"{base} is trained and takes no options, but got {_listed(options)}: leave them out.")
        return load_digit_pairs(name or base)
    chosen = _checked(base, options)
    return _build(PLANTED[base], name or _full_name(base, chosen), **chosen)


def _build(
    planted: Planted, name: str, *, norm: str, gain: str | int | float, trap: bool, step: bool, disguise: int | None
) -> PlantedViT:
    strength = GAINS[gain] if isinstance(gain, str) else float(gain)
    switches = {key: value for key, value in (("trap", trap), ("step", step)) if key in planted.switches}
    program = planted.program(strength, **switches)
    module = compile_program(program, norm=norm == "layer")
    if disguise is not None:
        change_of_basis(module, disguise)
    known = Known(
        circuits=lambda tokens: minimal_circuits(program, tokens),
        zeroed=lambda: true_edges(program, "all", constants=True),
        sample=lambda n, generator, split: planted.sample(n, generator),
        hard=strength >= _HARD,
        norm=norm == "layer",
        even=trap,
        tokens=TOKENS if strength >= _HARD else ("all",),  # soft attention reads a little of every token
    )
    return PlantedViT(module, name=name, known=known, labels=planted.classes)


def _spelled(text: str) -> dict[str, Any]:
    """The options after the colon of a name."""
    found: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        key, _, value = part.partition("=")
        found[key.strip()] = _value(value.strip()) if value else True
    return found


def _value(text: str) -> Any:
    """A number, a truth value or None; else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _checked(base: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """All options, with defaults.

    Raises:
        ModelError: One is not known, or its value does not fit.
    """
    for key in options:
        if key not in DEFAULTS:
            raise ModelError(f"{base} has no option {key!r}: its options are {', '.join(DEFAULTS)}.")
    chosen = {**DEFAULTS, **options}
    wanted = {
        "norm": (chosen["norm"] in ("layer", "none"), 'norm="layer" or norm="none"'),
        "gain": (_is_gain(chosen["gain"]), 'gain="soft", "medium", "hard" or a number above 0'),
        "trap": (isinstance(chosen["trap"], bool), "trap=True or trap=False"),
        "step": (isinstance(chosen["step"], bool), "step=True or step=False"),
        "disguise": (chosen["disguise"] is None or _is_int(chosen["disguise"]), "disguise=0 or another seed, or None"),
    }
    for key, (fits, repair) in wanted.items():
        if not fits:
            raise ModelError(f"{base} got {key}={chosen[key]!r}: pass {repair}.")
    for key in ("trap", "step"):
        if chosen[key] and key not in PLANTED[base].switches:
            raise ModelError(
                f"{base} has no {key}: only planted/neighbour-xor has. Leave it out, or call "
                f'load_vit("planted/neighbour-xor", {key}=True).'
            )
    return chosen


def _is_gain(value: Any) -> bool:
    if isinstance(value, str):
        return value in GAINS
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _full_name(base: str, chosen: Mapping[str, Any]) -> str:
    other = {key: value for key, value in chosen.items() if value != DEFAULTS[key]}
    return f"{base}:{_listed(other)}" if other else base


def _listed(options: Mapping[str, Any]) -> str:
    return ",".join(key if value is True else f"{key}={value}" for key, value in options.items())
