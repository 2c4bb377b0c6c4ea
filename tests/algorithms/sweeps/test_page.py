"""The overview opens offline: nothing is loaded, what came from outside is escaped, no other script may run."""

import base64
import hashlib
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from vitcircuits.algorithms.sweeps.outcomes import Outcome
from vitcircuits.algorithms.sweeps.sweep import run_sweep
from vitcircuits.algorithms.sweeps.table import sweep_page
from vitcircuits.circuits.draw.curve import HEIGHT, WIDTH, sparkline
from vitcircuits.circuits.report import Curve, Figure, Report


@pytest.fixture
def page(tmp_path, cells, work):
    return sweep_page(run_sweep(cells, tmp_path, work, workers=0))


def test_every_cell_is_a_row_with_a_link_to_its_circuit_or_its_error(page, cells):
    rows = page.split("<tbody>")[1].split("</tr>")[: len(cells)]
    for row, cell in zip(rows, cells, strict=True):
        assert f'href="{cell.folder}/{"error.json" if cell.algorithm == "bad" else "circuit.html"}"' in row
    assert "too\nbad &amp; &lt;sad&gt;" in rows[2] and 'title="no &lt;scores&gt;"' in rows[0]
    assert "[-0.167, 0.833]" in rows[0] and f'data-v="{1 / 3}"' in rows[0]


def headings(page):
    return re.findall(r"<button>(.*?)</button>", page.split("<tbody>")[0])


def test_columns_are_those_that_some_report_has_and_what_one_lacks_is_a_dash(cells):
    older = Report({"faithfulness": Figure(0.5, low=0.4, high=0.6)}, (), 25, 100, 8)
    crossed = Report({"transmission": Figure(0.25), "one_sided_faithfulness": Figure(0.75)}, (), 25, 100, 8)
    outcomes = [Outcome(cells[0], "done", older), Outcome(cells[1], "done", crossed)]
    page = sweep_page(outcomes)
    assert headings(page)[5:-1] == ["transmission", "faithfulness (one-sided)"]
    rows = page.split("<tbody>")[1].split("</tr>")
    assert 'no such figure">\N{EN DASH}' in rows[0] and "0.500" in rows[0]
    assert "0.250" in rows[1] and "0.750" in rows[1] and "no such figure" not in rows[1]
    assert "0.625<small>0.500 to 0.750</small>" in page.split("<tbody>")[2]
    assert "transmission" not in headings(sweep_page(outcomes[:1]))


def test_nothing_is_loaded_and_only_its_own_script_may_run(page):
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)
    assert script is not None and page.count("<script") == 1
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in page
    assert not re.search(r"https?:|src=|@import|url\(", page)


def test_a_sparkline_stays_inside_its_frame_whatever_the_values():
    sizes = np.array([0, 1, 7, 50])
    curves = [
        Curve(label, sizes, sizes, np.array(values))
        for label, values in {"eap": [0, -3.0, np.nan, 9.0], "random circuits": [0.0, np.inf, 0.1, 1.0]}.items()
    ]
    figures = ({"faithfulness": Figure(7.0)}, {"transmission": Figure(7.0), "one_sided_faithfulness": Figure(0.2)})
    drawn = [sparkline(Report(some, tuple(curves), 50, 50, 3)) for some in figures]
    assert drawn[0] == drawn[1]
    drawing = ElementTree.fromstring(drawn[0])
    lines = drawing.findall("polyline")
    assert len(lines) == 2 and len(drawing.findall("circle")) == 1
    for line in lines:
        points = [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
        assert len(points) == 2 and all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)


def test_a_report_without_curves_has_no_sparkline():
    assert sparkline(Report({}, (), 0, 1, 3)) == ""


def test_seeds_are_put_together_with_their_range(page, tmp_path, cells, work):
    rows = page.split("<tbody>")[2].split("</tr>")
    assert "2 of 2" in rows[0] and "0.833<small>0.333 to 1.333</small>" in rows[0]
    assert "0 of 2" in rows[1]
    one = sweep_page(run_sweep(cells[:1], tmp_path / "one", work, workers=0))
    assert "Seeds together" not in one
