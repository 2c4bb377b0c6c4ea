"""A sweep runs what is not finished; what fails is a row; the table depends on the cells and their figures alone."""

import json

import pandas
import pytest
from vitcircuits.algorithms.sweeps.outcomes import read_outcome
from vitcircuits.algorithms.sweeps.sweep import run_sweep
from vitcircuits.models.errors import TaskError
from vitcircuits.models.files import lock_folder, unlock_folder


def statuses(outcomes):
    return [outcome.status for outcome in outcomes]


def test_one_cell_that_fails_is_a_row_with_its_error(tmp_path, cells, work):
    assert statuses(run_sweep(cells, tmp_path, work, workers=0)) == ["done", "done", "failed", "failed"]
    table = pandas.read_csv(tmp_path / "table.csv", keep_default_na=False)
    assert table["error"].tolist() == ["", ""] + ["TaskError: too\nbad & <sad>"] * 2
    record = json.loads((tmp_path / cells[2].folder / "error.json").read_text())
    assert record["traceback"][0].startswith("Traceback") and any("conftest.py" in line for line in record["traceback"])


def test_what_is_finished_or_failed_is_not_run_again_unless_asked(tmp_path, cells, work):
    run_sweep(cells, tmp_path, work, workers=0)
    run_sweep(cells, tmp_path, work, workers=0)
    assert work.done == [str(cell) for cell in cells]
    work.fails = False
    outcomes = run_sweep(cells, tmp_path, work, workers=0, retry_failed=True)
    assert work.done[4:] == [str(cell) for cell in cells[2:]]
    assert statuses(outcomes) == ["done"] * 4
    assert not (tmp_path / cells[2].folder / "error.json").exists()


def test_an_interrupted_sweep_has_its_table_and_goes_on_to_the_same_one(tmp_path, cells, work):
    def interrupted(cell, folder):
        if cell.algorithm == "bad":
            folder.mkdir(parents=True)
            (folder / ".circuit.json.0f.tmp").touch()  # what a killed process was about to write
            raise KeyboardInterrupt
        work(cell, folder)

    with pytest.raises(KeyboardInterrupt):
        run_sweep(cells, tmp_path / "twice", interrupted, workers=0)
    table = pandas.read_csv(tmp_path / "twice" / "table.csv")
    assert table["status"].tolist() == ["done", "done", "not run", "not run"]
    assert not list((tmp_path / "twice").rglob("*.tmp"))
    run_sweep(cells, tmp_path / "twice", work, workers=0)
    run_sweep(cells, tmp_path / "once", work, workers=0)
    assert work.done[:4] == [str(cell) for cell in cells]
    for name in ("table.csv", "index.html"):
        assert (tmp_path / "twice" / name).read_bytes() == (tmp_path / "once" / name).read_bytes(), name


def test_a_run_that_is_not_over_or_damaged_is_not_run_yet(tmp_path, cells, work):
    run_sweep(cells[:2], tmp_path, work, workers=0)
    record = tmp_path / cells[0].folder / "run.json"
    whole = record.read_text()
    record.write_text(whole.replace('"done"', '"running"'))
    assert statuses(read_outcome(cell, tmp_path) for cell in cells[:2]) == ["not run", "done"]
    lock_folder(record.parent)
    assert statuses(read_outcome(cell, tmp_path) for cell in cells[:2]) == ["running", "done"]
    unlock_folder(record.parent)
    record.write_text(whole)
    (tmp_path / cells[0].folder / "report.json").write_text("{")
    (tmp_path / cells[1].folder / "circuit.json").unlink()
    assert statuses(read_outcome(cell, tmp_path) for cell in cells[:2]) == ["not run"] * 2


def test_a_run_that_leaves_nothing_is_an_error(tmp_path, cells):
    outcomes = run_sweep(cells[:1], tmp_path, print, workers=0)
    assert (outcomes[0].status, outcomes[0].error) == ("failed", "the run left no results")


def test_two_sweeps_do_not_run_in_one_folder(tmp_path, cells, work):
    def another(cell, folder):
        with pytest.raises(TaskError, match="another sweep"):
            run_sweep(cells, tmp_path, work, workers=0)
        work(cell, folder)

    assert statuses(run_sweep(cells[:1], tmp_path, another, workers=0)) == ["done"]
