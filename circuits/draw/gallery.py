"""The page's images: each pair with its patch grid, and where the circuit's heads look."""

from __future__ import annotations

from ..circuit import Circuit
from ..exhibit import Exhibit
from .picture import CHIPS, attention_image, caption, image_with_grid, png_uri
from .words import tag, text

_PAIRS, _HEADS = 6, 64
_SIZE = 150.0


def images(exhibit: Exhibit, circuit: Circuit) -> str:
    """The first pairs, clean beside partner."""
    tokens = circuit.graph.cfg.tokens
    chips = CHIPS if tokens.n_prefix else 0.0
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
    tokens = circuit.graph.cfg.tokens
    where = "from CLS" if tokens.has_cls else "averaged over all tokens"
    note = f"Attention {where} over the first clean image; the strongest patch of each head is fully coloured."
    if exhibit.n_prefix:
        note += " The number is the share of attention that goes to patches"
        note += ", the rest goes to CLS and registers." if tokens.n_registers else ", the rest goes to CLS itself."
    if len(heads) > _HEADS:
        note += f" The first {_HEADS} of {len(heads)} heads are shown."
    return tag("p", text(note)) + tag("div", *figures, class_="gallery heads")


def _thumbnail(exhibit: Exhibit, layer: int, head: int) -> str:
    pattern = exhibit.attention[0, layer, head, exhibit.n_prefix :]
    picture = png_uri(attention_image(exhibit.clean[0], pattern.reshape(exhibit.grid)))
    said = f"a{layer}.h{head}" + (f"  {pattern.sum():.2f}" if exhibit.n_prefix else "")
    image = f'<img alt="{text(said)}" src="{picture}">'
    return tag("figure", image, tag("figcaption", text(said)))


def _svg(content: list[str], width: float, height: float) -> str:
    size = f'width="{text(width)}" height="{text(height)}" viewBox="0 0 {text(width)} {text(height)}"'
    return f'<svg class="vc" {size}>{"".join(content)}</svg>'
