"""Bad inputs, drawn with a seed, each given to the command line in a process of its own with limits.

    python tests/cli/bad_inputs.py FOLDER [NUMBER ...] > ended.jsonl

BAD_SEED=15 draws others; BAD_INPUTS is how many, 500 where it is not said. Processes are forked from one that has
imported everything (`import_all`), and run without the checks of shapes and types that tests have otherwise, because
users' processes have none. Most end where a search would begin; every 20th searches.
"""

import hashlib
import json
import os
import random
import resource
import sys
import traceback
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import huggingface_hub
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from vitcircuits.algorithms import benchmark, partners, run_config, stability
from vitcircuits.algorithms.registry import ALGORITHMS
from vitcircuits.circuits import Circuit, compile_graph
from vitcircuits.circuits.judging import evaluation
from vitcircuits.circuits.run_folder import RunFolder
from vitcircuits.circuits.tasks.task_config import TaskConfig
from vitcircuits.cli.main import main, make_parser
from vitcircuits.models import load_vit
from vitcircuits.models.errors import TaskError
from vitcircuits.models.model_config import ModelConfig
from vitcircuits.models.toys import training

GIGABYTES, SECONDS = 4, 20
SEARCHED = "a search would begin"
N, SEED = (int(os.environ.get(name, usual)) for name, usual in (("BAD_INPUTS", 500), ("BAD_SEED", 14)))
MODEL = ["--model", "toy/digits-2l"]
TASK = ["--data", "digits", "--target", "3", "--foil", "8", "--pairs", "4", "--eval-pairs", "4"]
BASE = {
    "discover": [*MODEL, *TASK, "--algorithm", "eap", "--size", "5", "--random", "0", "--out", "out"],
    "evaluate": ["STUFF/run", "--eval-pairs", "4", "--no-curve", "--random", "0"],
    "stability": [*MODEL, *TASK, "--algorithm", "eap", "--size", "5", "--resamples", "2", "--seeds", "0"],
    "partners": [*MODEL, *TASK, "--partners", "blur", "--algorithm", "eap", "--size", "5", "--out", "out"],
    "compare": ["STUFF/run", "STUFF/circuit.json", "--structure", "--bootstrap", "2", "--random", "2", "--out", "out"],
    "draw": ["STUFF/circuit.json", "picture.svg"],
    "export": ["STUFF/circuit.json", "edges.csv"],
    "sweep": ["STUFF/sweep.toml", "--status", "--out", "out"],
    "benchmark": ["--only", "eap", "--only", "no such model", "--pairs", "2"],
    "models": ["toy"],
    "train": ["digits-2l", "--print"],
    "demo": ["--out", "STUFF/empty"],
}  # fmt: skip
# The places are inside the test's folders, or can't be written to by anybody.
TEXTS = {
    "numbers": "-1 0 nan inf -inf 1e400 0.5 1e3 ٣ --5 1_000 0x10",
    "words": """nothing é 💥 ../.. = a= =3 3=3=3 , 281-285-3 5-3 0-999999999999 - [1] {} None %s%n
        ~no-such-user/x attention:last:9 attention:x #12 1,2,3""",
    "places": """/proc/self/mem /proc/x /sys/x no/such/folder . .. STUFF/file STUFF/file/below STUFF/loop STUFF/run
        STUFF/cut.json STUFF/random.bin STUFF/bomb.png""",
    "files": """cut.json random.bin empty.json huge.json list.json deep.json edited.json newer.json run/report.json
        run/run.json run/scores.safetensors run/circuit.svg bomb.png file loop photos other.json none unfinished
        weights.safetensors boxes.csv sweep.toml mask.npy code.pth""",
    "models": """resnet18 swin_tiny_patch4_window7_224 vit_base_patch16_224.nothing vit_tyni_patch16_224 hf-hub:
        hf-hub:nobody/nothing local-dir:no/such local-dir:STUFF/empty local-dir:STUFF/bert open_clip:ViT-B-16:openai
        open_clip: open_clip:x:y toy/ toy/../digits-2l planted/ planted/neighbour-xor:trap=2 planted/majority:norm=x
        STUFF/bert STUFF/vit STUFF/empty STUFF/card STUFF/weights.safetensors STUFF/code.pth STUFF/zeros.pth
        STUFF/random.bin deit_tiny_patch16_224 a/b/c %00 HF-HUB:a/b""",
    "toml": '-1 1e400 nan "x" [] {} [1,2] true 999999999999999999 1979-05-27 "" [[1]]',
}
NUMBERS, WORDS, PLACES, FILES, MODELS, TOML = (text.split() for text in TEXTS.values())
NUMBERS += ["9" * 30, "9" * 5000, ""]
WORDS += ["", " ", "a\nb", "\udcff", "a" * 5000]
_SPRITES = (["--target=0", "--foil=1"], ["--target=0", "--foil=1", "--pairs=200", "--memory=99GB", "--out=out"])
KNOWN = [
    ["models", "toy", "--write=STUFF/random.bin"],
    ["a" * 5000],
    ["discover", *TASK, "--model", "open_clip:x:y", "--checkpoint", "STUFF/random.bin"],
    ["discover", *MODEL, "--data", "digits", "--target", "0-999999999999", "--foil", "8"],
    ["draw", "STUFF/huge.json", "picture.svg"],
    ["TOML", "attention_mask = 1979-05-27", "discover", "--config", "settings.toml"],
    ["discover", *MODEL, *TASK, "--seed", "-1"],
    ["discover", *MODEL, *TASK, "--seed", str(2**64)],
    ["discover", *TASK, "--model", "x" * 5000],
    ["discover", *MODEL, *TASK, "--device", "meta"],
    ["discover", *MODEL, *TASK, "--option", "steps=999999999999"],
    ["discover", *TASK, "--model", "hf-hub:nobody/nothing"],
    *[["DISK", command, *BASE[command]] for command in ("discover", "draw", "compare")],
    ["DISK", "export", "STUFF/circuit.json", "copy.graphml"],
    ["DISK", "evaluate", *BASE["evaluate"], "--report", "report.json"],
    *[["MEMORY", "discover", "--model", "toy/sprites-2l", "--data", "sprites", *more] for more in _SPRITES],
]


def import_all():
    """Imports what commands import where they use it: each of the processes would otherwise do so for itself."""
    for name in ("sklearn.datasets", "open_clip"):
        with suppress(ImportError):  # of an extra
            import_module(name)


def make_stuff(folder):
    """Files of every kind, whole, damaged and swapped."""
    folder.mkdir()
    graph = compile_graph(load_vit("toy/digits-2l"))
    task = {"model": "toy/digits-2l", "data": "digits", "target": [3], "foil": [8]}
    circuit = Circuit.from_edges(graph, ["input->logits", "input->m0", "m0->logits"], task=task)
    circuit.save(folder / "circuit.json")
    run = RunFolder.open(folder / "run", {"model": "toy/digits-2l"})
    run.write_all(circuit)
    run.finish()
    (folder / "run" / "report.json").write_text("{}")
    (folder / "run" / "scores.safetensors").write_bytes(b"\xff" * 64)
    RunFolder.open(folder / "unfinished", {"model": "toy/digits-2l"})
    _damage(folder, (folder / "circuit.json").read_text())
    _weights(folder)
    for name in ("empty", "photos/cats", "photos/dogs", "bert", "vit", "card", "other/cats"):
        (folder / name).mkdir(parents=True)
    for name in ("cats/0.png", "cats/1.png", "dogs/0.png"):
        Image.fromarray(np.full((8, 8), 90, dtype=np.uint8)).save(folder / "photos" / name)
    (folder / "photos" / "dogs" / "1.png").write_bytes(b"no picture")
    (folder / "bert" / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    (folder / "vit" / "config.json").write_text('{"model_type": "vit", "hidden_size": -3, "architectures": 5}')
    (folder / "card" / "card.json").write_text('{"name": 3}')
    (folder / "sweep.toml").write_text(SWEEP)


SWEEP = """\
models = ["toy/digits-2l"]
algorithms = ["eap"]
[[tasks]]
data = "digits"
target = 3
foil = 8
"""


def _damage(folder, text):
    data = json.loads(text)
    (folder / "cut.json").write_text(text[: len(text) // 2])
    (folder / "edited.json").write_text(text.replace("input->logits", "input=>logits"))
    (folder / "newer.json").write_text(text.replace("circuit/1", "circuit/9"))
    (folder / "other.json").write_text(json.dumps({**data, "task": {"model": "no/such", "data": "/no", "target": 1}}))
    (folder / "huge.json").write_text(text.replace('"n_layers": 2', '"n_layers": 999999999'))
    (folder / "list.json").write_text("[1]")
    (folder / "deep.json").write_text("[" * 100_000)
    (folder / "empty.json").write_text("")
    (folder / "file").write_text("a file\n")
    (folder / "boxes.csv").write_text("name,left\n3,x\n")
    (folder / "random.bin").write_bytes(random.Random(SEED).randbytes(512))
    (folder / "loop").symlink_to(folder / "loop")
    header = Image.new("1", (8, 8))
    header.save(folder / "bomb.png")
    bomb = bytearray((folder / "bomb.png").read_bytes())
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2
    (folder / "bomb.png").write_bytes(bomb)


def _weights(folder):
    save_file({"head.weight": torch.zeros(10, 3)}, folder / "weights.safetensors")
    torch.save(folder, folder / "code.pth")
    torch.save({"head.weight": torch.zeros(3)}, folder / "zeros.pth")
    np.save(folder / "mask.npy", np.zeros((3, 4)))


def drawn():
    """The cases: a list of words each."""
    draw = random.Random(SEED)
    kinds = [(_option, 9), (_algorithm_option, 4), (_file, 4), (_model, 3), (_words, 1), (_edited, 3), (_toml, 3)]
    cases = list(KNOWN)
    while len(cases) < N:
        (kind,) = draw.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])
        cases.append(kind(draw))
    return cases


def _option(draw):
    command = draw.choice([name for name in BASE if name != "export"])  # whose options are those of others
    actions = [one for one in _actions(command) if one.option_strings and one.dest not in ("help", "workers")]
    action = draw.choice(actions)
    if action.nargs == 0:
        return [command, *BASE[command], f"{action.option_strings[0]}={draw.choice(WORDS)}"]
    values = draw.choice([NUMBERS, WORDS, PLACES]) if action.type is None or action.metavar != "N" else NUMBERS
    return [command, *BASE[command], f"{action.option_strings[0]}={draw.choice(values)}"]


def _actions(command):
    (subparsers,) = (one for one in make_parser()._actions if one.dest == "==SUPPRESS==")
    return subparsers.choices[command]._actions


def _algorithm_option(draw):
    name = draw.choice(list(ALGORITHMS))
    option = draw.choice([*ALGORITHMS[name].options, "nothing"])
    return ["discover", *MODEL, *TASK, "--algorithm", name, f"--option={option}={draw.choice([*NUMBERS, *WORDS])}"]


def _file(draw):
    command, file = (
        draw.choice(["draw", "export", "evaluate", "compare", "sweep", "discover", "train"]),
        draw.choice(FILES),
    )
    path = f"STUFF/{file}"
    if command in ("draw", "export"):
        endings = (
            ("svg", "html", "dot", "gv", "bmp", "") if command == "draw" else ("csv", "json", "graphml", "dot", "x")
        )
        return [command, path, f"out.{draw.choice(endings)}"]
    if command == "compare":
        return [command, path, "STUFF/circuit.json", "--structure", "--random", "2", "--bootstrap", "2"]
    if command == "discover":
        flag = draw.choice(
            ["--config", "--checkpoint", "--readout", "--mask", "--attention-mask", "--reference", "--data"]
        )
        return [command, *BASE["discover"], flag, path]
    return [command, path, *BASE[command][1:]]


def _model(draw):
    command = draw.choice(["discover", "evaluate", "stability", "partners"])
    more = draw.choice(
        [[], [], ["--checkpoint", f"STUFF/{draw.choice(FILES)}"], ["--prompts", "a", "b"], ["--probe", "means"]]
    )
    return [command, *BASE[command], "--model", draw.choice(MODELS), *more]


def _words(draw):
    """No command at all, or one with words of another."""
    words = [word for command in BASE for word in (command, *BASE[command])]
    return [draw.choice([*BASE, *WORDS]), *draw.sample(words, draw.randint(0, 3))]


def _edited(draw):
    """A circuit or a run's settings of which one value is another; the word after EDIT says which."""
    command = draw.choice(["draw", "export", "evaluate", "compare"])
    return ["EDIT", str(draw.randrange(10**6)), command, "edited", *BASE[command][1:]]


def _toml(draw):
    """Settings of a file of which one is another."""
    keys = [
        *TaskConfig.__dataclass_fields__,
        *ModelConfig.__dataclass_fields__,
        "size",
        "level",
        "by",
        "memory",
        "options",
    ]
    value = draw.choice(
        ["-1", "1e400", "nan", '"x"', "[]", "{}", "[1, 2]", "true", "9" * 18, "1979-05-27", '""', "[[1]]"]
    )
    return ["TOML", f"{draw.choice(keys)} = {value}", "discover", "--config", "settings.toml", "--out", "out"]


def search(*_, **__):
    raise TaskError(SEARCHED)


def cut_off():
    """Ends commands where a search would begin."""
    for module, name in (
        (run_config, "find_and_judge"),
        (stability, "measure_stability"),
        (partners, "compare_partners"),
        (benchmark, "run_benchmark"),
        (training, "train"),
        (evaluation, "evaluate"),
    ):
        setattr(module, name, search)


def limit(short):
    """Memory, processor time and size of files of this process; far less of what is to run short."""
    gigabytes = 0.05 if short == "MEMORY" else GIGABYTES
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    most = pages * resource.getpagesize() + int(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
    if short == "DISK":
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))


def run(words, folder, *, cut, short):
    """Ends this process with the command's exit code, its words written into the folder; 70 for a traceback."""
    os.chdir(folder)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open("stderr", os.O_CREAT | os.O_WRONLY), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    limit(short)
    if cut:
        cut_off()
    try:
        code = main(words)
    except SystemExit as stop:  # of --help
        code = stop.code
    except BaseException:
        traceback.print_exc()
        code = 70
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def ended(words, folder, stuff, before, *, cut):
    """What became of a case, in plain values; `before` is what the stuff held, and holds from here on."""
    folder.mkdir()
    words = [word.replace("STUFF", str(stuff)) for word in words]
    if words[0] == "EDIT":
        (folder / "edited").write_text(with_another_value(stuff / "circuit.json", int(words[1])))
    if words[0] == "TOML":
        text = 'model = "toy/digits-2l"\n[task]\ndata = "digits"\ntarget = 3\nfoil = 8\n'
        (folder / "settings.toml").write_text(f"{words[1]}\n{text}")
    short = words[0] if words[0] in ("DISK", "MEMORY") else ""
    words = words[{"EDIT": 2, "TOML": 2, "DISK": 1, "MEMORY": 1}.get(words[0], 0) :]
    child = os.fork()
    if not child:
        run(words, folder, cut=cut and not short, short=short)
    _, status, used = os.wait4(child, 0)
    now = contents(stuff)
    changed = [str(path) for path in {**before, **now} if before.get(path) != now.get(path)]
    before.clear()
    before.update(now)
    return {
        "words": words,
        "short": short,
        "code": os.waitstatus_to_exitcode(status),
        "said": (folder / "stderr").read_text(errors="replace"),
        "gigabytes": used.ru_maxrss / 2**20,
        "seconds": used.ru_utime + used.ru_stime,
        "changed": changed,
    }


def contents(folder):
    """Hashes of all files below a folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()]
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def with_another_value(path, seed):
    """The text of a JSON file with one value changed, taken out, or put where another was."""
    draw, data = random.Random(seed), json.loads(path.read_text())
    place, key = data, draw.choice(list(data))
    while isinstance(place[key], dict | list) and place[key] and draw.random() < 0.9:
        place = place[key]
        key = draw.choice(list(place)) if isinstance(place, dict) else draw.randrange(len(place))
    values = [None, "", -1, 0, 10**9, 1e308, "x" * 2000, [], {}, [[1]], True, 0.5, {"kind": 3}, -(10**18)]
    if draw.random() < 0.15:
        del place[key]
    else:
        place[key] = draw.choice(values)
    return json.dumps(data)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    import_all()
    make_stuff(folder / "stuff")
    huggingface_hub.constants.ENDPOINT = "http://127.0.0.1:9"  # nobody answers there
    torch.set_num_threads(1)
    only, held = set(map(int, sys.argv[2:])), contents(folder / "stuff")
    for number, words in enumerate(drawn()):
        if not only or number in only:
            case = ended(words, folder / str(number), folder / "stuff", held, cut=number % 20 != 0)
            sys.stdout.write(json.dumps({"number": number, **case}) + "\n")
            sys.stdout.flush()
