"""How the toy ViTs are built and trained: everything that decides their weights, as one frozen value each.

Whether a recipe can be followed is said before anything is trained.
"""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from ..errors import ModelError

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

    from ..data import ImageData
    from ..preprocess import Preprocess

Dtype = Literal["float32", "float16"]
TIMM_POSITION_STD = 0.02


@dataclass(frozen=True)
class TextRecipe:
    """The text encoder that a ViT is trained against, contrastively.

    Args:
        embedding: Width of the space that images and captions share.
        d_model: Width of the text encoder's residual stream.
        layers: Its blocks.
        heads: Attention heads per block.
        temperature: Of the softmax over the captions of a batch, before it is learnt.
        said: How often a caption speaks of size, and of colour, drawn anew at each step; shape and place always stand
            in it.
    """

    embedding: int
    d_model: int
    layers: int
    heads: int
    temperature: float = 0.07
    said: float = 1.0


@dataclass(frozen=True)
class Recipe:
    """A toy ViT and its training. The same recipe gives the same weights, byte for byte, on the same machine.

    Args:
        name: What the toy is called, without `toy/`.
        data: "digits", "mnist", "sprites", or a folder that `load_data` reads.
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
        position_std: Of the positions before training. At timm's 0.02 they are so small beside what patches look like
            that where something is may stay unlearnt for a whole training.
        text: Train the ViT as CLIP's image tower, against captions of sprites; None trains it on class labels.
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
    position_std: float = TIMM_POSITION_STD
    text: TextRecipe | None = None

    @property
    def description(self) -> str:
        """What the model is, in a sentence."""
        kind = "An attention-only ViT" if self.attention_only else "A ViT"
        tokens = f"{(self.image_size // self.patch) ** 2} patches and a class token"
        if self.registers:
            tokens = tokens.replace(" and", ",") + f" and {self.registers} registers"
        blocks = "1 block" if self.layers == 1 else f"{self.layers} blocks"
        how = f"trained on {self.data}" + (" contrastively against captions" if self.text else "")
        return f"{kind} of {blocks} with {self.heads} heads, d_model {self.d_model}, {tokens}, {how}."

    @property
    def augmentation(self) -> str:
        """What happens to a training image, in words."""
        if not (self.shift or self.rotate or self.zoom):
            return "none"
        return (
            f"each training image is shifted by up to {self.shift:g} px, rotated by up to {self.rotate:g} degrees and "
            f"resized by up to {self.zoom:.0%}, each drawn uniformly, bilinear, black outside"
        )

    @property
    def preprocess(self) -> "Preprocess":
        """What the trained model wants as input."""
        from ..preprocess import Preprocess

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
        if fixed.get("text") is not None:
            fixed["text"] = TextRecipe(**fixed["text"])
        return cls(**fixed)


def build(recipe: Recipe) -> "VisionTransformer":
    """timm's own VisionTransformer with the recipe's sizes: class token, token pooling, learnt positions.

    An attention-only one has `NoMlp` in the MLPs' place, and CLIP's image tower a head without bias that projects into
    the shared space. The weights are drawn from the recipe's seed; the global random state is left as it was.
    """
    import torch
    from timm.models.vision_transformer import VisionTransformer

    from ..mlps import drop_mlps

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        module = VisionTransformer(
            img_size=recipe.image_size,
            patch_size=recipe.patch,
            in_chans=recipe.channels,
            num_classes=len(recipe.classes) if recipe.text is None else recipe.text.embedding,
            global_pool="token",
            embed_dim=recipe.d_model,
            depth=recipe.layers,
            num_heads=recipe.heads,
            mlp_ratio=recipe.mlp_ratio,
            proj_drop_rate=recipe.dropout,
            attn_drop_rate=recipe.dropout,
            reg_tokens=recipe.registers,
        )
        if recipe.text is not None:
            module.head = torch.nn.Linear(recipe.d_model, recipe.text.embedding, bias=False)
    if recipe.position_std != TIMM_POSITION_STD and module.pos_embed is not None:
        module.pos_embed.data.mul_(recipe.position_std / TIMM_POSITION_STD)
    return drop_mlps(module) if recipe.attention_only else module


def check_recipe(recipe: Recipe) -> None:
    """Nothing, if the recipe's numbers fit one another.

    Raises:
        ModelError: They don't; the sentence says which and what would.
    """
    for field in fields(recipe):
        value = getattr(recipe, field.name)
        least = _LEAST.get(field.name)
        if least is not None and value < least:
            raise ModelError(f"The recipe {recipe.name!r} has {field.name} = {value}, but at least {least} is wanted.")
    for name in ("mean", "std"):
        if len(getattr(recipe, name)) != recipe.channels:
            raise ModelError(
                f"The recipe {recipe.name!r} has {recipe.channels} channels but {len(getattr(recipe, name))} numbers "
                f"in {name}: each channel wants one, such as {name} = {[0.5] * recipe.channels}."
            )
    _check_division(recipe, "image_size", recipe.image_size, "patch", recipe.patch)
    _check_division(recipe, "d_model", recipe.d_model, "heads", recipe.heads)
    if recipe.text is not None:
        _check_text(recipe)


def check_data(recipe: Recipe, data: "ImageData") -> None:
    """Nothing, if the recipe's classes are the data's.

    Raises:
        ModelError: They are not.
    """
    if len(recipe.classes) != len(data.class_names):
        raise ModelError(
            f"The recipe {recipe.name!r} has {len(recipe.classes)} classes, but {data.name!r} has "
            f"{len(data.class_names)}: write classes = {list(data.class_names)}."
        )


_LEAST = {
    **dict.fromkeys(("image_size", "patch", "channels", "d_model", "layers", "heads", "epochs", "batch_size"), 1),
    **dict.fromkeys(("seed", "registers", "mlp_ratio", "lr", "weight_decay", "warmup", "label_smoothing"), 0),
    **dict.fromkeys(("shift", "rotate", "zoom", "dropout", "position_std"), 0),
    "threads": 1,
}


def _check_division(recipe: Recipe, whole_name: str, whole: int, part_name: str, part: int) -> None:
    if whole % part:
        fitting = [n for n in range(1, whole + 1) if whole % n == 0]
        nearest = min(fitting, key=lambda n: abs(n - part))
        raise ModelError(
            f"The recipe {recipe.name!r} has {whole_name} = {whole} and {part_name} = {part}, which does not divide "
            f"it: write {part_name} = {nearest}."
        )


def _check_text(recipe: Recipe) -> None:
    if recipe.data != "sprites":
        raise ModelError(
            f"The recipe {recipe.name!r} has a text encoder, but {recipe.data!r} has no captions: write "
            f'data = "sprites", or leave out [text].'
        )
    assert recipe.text is not None
    _check_division(recipe, "text.d_model", recipe.text.d_model, "text.heads", recipe.text.heads)
    if min(recipe.text.embedding, recipe.text.layers, recipe.text.d_model) < 1 or recipe.text.temperature <= 0:
        raise ModelError(f"The recipe {recipe.name!r} has {recipe.text}: all of its numbers must be above 0.")
