"""The README's Python examples run as they stand."""

import re
from pathlib import Path


def test_the_python_examples_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    text = (Path(__file__).parents[1] / "README.md").read_text()
    blocks, names = re.findall(r"```python\n(.*?)```", text, re.S), {}
    monkeypatch.chdir(tmp_path)
    found, finding, caching, opening = blocks[0], blocks[1:4], blocks[4], blocks[5]
    exec(compile(found, "README.md", "exec"), names)
    said = re.search(r"# (T = [\d.]+) \[", finding[0])
    for block in finding:
        exec(compile(block, "README.md", "exec"), names)
    written = capsys.readouterr().out
    assert "faithfulness" in written and said is not None and said[1] in written
    assert {path.name for path in tmp_path.iterdir()} == {"3v8.svg", "3v8.json", "acdc.jsonl", "heads.svg"}
    names["images"] = names["task"].discovery.clean
    exec(compile(caching, "README.md", "exec"), names)
    assert set(names["cache"]) == {"blocks.0.attn.hook_pattern", "blocks.1.attn.hook_pattern"}
    exec(compile(opening, "README.md", "exec"), names)
    assert "ridge" in capsys.readouterr().out
