"""The table has a row per cell with every figure and its interval, to the last digit, and no times."""

import csv
from importlib.util import find_spec

import pandas
import pytest
from vitcircuits.algorithms.sweeps.outcomes import Outcome
from vitcircuits.algorithms.sweeps.sweep import run_sweep
from vitcircuits.algorithms.sweeps.table import save_table, sweep_table
from vitcircuits.circuits.figures import COLUMNS
from vitcircuits.circuits.report import Figure, Report
from vitcircuits.models.errors import TaskError


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


@pytest.mark.skipif(find_spec("pyarrow") is not None, reason="pyarrow is installed, so Parquet is not refused.")
def test_parquet_without_pyarrow_is_refused_before_anything_runs(tmp_path, cells, work):
    with pytest.raises(TaskError, match=r"vitcircuits\[parquet\]"):
        run_sweep(cells, tmp_path, work, workers=0, tables=["csv", "parquet"])
    assert work.done == []
