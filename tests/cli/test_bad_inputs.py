"""Bad inputs end with exit code 2 and one sentence, or with a right result; no traceback, no file lost.

`bad_inputs.py` draws them and runs each in a process with limits of memory and time.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("bad_inputs.py")
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="each case is a forked process")


@pytest.fixture(scope="module", params=[150, pytest.param(500, marks=pytest.mark.slow)])
def cases(request, tmp_path_factory):
    """What became of each case; of 150 all kinds are there."""
    folder, environment = tmp_path_factory.mktemp("bad"), {**os.environ, "BAD_INPUTS": str(request.param)}
    command = [sys.executable, SCRIPT, folder]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == request.param
    return found


def test_most_are_refused(cases):
    assert sum(case["code"] == 2 for case in cases) > 0.8 * len(cases)


def test_each_ends_with_one_sentence_or_a_right_result(cases):
    for case in cases:
        assert case["code"] in (0, 1, 2), case
        lines = [line for line in case["said"].splitlines() if line.startswith("vitcircuits: ")]
        assert len(lines) == (case["code"] == 2), case
        assert "Traceback" not in case["said"] and (case["code"] == 0 or len(case["said"]) < 3000), case
        assert case["code"] == 2 or not case["short"], case


def test_the_sentence_names_the_option_or_what_was_given(cases):
    for case in cases:
        flag, _, value = case["words"][-1].partition("=")
        if (
            case["code"] == 2
            and flag.startswith("--")
            and value
            and not case["short"]
            and "search would begin" not in case["said"]
        ):
            name = (value if flag == "--option" else flag.strip("-")).partition("=")[0]
            pattern = re.sub(r"\\\\?[-_]", "[-_ ]", re.escape(name[:40]))
            assert re.search(pattern, case["said"]) or value[:30] in case["said"], case


def test_no_file_is_lost_and_no_process_takes_much_memory_or_time(cases):
    assert not [case for case in cases if case["changed"]]
    assert not [case for case in cases if case["gigabytes"] > 4 or case["seconds"] > 20]
