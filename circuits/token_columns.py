"""Which tokens a patch covers: columns of tokens that are patched together.

Unlike the groups of a graph, columns may overlap and need not cover all tokens.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from ..models.config import TokenLayout
from ..models.errors import GraphError
from .tokens import Tokens, group_tokens


@dataclass(frozen=True, eq=False)
class TokenColumns:
    """Sets of tokens by name.

    Args:
        names: One name per column.
        member: Whether a token belongs to a column, shape (column, token).
    """

    names: tuple[str, ...]
    member: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.names)


def token_columns(layout: TokenLayout, tokens: str | Sequence[str]) -> TokenColumns:
    """The columns that a choice of tokens means.

    Args:
        layout: The token layout.
        tokens: `all` (one column), `role` (CLS / registers / patches), `each` (every token on its own), or the name of
            a token or a role such as "cls", "patch", "r2c3"; a list of names has one column for each.

    Raises:
        GraphError: A name is not known, or there is none.
    """
    if isinstance(tokens, str) and (tokens in get_args(Tokens) or ":" in tokens):
        return _of_groups(layout, tokens)
    known = {name: row for kind in ("each", "role", "all") for name, row in _by_name(layout, kind).items()}
    names = (tokens,) if isinstance(tokens, str) else tuple(tokens)
    if not names:
        raise GraphError('tokens=[] names no token: pass at least one, such as tokens="cls", or tokens="all".')
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 3, 0.3) or list(known)[:3]
            raise GraphError(
                f"tokens={name!r} is not known here: pass 'all', 'role', 'each', or names such as "
                f"{', '.join(map(repr, near))}: tokens={near[0]!r}."
            )
    return TokenColumns(names, np.stack([known[name] for name in names]))


def _of_groups(layout: TokenLayout, kind: str) -> TokenColumns:
    found = _by_name(layout, kind)
    return TokenColumns(tuple(found), np.stack(list(found.values())))


def _by_name(layout: TokenLayout, kind: str) -> dict[str, NDArray[np.bool_]]:
    """Group name -> its tokens; a single group, which has no name of its own, is called `all`."""
    groups = group_tokens(layout, kind)
    return {name or "all": row for name, row in zip(groups.names, groups.one_hot(), strict=True)}
