"""Bars and lines are for whoever watches, and one setting holds for all."""

import time

import pytest
from vitcircuits.models import show_progress
from vitcircuits.models.errors import VitCircuitsError
from vitcircuits.models.watching import VARIABLE, progress_bar, say, watched


@pytest.fixture(autouse=True)
def unsaid(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    yield
    show_progress(None)


def test_who_asks_goes_before_the_setting_that_before_the_environment_and_that_before_the_terminal(monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert watched()
    monkeypatch.setenv(VARIABLE, "0")
    assert not watched()
    show_progress(True)
    assert watched() and not watched(False)
    show_progress(None)
    assert not watched() and watched(True)


def test_in_a_script_nothing_is_said(capsys):
    with progress_bar("searching", 2) as bar:
        bar.update()
    say("loading ...")
    assert capsys.readouterr() == ("", "")


def test_a_line_and_a_bar_go_to_stderr(capsys, monkeypatch):
    monkeypatch.setattr("vitcircuits.models.watching.DELAY", 0)
    show_progress(True)
    say("loading ...")
    with progress_bar("searching", 2) as bar:
        bar.update()
    out, err = capsys.readouterr()
    assert not out and err.startswith("loading ...\n") and "searching" in err


def test_an_environment_that_makes_no_sense_is_refused(monkeypatch):
    monkeypatch.setenv(VARIABLE, "yes")
    with pytest.raises(VitCircuitsError, match="neither 0 nor 1"):
        watched()


def test_a_bar_tells_the_time_without_spoiling_its_rate(capsys, monkeypatch):
    monkeypatch.setattr("vitcircuits.models.watching.DELAY", 0.1)
    with progress_bar("searching", 4, shown=True) as bar:
        time.sleep(1.6)
        told = capsys.readouterr().err
        bar.update()
        assert ("searching" in told and bar.format_dict["rate"] is None) or bar._ema_dt() > 1.5


def test_a_bar_that_came_while_nothing_was_counted_goes(capsys, monkeypatch):
    monkeypatch.setattr("vitcircuits.models.watching.DELAY", 0.3)
    with progress_bar("searching", 4, shown=True):
        told, end = "", time.monotonic() + 10
        while "searching" not in told and time.monotonic() < end:
            time.sleep(0.05)
            told += capsys.readouterr().err
    assert "searching" in told and capsys.readouterr().err.endswith("\r")
