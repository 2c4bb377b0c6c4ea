"""Is CLIP more interpretable than a plain ViT? The circuits of both, side by side, and what seeds and chance allow.

usage: python examples/clip_vs_vit.py [--out DIR] [--quick]
       python examples/clip_vs_vit.py --models vit_base_patch16_224.augreg_in1k \\
           vit_base_patch16_clip_224.laion2b_ft_in12k_in1k --data photos/ --target cats=281-285 --foil dogs=151-268

Without --models: `toy/vit-sprites`, trained on class labels, and `toy/clip-sprites`, trained against captions; the same
architecture, images and number of steps, three seeds each, no network; and DeiT-Tiny by itself where its weights and
photographs are at hand. With --models one seed of each is at hand, so that circuits are set beside one another and
nothing is said of kinds. NAME=FILE takes the weights from a file.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from vitcircuits.algorithms import (
    Discovery,
    ModelNumbers,
    common_pairs,
    head_factors,
    head_texts,
    logit_lens,
    measure_subjects,
    side_by_side,
)
from vitcircuits.circuits import Ablation, class_contrast, compile_graph
from vitcircuits.circuits.compare import compare
from vitcircuits.models import describe, load_data, load_vit
from vitcircuits.models.toys import build, factors_of, get_recipe, zero_shot

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"  # beside the checkout, where it is

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--models", nargs="+", metavar="NAME[=FILE]", help="timm names, in place of the toy pair")
parser.add_argument("--data", default="sprites", help="sprites, or a folder of class folders")
parser.add_argument("--target", default="square", help="the class to explain")
parser.add_argument("--foil", default="ellipse", help="what it is told from")
parser.add_argument("--share", type=float, default=0.25, help="part of the edges that every circuit keeps")
parser.add_argument("--pairs", type=int, default=32, help="discovery images of each class, and as many for judging")
parser.add_argument("--out", type=Path, default=Path("clip-vs-vit"), help="folder to write")
parser.add_argument("--quick", action="store_true", help="two seeds and few pairs, to see that it runs")
args = parser.parse_args()
n_pairs = 16 if args.quick else args.pairs

# 1. The models. What has to be downloaded is said before it is.
if args.models:
    kinds = {name.split("=")[0]: [name] for name in args.models}
    for name in (name for name in args.models if "=" not in name):
        cfg = describe(name.split(".")[0])
        weights = 12 * cfg.n_layers * cfg.d_model**2
        print(f"{name}: about {weights / 1e6:.0f} million weights, {4 * weights / 1e6:.0f} MB, if not in timm's cache")
else:
    seeds = ("", "@1") if args.quick else ("", "@1", "@2")
    kinds = {kind: [f"toy/{kind}-sprites{seed}" for seed in seeds] for kind in ("vit", "clip")}
vits = {}
for name in (name for names in kinds.values() for name in names):
    source, _, checkpoint = name.partition("=")
    vits[name] = load_vit(source, checkpoint=checkpoint or None)
    print(vits[name])

# 2. One task for all of them, on the pairs that every model classifies right.
tasks = [
    class_contrast(vit, args.data, target=args.target, foil=args.foil, n_discovery=n_pairs, n_evaluation=n_pairs)
    for vit in vits.values()
]
common = common_pairs(tasks)
print(common)
tasks = dict(zip(vits, common.tasks, strict=True))

# 3. A circuit of each: the same share of the edges, the same algorithm, partners, metric.
circuits = {}
for name, vit in vits.items():
    graph = compile_graph(vit)
    circuits[name] = Discovery("eap_ig", size=args.share).find(tasks[name], graph)
measured = measure_subjects(
    {kind: [(circuits[name], tasks[name]) for name in names] for kind, names in kinds.items()},
)
comparison = compare(measured, pairs=common.as_dict(), n_random=5 if args.quick else 20)
print(comparison)
comparison.save(args.out)

# 4. Interpretability in numbers, each with what it does not say.
numbers = []
n_images = 200 if args.quick else 1000
for kind, names in kinds.items():
    for name in names:
        vit, images = vits[name], tasks[name].evaluation.under(Ablation("mean")).clean  # each image once
        factors = texts = None
        if args.data == "sprites":
            test = load_data("sprites", vit.preprocess).test
            images = test.images[:n_images]
            factors = head_factors(vit, images, factors_of(test.names[:n_images]), heads=circuits[name], n_shuffles=10)
            if kind == "clip":
                said = zero_shot(name)
                phrases = [phrase for _, phrase in said.phrases]
                texts = head_texts(vit, images, phrases, said.phrase_embeddings, heads=circuits[name], n=3)
        found = comparison.figures[list(vits).index(name)]
        sizes = {figure: value for figure, value in found.items() if figure.startswith("edges for ")}
        numbers.append(ModelNumbers(vit.cfg.name, factors, texts, logit_lens(vit, images), sizes))
if args.data == "sprites":  # what can be read off a network that has learnt nothing
    untrained = load_vit(build(get_recipe("vit-sprites")), name="untrained", preprocess=vit.preprocess)
    known = factors_of(test.names[:n_images])
    numbers.append(ModelNumbers("untrained", head_factors(untrained, images, known, n_shuffles=10)))
table = side_by_side(numbers)
print(table)
table.frame().to_csv(args.out / "numbers.csv", index=False)

print("\nWhat its figures bear:")
for line in comparison.conclusions():
    print(f"- {line}")
print(f"\nopen {args.out / 'comparison.html'}", flush=True)

# 5. DeiT-Tiny, where its weights are at hand.
deit = SHARED / "deit_tiny_patch16_224" / "model.safetensors"
if not args.models and not args.quick and deit.is_file():
    options = ["--models", f"deit_tiny_patch16_224={deit}", "--data", str(SHARED / "cats_dogs"), "--pairs", "24"]
    classes = ["--target", "cats=281-285", "--foil", "dogs=151-268", "--share", "0.1"]
    subprocess.run([sys.executable, __file__, *options, *classes, "--out", args.out / "deit-tiny"], check=True)
