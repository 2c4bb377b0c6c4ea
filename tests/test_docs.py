"""The examples of the documentation run as they stand, one after the other."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("name", ["positions"])
def test_the_examples_of_a_page_run(name, capsys):
    known = {}
    for block in re.findall(r"```python\n(.*?)```", (DOCS / f"{name}.md").read_text(), re.S):
        exec(block, known)
    said = dict(re.findall(r"from input@(\w+): ([\d.]+) logits", capsys.readouterr().out))
    assert float(said["background"]) < 0.02 * float(said["object"])
