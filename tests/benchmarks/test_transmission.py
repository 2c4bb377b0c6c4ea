"""A cell goes on where it was killed, its figures are `evaluate`'s, and the page shows whatever cells are there."""

import dataclasses
import json
import sys

import cells
import pytest
import studies
import transmission
import transmission_page
from cells import Cell, make, read
from performance import put_between_marks
from transmission import Pool, chosen
from vitcircuits.algorithms import optimal_ablation
from vitcircuits.circuits import Circuit, compile_graph, evaluate

TINY = studies.Study(
    "toy/digits-2l, 3 against 8",
    (3, 8),
    (0.2, 0.4),
    (0.2,),
    (0.1,),
    toy="toy/digits-2l",
    data="digits",
    methods=("eap", "acdc"),
    removed=("swap", "means"),
    sizes={"n_discovery": 4, "n_evaluation": 6},
)
CELL = Cell("tiny", "eap", "swap", 0, TINY.shares)


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    monkeypatch.setitem(studies.STUDIES, "tiny", TINY)


def test_the_figures_of_a_cell_are_those_of_evaluate(tmp_path):
    record = make(CELL, tmp_path)
    assert not (tmp_path / CELL.name).exists() and read(CELL, tmp_path) == record
    task = TINY.task()
    graph = compile_graph(task.vit)
    searched = cells.find(CELL, task, graph, tmp_path)
    assert searched.rows == [(by, share) for share in TINY.shares for by in studies.RANKINGS]
    report = evaluate(Circuit(graph, searched.masks[1]), task, curve=False, n_random=0)
    row = record["rows"][1]
    assert row["edges"] == searched.masks[1].sum() <= round(0.2 * len(graph))
    for name in ("transmission", "leakage", "reproduced_variation", "one_sided_sham", "kl_all_images", "other_classes"):
        assert row["figures"][name][0] == pytest.approx(report[name].value, abs=1e-4)


def test_a_cell_that_was_killed_goes_on(tmp_path, monkeypatch):
    whole, run = make(CELL, tmp_path / "whole"), cells.run_masks
    runs = []

    def killed(*args, **options):
        runs.append(args)
        if len(runs) == 2:
            raise KeyboardInterrupt
        return run(*args, **options)

    monkeypatch.setattr(cells, "run_masks", killed)
    with pytest.raises(KeyboardInterrupt):
        make(CELL, tmp_path)
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / CELL.name).iterdir()}
    assert set(kept) == {"found.json", "held-out-0.npz"}
    monkeypatch.setattr(cells, "_search", None)  # what was found is not searched for again
    again = make(CELL, tmp_path)
    assert again["rows"] == whole["rows"]


def test_constants_are_learned_for_each_circuit_and_it_is_judged_under_its_own(tmp_path, monkeypatch):
    learned = []

    def few(circuit, task):
        learned.append(optimal_ablation(circuit, task, steps=4))
        return learned[-1]

    monkeypatch.setattr(cells, "optimal_ablation", few)
    cell = dataclasses.replace(CELL, removed="optimal", shares=(0.2,))
    record, task = make(cell, tmp_path), TINY.task("optimal")
    assert len(record["rows"]) == len(learned) == 3 and task.ablation.kind == "mean"
    for row, circuit in zip(record["rows"], learned, strict=True):
        report = evaluate(circuit, task, curve=False, n_random=0)
        for name in ("transmission", "reproduced_variation", "kl_all_images"):
            assert row["figures"][name][0] == pytest.approx(report[name].value, abs=1e-4)
    assert len({row["figures"]["kl_all_images"][0] for row in record["rows"]}) == 3


def test_few_pairs_hold_as_many_images_of_each_class_with_all_their_partners():
    for removed, n_pairs in (("swap", 8), ("means", 4)):
        task = cells.with_few(TINY.task(removed), n_pairs)
        design = task.searched.design
        assert len(task.searched) == n_pairs
        assert design.sign.sum() == 0 and len(design.clean_image.unique()) == 4


class _Fake(Pool):
    code = ""

    def command(self, cell):
        return [sys.executable, "-c", self.code]


def test_a_process_that_dies_leaves_its_error_and_one_without_progress_is_not_tried_forever(tmp_path):
    pool = _Fake([CELL], tmp_path)
    pool.code = "raise ValueError('broken')"
    pool.run(1)
    assert read(CELL, tmp_path)["error"] == "ValueError: broken" and "Traceback" in read(CELL, tmp_path)["said"]
    pool = _Fake([CELL], tmp_path, go=0.5)
    pool.code = "import time; time.sleep(60)"
    pool.run(2)
    assert "nothing was finished" in read(CELL, tmp_path)["error"]
    assert not transmission.done(CELL, tmp_path)


def test_a_process_that_is_killed_between_its_result_and_its_end_has_a_result(tmp_path):
    pool, path = _Fake([CELL], tmp_path, go=3.0), tmp_path / f"{CELL.name}.json"
    pool.code = f"import pathlib, time; pathlib.Path({str(path)!r}).write_text('{{}}'); time.sleep(60)"
    pool.run(1)
    assert read(CELL, tmp_path) == {} and transmission.done(CELL, tmp_path)


def test_a_cell_that_runs_out_of_time_goes_on_after_the_others(tmp_path):
    folder = tmp_path / CELL.name
    folder.mkdir()
    pool = _Fake([CELL], tmp_path)
    (folder / "journal.jsonl").write_text("a step")
    assert pool._out_of_time(CELL, 60.0, began=0.0)
    assert cells.spent(folder) == {"goes": 1, "seconds": 60.0}


def test_only_takes_what_fits_each_kind_of_word():
    known = list(cells.cells_of("tiny"))
    assert [cell.name for cell in chosen(known, "eap,means")] == ["tiny.eap.means.0"]
    assert [cell.name for cell in chosen(known, "means,tiny.eap.swap.0")] == [
        "tiny.eap.swap.0",
        "tiny.eap.means.0",
        "tiny.acdc.means.0",
    ]
    assert chosen(known, "") == known
    with pytest.raises(ValueError, match="nonsense"):
        chosen(known, "nonsense")


def test_the_page_shows_the_cells_that_are_there_and_names_the_others(tmp_path):
    make(CELL, tmp_path)
    (tmp_path / "tiny.acdc.swap.0.json").write_text(json.dumps({"error": "out | of memory"}))
    page = tmp_path / "page.md"
    page.write_text("# Title\n\nBefore.\n")
    known = [*cells.cells_of("tiny"), Cell("lesson", "relp-20", "swap", 0, (0.2,))]
    found = transmission_page.sections(("lesson", "measured"), known, tmp_path, tmp_path)
    assert "RelP, signed, 20% |  | not run yet" in found["lesson"]
    shown = found["measured"]
    assert "`eap`, mean of abs | 40%" in shown and "failed: out / of memory" in shown
    assert "Not run yet: 2 of 4 cells (`tiny.eap.means.0`, `tiny.acdc.means.0`)" in shown
    assert all((tmp_path / f"transmission-tiny.{ending}").exists() for ending in ("svg", "png"))
    text = put_between_marks(page.read_text(), shown, *transmission_page.MARKS["measured"])
    assert text.startswith("# Title\n\nBefore.\n")


def test_a_cell_that_is_kept_beside_the_page_is_not_made_again(tmp_path):
    record, kept = make(CELL, tmp_path), tmp_path / "page.jsonl"
    transmission.keep([CELL, Cell("tiny", "acdc", "swap", 0, (0.2,))], tmp_path, kept)
    line = json.loads(kept.read_text())
    assert line.pop("cell") == CELL.name and line["rows"][1]["mask"] == record["rows"][1]["mask"]
    value = line["rows"][1]["figures"]["transmission"][0]
    assert value == pytest.approx(record["rows"][1]["figures"]["transmission"][0], rel=1e-3)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    transmission.bring(kept, elsewhere)
    assert transmission.done(CELL, elsewhere) and read(CELL, elsewhere) == line
    transmission.bring(kept, tmp_path)  # what has just been made stays
    assert read(CELL, tmp_path) == record


def test_an_idea_is_one_change_beside_the_method_as_it_is(tmp_path, monkeypatch):
    masks = {"learned_masks": {"steps": 4, "polish": "no"}}
    plain = dataclasses.replace(TINY, methods=("learned_masks", "eap"), removed=("means",), seeds=1, options=masks)
    monkeypatch.setitem(studies.STUDIES, "deit", plain)
    alone = ("learned_masks",)
    for name, changes in {"n": {"start": "nodes_first", "methods": alone}, "h": {"graph": {"ports": "head"}}}.items():
        monkeypatch.setitem(studies.STUDIES, name, dataclasses.replace(plain, idea=f"idea {name}", **changes))
    known = [cell for name in ("deit", "n", "h") for cell in cells.cells_of(name)]
    for cell in known:
        make(cell, tmp_path)
    text = transmission_page.sections(("ideas",), known, tmp_path, tmp_path)["ideas"]
    assert (text.count("as it is"), text.count("idea n"), text.count("idea h")) == (4, 2, 4)  # two sizes of each
    assert text.count(" of 110 ") == 6 and text.count(" of 54 ") == 4
    known = [cell for cell in known if (cell.study, cell.method) != ("h", "eap")]  # nothing was tried by scores
    assert "`eap`" in text and "`eap`" not in transmission_page.sections(("ideas",), known, tmp_path, tmp_path)["ideas"]


def test_nodes_first_puts_all_edges_between_the_best_before_any_other():
    task = TINY.task()
    graph = compile_graph(task.vit)
    scores = studies.nodes_first(graph, task)
    ends = [{edge.source.node, edge.destination.node} for edge in map(graph.edge, range(len(graph)))]
    seen: set[str] = set()
    for before, edge in enumerate(scores.ranking("mean_abs")):
        if ends[edge] - seen:  # a new node: every edge between the former ones has come
            assert sum(pair <= seen for pair in ends) <= before
        seen |= ends[edge]
