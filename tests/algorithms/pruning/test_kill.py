"""A killed ACDC run goes on to the same bytes. All twenty kills: `.venv/bin/python .ci/kill_acdc.py`."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[3] / ".ci" / "kill_acdc.py"


def test_a_search_killed_at_moments_drawn_by_chance_ends_with_the_same_bytes():
    done = subprocess.run([sys.executable, SCRIPT, "--kills", "3"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("3 kills")
