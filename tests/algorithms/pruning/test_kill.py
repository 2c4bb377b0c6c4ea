"""A killed search goes on to the same bytes, also on another number of processes.

Twenty kills: `.venv/bin/python .ci/kill_search.py`.
"""

import subprocess
import sys
from pathlib import Path

import pytest

SEARCHES = ("acdc", "learned_masks", "budgeted_pruning")
SCRIPT = Path(__file__).parents[3] / ".ci" / "kill_search.py"


QUICK = (("acdc", "learned_masks"), 2, "1,2", "block")  # two kills of each, on a graph of few edges
SLOW = [pytest.param((name,), 10, "1,2,4", "qkv", marks=pytest.mark.slow) for name in SEARCHES]


@pytest.mark.parametrize(("algorithms", "kills", "processes", "ports"), [QUICK, *SLOW])
def test_a_search_killed_at_moments_drawn_by_chance_ends_with_the_same_bytes(algorithms, kills, processes, ports):
    command = [sys.executable, SCRIPT, "--algorithm", *algorithms, "--kills", str(kills), "--pairs", "4"]
    done = subprocess.run(
        [*command, "--processes", processes, "--ports", ports], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(algorithms) and all(line.startswith(f"{kills} kills") for line in lines), done.stdout
