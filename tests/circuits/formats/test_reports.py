"""A report saved and loaded has the same figures and curves."""

import json
from pathlib import Path

import numpy as np
import pytest
from vitcircuits.circuits.formats.json import load_report, report_from_dict, report_to_dict, save_report
from vitcircuits.circuits.report import Curve, Figure, Report
from vitcircuits.models.errors import FormatError


@pytest.fixture
def report() -> Report:
    n = np.array([0, 5, 10])
    figures = {
        "faithfulness": Figure(0.875, "share", 0.8, 0.9, method="mean over pairs, bootstrap over pairs"),
        "kl": Figure(None, "nats", reason='<NA> & "none"'),
        "odd": Figure(float("nan"), low=float("-inf")),
    }
    curves = (
        Curve("eap_ig", n, n, np.array([0.0, np.nan, 1.0])),
        Curve("random", n, n, np.array([0.0, 0.2, 1.0]), np.array([0.0, 0.1, 1.0]), np.array([0.0, 0.3, 1.0])),
    )
    return Report(figures, curves, 5, 10, 12, {"metric": "logit_difference", "classes": ("NA", "ö")})


def test_law_9_saved_and_loaded_is_equal(report: Report, tmp_path: Path):
    again = load_report(save_report(report, tmp_path / "report.json"))
    assert report_to_dict(again) == report_to_dict(report)
    assert again.figures["faithfulness"] == report.figures["faithfulness"]
    assert again.figures["kl"] == report.figures["kl"]
    assert (again.n_edges, again.n_graph, again.n_pairs) == (5, 10, 12)
    assert again.curves[0].low is None
    np.testing.assert_array_equal(again.curves[0].faithfulness, report.curves[0].faithfulness)
    np.testing.assert_array_equal(again.curves[1].high, report.curves[1].high)
    assert again.curves[0].n_edges.dtype == np.int64
    assert str(report_from_dict(report_to_dict(report))) == str(report)


def test_every_figure_says_its_method(report: Report, tmp_path: Path):
    data = json.loads(save_report(report, tmp_path / "report.json").read_text("utf-8"))
    assert data["schema"] == "vitcircuits.report/1"
    assert set(data["figures"]["kl"]) == {"value", "unit", "low", "high", "reason", "method"}


@pytest.mark.parametrize("key", ["schema", "figures", "curves", "n_pairs", "method"])
def test_a_report_that_lacks_something_is_refused(report: Report, key: str):
    data = report_to_dict(report)
    del data[key]
    with pytest.raises(FormatError, match=key):
        report_from_dict(data)


def test_what_is_no_report_is_refused(report: Report, tmp_path: Path):
    data = report_to_dict(report)
    data["curves"][0]["n_edges"] = ["many"]
    with pytest.raises(FormatError, match="cannot be read"):
        report_from_dict(data)
    (tmp_path / "a.json").write_text('{"schema": "vitcircuits.circuit/1"}')
    with pytest.raises(FormatError, match="something else"):
        load_report(tmp_path / "a.json")
