"""What an opened ViT looks like from outside: sizes and token layout, as plain frozen values without tensors."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TokenLayout:
    """The sequence of a ViT: CLS first (if there is one), then registers, then patches row by row.

    Args:
        has_cls: Whether token 0 is a class token.
        n_registers: Register tokens between CLS and the patches.
        grid: Patch rows and columns.
    """

    has_cls: bool
    n_registers: int
    grid: tuple[int, int]

    @property
    def n_prefix(self) -> int:
        """Number of tokens in front of the patches."""
        return int(self.has_cls) + self.n_registers

    @property
    def n_patches(self) -> int:
        """Number of patch tokens."""
        return self.grid[0] * self.grid[1]

    @property
    def n_tokens(self) -> int:
        """Length of the sequence."""
        return self.n_prefix + self.n_patches

    def token_names(self) -> tuple[str, ...]:
        """Names of the tokens in order: `cls`, `reg0`, ..., `r0c0`, `r0c1`, ..."""
        rows, columns = self.grid
        prefix = ["cls"] * self.has_cls + [f"reg{i}" for i in range(self.n_registers)]
        return (*prefix, *(f"r{r}c{c}" for r in range(rows) for c in range(columns)))


@dataclass(frozen=True)
class VitConfig:
    """Sizes of an opened ViT, under TransformerLens' names where it has one.

    Args:
        name: What the model was loaded as, such as `toy/digits-2l`.
        n_layers: Number of blocks.
        n_heads: Attention heads per block.
        d_model: Width of the residual stream.
        d_head: Width of one head's query, key and value.
        d_mlp: Hidden width of the MLPs.
        n_classes: Number of logits.
        image_size: Height and width of the input in pixels.
        patch_size: Height and width of a patch in pixels.
        n_channels: Channels of the input image.
        tokens: The token layout.
        read_tokens: Indices of the tokens that the readout looks at (CLS, or those that are averaged).
        pooling: How the readout makes one vector of them.
    """

    name: str
    n_layers: int
    n_heads: int
    d_model: int
    d_head: int
    d_mlp: int
    n_classes: int
    image_size: tuple[int, int]
    patch_size: tuple[int, int]
    n_channels: int
    tokens: TokenLayout
    read_tokens: tuple[int, ...]
    pooling: str
