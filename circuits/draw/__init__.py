"""Pictures of circuits; nothing here knows a model."""

from typing import TYPE_CHECKING

from ...models.lazy import lazy_names

if TYPE_CHECKING:
    from ..formats import draw_circuit as draw_circuit
    from .curve import curves_svg as curves_svg
    from .curve import draw_curves as draw_curves
    from .dot import to_dot as to_dot
    from .pages import to_html as to_html
    from .pages import write_html as write_html
    from .svg import to_svg as to_svg

__all__ = ["curves_svg", "draw_circuit", "draw_curves", "to_dot", "to_html", "to_svg", "write_html"]

_HOMES = {
    "curves_svg": ".curve",
    "draw_circuit": "..formats",
    "draw_curves": ".curve",
    "to_dot": ".dot",
    "to_html": ".pages",
    "to_svg": ".svg",
    "write_html": ".pages",
}
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
