"""A search that processes share decides the same on any number of them, and each does its share of the work."""

from hashlib import sha256

import pytest
import torch
from vitcircuits.algorithms.registry import run_algorithm
from vitcircuits.algorithms.work import counted_work
from vitcircuits.circuits import class_contrast, compile_graph, memory
from vitcircuits.circuits.formats.json import circuit_to_dict
from vitcircuits.circuits.formats.plain import json_text
from vitcircuits.models import load_vit

QUICK = {
    "acdc": {"tau": 0.02},
    "learned_masks": {"size": 30, "steps": 10, "derivative": "pathwise", "polish": "no", "augment": "yes"},
    "measured": {"size": 60, "steps": 1, "derivative": "measured", "polish": "no", "objective": "metric"},
    "budgeted_pruning": {"size": 90, "measure": "slopes", "regrow_rounds": 0, "swaps": 1},
}
WHOLE = QUICK | {
    "polished": {"size": 30, "steps": 10, "derivative": "pathwise", "augment": "no"},
    "regrown": {"size": 60, "measure": "slopes", "regrow_rounds": 1, "swaps": 1},
    "exact": {"size": 60},
    "mask": {"tau": 0.05},
}
ALGORITHMS = {"measured": "learned_masks", "polished": "learned_masks", "exact": "budgeted_pruning"}
ALGORITHMS |= {"regrown": "budgeted_pruning", "mask": "acdc"}


def searches(folder, names):
    """A digest of each circuit and its scores, and the work in forward passes of all pairs."""
    torch.set_num_threads(1)
    memory.LEAST_WORK = 0  # chunks as small as those of larger models
    vit = load_vit("toy/digits-2l")
    crossed = class_contrast(vit, "digits", target=3, foil=8, n_discovery=4, n_evaluation=2)
    masked = class_contrast(vit, "digits", target=3, foil=8, n_discovery=8, n_evaluation=2, masks="attention")
    found = {}
    for name in names:
        task, tokens = (masked, "mask") if name == "mask" else (crossed, "all")
        graph, journal = compile_graph(vit, tokens=tokens), f"{folder}/{name}.jsonl"
        with counted_work(task) as work:
            circuit = run_algorithm(ALGORITHMS.get(name, name), graph, task, journal=journal, **WHOLE[name])
        scores = circuit.scores
        told = [json_text(circuit_to_dict(circuit)).encode(), scores.values.tobytes(), scores.mean_abs.tobytes()]
        found[name] = sha256(b"".join([*told, scores.std_err.tobytes()])).hexdigest(), work.runs
    return found


def check(alone, by_place):
    for name, (value, work) in alone.items():
        assert [found[name][0] for found in by_place] == [value] * len(by_place), name
        share = max(found[name][1] for found in by_place) / work
        uneven = name == "mask" and len(by_place) > 2  # 16 parts of 1 to 6 pairs: chunks of unlike size
        assert share <= (1.3 if uneven else 1.15) / len(by_place), (name, share)


def compared(on_processes, folder, names, counts):
    (alone,) = on_processes(1, searches, str(folder / "1"), names)
    journals = {path.name: path.read_bytes() for path in (folder / "1").iterdir()}
    for count in counts:
        check(alone, on_processes(count, searches, str(folder / str(count)), names))
        assert journals == {path.name: path.read_bytes() for path in (folder / str(count)).iterdir()}


def test_two_processes_decide_the_same_bytes_with_half_of_the_work_each(on_processes, tmp_path):
    compared(on_processes, tmp_path, list(QUICK), [2])


@pytest.mark.slow
def test_so_do_four_and_so_do_all_ways_to_search(on_processes, tmp_path):
    compared(on_processes, tmp_path, list(WHOLE), [2, 4])
