"""How the toy ViTs are built and trained: everything that decides their weights, as one frozen value each."""

import difflib
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from .errors import ModelError

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

    from .preprocess import Preprocess

Dtype = Literal["float32", "float16"]


@dataclass(frozen=True)
class Recipe:
    """A toy ViT and its training. The same recipe gives the same weights, byte for byte, on the same machine.

    Args:
        name: What the toy is called, without `toy/`.
        data: "digits" or "mnist".
        image_size: Height and width in pixels.
        patch: Height and width of a patch in pixels.
        channels: Channels of an image.
        mean: Mean of the training pixels in [0, 1], per channel.
        std: Their standard deviation, per channel.
        classes: What each logit means.
        d_model: Width of the residual stream.
        layers: Number of blocks.
        heads: Attention heads per block.
        mlp_ratio: Hidden width of the MLPs over d_model.
        dropout: Probability of dropping an MLP or attention output while training.
        epochs: Passes over the training split; the weights after the last one are kept.
        batch_size: Images per step.
        lr: Learning rate after the warm-up; it falls to zero along a cosine.
        weight_decay: AdamW's, on weight matrices only.
        warmup: Part of the steps over which the learning rate rises from zero.
        label_smoothing: Probability spread over all classes in the loss.
        shift: Largest random shift, in pixels, each way.
        rotate: Largest random rotation, in degrees, each way.
        zoom: Largest random change of size, as a fraction, each way.
        seed: Of the weights, the order of the images and their augmentation.
        threads: CPU threads; sums are taken in another order with another number.
        registers: Register tokens, between the class token and the patches.
        attention_only: Blocks have no MLP.
        dtype: What the weights are rounded to when they are stored; they are trained, and used, in float32.
    """

    name: str
    data: str
    image_size: int
    patch: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    d_model: int
    layers: int
    heads: int
    mlp_ratio: float
    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    warmup: float
    label_smoothing: float
    shift: float
    rotate: float
    zoom: float
    dropout: float = 0.0
    seed: int = 0
    threads: int = 1
    registers: int = 0
    attention_only: bool = False
    dtype: Dtype = "float32"

    @property
    def description(self) -> str:
        """What the model is, in a sentence."""
        kind = "An attention-only ViT" if self.attention_only else "A ViT"
        tokens = f"{(self.image_size // self.patch) ** 2} patches and a class token"
        if self.registers:
            tokens = tokens.replace(" and", ",") + f" and {self.registers} registers"
        blocks = "1 block" if self.layers == 1 else f"{self.layers} blocks"
        return f"{kind} of {blocks} with {self.heads} heads, d_model {self.d_model}, {tokens}, trained on {self.data}."

    @property
    def augmentation(self) -> str:
        """What happens to a training image, in words."""
        return (
            f"each training image is shifted by up to {self.shift:g} px, rotated by up to {self.rotate:g} degrees and "
            f"resized by up to {self.zoom:.0%}, each drawn uniformly, bilinear, black outside"
        )

    @property
    def preprocess(self) -> "Preprocess":
        """What the trained model wants as input."""
        from .preprocess import Preprocess

        return Preprocess((self.image_size, self.image_size), self.channels, self.mean, self.std)

    def to_dict(self) -> dict[str, Any]:
        """All fields, as JSON can hold them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Recipe":
        """The recipe that `to_dict` wrote, here or in an earlier version, which had no fields that it lacks.

        Raises:
            ModelError: A field is unknown, or one without a default is missing.
        """
        known = {field.name for field in fields(cls)}
        needed = {field.name for field in fields(cls) if field.default is MISSING}
        if not needed <= set(values) <= known:
            raise ModelError(
                f"The recipe has {sorted(set(values) - known)} too many and lacks {sorted(needed - set(values))}: it "
                f"was written by another version. Train again with `vitcircuits train`."
            )
        # JSON has no tuples
        fixed: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**fixed)


_DIGITS = Recipe(
    name="digits-2l",
    data="digits",
    image_size=8,
    patch=2,
    channels=1,
    mean=(0.305,),
    std=(0.376,),
    classes=tuple("0123456789"),
    d_model=64,
    layers=2,
    heads=4,
    mlp_ratio=4.0,
    # dropout, weight decay and augmentation were chosen on held-out thirds of the training split
    epochs=200,
    batch_size=64,
    lr=2e-3,
    weight_decay=0.5,
    warmup=0.05,
    label_smoothing=0.05,
    shift=0.75,
    rotate=10.0,
    zoom=0.1,
    dropout=0.1,
)

_MNIST = Recipe(
    name="mnist-2l",
    data="mnist",
    image_size=28,
    patch=7,
    channels=1,
    mean=(0.1307,),
    std=(0.3081,),
    classes=tuple("0123456789"),
    d_model=64,
    layers=2,
    heads=4,
    mlp_ratio=4.0,
    epochs=15,
    batch_size=128,
    lr=2e-3,
    weight_decay=0.05,
    warmup=0.05,
    label_smoothing=0.05,
    shift=2.0,
    rotate=10.0,
    zoom=0.1,
)

_MNIST_16 = replace(_MNIST, dtype="float16")

RECIPES = {
    recipe.name: recipe
    for recipe in (
        _DIGITS,
        # the first two toys on MNIST keep the 32 bits that their measured figures rest on
        _MNIST,
        replace(_MNIST, name="mnist-4l", layers=4),
        replace(_MNIST_16, name="mnist-1l", layers=1),
        replace(_MNIST_16, name="mnist-3l", layers=3),
        replace(_MNIST_16, name="mnist-2l-reg4", registers=4),
        *(replace(_MNIST_16, name=f"mnist-{n}l-attn", layers=n, attention_only=True) for n in (1, 2, 3, 4)),
    )
}


def get_recipe(name: str) -> Recipe:
    """The recipe of that name, with or without `toy/`.

    Raises:
        ModelError: There is none.
    """
    short = name.removeprefix("toy/")
    if short not in RECIPES:
        near = difflib.get_close_matches(short, RECIPES, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ModelError(f"There is no recipe named {name!r}.{hint} The recipes are {', '.join(RECIPES)}.")
    return RECIPES[short]


def build(recipe: Recipe) -> "VisionTransformer":
    """timm's own VisionTransformer with the recipe's sizes: class token, token pooling, learnt positions.

    An attention-only one has `NoMlp` in the MLPs' place.

    Its weights are drawn from the recipe's seed; the global random state is left as it was.
    """
    import torch
    from timm.models.vision_transformer import VisionTransformer

    from .attention_only import drop_mlps

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        module = VisionTransformer(
            img_size=recipe.image_size,
            patch_size=recipe.patch,
            in_chans=recipe.channels,
            num_classes=len(recipe.classes),
            global_pool="token",
            embed_dim=recipe.d_model,
            depth=recipe.layers,
            num_heads=recipe.heads,
            mlp_ratio=recipe.mlp_ratio,
            proj_drop_rate=recipe.dropout,
            attn_drop_rate=recipe.dropout,
            reg_tokens=recipe.registers,
        )
    return drop_mlps(module) if recipe.attention_only else module
