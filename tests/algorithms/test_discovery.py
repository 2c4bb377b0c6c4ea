"""One way to find a circuit: every selection by its definition, found again from its record, read and written."""

import json

import numpy as np
import pytest
from torch.utils.data import TensorDataset
from vitcircuits.algorithms import budgeted_pruning, eap, learned_masks
from vitcircuits.algorithms.discovery import LADDER, Discovery
from vitcircuits.algorithms.run_config import RunConfig, discover
from vitcircuits.circuits import Ablation, Circuit, NodeScores, class_contrast, compile_graph
from vitcircuits.circuits.judging.select import smallest_faithful
from vitcircuits.circuits.partners.masks import Foreground
from vitcircuits.circuits.tasks.task_config import TaskConfig
from vitcircuits.cli.discover import add_parser, configuration
from vitcircuits.cli.main import main
from vitcircuits.cli.options import Parser
from vitcircuits.models import load_data, load_vit
from vitcircuits.models.errors import FormatError, TaskError
from vitcircuits.models.model_config import ModelConfig

DIGITS = {"data": "digits", "target": 3, "foil": 8, "pairs": 6, "eval_pairs": 6}
SPLITS = ("train", "test")
SELECTIONS = {
    "size": {"size": 20},
    "share": {"size": 0.2, "by": "signed"},
    "threshold": {"threshold": 0.05},
    "level": {"level": 0.5},
    "nodes": {"size": 4, "granularity": "node"},
}


@pytest.fixture(scope="module")
def task():
    return TaskConfig.of(DIGITS).make(load_vit("toy/digits-2l"))


@pytest.fixture(scope="module")
def scores(task):
    return eap(compile_graph(task.vit, ports="head"), task)


@pytest.mark.parametrize("name", SELECTIONS)
def test_a_selection_is_what_scores_say_and_is_found_again_from_its_record(name, task, scores):
    wanted = {
        "size": lambda: scores.top(20),
        "share": lambda: scores.top(0.2, by="signed"),
        "threshold": lambda: scores.threshold(0.05),
        "level": lambda: smallest_faithful(scores, task, level=0.5),
        "nodes": lambda: NodeScores.from_edges(scores).top(4),
    }[name]()
    found = Discovery("eap", ports="head", **SELECTIONS[name]).find(task)
    assert len(found) > 0
    np.testing.assert_array_equal(found.mask, wanted.mask)
    again = Discovery.again(found)
    np.testing.assert_array_equal(again.find(task).mask, found.mask)
    assert again.ports == "head" and again.options == {"freeze_norm": True, "softmax": "linear"}


def test_one_of_several_circuits_is_found_again_by_its_own_size(task):
    graph = compile_graph(task.vit, ports="block")
    for found in (
        learned_masks(graph, task, size=[12, 6], steps=2, polish="no")[1],
        budgeted_pruning(graph, task, size=[12, 6])[1],
    ):
        again = Discovery.again(found)
        assert again.called["size"] == found.provenance.get("n", len(found)) <= 6
        assert 0 < len(again.find(task, graph)) <= 6
    with pytest.raises(TaskError, match="level and the option size"):
        Discovery("learned_masks", {"size": 6}, level=0.5)


def test_an_algorithm_that_takes_a_size_finds_the_smallest_at_a_level_unless_told(task):
    graph = compile_graph(task.vit, ports="block")
    few = {"steps": 4, "start": "none", "polish": "no"}
    found = Discovery("learned_masks", few, ports="block").find(task, graph)
    every = learned_masks(graph, task, size=list(LADDER), **few)
    frontier = found.provenance["frontier"]
    assert [n for n, _ in frontier] == sorted({len(one) for one in every})
    reaching = [n for n, kept in frontier if kept >= 0.8]
    assert found.provenance["reached"] == bool(reaching)
    assert len(found) == (reaching[0] if reaching else max(frontier, key=lambda one: one[1])[0])
    again = Discovery.again(found)
    assert again.level == 0.8 and "size" not in again.options
    np.testing.assert_array_equal(again.with_seed(0).find(task, graph).mask, found.mask)
    assert Discovery("budgeted_pruning", level=0.5).called["faithfulness"] == 0.5
    assert Discovery("budgeted_pruning", size=5).with_seed(1).called["faithfulness"] == 0.0
    assert Discovery("learned_masks", {"size": 0.05}).called["size"] == 0.05
    with pytest.raises(TaskError, match="acdc decides itself"):
        Discovery("acdc", level=0.5)


@pytest.mark.parametrize(
    ("name", "several"),
    [("learned_masks", {"size": [0.2, 0.1]}), ("budgeted_pruning", {"size": (20, 10)}), ("acdc", {"tau": [0.1, 0.01]})],
)
def test_several_circuits_at_once_are_refused_before_the_search(name, several):
    with pytest.raises(TaskError, match="one circuit is found here"):
        Discovery(name, several)


def test_an_algorithm_that_returns_circuits_takes_the_size_and_is_found_again(task):
    options = {"steps": 3, "polish": "no", "seed": 4}
    found = Discovery("learned_masks", options, size=12).find(task)
    wanted = learned_masks(compile_graph(task.vit), task, size=12, **options)
    np.testing.assert_array_equal(found.mask, wanted.mask)
    again = Discovery.again(found)
    assert again.options["size"] == 12 and again.options["seed"] == 4
    np.testing.assert_array_equal(again.find(task).mask, found.mask)
    assert again.with_seed(5).options["seed"] == 5 and Discovery("eap").with_seed(5) == Discovery("eap")


def test_a_function_of_one_s_own_is_an_algorithm(task, scores):
    def halved(graph, task, *, seed=0):
        assert seed == 3
        return eap(graph, task)

    found = Discovery(halved, {"seed": 3}, ports="head", size=20).find(task)
    np.testing.assert_array_equal(found.mask, scores.top(20).mask)

    def whole(graph, task):
        return Circuit(graph, np.ones(len(graph), dtype=bool))

    assert len(Discovery(whole).find(task)) == 110
    assert "not recorded" in str(discover(None, task, algorithm=whole, random=0))


def test_constants_are_learned_for_a_circuit_that_is_searched_under_means(task):
    found = Discovery("eap", size=20).find(task.with_ablation(Ablation("optimal")))
    under_means = Discovery("eap", size=20).find(task.with_ablation(Ablation("mean")))
    np.testing.assert_array_equal(found.mask, under_means.mask)
    assert found.ablation.kind == "optimal" and under_means.ablation.kind == "mean"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"algorithm": "eapp"}, "pass one of eap"),
        ({"options": {"step": 3}}, "its options are steps"),
        ({"options": {"steps": "many"}}, "Points on the path"),
        ({"options": {"rule": "right"}}, "midpoint"),
        ({"size": 3, "level": 0.5}, "pass one of them"),
        ({"algorithm": "acdc", "size": 3}, "tau=0.01"),
        ({"granularity": "node"}, "--size N"),
        ({"granularity": "nodes"}, "pass one of 'edge', 'node'"),
        ({"by": "sign"}, "pass one of 'auto'"),
        ({"sizes": 3}, "Did you mean 'size'"),
    ],
)
def test_mistakes_are_named_with_their_repair(settings, said):
    with pytest.raises(TaskError, match=said):
        Discovery.of(settings)


def test_a_circuit_of_unknown_origin_cannot_be_found_again(scores):
    circuit = scores.top(10)
    for record, said in (({}, "registered"), ({"algorithm": "eap", "selection": "by hand"}, "by hand")):
        with pytest.raises(TaskError, match=said):
            Discovery.again(Circuit(circuit.graph, circuit.mask, provenance=record))


CONFIG = RunConfig(
    ModelConfig("toy/digits-2l"),
    TaskConfig("digits", target=3, foil="8", sides="one", word_size=0.3),
    Discovery("eap_ig", {"steps": 10}, size=0.2),
    random=2,
)


@pytest.mark.parametrize("ending", [".toml", ".json"])
def test_a_configuration_is_written_and_read_again(ending, tmp_path):
    path = CONFIG.save(tmp_path / f"run{ending}")
    assert RunConfig.load(path) == CONFIG
    assert RunConfig.of(CONFIG.as_dict()) == CONFIG
    with pytest.raises(FormatError, match=r"\.toml or \.json"):
        CONFIG.save(tmp_path / "run.yaml")
    path.write_text("[model")
    with pytest.raises(FormatError, match="cannot be read"):
        RunConfig.load(path)


def parsed(*words):
    parser = Parser()
    add_parser(parser.add_subparsers())
    return configuration(parser.parse_args(["discover", *words]))


def test_the_command_line_a_file_and_python_say_the_same(tmp_path):
    demo = RunConfig.of({"model": "toy/digits-2l", "data": "digits", "target": 3, "foil": 8})
    assert parsed("--model", "toy/digits-2l", "--data", "digits", "--target", "3", "--foil", "8") == demo
    file = str(CONFIG.save(tmp_path / "run.toml"))
    assert parsed("--config", file) == CONFIG
    changed = parsed("--config", file, "--level", "0.5", "--pairs", "4", "--option", "rule=left")
    assert (changed.discovery.size, changed.discovery.level, changed.task.pairs) == (None, 0.5, 4)
    assert changed.discovery.options == {**CONFIG.discovery.options, "rule": "left"} and changed.task.sides == "one"
    assert parsed("--config", file, "--algorithm", "eap").discovery.options == {
        "freeze_norm": True,
        "softmax": "linear",
    }
    nothing = parsed("--config", file, "--random", "0", "--threshold", "0", "--seed", "0")
    assert (nothing.random, nothing.discovery.threshold, nothing.discovery.size) == (0, 0, None)
    small = RunConfig.of({**CONFIG.as_dict(), "memory": 5_000_000}).save(tmp_path / "small.json")
    assert parsed("--config", str(small)).memory == 5_000_000
    assert parsed("--config", str(small), "--memory", "1GB").memory == 1_000_000_000
    masked = RunConfig.of({**CONFIG.as_dict(), "task": {**DIGITS, "corruption": "object_fill", "mask": "attention"}})
    path = str(masked.save(tmp_path / "masked.toml"))
    assert parsed("--config", path, "--mask", "boxes.csv").task.mask == "boxes.csv"
    with pytest.raises(TaskError, match="--foil"):
        parsed("--model", "toy/digits-2l", "--data", "digits", "--target", "3")
    with pytest.raises(TaskError, match="Did you mean 'target'"):
        RunConfig.of({"model": "toy/digits-2l", "targe": 3})


def test_python_finds_what_the_command_finds_and_its_folder_goes_on(tmp_path, task):
    words = [f"--{name.replace('_', '-')}={value}" for name, value in DIGITS.items()]
    search = ["--algorithm", "eap", "--size", "12", "--ports", "block", "--random", "1"]
    asked = {"algorithm": "eap", "size": 12, "ports": "block", "random": 1}
    assert main(["discover", "--model", "toy/digits-2l", *words, *search, "--out", str(tmp_path / "a")]) == 0
    found = discover("toy/digits-2l", DIGITS, **asked, out=tmp_path / "b")
    for name in ("circuit.json", "report.json", "edges.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    configs = [json.loads((tmp_path / name / "run.json").read_text())["config"] for name in "ab"]
    assert configs[0] == configs[1]
    assert found.verdict in str(found) and "T = " in str(found)
    given = discover(None, task, **asked)
    np.testing.assert_array_equal(given.circuit.mask, found.circuit.mask)
    assert given.files == [] and given.report.figures == found.report.figures
    with pytest.raises(FormatError, match="another configuration"):
        discover("toy/digits-2l", DIGITS, **asked | {"size": 13}, out=tmp_path / "b")
    with pytest.raises(TaskError, match="another model"):
        discover(load_vit("toy/digits-2l"), task)


def test_data_in_memory_is_searched_as_the_same_data_by_name(tmp_path, task):
    digits = load_data("digits", task.vit.preprocess)
    sets = {name: TensorDataset(getattr(digits, name).images, getattr(digits, name).labels) for name in SPLITS}
    found = discover(
        task.vit, {**DIGITS, "data": sets}, algorithm="eap", size=12, ports="block", random=0, out=tmp_path
    )
    assert found.task.discovery.clean.equal(task.discovery.clean)
    pairs = {name: one.tensors for name, one in sets.items()}
    assert TaskConfig.of({**DIGITS, "data": pairs}).make(task.vit).discovery.clean.equal(task.discovery.clean)
    pair = TaskConfig.of({**DIGITS, "data": sets["train"].tensors}).make(task.vit)
    assert pair.info["data"] == "tensors"
    assert Circuit.load(tmp_path / "circuit.json").edge_names() == found.circuit.edge_names()


def test_a_task_config_makes_the_contrast_that_it_says(task):
    wanted = class_contrast(task.vit, "digits", target=3, foil=8, n_discovery=6, n_evaluation=6)
    assert wanted.discovery.clean.equal(task.discovery.clean) and wanted.evaluation.corrupt.equal(
        task.evaluation.corrupt
    )
    recorded = TaskConfig.of({"pairs": 4}, {**task.info, "unknown": 1})
    assert (recorded.target, recorded.foil, recorded.pairs, recorded.data) == ("3", "8", 4, "digits")
    with pytest.raises(TaskError, match="has no use"):
        TaskConfig.of({**DIGITS, "word": "three"})
    assert TaskConfig.of({**DIGITS, "mask": "attention"}, kinds=("object_fill",)).partner("object_fill").masks
    shown = TaskConfig.of({**DIGITS, "mask": "foreground"}).make(task.vit)
    assert shown.info["mask"] == "foreground" and shown.discovery.objects is not None
    assert TaskConfig.of({}, shown.info).masks() == Foreground()


def test_a_function_of_one_s_own_runs_again_in_its_folder_and_promises_no_command(tmp_path, task):
    def mine(graph, task):
        return eap(graph, task).top(12)

    asked = {"algorithm": mine, "ports": "block", "random": 0}
    first, again = (discover(None, task, **asked, out=tmp_path / "run") for _ in range(2))
    assert first.circuit == again.circuit and len(first.circuit) == len(Circuit.load(tmp_path / "run"))
    poor = discover(None, task, algorithm="eap", size=6, out=tmp_path / "poor", random=0)
    # its record does not say how the task was made, so there is no command
    assert "Try: the same with tokens='role', size=0.055" in poor.ending()
