"""Files are written whole or not at all, and what cannot be written or read is said."""

import os
from pathlib import Path

import pytest
from vitcircuits.models.errors import FormatError
from vitcircuits.models.files import read_text, write_bytes_atomic, write_text_atomic


def test_writing_makes_folders_and_leaves_nothing_else(tmp_path: Path):
    path = write_text_atomic(tmp_path / "a" / "b.txt", "ö\n")
    assert path.read_bytes() == "ö\n".encode()
    assert [p.name for p in path.parent.iterdir()] == ["b.txt"]


def test_a_name_that_is_not_utf8_can_be_written(tmp_path: Path):
    assert write_text_atomic(tmp_path / "a", "\udc80").read_text() == "\\udc80"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error):
    path = write_bytes_atomic(tmp_path / "a", b"old")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(FormatError if isinstance(error, OSError) else KeyboardInterrupt):
        write_bytes_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_said(tmp_path: Path):
    file = write_text_atomic(tmp_path / "file", "x")
    for path in (file / "under.json", tmp_path, Path(), tmp_path / "nul\0l"):
        with pytest.raises(FormatError, match="cannot write"):
            write_text_atomic(path, "y")
    assert list(tmp_path.iterdir()) == [file]


def test_what_cannot_be_read_is_said(tmp_path: Path):
    with pytest.raises(FormatError, match="there is no file"):
        read_text(tmp_path / "missing")
    with pytest.raises(FormatError, match="cannot read"):
        read_text(tmp_path)
    with pytest.raises(FormatError, match="not a text file"):
        read_text(write_bytes_atomic(tmp_path / "b", b"\xff\xfe"))


def test_what_is_no_file_is_written_to_and_stays_what_it_is(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_bytes_atomic(tmp_path / "pipe", b"data")
    assert os.read(reader, 9) == b"data"
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo() and len(list(tmp_path.iterdir())) == 1
