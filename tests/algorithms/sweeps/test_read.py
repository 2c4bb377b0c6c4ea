"""A sweep is read from TOML, and what cannot be meant is named with the nearest right word."""

import pytest
from vitcircuits.algorithms.sweeps.plan import Choice, Sweep, read_sweep
from vitcircuits.models.errors import FormatError, TaskError

WHOLE = {
    "seeds": "seeds = [0, 2]",
    "models": 'models = ["toy/a", { name = "b", model = "toy/b", prompts = ["cat", "dog"] }]',
    "algorithms": 'algorithms = ["eap", { name = "ig", algorithm = "eap_ig", options = { steps = 3 } }]',
    "defaults": '[defaults]\ndata = "digits"\neval-pairs = 4',
    "tasks": '[[tasks]]\ntarget = "three=3"\nfoil = 8\n[[tasks]]\nname = "other"\ntarget = 1\nfoil = 2\nmodels = ["b"]',
}


@pytest.fixture
def read(tmp_path):
    def of(**changes):
        path = tmp_path / "sweep.toml"
        path.write_text("\n".join({**WHOLE, **changes}.values()))
        return read_sweep(path)

    return of


def test_a_file_is_read_as_it_says(read):
    models = (Choice("toy/a", {"model": "toy/a"}), Choice("b", {"model": "toy/b", "prompts": ["cat", "dog"]}))
    tasks = (
        Choice("three vs 8", {"target": "three=3", "foil": 8}),
        Choice("other", {"target": 1, "foil": 2}, ("b",)),
    )
    algorithms = (
        Choice("eap", {"algorithm": "eap"}),
        Choice("ig", {"algorithm": "eap_ig", "options": {"steps": 3}}),
    )
    assert read() == Sweep(models, tasks, algorithms, (0, 2), {"data": "digits", "eval_pairs": 4})
    assert read(seeds="").seeds == (0,)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seeds": "seed = 3"}, "seeds = "),
        ({"seeds": "seeds = [1, 1]"}, "different whole numbers"),
        ({"seeds": "seeds = [true]"}, "different whole numbers"),
        ({"seeds": 'model = "toy/a"'}, "Did you mean 'models'"),
        ({"models": ""}, "models are missing"),
        ({"models": "models = []"}, "models are missing"),
        ({"models": 'models = "toy/a"'}, "no list"),
        ({"models": 'models = ["toy/a", "toy/a"]'}, "called 'toy/a'"),
        ({"models": 'models = [{ checkpoint = "x" }]'}, "has no model"),
        ({"models": 'models = [{ model = "b", chekpoint = "x" }]'}, "Did you mean 'checkpoint'"),
        ({"models": "models = [3]"}, r"\[\[models\]\] number 1 is 3"),
        ({"tasks": "[[tasks]]\ntarget = 3"}, r"\[\[tasks\]\] number 1 has no foil"),
        ({"tasks": "[[tasks]]\ntarget = 3\nfoil = 8\nseed = 1"}, "seeds = "),
        ({"tasks": '[[tasks]]\ntarget = 3\nfoil = 8\nmodels = ["c"]'}, "for the model 'c'"),
        ({"tasks": "[[tasks]]\ntarget = 3\nfoil = 1979-05-27"}, "foil is"),
        ({"algorithms": 'algorithms = [{ algorithm = "eap", options = "steps=3" }]'}, "steps = 10"),
        ({"algorithms": 'algorithms = [{ algorithm = "eap", size = { n = 3 } }]'}, "a number, a text"),
        ({"defaults": '[defaults]\ndata = "digits"\nmodel = "b"'}, "no use for 'model'"),
        ({"seeds": 'resources = { memroy = "1GB" }'}, r"\[resources\] has no use for 'memroy'. Did you mean 'memory'"),
        ({"seeds": 'resources = { time = "soon" }'}, r'\[resources\]: time=.soon.: write "30min", "4h", "2d"'),
        ({"seeds": "resources = { gpus = -1 }"}, "gpus=-1: pass at least 0 and at most 1024"),
        ({"seeds": "resources = 3"}, r"\[resources\] is 3: write a table"),
        ({"models": 'models = [{ model = "b", resources = "1GB" }]'}, r'resources is .1GB.: write \{ time = "4h" \}'),
        ({"models": 'models = [{ model = "b", resources = { cpus = 0 } }]'}, "number 1, resources: cpus=0"),
        ({"defaults": "[defaults\n"}, "is not TOML"),
    ],
)
def test_mistakes_are_named_with_their_repair(read, changes, said):
    with pytest.raises(TaskError, match=said):
        read(**changes)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FormatError, match=r"nowhere\.toml"):
        read_sweep(tmp_path / "nowhere.toml")
