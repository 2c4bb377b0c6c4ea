"""Blocks of a page of docs run as they are written, one after the other."""

import re
import shlex
from pathlib import Path

import pytest
from vitcircuits.cli.main import main

DOCS = Path(__file__).parents[1] / "docs"


WRITTEN = {
    "attention.md": {"heads.svg", "heads.html", "heads.png"},
    "heads.md": {"heads.csv", "heads.svg", "heads.png", "neurons.png", "neurons.svg", "probes.svg", "maps.svg"},
}


@pytest.mark.parametrize("page", WRITTEN)
def test_blocks_run_as_they_are_written(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for language, block in re.findall(r"```(python|bash)\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.S):
        if language == "python":
            exec(compile(block, page, "exec"), names)
        for line in block.splitlines() if language == "bash" else ():
            assert main(shlex.split(line)[1:]) == 0
    assert {path.name for path in tmp_path.iterdir()} == WRITTEN[page]
