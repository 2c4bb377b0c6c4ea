"""README and docs as a stranger meets them: every block, as it is written, in a terminal that writes down what is said.

A page's Python blocks are one program, a block behind `<!-- not run: why -->` left out; commands are those of the pages
on the command line.

A silence is told in seconds in which the process both had time and used it, so that a busy machine makes none. Python's
imports come first, since what they take is not ours.
"""

import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMANDS = (
    "docs/command-line.md",
    "docs/sweep.md",
    "docs/attention.md",
    "docs/heads.md",
    "docs/lenses.md",
    "docs/scale.md",
)
DATA = os.environ.get("VITCIRCUITS_TEST_DATA")
LONGEST = 4.0 if "PYTEST_XDIST_WORKER" in os.environ else 2.0
"""Seconds of silence; twice as many beside other tests, since two processes on the halves of one core take twice the
processor time."""

SENTENCES = {
    "discover": r"^T = .+ with [\d,]+ of [\d,]+ edges \(\d+%\): .*(image|part).*\.$",
    "evaluate": r"^T = .+ with [\d,]+ of [\d,]+ edges \(\d+%\): .*(image|part).*\.$",
    "stability": r"^Jaccard .+ by chance: .+\.$",
    "partners": r"^the circuits of .+ have least in common, .+\.$",
    "compare": r"^(open|files in|wrote) .+$",
    "draw": r"3v8\.svg",
    "export": r"3v8\.graphml",
    "sweep": r"^\d+ cells: \d+ done\.$",
    "heads": r"^wrote heads\.",
    "catalogue": r"^wrote (heads|neurons)\.",
    "lens": r"lens\.html",
}
"""Command -> the line that it does not end without."""


def blocks(page: str, language: str) -> list[str]:
    text = re.sub(r"<!-- not run: .*? -->\n```.*?```", "", (ROOT / page).read_text(), flags=re.S)
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


def commands() -> list[str]:
    joined = [re.sub(r"\\\n\s*", "", block) for page in COMMANDS for block in blocks(page, "bash")]
    return [line for block in joined for line in block.splitlines() if line.strip()]


def programs() -> list[str]:
    pages = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
    return [page for page in pages if blocks(page, "python")]


@dataclass
class Session:
    """What a terminal saw: the text, the exit code, and the longest silence with the word that broke it."""

    text: str
    code: int
    silence: float
    broken_by: str

    @property
    def lines(self) -> list[str]:
        """What stood in a line at any time, a bar's last state among them."""
        return re.split(r"[\r\n]+", self.text.replace("\x1b[K", ""))


def in_a_terminal(argv: list[str], folder: Path, *, counts_from: str = "") -> Session:
    """Runs a command with a terminal of its own; silences count once a word has been said."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.execvpe(argv[0], argv, surroundings())
    return watched(pid, terminal, lambda: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), counts_from)


def surroundings() -> dict[str, str]:
    usual = {name: value for name, value in os.environ.items() if name != "VITCIRCUITS_PROGRESS"}
    return {**usual, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def watched(pid: int, terminal: int, ended: Callable[[], int], counts_from: str = "") -> Session:
    """What a process says in its terminal until it ends, which `ended` waits for."""
    termios.tcsetwinsize(terminal, (40, 120))
    text, worst, broken_by, before = b"", 0.0, "", (time.monotonic(), 0.0)
    while True:
        readable, _, _ = select.select([terminal], [], [], 0.25)
        try:
            said = os.read(terminal, 65536) if readable else b""
        except OSError:  # the other end is closed
            break
        now = (time.monotonic(), processor_seconds(pid))
        if not said:
            if readable:
                break
            continue
        silence = min(now[0] - before[0], max(0.0, now[1] - before[1]))
        if counts_from.encode() in text and silence > worst:
            worst, broken_by = silence, said.decode(errors="replace")[:80]
        text, before = text + said, now
    os.close(terminal)
    return Session(text.decode(errors="replace"), ended(), worst, broken_by)


def processor_seconds(pid: int) -> float:
    """Of a process and its children, those included that it has waited for; of several threads that of the busiest."""
    total, ticks = 0.0, os.sysconf("SC_CLK_TCK")
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = _fields(entry)
            if int(fields[3]) == pid:  # its session
                threads = [_fields(task)[11:13] for task in entry.parent.glob("task/*/stat")]
                total += (max(sum(map(int, own)) for own in threads) + sum(map(int, fields[13:15]))) / ticks
        except (OSError, ValueError):  # it has ended meanwhile
            continue
    return total


def _fields(entry: Path) -> list[str]:
    return entry.read_text().rpartition(")")[2].split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("stranger")
    (where / "sweep.toml").write_text(blocks("docs/sweep.md", "toml")[0])
    return where


FORKS = """
import os, shlex, sys
import matplotlib.pyplot, networkx, pandas, sklearn.datasets, timm, torch
from vitcircuits.cli.main import main
for request in sys.stdin:
    name, *sys.argv = shlex.split(request)
    terminal = os.open(name, os.O_RDWR | os.O_NOCTTY)
    if pid := os.fork():
        os.close(terminal)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    else:
        os.setsid()
        for stream in range(3):
            os.dup2(terminal, stream)
        os.close(terminal)
        sys.stdout.reconfigure(line_buffering=True)
        sys.exit(main(sys.argv[1:]))
"""
"""Runs commands of ours, each in a process that has what Python imports: to import it anew for each takes as long as
most of them."""


@pytest.fixture(scope="module")
def forks(folder):
    (folder / "forks.py").write_text(FORKS)
    command, pipe = [sys.executable, "forks.py"], subprocess.PIPE
    with subprocess.Popen(command, cwd=folder, env=surroundings(), stdin=pipe, stdout=pipe, text=True) as server:
        assert server.stdin and server.stdout

        def run(line: str) -> Session:
            terminal, other = os.openpty()
            print(os.ttyname(other), line, file=server.stdin, flush=True)
            pid = int(server.stdout.readline())
            os.close(other)
            return watched(pid, terminal, lambda: int(server.stdout.readline()))

        yield run
        server.stdin.close()


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc, which says who works")


@needs_proc
@pytest.mark.parametrize("line", [line for line in commands() if "photo" not in line])
def test_a_command_answers_at_once_never_goes_silent_and_ends_with_its_sentence(line, folder, forks):
    first = "loading ..." if "torchrun" in line else ""  # torchrun imports torch before it starts anything
    if first or line == commands()[0]:
        session = in_a_terminal(["bash", "-c", line], folder, counts_from=first)
    else:
        session = forks(line)
    assert session.code == 0, session.text[-2000:]
    assert first in session.text if first else session.text.startswith("loading ...")
    assert session.silence <= LONGEST, f"{session.silence:.1f} s before {session.broken_by!r}"
    wanted = SENTENCES[re.search(r"vitcircuits (\w+)", line)[1]]
    assert any(re.search(wanted, one) for one in session.lines), session.text[-1000:]


@needs_proc
@pytest.mark.slow
@pytest.mark.skipif(DATA is None, reason="needs photographs and DeiT-Tiny's weights: set VITCIRCUITS_TEST_DATA")
def test_the_command_on_photographs_ends_with_a_circuit_or_with_what_to_try(folder):
    shutil.copytree(Path(DATA) / "cats_dogs", folder / "photos")
    (folder / "model.safetensors").symlink_to(Path(DATA) / "deit_tiny_patch16_224" / "model.safetensors")
    line = next(line for line in commands() if "photos/" in line)
    session = in_a_terminal(["bash", "-c", line], folder)
    assert session.code == 0 and session.silence <= LONGEST, (session.silence, session.text[-2000:])
    ends = r": reads the image\.$|^Try: vitcircuits discover "
    assert any(re.search(ends, one) for one in session.lines), session.text[-2000:]


RUN_PAGES = """
import json, os, pathlib, sys
import matplotlib.pyplot, networkx, pandas, sklearn.datasets, timm, torch, torch_geometric.data
for place, page in enumerate(json.loads(pathlib.Path("pages.json").read_text())):
    print("\\npage", page["name"])  # on a line of its own, whatever a bar has left there
    folder = pathlib.Path(str(place)).absolute()
    folder.mkdir()
    os.chdir(folder)
    exec(compile(page["program"], page["name"], "exec"), {"__name__": "__main__"})
    os.chdir("..")
"""


@needs_proc
def test_the_python_blocks_of_each_page_run_one_after_the_other(tmp_path):
    pages = [{"name": page, "program": "\n".join(blocks(page, "python"))} for page in programs()]
    (tmp_path / "pages.json").write_text(json.dumps(pages))
    (tmp_path / "run.py").write_text(RUN_PAGES)
    session = in_a_terminal([sys.executable, "run.py"], tmp_path, counts_from="page README.md")
    said = re.split(r"^page .*$", session.text, flags=re.M)
    assert session.code == 0, f"{pages[len(said) - 2]['name']}: {said[-1][-3000:]}"
    assert session.silence <= LONGEST, f"{session.silence:.1f} s before {session.broken_by!r}"
    for place, (page, words) in enumerate(zip(pages, said[1:], strict=True)):
        written = re.findall(r"""(?:(?:draw|save)\(|journal=)"([^"]+)\"""", page["program"])
        assert set(written) <= {path.name for path in (tmp_path / str(place)).iterdir()}, page["name"]
        for promised in re.findall(r"# (T = [\d.]+) \[", page["program"]):
            assert promised in words, page["name"]
