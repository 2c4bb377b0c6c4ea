"""A killed search goes on to the same bytes, also on another number of processes.

Twenty kills: `.venv/bin/python .ci/kill_search.py`.
"""

import subprocess
import sys
from pathlib import Path

import pytest

SEARCHES = ("acdc", "learned_masks", "budgeted_pruning")
SCRIPT = Path(__file__).parents[3] / ".ci" / "kill_search.py"


SLOW = pytest.mark.slow
CASES = [("acdc", 2), ("learned_masks", 2), *(pytest.param(name, 10, marks=SLOW) for name in SEARCHES)]


@pytest.mark.parametrize(("algorithm", "kills"), CASES)
def test_a_search_killed_at_moments_drawn_by_chance_ends_with_the_same_bytes(algorithm, kills):
    command = [sys.executable, SCRIPT, "--algorithm", algorithm, "--kills", str(kills), "--pairs", "4"]
    command += ["--processes", "1,2" if kills == 2 else "1,2,4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"{kills} kills")
