"""Token groups: the partition of a ViT's sequence over which a graph is built.

One group for all tokens gives the graph of ACDC and EAP. Finer partitions say where an edge runs: at CLS, at the
patches, at one patch. The residual stream never mixes tokens, so only attention heads connect groups.

A patch covers columns of tokens that are patched together. Unlike groups, these may overlap and need not cover all
tokens.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..models.config import TokenLayout
from ..models.errors import GraphError

Tokens = Literal["all", "role", "frame", "each"]
"""How tokens are grouped: one group, by role (CLS / registers / patches), by frame of a video, or each token alone."""


@dataclass(frozen=True)
class TokenGroups:
    """A partition of the tokens into named groups.

    Args:
        kind: The choice that made it, such as `role`.
        names: One name per group; the single group of `all` has the empty name and is not printed.
        of_token: The group of each token.
    """

    kind: str
    names: tuple[str, ...]
    of_token: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"TokenGroups({self.kind!r}: {len(self)} groups of {len(self.of_token)} tokens)"

    def one_hot(self) -> NDArray[np.bool_]:
        """Membership, shape (group, token)."""
        return np.arange(len(self))[:, None] == np.array(self.of_token)[None, :]

    def containing(self, tokens: tuple[int, ...]) -> NDArray[np.bool_]:
        """Which groups hold any of the tokens, shape (group,)."""
        hit = np.zeros(len(self), dtype=bool)
        hit[np.array(self.of_token)[list(tokens)]] = True
        return hit


def group_tokens(layout: TokenLayout, tokens: str) -> TokenGroups:
    """The groups of a token layout for one choice of `tokens`.

    Raises:
        GraphError: The choice is not known.
    """
    if tokens == "all":
        return TokenGroups("all", ("",), (0,) * layout.n_tokens)
    if tokens == "each":
        return TokenGroups("each", layout.token_names(), tuple(range(layout.n_tokens)))
    if tokens in ("role", "frame"):
        roles = _roles(layout, by_frame=tokens == "frame")
        names = tuple(dict.fromkeys(roles))
        if len(names) == 1:
            return TokenGroups(tokens, ("",), (0,) * layout.n_tokens)
        return TokenGroups(tokens, names, tuple(names.index(role) for role in roles))
    raise GraphError(
        f"tokens={tokens!r} is not known: pass one of {', '.join(map(repr, get_args(Tokens)))}, "
        f'such as compile_graph(vit, tokens="role").'
    )


def _roles(layout: TokenLayout, *, by_frame: bool) -> list[str]:
    """The role of each token; with `by_frame` patches are told apart by their frame.

    Raises:
        GraphError: Frames are asked for, but there is only one.
    """
    prefix = ["cls"] * layout.has_cls + ["dist"] * layout.has_dist + ["reg"] * layout.n_registers
    pool = ["pool"] * layout.has_pool
    if not by_frame:
        return [*prefix, *["patch"] * layout.n_patches, *pool]
    if layout.frames == 1:
        raise GraphError('tokens="frame" is for videos, but these are images: pass tokens="role".')
    each = layout.n_patches // layout.frames
    return [*prefix, *(f"frame{frame}" for frame in range(layout.frames) for _ in range(each)), *pool]


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
