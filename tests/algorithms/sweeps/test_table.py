"""The table has a row per cell with every figure and its interval, to the last digit, and no times.

The overview opens offline: nothing is loaded, what came from outside is escaped, no other script may run.
"""

import base64
import csv
import hashlib
import re
from xml.etree import ElementTree

import numpy as np
import pandas
import pytest
from vitcircuits.algorithms.sweeps.outcomes import Outcome
from vitcircuits.algorithms.sweeps.sweep import run_sweep
from vitcircuits.algorithms.sweeps.table import save_table, sweep_page, sweep_table
from vitcircuits.circuits.draw.curve import HEIGHT, WIDTH, sparkline
from vitcircuits.circuits.figures import COLUMNS
from vitcircuits.circuits.report import Curve, Figure, Report
from vitcircuits.models.errors import FormatError


@pytest.fixture
def outcomes(tmp_path, cells, work):
    return run_sweep(cells, tmp_path, work, workers=0)


def test_a_row_holds_the_figures_with_their_intervals(outcomes):
    row = sweep_table(outcomes).iloc[1]
    wanted = {"model": "m", "task": "3 vs 8", "algorithm": "eap", "seed": 1, "status": "done", "n_edges": 25}
    wanted |= {"n_graph": 100, "size": 0.25, "n_pairs": 8, "faithfulness": 4 / 3, "faithfulness_low": 4 / 3 - 0.5}
    assert {name: row[name] for name in wanted} == wanted
    assert row["undefined"] == "cmd: no <scores>" and pandas.isna(row["cmd"]) and pandas.isna(row["n_nodes"])


def outcome_of(cell, figures):
    return Outcome(cell, "done", Report(figures, (), 25, 100, 8))


def test_what_reads_the_image_stands_first_and_one_sided_faithfulness_last(outcomes):
    names = [name for name in sweep_table(outcomes).columns if name in COLUMNS]
    assert names[:4] == ["transmission", "leakage", "reproduced_variation", "right"] and names[-1] == "faithfulness"


def test_a_figure_that_a_report_lacks_is_absent_and_not_undefined(cells):
    older = outcome_of(cells[0], {"faithfulness": Figure(0.5), "kl": Figure(None, reason="why")})
    crossed = outcome_of(cells[1], {"transmission": Figure(0.25), "one_sided_faithfulness": Figure(0.75, low=0.7)})
    first, second = (row for _, row in sweep_table([older, crossed]).iterrows())
    assert pandas.isna(first["transmission"]) and first["faithfulness"] == 0.5 and first["undefined"] == "kl: why"
    assert (second["transmission"], second["faithfulness"], second["faithfulness_low"]) == (0.25, 0.75, 0.7)
    assert pandas.isna(second["cpr"]) and second["undefined"] == ""


def test_the_page_says_what_has_become_of_each_cell(cells):
    said = ("running", "not run", "stale", "failed")
    page = sweep_page([Outcome(cell, one, error="<why>") for cell, one in zip(cells, said, strict=True)])
    assert "4 cells: 1 running, 1 not run, 1 stale, 1 failed." in page
    assert '<span class="soft">running</span>' in page and "not run yet" in page
    assert f'<a href="{cells[2].folder}/circuit.html">stale</a>: &lt;why&gt;' in page
    assert f'<a href="{cells[3].folder}/error.json">failed</a>: &lt;why&gt;' in page


def test_rows_are_in_the_order_of_the_cells_and_point_to_their_folders(tmp_path, outcomes):
    table = sweep_table(outcomes)
    assert [(*row,) for row in table[["algorithm", "seed"]].itertuples(index=False)] == [
        ("eap", 0), ("eap", 1), ("bad", 0), ("bad", 1)
    ]  # fmt: skip
    assert all((tmp_path / folder).is_dir() for folder in table["folder"])


def test_numbers_are_written_to_the_last_digit_and_times_apart(tmp_path, outcomes):
    text = (tmp_path / "table.csv").read_text()
    assert float(next(csv.DictReader(text.splitlines()))["faithfulness"]) == 1 / 3
    seconds = pandas.read_csv(tmp_path / "seconds.csv")
    assert seconds["evaluation"].tolist() == [3.0, 3.0] and "seconds" not in text


def test_parquet_holds_the_same_table(tmp_path, outcomes):
    pytest.importorskip("pyarrow", reason="Parquet needs pyarrow, from the extra parquet.")
    again = pandas.read_parquet(save_table(outcomes, tmp_path / "table.parquet"))
    pandas.testing.assert_frame_equal(again, sweep_table(outcomes), check_dtype=False)


def test_parquet_without_pyarrow_is_refused_before_anything_runs(tmp_path, cells, work, monkeypatch):
    monkeypatch.setattr("vitcircuits.circuits.formats.plain.find_spec", lambda name: None)
    with pytest.raises(FormatError, match=r"vitcircuits\[parquet\]"):
        run_sweep(cells, tmp_path, work, workers=0, tables=["csv", "parquet"])
    assert work.done == []


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
    assert headings(page)[6:] == ["transmission", "faithfulness (one-sided)"]
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
