"""The page's images: each pair with its patch grid, and where the circuit's heads look."""

from __future__ import annotations

from ...models.config import VitConfig
from ..circuit import Circuit
from ..exhibit import Exhibit
from .picture import attention_image, caption, chips_width, image_with_grid, png_uri, without_pixels
from .words import tag, text

_PAIRS, _HEADS = 6, 64
_SIZE = 150.0
_OTHERS = {"cls": "CLS", "dist": "the distillation token", "reg": "registers"}  # nothing attends to the pool's token


def images(exhibit: Exhibit, circuit: Circuit) -> str:
    """The first pairs, clean beside partner."""
    tokens = circuit.graph.cfg.tokens
    chips = chips_width(tokens)
    pairs = []
    for pair in range(min(_PAIRS, len(exhibit.clean))):
        figures = []
        for which, pictures in (("clean", exhibit.clean), ("corrupt", exhibit.corrupt)):
            image, said = pictures[pair], caption(exhibit, pair, which, length=80)
            wide = chips + _SIZE * image.shape[1] / image.shape[0] + 1
            drawing = image_with_grid(image, tokens, x=chips, y=0.5, size=_SIZE, alt=said)
            figures.append(tag("figure", _svg(drawing, wide, _SIZE + 1), tag("figcaption", text(said))))
        pairs.append(tag("div", *figures, class_="pair"))
    return tag("div", *pairs, class_="gallery") if pairs else ""


def attention(exhibit: Exhibit, circuit: Circuit) -> str:
    """One thumbnail per head of the circuit, over the first clean image."""
    heads = sorted(
        {(end.layer, end.head) for edge in circuit for end in (edge.source, edge.destination) if end.head >= 0}
    )
    if not heads or not len(exhibit.attention) or exhibit.grid[0] * exhibit.grid[1] == 0:
        return ""
    figures = [_thumbnail(exhibit, layer, head) for layer, head in heads[:_HEADS]]
    cfg = circuit.graph.cfg
    note = f"Attention {_where(cfg)} over the first clean image; the strongest patch of each head is fully coloured."
    others = [name for name in without_pixels(cfg.tokens) if name in _OTHERS]
    if others:
        rest = "CLS itself" if others == ["cls"] else " and ".join(_OTHERS[name] for name in others)
        note += f" The number is the share of attention that goes to patches, the rest goes to {rest}."
    if len(heads) > _HEADS:
        note += f" The first {_HEADS} of {len(heads)} heads are shown."
    return tag("p", text(note)) + tag("div", *figures, class_="gallery heads")


def _where(cfg: VitConfig) -> str:
    """Which tokens attention is shown from."""
    tokens = cfg.tokens
    where = "averaged over all tokens"
    if tokens.has_cls:
        where = "from CLS and the distillation token" if tokens.has_dist else "from CLS"
    return f"{where} (in layer {cfg.n_layers - 1}, attention pooling, from the pool)" if cfg.pools else where


def _thumbnail(exhibit: Exhibit, layer: int, head: int) -> str:
    pattern = exhibit.on_patches(0, layer, head)
    picture = png_uri(attention_image(exhibit.clean[0], pattern))
    said = f"a{layer}.h{head}" + (f"  {pattern.sum():.2f}" if exhibit.n_prefix else "")
    image = f'<img alt="{text(said)}" src="{picture}">'
    return tag("figure", image, tag("figcaption", text(said)))


def _svg(content: list[str], width: float, height: float) -> str:
    size = f'width="{text(width)}" height="{text(height)}" viewBox="0 0 {text(width)} {text(height)}"'
    return f'<svg class="vc" {size}>{"".join(content)}</svg>'
