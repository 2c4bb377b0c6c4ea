from .curve import curves_svg as curves_svg
from .curve import draw_curves as draw_curves
from .dot import to_dot as to_dot
from .pages import to_html as to_html
from .pages import write_html as write_html
from .svg import draw_circuit as draw_circuit
from .svg import to_svg as to_svg
