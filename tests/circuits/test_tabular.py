"""Every result that is a table can be printed, framed, written, drawn and shown in a notebook, with its caveat."""

import numpy as np
import pandas
import pytest
from vitcircuits.algorithms import LogitAttribution, TokenEffect
from vitcircuits.algorithms.benchmark import Benchmark, Row
from vitcircuits.circuits import Circuit, compile_graph
from vitcircuits.circuits.checks.robustness import Robustness
from vitcircuits.circuits.compare import describe
from vitcircuits.circuits.effect_table import PatchTable
from vitcircuits.circuits.report import Curve, Figure, Report, Table, Tabular
from vitcircuits.models import load_vit
from vitcircuits.models.errors import FormatError

FIGURE = Figure(0.25, "share", 0.125, 0.5)
NONE = Figure(None, reason="a <reason>")


KINDS = ("table", "report", "curve", "spread", "benchmark", "direct", "tokens", "anatomy", "effects")


def make(kind: str):
    if kind == "table":
        return Table(("what", "one", "other"), (("a <b>", FIGURE, NONE), ("c", NONE, FIGURE)), "how & why")
    if kind in ("report", "curve"):
        n = np.arange(1, 4)
        curves = (Curve("eap", n, n, n / 4.0),) if kind == "curve" else ()
        told = {"sides": "one", "sides_in_words": "how & why"}
        return Report({"faithfulness": FIGURE, "cpr": NONE}, curves, 3, 9, 4, told)
    if kind == "spread":
        return Robustness({("mean", "kl"): FIGURE, ("zero", "kl"): NONE}, FIGURE, FIGURE, "edge", 8)
    if kind == "benchmark":
        return Benchmark([Row("eap", "planted/a", roc_auc=0.25), Row("acdc", "planted/a", error="a <reason>")])
    if kind == "direct":
        return LogitAttribution(
            np.arange(12.0).reshape(2, 3, 2), np.ones(2), np.ones(2), ("a", "<b>", "c"), ("cls", "r")
        )
    if kind == "tokens":
        return TokenEffect(FIGURE, FIGURE, np.ones(2), np.zeros(2))
    if kind == "anatomy":
        return describe(Circuit.full(compile_graph(load_vit("planted/bright-column"))))
    values = np.arange(8.0).reshape(2, 2, 2, 1)
    ends = {"clean": np.ones(2), "corrupt": np.zeros(2)}
    return PatchTable(values=values, flips=values > 1, direction="noising", what="z", tokens=("all",), **ends)


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_can_do_all_that_tables_can(kind, tmp_path):
    table = make(kind)
    frame = table.frame()
    again = pandas.read_csv(table.save(tmp_path / "table.csv"))
    assert list(again.columns) == list(frame.columns) and len(again) == len(frame) > 0
    assert table.draw(tmp_path / "a.svg").read_bytes() == table.draw(tmp_path / "b.svg").read_bytes()
    shown = table._repr_html_()
    assert "<table" in shown and "<b>" not in shown.replace(f"<b>{table.headline}</b>", "")
    assert str(table)
    with pytest.raises(FormatError, match=r"table\.csv"):
        table.save(tmp_path / "table.xls")


def test_a_result_without_a_table_cannot_be_made():
    class Bare(Tabular):
        pass

    with pytest.raises(TypeError, match="table"):
        Bare()


def test_figures_keep_their_intervals_in_a_frame_and_the_caveat_stands_below():
    table = make("table")
    assert list(table.frame().columns) == ["what", "one", "one_low", "one_high", "other", "other_low", "other_high"]
    assert table.frame()["one"].tolist()[0] == 0.25 and np.isnan(table.frame()["other"][0])
    assert "how &amp; why" in table._repr_html_() and "how &amp; why" in make("report")._repr_html_()
