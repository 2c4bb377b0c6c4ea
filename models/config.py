"""What an opened ViT looks like from outside: sizes and token layout, as plain frozen values without tensors."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TokenLayout:
    """The sequence of a ViT: CLS first (if there is one), then registers, then patches row by row (and frame by frame).

    Args:
        has_cls: Whether token 0 is a class token.
        n_registers: Register tokens between CLS and the patches.
        grid: Patch rows and columns.
        has_dist: Whether a distillation token stands behind CLS.
        frames: Frames of a video's tubelets; 1 for an image.
        has_pool: Whether a last token stands for attention pooling: blocks neither read nor write it, and after the
            last of them one more block pools all others into it.
    """

    has_cls: bool
    n_registers: int
    grid: tuple[int, int]
    has_dist: bool = False
    frames: int = 1
    has_pool: bool = False

    @property
    def n_prefix(self) -> int:
        """Number of tokens in front of the patches."""
        return int(self.has_cls) + int(self.has_dist) + self.n_registers

    @property
    def n_patches(self) -> int:
        """Number of patch tokens, of all frames."""
        return self.frames * self.grid[0] * self.grid[1]

    @property
    def n_tokens(self) -> int:
        """Length of the sequence."""
        return self.n_prefix + self.n_patches + int(self.has_pool)

    @property
    def patches(self) -> slice:
        """Where the patches stand in the sequence."""
        return slice(self.n_prefix, self.n_prefix + self.n_patches)

    @property
    def registers(self) -> slice:
        """Where the registers stand in the sequence."""
        return slice(self.n_prefix - self.n_registers, self.n_prefix)

    def token_names(self) -> tuple[str, ...]:
        """Names of the tokens in order: `cls`, `dist`, `reg0`, ..., `r0c0`, `r0c1`, ..., `pool`; of videos `f0r0c0`."""
        rows, columns = self.grid
        prefix = ["cls"] * self.has_cls + ["dist"] * self.has_dist + [f"reg{i}" for i in range(self.n_registers)]
        frames = [""] if self.frames == 1 else [f"f{frame}" for frame in range(self.frames)]
        patches = (f"{frame}r{r}c{c}" for frame in frames for r in range(rows) for c in range(columns))
        return (*prefix, *patches, *(["pool"] * self.has_pool))


@dataclass(frozen=True)
class VitConfig:
    """Sizes of an opened ViT, under TransformerLens' names where it has one.

    Args:
        name: What the model was loaded as, such as `toy/digits-2l`.
        n_layers: Number of blocks; attention pooling counts as the last one.
        n_heads: Attention heads per block, the most of any.
        d_model: Width of the residual stream.
        d_head: Width of one head's query, key and value.
        d_mlp: Hidden width of the MLPs.
        n_classes: Number of logits.
        image_size: Height and width of the input in pixels.
        patch_size: Height and width of a patch in pixels.
        n_channels: Channels of the input image.
        tokens: The token layout.
        read_tokens: Indices of the tokens that the readout looks at (CLS, or those that are averaged).
        pooling: How the readout makes one vector of them: `token`, `average`, `distilled`, `map`, or `cls+average` (the
            class token beside the average of the patches).
        heads: Heads of each block; empty where each has `n_heads`.
        mlps: Whether each block has an MLP; empty where each has one.
        parallel: Whether each block's MLP reads what its attention reads; empty where none does.
        joint: Whether a norm across all heads couples those of each block; empty where none does.
        clip_frames: Frames of a video model's input, whose channels `n_channels` counts together; 1 for an image.
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
    heads: tuple[int, ...] = ()
    mlps: tuple[bool, ...] = ()
    parallel: tuple[bool, ...] = ()
    joint: tuple[bool, ...] = ()
    clip_frames: int = 1

    def __repr__(self) -> str:
        return (
            f"VitConfig({self.name!r}: {self.n_layers} layers, {self.n_heads} heads, d_model {self.d_model}, "
            f"{self.tokens.n_tokens} tokens, {self.n_classes} classes)"
        )

    def heads_of(self, layer: int) -> int:
        """Heads of a block."""
        return self.heads[layer] if self.heads else self.n_heads

    def has_mlp(self, layer: int) -> bool:
        """Whether a block has an MLP."""
        return not self.mlps or self.mlps[layer]

    def is_parallel(self, layer: int) -> bool:
        """Whether a block's MLP reads what its attention reads."""
        return bool(self.parallel) and self.parallel[layer]

    def is_joint(self, layer: int) -> bool:
        """Whether a block's heads are coupled by a norm across all of them."""
        return bool(self.joint) and self.joint[layer]

    @property
    def pools(self) -> bool:
        """Whether the last block is attention pooling, which starts a residual stream of its own."""
        return self.tokens.has_pool

    def is_pool(self, layer: int) -> bool:
        """Whether a block is attention pooling."""
        return self.pools and layer == self.n_layers - 1

    def gathering(self, layer: int) -> slice:
        """The tokens that a block gathers at for the readout.

        In attention pooling its own token; else CLS, with the distillation token; else every token.
        """
        if self.is_pool(layer):
            return slice(self.tokens.n_tokens - 1, self.tokens.n_tokens)
        return slice(0, int(self.tokens.has_cls) + int(self.tokens.has_dist) or self.tokens.patches.stop)
