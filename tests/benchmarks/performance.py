"""Runs measurements, prints them as a table, and writes the table into a Markdown file between two marks.

    .venv/bin/python tests/benchmarks/performance.py --only eap,memory --threads 1,2 --write docs/performance.md

A measurement is a function of the number of rounds that returns rows; MEASUREMENTS names them.
"""

import argparse
import platform
from collections.abc import Callable, Iterable
from pathlib import Path

import edge_attribution
import exact_engine
import memory
import psutil
import timm
import torch
from edge_attribution import DEIT, VIT_B
from exact_engine import CATS, TAUS, TOY
from measure import Row
from vitcircuits.models.files import write_text_atomic

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"

MEASUREMENTS: dict[str, Callable[[int], Iterable[Row]]] = {
    "eap": lambda rounds: [edge_attribution.eap_time(*size, rounds=rounds) for size in ((DEIT, 8), (VIT_B, 4))],
    "eap-each": lambda rounds: [edge_attribution.eap_at_each_token_time(DEIT, 8, rounds=rounds)],
    "eap-ig": lambda rounds: [edge_attribution.eap_ig_time(*size, rounds=rounds) for size in ((DEIT, 8), (VIT_B, 4))],
    "memory": lambda rounds: memory.rows(
        VIT_B, memory.BUDGETS[:1], ("eap", "acdc", "learned_masks", "evaluate"), ("mean",)
    ),
    "exact": lambda rounds: [exact_engine.plain_over_exact(DEIT, 2, rounds)],
    "acdc-toy": lambda rounds: [exact_engine.plain_over_acdc(TOY, tau, rounds) for tau in TAUS[TOY]],
    "acdc-deit": lambda rounds: [exact_engine.plain_over_acdc(CATS, tau, 1, warm_up=False) for tau in TAUS[CATS]],
    "speculation": lambda rounds: [
        exact_engine.one_at_a_time_over_batches(TOY, tau, batch, rounds)
        for tau in TAUS[TOY][:2]
        for batch in (4, 16, 64)
    ],
    "where": lambda rounds: [
        *exact_engine.acdc_shares(TOY, TAUS[TOY][0], warm_up=True),
        *exact_engine.acdc_shares(CATS, TAUS[CATS][0], warm_up=False),
    ],
}


def machine() -> str:
    """One sentence about the machine and the versions."""
    found = Path("/proc/cpuinfo")
    lines = found.read_text().splitlines() if found.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    whole = psutil.virtual_memory().total / 2**30
    return (
        f"Machine: {psutil.cpu_count(logical=True)} cores ({models[0] if models else platform.machine()}), "
        f"{whole:.0f} GiB of memory; Python {platform.python_version()}, torch {torch.__version__}, "
        f"timm {timm.__version__}."
    )


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| what | over what | ratio (median) | min to max | rounds | threads |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        spread = f"{min(row.ratios):.2f} to {max(row.ratios):.2f}"
        lines.append(f"| {row.name} | {row.over} | {row.median:.2f} | {spread} | {len(row.ratios)} | {row.threads} |")
    return "\n".join(lines)


def put_between_marks(text: str, measured: str, begin: str = BEGIN, end: str = END) -> str:
    """The text with everything between two marks replaced; they are added at the end where there are none."""
    if begin not in text:
        text = f"{text.rstrip()}\n\n{begin}\n{end}\n".lstrip()
    before, rest = text.split(begin, 1)
    return f"{before}{begin}\n{measured}\n{end}{rest.split(end, 1)[1]}"


def write_measured(page: Path, measured: str, begin: str = BEGIN, end: str = END) -> None:
    """Puts it between two marks of a page, which is made where it is not there."""
    text = page.read_text() if page.exists() else f"# {page.stem.capitalize()}\n"
    page.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(page, put_between_marks(text, measured, begin, end))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(MEASUREMENTS), help=f"of {', '.join(MEASUREMENTS)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", default=str(torch.get_num_threads()), help="one number or several: 1,2")
    parser.add_argument("--write", type=Path, help="a Markdown file to write the table into")
    options = parser.parse_args()
    chosen = options.only.split(",")
    if unknown := set(chosen) - MEASUREMENTS.keys():
        parser.error(f"--only {','.join(sorted(unknown))} is not known: choose of {', '.join(MEASUREMENTS)}")
    rows: list[Row] = []
    for threads in map(int, options.threads.split(",")):
        torch.set_num_threads(threads)
        for name in chosen:
            for row in MEASUREMENTS[name](options.rounds):
                print(row, flush=True)
                rows.append(row)
    measured = f"{machine()}\n\n{table(rows)}"
    print(f"\n{measured}")
    if options.write:
        write_measured(options.write, measured)


if __name__ == "__main__":
    main()
