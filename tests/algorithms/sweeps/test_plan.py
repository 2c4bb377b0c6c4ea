"""The plan of a sweep is pure data: what is crossed, in which order, and when a cell is another cell."""

import dataclasses
import re

import pytest
from vitcircuits.algorithms.sweeps.plan import Choice, Sweep
from vitcircuits.algorithms.sweeps.resources import Resources
from vitcircuits.models.errors import TaskError


def sweep(**changes):
    parts = {
        "models": (Choice("m/1", {"model": "m/1"}), Choice("m 2", {"model": "m/2"})),
        "tasks": (Choice("3 vs 8", {"target": 3, "foil": 8}), Choice("4 vs 9", {"target": 4, "foil": 9}, ("m 2",))),
        "algorithms": (Choice("eap", {"algorithm": "eap"}), Choice("acdc", {"algorithm": "acdc"})),
        "seeds": (0, 5),
        "defaults": {"size": 20, "pairs": 8},
    }
    return Sweep(**parts | changes)


def test_cells_are_crossed_in_order_and_a_task_may_be_for_some_models():
    found = [(cell.model, cell.task, cell.algorithm, cell.seed) for cell in sweep().cells()]
    pairs = [("m/1", "3 vs 8"), ("m 2", "3 vs 8"), ("m 2", "4 vs 9")]
    assert found == [(*pair, algorithm, seed) for pair in pairs for algorithm in ("eap", "acdc") for seed in (0, 5)]


def test_a_cell_has_the_settings_of_its_parts_over_the_defaults():
    cell = sweep(algorithms=(Choice("eap", {"algorithm": "eap", "pairs": 4}),)).cells()[1]
    wanted = {"model": "m/1", "target": 3, "foil": 8, "algorithm": "eap", "pairs": 4, "size": 20, "seed": 5}
    assert cell.settings == wanted


def test_an_own_way_to_choose_the_size_replaces_that_of_the_defaults():
    cell = sweep(algorithms=(Choice("eap", {"algorithm": "eap", "threshold": 0.1}),)).cells()[0]
    assert "size" not in cell.settings and cell.settings["threshold"] == 0.1


def test_folders_can_be_read_and_are_names_on_any_system():
    assert re.fullmatch(r"cells/m-1--3-vs-8--eap--s0-[0-9a-f]{8}", sweep().cells()[0].folder)
    odd = sweep(models=(Choice("../a:b*?<\n" + "x" * 500, {"model": "m"}),)).cells()[0].folder
    assert re.fullmatch(r"cells/[A-Za-z0-9._-]{1,200}", odd) and not odd.startswith("cells/.")


def test_a_changed_setting_is_another_cell_and_the_others_stay():
    before = {cell.folder for cell in sweep().cells()}
    assert {cell.folder for cell in sweep().cells()} == before
    changed = (Choice("eap", {"algorithm": "eap", "pairs": 9}), Choice("acdc", {"algorithm": "acdc"}))
    after = {cell.folder for cell in sweep(algorithms=changed).cells()}
    assert {folder for folder in before if "--acdc--" in folder} == before & after
    more = sweep(seeds=(0, 5, 6)).cells()
    assert before < {cell.folder for cell in more}


def test_resources_are_more_particular_by_turns_and_decide_no_folder():
    parts = sweep(seeds=(0,))
    eap = Choice("eap", {"algorithm": "eap"}, resources={"time": "2d"})
    models = (Choice("m/1", {"model": "m/1", "device": "cuda"}, resources={"cpus": 4, "time": 30}),)
    asked = sweep(seeds=(0,), algorithms=(eap, parts.algorithms[1]), models=models, tasks=parts.tasks[:1])
    asked = dataclasses.replace(asked, resources={"memory": "16GB", "time": "4h", "cpus": 2})
    found = [cell.resources for cell in asked.cells()]
    assert found[0] == Resources(gpus=1, cpus=4, memory=16_000_000_000, time=2 * 24 * 60)
    assert found[1] == Resources(gpus=1, cpus=4, memory=16_000_000_000, time=30)
    plain = dataclasses.replace(asked, resources={}, algorithms=parts.algorithms)
    assert [cell.folder for cell in plain.cells()] == [cell.folder for cell in asked.cells()]
    assert parts.cells()[0].resources.gpus == 0


def test_what_decides_is_the_resolved_configuration():
    plain, spelled = sweep(), sweep(defaults={"size": 20, "pairs": 8, "tokens": "all"})

    assert [cell.folder for cell in plain.cells()] == [cell.folder for cell in spelled.cells()]


def test_a_size_for_all_is_not_for_an_algorithm_that_decides_itself():
    scored, decides = (cell.settings for cell in sweep(seeds=(0,)).cells()[:2])
    assert scored["size"] == 20 and "size" not in decides and decides["pairs"] == 8


def test_a_cell_s_seed_is_also_the_algorithm_s_own_unless_it_names_one():
    for options, seed in (({}, 5), ({"seed": 9}, 9)):
        masks = (Choice("masks", {"algorithm": "learned_masks", "options": options}),)
        config = sweep(algorithms=masks).cells()[1].config
        assert (config.task.seed, config.discovery.options["seed"]) == (5, seed)


def test_mistakes_name_the_cell():
    with pytest.raises(TaskError, match="eap on m/1, 3 vs 8: eap has no option 'step'"):
        sweep(algorithms=(Choice("eap", {"algorithm": "eap", "options": {"step": 3}}),)).cells()
    with pytest.raises(TaskError, match="are one cell"):
        sweep(models=(Choice("m/1", {"model": "m"}), Choice("m-1", {"model": "m"}))).cells()
