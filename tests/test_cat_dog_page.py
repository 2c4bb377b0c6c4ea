"""The cat-dog page, written by the example from the toy: every section, every picture, and nothing measured twice."""

import re
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_one_command_writes_the_page_and_goes_on_from_what_is_there(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    import cat_dog_decider

    page, out = tmp_path / "page.md", tmp_path / "out"
    page.write_text(f"before\n{cat_dog_decider.BEGIN}\nformer\n{cat_dog_decider.END}\nafter\n")
    command = ["--quick", "--out", str(out), "--write", str(page)]
    cat_dog_decider.main(command)
    said, steps = page.read_text(), cat_dog_decider.STEPS
    assert said.startswith("before\n") and said.endswith("after\n") and "former" not in said and "nan" not in said
    assert re.findall(r"^### \d\. (.*)$", said, re.M) == list(steps.values())
    pictures = re.findall(r"!\[.*?\]\((page-[\w-]+\.png)\)", said)
    assert {path.name for path in tmp_path.glob("*.png")} == set(pictures) and len(pictures) == 5
    monkeypatch.setattr(cat_dog_decider, "STEPS", {_refused(step): title for step, title in steps.items()})
    cat_dog_decider.main(command)
    assert page.read_text() == said


def _refused(step):
    def refused(study, facts):
        raise AssertionError(f"{step.__name__} was measured before")

    refused.__name__ = step.__name__
    return refused
