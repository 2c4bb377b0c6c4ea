"""Finds circuits with every method, asks of each whether it reads the image, and writes the tables into a page.

    .venv/bin/python tests/benchmarks/transmission.py --workers 2 --write docs/faithfulness.md

Needs a folder with mnist/, cats_dogs/, cats_dogs_masks/ and DeiT-Tiny's weights, named by VITCIRCUITS_TEST_DATA. The
work is done in cells (contrast, method, what removed edges carry, seed; see `cells.py`), each in a process of its own
with one thread. A go of a cell ends after GO minutes; what it has done by then is kept in the folder --work, and it
goes on after the others. A cell whose process dies leaves its error, and is tried again by the next command. Cells
that were written into a page are kept beside it, a line of JSON each (docs/faithfulness.jsonl), and are not made again;
without its line a cell is.

    --dry-run                     the cells, what is there of them, and about how long the rest takes
    --only deit,eap,means         contrasts, methods, what removed edges carry, or names of cells; `lesson` is the first
                                  section
    --limit-minutes 60            no cell starts after that
    --write docs/faithfulness.md  tables from whatever cells are there; with --limit-minutes 0 nothing is run
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from cells import COUNT, LESSON_STUDY, Cell, make, plan, read, spent
from exact_engine import DATA
from fooled import LESSON
from performance import put_between_marks
from studies import LEARNED, METHODS, REMOVED, STUDIES
from transmission_page import MARKS, sections
from vitcircuits.models.files import write_text_atomic

GO = 20.0  # minutes
KEPT = Path(__file__).parents[2] / "docs" / "faithfulness.jsonl"

# Minutes on one thread of a 2-core machine with nothing else on it: of a search, of one for each size, of judging a
# circuit. Reckoned from passes that earlier searches took and .06 seconds for one of DeiT-Tiny.
_SEARCH = {"eap": 1.0, "eap_ig": 3, "relp": 1, "ceap": 5, "atp_star": 3, "rank_ensemble": 8, "hybrid": 4, "acdc": 20}
_PER_SIZE = {"learned_masks": 3.5, "budgeted_pruning": 5.0}
_TOY = {"learned_masks": 0.5, "budgeted_pruning": 0.3, "acdc": 0.3}
_JUDGING = {"swap": 1.0, "nearest": 0.3}  # a circuit of DeiT-Tiny; otherwise each clean image comes once
_START = 0.2
_CONSTANTS = {True: 0.1, False: 2.5}  # learned for a circuit of a toy, of DeiT-Tiny


def minutes(cell: Cell) -> float:
    """About how long a cell takes."""
    row = LESSON.get(cell.method)
    method, study = (row.method, row.study) if row else (cell.method, cell.study)
    if study == COUNT:
        return 0.5
    n, toy = len(cell.shares), bool(STUDIES[study].toy)
    rankings = 1 if row or method in (*_PER_SIZE, "acdc") else 3
    learning = _CONSTANTS[toy] * n * rankings if cell.removed == LEARNED else 0.0
    if toy:
        return _START + _TOY.get(method, 0.05) * n + learning
    search = _PER_SIZE[method] * n * (0.3 if row else 1.0) if method in _PER_SIZE else _SEARCH[method]
    fewer = 0.35 if study == "kinds" else 1.0  # images
    return _START + learning + search * fewer**0.5 + _JUDGING.get(cell.removed, 0.15) * fewer * (n * rankings + 1)


def chosen(cells: Sequence[Cell], only: str) -> list[Cell]:
    """Those that --only means: of every kind of word that it holds one has to fit, or the name.

    Raises:
        ValueError: A word is not known.
    """
    words = {word for word in only.split(",") if word}
    names = {cell.name for cell in cells}
    kinds = [
        ({LESSON_STUDY, COUNT, *STUDIES}, lambda cell: cell.study),
        ({*METHODS, *LESSON}, lambda cell: cell.method),
        (set(REMOVED), lambda cell: cell.removed),
    ]
    if unknown := words - names.union(*(known for known, _ in kinds)):
        raise ValueError(
            f"--only {','.join(sorted(unknown))} is not known: choose of {', '.join((LESSON_STUDY, COUNT, *STUDIES))}; "
            f"{', '.join(METHODS)}; {', '.join(REMOVED)}; or names of cells, which --dry-run prints."
        )
    asked = [(words & known, of) for known, of in kinds if words & known]
    fits = [all(of(cell) in some for some, of in asked) and (bool(asked) or not words) for cell in cells]
    return [cell for cell, fit in zip(cells, fits, strict=True) if fit or cell.name in words]


def done(cell: Cell, work: Path) -> bool:
    """Whether a cell is there, without an error."""
    record = read(cell, work)
    return record is not None and "error" not in record


@dataclass
class Pool:
    """Processes of one thread each, which take cells from one queue.

    Args:
        queue: Cells to make, in this order; those that run out of time come back at the end.
        work: Where cells are kept.
        deadline: No cell starts after it, in seconds of `time.monotonic`.
        go: Seconds that a cell may take at a time.
    """

    queue: list[Cell]
    work: Path
    deadline: float = float("inf")
    go: float = 60 * GO
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _running: list[subprocess.Popen[str]] = field(default_factory=list)

    def run(self, workers: int) -> None:
        """Until the queue is empty or the time is over."""
        threads = [threading.Thread(target=self._take, daemon=True) for _ in range(workers)]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            for process in self._running:
                process.kill()

    def _take(self) -> None:
        while time.monotonic() < self.deadline:
            with self._lock:
                if not self.queue:
                    return
                cell = self.queue.pop(0)
            again = self._one(cell)
            with self._lock:
                self.queue += [cell] * again

    def _one(self, cell: Cell) -> bool:
        """One go; whether it has to go on."""
        start, began = time.monotonic(), time.time()
        process = subprocess.Popen(
            self.command(cell), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        )  # fmt: skip
        self._running.append(process)
        try:
            _, said = process.communicate(timeout=self.go)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            if done(cell, self.work):  # it was about to end
                return False
            again = self._out_of_time(cell, time.monotonic() - start, began)
            print(f"{cell.name}: {'goes on later' if again else 'no progress'}", file=sys.stderr)
            return again
        finally:
            self._running.remove(process)
        if process.returncode:
            self.fail(cell, (said.strip().splitlines() or [f"ended with {process.returncode}"])[-1], said)
        print(f"{cell.name}: {'failed' if process.returncode else 'done'}, {time.monotonic() - start:.0f} s",
              file=sys.stderr)  # fmt: skip
        return False

    def command(self, cell: Cell) -> list[str]:
        """What makes a cell."""
        return [sys.executable, __file__, "--cell", cell.name, "--work", str(self.work)]

    def _out_of_time(self, cell: Cell, seconds: float, began: float) -> bool:
        """Books a go that was cut off; it is of no use to go on where nothing was written meanwhile."""
        folder = self.work / cell.name
        written = [path.stat().st_mtime for path in folder.glob("*") if path.name != "spent.json"]
        if max(written, default=0.0) < began:
            self.fail(cell, f"nothing was finished within {self.go / 60:.0f} minutes")
            return False
        before = spent(folder)
        record = {"goes": before["goes"] + 1, "seconds": before["seconds"] + seconds}
        write_text_atomic(folder / "spent.json", json.dumps(record))
        return True

    def fail(self, cell: Cell, why: str, said: str = "") -> None:
        """Leaves an error in place of a result, with the end of what the process said."""
        write_text_atomic(self.work / f"{cell.name}.json", json.dumps({"error": why[:300], "said": said[-4000:]}))


def show(cells: Sequence[Cell], work: Path, workers: int) -> None:
    """The cells, and about how long the rest of them takes."""
    left = 0.0
    for cell in cells:
        record = read(cell, work)
        state = "begun" if (work / cell.name).exists() else "missing"
        if record is not None:
            state = "failed" if "error" in record else "done"
            state += f", {record['whole_seconds'] / 60:.1f} min" if "whole_seconds" in record else ""
        left += 0 if done(cell, work) else minutes(cell)
        print(f"{cell.name:40} {len(cell.shares)} sizes  about {minutes(cell):5.1f} min  {state}")
    print(f"{len(cells)} cells; about {left / 60:.1f} hours of one core left, {left / 60 / workers:.1f} with {workers}")


def bring(kept: Path, work: Path) -> None:
    """Puts cells that are kept beside a page into the folder, but those that are there already."""
    for line in kept.read_text().splitlines() if kept.exists() else ():
        record = json.loads(line)
        path = work / f"{record.pop('cell')}.json"
        if not path.exists():
            write_text_atomic(path, json.dumps(record))


def keep(cells: Sequence[Cell], work: Path, kept: Path) -> None:
    """Writes a line for each cell that is done, with six decimals of each figure, so that the page stays the same."""
    lines = [json.dumps({"cell": cell.name, **short(read(cell, work) or {})}) for cell in cells if done(cell, work)]
    write_text_atomic(kept, "".join(f"{line}\n" for line in lines))


def short(value: Any) -> Any:
    """The same with six decimals of every number that is not whole."""
    if isinstance(value, dict):
        return {name: short(some) for name, some in value.items()}
    if isinstance(value, list):
        return [short(some) for some in value]
    return round(value, 6) if isinstance(value, float) else value


def write(path: Path, work: Path, cells: Sequence[Cell]) -> None:
    """Puts tables and pictures of whatever cells are there into a page: of the lesson, the rest or both, as chosen."""
    asked = {_section(cell) for cell in cells}
    text = path.read_text() if path.exists() else "# Circuits that read the image\n"
    for name, found in sections(asked, plan(work), work, path.parent).items():
        text = put_between_marks(text, found, *MARKS[name])
    write_text_atomic(path, text)
    keep(plan(work), work, path.with_suffix(".jsonl"))


def _section(cell: Cell) -> str:
    """Where the page shows a cell."""
    idea = cell.study in STUDIES and STUDIES[cell.study].idea
    return "lesson" if cell.study == LESSON_STUDY else "ideas" if idea else "measured"


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--only", default="", help="words with commas between them; all cells by default")
    found.add_argument("--work", type=Path, default=Path("transmission-work"), help="where cells are kept")
    found.add_argument("--workers", type=int, default=1, help="processes of one thread each")
    found.add_argument("--dry-run", action="store_true", help="print the cells and an estimate")
    found.add_argument("--limit-minutes", type=float, default=float("inf"), help="start no cell after that")
    found.add_argument("--write", type=Path, help="a Markdown file to write the tables into; pictures lie beside it")
    found.add_argument("--cell", default="", help="make one cell in this process, for as long as it takes")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    known = parser()
    options = known.parse_args(arguments)
    if not DATA.is_dir():
        raise SystemExit(f"{DATA} is not there: set VITCIRCUITS_TEST_DATA.")
    options.work.mkdir(parents=True, exist_ok=True)
    bring(options.write.with_suffix(".jsonl") if options.write else KEPT, options.work)
    try:
        cells = chosen(plan(options.work), options.only)
        if options.cell:
            torch.set_num_threads(1)
            make(chosen(plan(options.work), options.cell)[0], options.work)
            return
    except ValueError as error:
        known.error(str(error))
    if options.dry_run:
        show(cells, options.work, options.workers)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # so that no cell outlives the command
    deadline, tried = time.monotonic() + 60 * options.limit_minutes, set()
    while left := [cell for cell in cells if cell not in tried and not done(cell, options.work)]:
        if time.monotonic() >= deadline:
            break
        tried |= set(left)
        Pool(left, options.work, deadline).run(options.workers)
        cells = chosen(plan(options.work), options.only)  # kinds of cat are planned once they have been counted
    if options.write:
        write(options.write, options.work, cells)


if __name__ == "__main__":
    main()
