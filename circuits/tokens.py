"""Token groups: the partition of a ViT's sequence over which a graph is built.

One group for all tokens gives the graph of ACDC and EAP. Finer partitions say where an edge runs: at CLS, at the
patches, at one patch. The residual stream never mixes tokens, so only attention heads connect groups.
"""

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
