"""Which head decides between cat and dog? Every head's write at CLS, swapped between photographs of the two.

usage: python examples/cat_dog_decider.py [--model NAME] [--checkpoint FILE] [--data FOLDER] [--out FOLDER] [--quick]

The folder holds cats/ and dogs/. Without photographs or weights, and with --quick, toy/digits-2l tells a 3 from an 8.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd
import torch
from vitcircuits.algorithms import activation_patch, path_patch
from vitcircuits.circuits import Pairs, class_contrast, compile_graph
from vitcircuits.circuits.metrics import Metric
from vitcircuits.models import load_vit
from vitcircuits.models.errors import ModelError

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


# 1. The task: an image of a cat, its partner an image of a dog, and the logit difference cats minus dogs.
vit, data, target, foil = load_photographs()
task = class_contrast(vit, data, target=target, foil=foil)
print(vit, task, sep="\n")

# 2. All valid pairs. The task has checked the cats; both directions need dogs that are seen as dogs, too. Nothing is
#    fitted here, so the evaluation pairs serve as well.
clean = torch.cat([task.discovery.clean, task.evaluation.clean])
pairs = Pairs(clean, torch.cat([task.discovery.corrupt, task.evaluation.corrupt]))
with torch.no_grad():
    dogs = torch.cat([Metric("logit", task.metric.foil).correct(vit(batch.corrupt)) for batch in pairs.batches(32)])
pairs = pairs.select(dogs.nonzero().flatten().cpu())
print(f"{len(pairs)} of {len(dogs)} pairs have both images classified right\n")

# 3. Every head's write at CLS, from dog to cat (noising: cat images with dogs' writes) and back (denoising).
graph = compile_graph(vit)
cls = "cls" if vit.cfg.tokens.has_cls else "all"
tables = {
    direction: activation_patch(
        graph, task, "head_out", tokens=cls, direction=direction, pairs=pairs, progress=sys.stderr.isatty()
    )
    for direction in ("noising", "denoising")
}
for direction, table in tables.items():
    table.draw(args.out / f"heads-{direction}.svg")
    table.draw(args.out / f"heads-{direction}.png")
    table.save(args.out / f"heads-{direction}.csv")

# 4. The ranking: by the share of pairs that flip, then by the logit difference moved, each the mean of both directions.
frames = {direction: table.frame().set_index(["layer", "head"]) for direction, table in tables.items()}
both = pd.DataFrame({key: (frames["noising"][key] + frames["denoising"][key]) / 2 for key in ("flips", "effect")})
ranked = both.sort_values(["flips", "effect"], ascending=False).index
best = "a{}.h{}".format(*ranked[0])


def interval(row, key, low, high, factor=1.0):
    """A figure with its 95% interval."""
    return f"{factor * row[key]:.2f} [{factor * row[low]:.2f}, {factor * row[high]:.2f}]"


lines = {
    "a{}.h{}".format(*place): {
        f"{direction} {name}": interval(frame.loc[place], *columns)
        for direction, frame in frames.items()
        for name, columns in (
            ("flips %", ("flips", "flips_low", "flips_high", 100.0)),
            ("moved", ("effect", "low", "high")),
        )
    }
    for place in ranked[:10]
}
print(pd.DataFrame(lines).T.to_string(), "\n")

# 5. What the strongest head reads, and who reads it: the exact effect of every direct path into and out of it.
read = path_patch(graph, task, destinations=best, progress=sys.stderr.isatty())
written = path_patch(graph, task, sources=best, progress=sys.stderr.isatty())
for name, table in (("into", read), ("out-of", written)):
    table.draw(args.out / f"{name}-{best}.svg")
    table.save(args.out / f"{name}-{best}.csv")
paths = pd.concat([read.frame(), written.frame()]).sort_values("effect", key=abs, ascending=False)
paths["effect"] = [interval(row, "effect", "low", "high") for _, row in paths.iterrows()]
print(f"paths into and out of {best}, by the size of their exact effect on {len(task.discovery)} discovery pairs")
print(paths[["source", "destination", "effect"]][:12].to_string(index=False))
print(f"\npictures and tables are in {args.out}")
