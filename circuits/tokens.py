"""Token groups: the partition of a ViT's sequence over which a graph is built.

One group for all tokens gives the graph of ACDC and EAP. Finer partitions say where an edge runs: at CLS, at the
patches, at one patch. The residual stream never mixes tokens, so only attention heads connect groups.

Of `mask` the groups are known by name, and which patches are the object's is said by each pair (`token_parts.py`).

A patch covers columns of tokens that are patched together. Unlike groups, these may overlap and need not cover all
tokens.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..models.config import TokenLayout
from ..models.errors import GraphError

Tokens = Literal["all", "role", "frame", "each", "mask"]
"""How tokens are grouped, beside `grid:RxC`: one group, by role (CLS / registers / patches), by frame of a video, each
token alone, or patches by whether they show the object."""

OBJECT, BACKGROUND = "object", "background"


@dataclass(frozen=True)
class TokenGroups:
    """A partition of the tokens into named groups.

    Args:
        kind: The choice that made it, such as `role`.
        names: One name per group; the single group of `all` has the empty name and is not printed.
        of_token: The group of each token; None where each pair says whether it is the object's or the background's.
    """

    kind: str
    names: tuple[str, ...]
    of_token: tuple[int | None, ...]

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"TokenGroups({self.kind!r}: {len(self)} groups of {len(self.of_token)} tokens)"

    @property
    def per_pair(self) -> bool:
        """Whether groups differ from pair to pair."""
        return None in self.of_token

    @property
    def apart(self) -> bool:
        """Whether each token is a group of its own, in order."""
        return self.of_token == tuple(range(len(self)))

    def one_hot(self) -> NDArray[np.bool_]:
        """Membership, shape (group, token); of a token whose group each pair says, in both groups."""
        either = [place for place, name in enumerate(self.names) if name in (OBJECT, BACKGROUND)]
        found = np.zeros((len(self), len(self.of_token)), dtype=bool)
        for token, group in enumerate(self.of_token):
            found[either if group is None else group, token] = True
        return found

    def containing(self, tokens: tuple[int, ...]) -> NDArray[np.bool_]:
        """Which groups hold any of the tokens, or may, shape (group,)."""
        return np.logical_or.reduce(self.one_hot()[:, list(tokens)], axis=1)

    def of_objects(self, objects: NDArray[np.bool_]) -> NDArray[np.intp]:
        """The group of each token where the object is at some tokens, shape (pair, token) as they have."""
        known = np.array([self.names.index(BACKGROUND) if group is None else group for group in self.of_token])
        free = np.array([group is None for group in self.of_token])
        return np.where(objects & free, self.names.index(OBJECT), known)


def group_tokens(layout: TokenLayout, tokens: str) -> TokenGroups:
    """The groups of a token layout for one choice of `tokens`.

    Raises:
        GraphError: The choice is not known, or the layout has no such groups.
    """
    if tokens == "all":
        return TokenGroups("all", ("",), (0,) * layout.n_tokens)
    if tokens == "each":
        return TokenGroups("each", layout.token_names(), tuple(range(layout.n_tokens)))
    roles = _roles(layout, _patch_groups(layout, tokens))
    names = tuple(dict.fromkeys(name for role in roles for name in ((OBJECT, BACKGROUND) if role is None else (role,))))
    if len(names) == 1:
        return TokenGroups(tokens, ("",), (0,) * layout.n_tokens)
    return TokenGroups(tokens, names, tuple(None if role is None else names.index(role) for role in roles))


def read_tokens(text: str) -> str:
    """A choice of token groups.

    Raises:
        GraphError: It is not known.
    """
    if text in get_args(Tokens) or text.startswith("grid:"):
        return text
    raise GraphError(f"pass one of {', '.join(map(repr, get_args(Tokens)))}, or cells of patches such as 'grid:2x2'")


def _roles(layout: TokenLayout, patches: Sequence[str | None]) -> list[str | None]:
    """What each token is called, of which the patches are."""
    prefix = ["cls"] * layout.has_cls + ["dist"] * layout.has_dist + ["reg"] * layout.n_registers
    return [*prefix, *patches, *["pool"] * layout.has_pool]


def _patch_groups(layout: TokenLayout, tokens: str) -> Sequence[str | None]:
    """What each patch is called; None where each pair says it.

    Raises:
        GraphError: The choice is not known, frames are asked for but there is only one, or there is no such grid.
    """
    if tokens == "role":
        return ["patch"] * layout.n_patches
    if tokens == "mask":
        if layout.frames > 1:
            raise GraphError('tokens="mask" is for images, but these are videos: pass tokens="frame".')
        return [None] * layout.n_patches
    if tokens == "frame":
        if layout.frames == 1:
            raise GraphError('tokens="frame" is for videos, but these are images: pass tokens="role".')
        return [f"frame{place // (layout.n_patches // layout.frames)}" for place in range(layout.n_patches)]
    try:
        read_tokens(tokens)
    except GraphError as error:
        raise GraphError(f'tokens={tokens!r} is not known: {error}, as in compile_graph(vit, tokens="role").') from None
    (rows, columns), (of_rows, of_columns) = layout.grid, _cells(layout, tokens)
    cells = [f"cell{r * of_rows // rows}_{c * of_columns // columns}" for r in range(rows) for c in range(columns)]
    return cells * layout.frames


def _cells(layout: TokenLayout, tokens: str) -> tuple[int, int]:
    """Rows and columns of cells that a choice such as `grid:2x3` asks for."""
    found, (rows, columns) = re.fullmatch(r"grid:(\d+)x(\d+)", tokens), layout.grid
    chosen = (int(found[1]), int(found[2])) if found else (0, 0)
    if not (1 <= chosen[0] <= rows and 1 <= chosen[1] <= columns):
        raise GraphError(
            f"tokens={tokens!r}: pass rows x columns of cells, from 1 to {rows} and from 1 to {columns} on this "
            f'model\'s {rows} x {columns} patches, such as tokens="grid:{min(2, rows)}x{min(2, columns)}".'
        )
    return chosen


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
        tokens: `all` (one column), `role` (CLS / registers / patches), `each` (every token on its own), `grid:RxC`, or
            the name of a token or a role such as "cls", "patch", "r2c3"; a list of names has one column for each.

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
    if groups.per_pair:
        raise GraphError(
            'tokens="mask" differs from image to image, and columns are the same tokens in all: pass "role", '
            '"grid:2x2", "each", or names of tokens.'
        )
    return {name or "all": row for name, row in zip(groups.names, groups.one_hot(), strict=True)}
