"""The README's first Python example runs as it stands."""

import re
from pathlib import Path


def test_the_first_python_example_runs(tmp_path, monkeypatch, capsys):
    text = (Path(__file__).parents[1] / "README.md").read_text()
    block = re.findall(r"```python\n(.*?)```", text, re.S)[0]
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})
    assert "faithfulness" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"3v8.svg", "3v8.json"}
