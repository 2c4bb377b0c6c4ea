"""A circuit is drawn by its file's ending, and drawing needs neither torch nor matplotlib."""

import subprocess
import sys

import pytest
from vitcircuits.circuits.draw import draw_circuit, to_svg
from vitcircuits.models.errors import FormatError


def test_the_ending_decides(circuit, tmp_path, exhibit):
    shown = exhibit(circuit)
    assert circuit.draw(tmp_path / "c.svg", exhibit=shown).read_text(encoding="utf-8") == to_svg(circuit, exhibit=shown)
    assert draw_circuit(circuit, tmp_path / "c.DOT").read_text().startswith("digraph")
    assert draw_circuit(circuit, tmp_path / "c.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


@pytest.mark.parametrize("name", ["c.jpg", "c"])
def test_an_unknown_ending_is_said(circuit, tmp_path, name):
    with pytest.raises(FormatError, match=r"\.svg"):
        draw_circuit(circuit, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_nothing_heavy_is_imported_to_draw():
    code = (
        "import sys; from vitcircuits.circuits.draw import draw_circuit, write_html, to_dot, to_svg; "
        "heavy = ('torch', 'timm', 'torch_geometric', 'matplotlib', 'PIL', 'pandas'); "
        "print([name for name in heavy if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
