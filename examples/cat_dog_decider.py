"""Which head decides between cat and dog? Every head's write at CLS, swapped between photographs of the two.

usage: python examples/cat_dog_decider.py [--model NAME] [--checkpoint FILE] [--data FOLDER] [--out FOLDER] [--quick]

The folder holds cats/ and dogs/. Without photographs or weights, and with --quick, toy/digits-2l tells a 3 from an 8.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd
from vitcircuits.algorithms import activation_patch, path_patch
from vitcircuits.circuits import class_contrast, compile_graph
from vitcircuits.models import ModelError, load_vit

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default="deit_tiny_patch16_224", help="any timm ViT with ImageNet's classes")
parser.add_argument("--checkpoint", type=Path, help="its weights as .safetensors (shared/data, then timm's own)")
parser.add_argument("--data", type=Path, default=SHARED / "cats_dogs", help="a folder with cats/ and dogs/")
parser.add_argument("--device", default="cpu", help="cpu, cuda or mps")
parser.add_argument("--out", type=Path, default=Path("cat-dog-decider"))
parser.add_argument("--quick", action="store_true", help="the toy model, in seconds")
args = parser.parse_args()


def load_photographs():
    """The model and its photographs; the toy and its digits where they cannot be had."""
    found = SHARED / args.model / "model.safetensors"
    checkpoint = args.checkpoint or (found if found.is_file() else None)
    try:
        if not args.quick and args.data.is_dir():
            vit = load_vit(args.model, checkpoint=checkpoint, device=args.device)
            return vit, str(args.data), "cats=281-285", "dogs=151-268"
        reason = "--quick asks for the toy" if args.quick else f"there are no photographs at {args.data}"
    except ModelError as error:
        reason = f"{args.model} cannot be loaded ({error})"
    print(f"Running toy/digits-2l, 3 against 8, instead: {reason}.", file=sys.stderr)
    return load_vit("toy/digits-2l", device=args.device), "digits", "3", "8"


# 1. The task: images of cats and of dogs that the model gets right, each met by others of both, and the logits of cats
#    minus dogs. Effects are turned towards what the image shows, so both directions stand in one table.
vit, data, target, foil = load_photographs()
task = class_contrast(vit, data, target=target, foil=foil)
held_out = task.evaluation.right.opposed
print(vit, task, sep="\n")
wrong = {split: counts["clean_wrong"] for split, counts in task.info["dropped"].items()}
print(f"images that the model gets wrong: {wrong['discovery']} of discovery, {wrong['evaluation']} of evaluation\n")

# 2. Every head's write at CLS exchanged for the one on an image of the other class (noising), and put back into the run
#    on that image (denoising). On discovery images, where the head is chosen, and on others, where it is judged: the
#    best of 36 heads on the images that it was chosen on looks better than it is.
graph = compile_graph(vit)
cls = "cls" if vit.cfg.tokens.has_cls else "all"
tables = {
    (name, direction): activation_patch(graph, task, "head_out", tokens=cls, direction=direction, pairs=pairs)
    for name, pairs in (("chosen", task.discovery), ("held-out", held_out))
    for direction in ("noising", "denoising")
}
for (name, direction), table in tables.items():
    table.draw(args.out / f"heads-{direction}-{name}.svg")
    table.draw(args.out / f"heads-{direction}-{name}.png")
    table.save(args.out / f"heads-{direction}-{name}.csv")

# 3. The choice, on discovery images: by the share of pairs that flip, then by the logits moved, each the mean of both.
frames = {key: table.frame().set_index(["layer", "head"]) for key, table in tables.items()}
columns = ("flips", "effect")
both = pd.DataFrame(
    {column: (frames["chosen", "noising"][column] + frames["chosen", "denoising"][column]) / 2 for column in columns}
)
ranked = both.sort_values(list(columns), ascending=False).index
best = "a{}.h{}".format(*ranked[0])


def interval(row, key, low, high, factor=1.0):
    """A figure with its 95% interval."""
    return f"{factor * row[key]:.2f} [{factor * row[low]:.2f}, {factor * row[high]:.2f}]"


# 4. The judgement, on images that had no part in the choice.
lines = {
    "a{}.h{}".format(*place): {
        f"{direction} {name}": interval(frames["held-out", direction].loc[place], *parts)
        for direction in ("noising", "denoising")
        for name, parts in (
            ("flips %", ("flips", "flips_low", "flips_high", 100.0)),
            ("moved", ("effect", "low", "high")),
        )
    }
    for place in ranked[:10]
}
print(f"the ten strongest heads of {len(task.discovery.opposed)} discovery pairs, on {len(held_out)} others")
print(pd.DataFrame(lines).T.to_string(), "\n")

# 5. What the strongest head reads, and who reads it: the exact effect of every direct path into and out of it. The
#    paths are ordered on discovery images and told on the others.
found = {}
for name, pairs in (("chosen", task.discovery), ("held-out", held_out)):
    parts = {"into": path_patch(graph, task, destinations=best, pairs=pairs)}
    parts["out-of"] = path_patch(graph, task, sources=best, pairs=pairs)
    found[name] = pd.concat([part.frame() for part in parts.values()]).set_index(["source", "destination"])
    for way, part in parts.items():
        part.draw(args.out / f"{way}-{best}-{name}.svg")
        part.save(args.out / f"{way}-{best}-{name}.csv")
order = found["chosen"]["effect"].abs().sort_values(ascending=False).index
paths = found["held-out"].loc[order[:12]].reset_index()
paths["effect"] = [interval(row, "effect", "low", "high") for _, row in paths.iterrows()]
print(f"paths into and out of {best}, strongest on discovery pairs first, their exact effect on {len(held_out)} others")
print(paths[["source", "destination", "effect"]].to_string(index=False))
print(f"\npictures and tables are in {args.out}")
