"""A killed search goes on to the same bytes. Twenty kills: `.venv/bin/python .ci/kill_search.py`."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / ".ci" / "kill_search.py"


@pytest.mark.parametrize("algorithm", ["acdc", "learned_masks"])
def test_a_search_killed_at_moments_drawn_by_chance_ends_with_the_same_bytes(algorithm):
    command = [sys.executable, SCRIPT, "--algorithm", algorithm, "--kills", "2", "--pairs", "8"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("2 kills")
