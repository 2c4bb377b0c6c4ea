"""The circuit that tells cats from dogs, whole: heads that decide, edges, what they read, and where it comes from.

usage: python examples/cat_dog_decider.py [--model NAME] [--checkpoint FILE] [--data FOLDER] [--masks FOLDER] [--quick]
                                          [--out FOLDER] [--write docs/cat-dog.md]

The folder holds cats/ and dogs/. Without photographs or weights, and with --quick, toy/digits-2l tells a 3 from an 8.
A step that was finished is read from the folder --out, so that a run that was interrupted goes on.
"""

import argparse
import json
import os
import platform
import re
import shutil
import sys
import time
from pathlib import Path

import torch
import vitcircuits as vc
from cat_dog_steps import Study, circuit, flow, heads, probes, reads
from vitcircuits.models import ModelError

MODEL, SHARED = "deit_tiny_patch16_224", Path(__file__).resolve().parents[2] / "shared" / "data"
FULL = {"images": None, "steps": 150, "sizes": [0.4, 0.2], "random": 2, "flow": 16, "patches": 8, "shuffles": 20}
QUICK = {"images": 24, "steps": 20, "sizes": [0.4, 0.2], "random": 2, "flow": 8, "patches": 4, "shuffles": 5}
STEPS = {
    heads: "The heads whose write to CLS alone flips the answer",
    circuit: "The smallest circuit that reads the image",
    reads: "What the strongest head reads",
    flow: "The path from the patches to CLS",
    probes: "How much each patch holds, layer by layer",
}
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def open_study(args: argparse.Namespace) -> Study:
    """The model and its photographs; the toy and its digits where they cannot be had."""
    found, beside = SHARED / args.model / "model.safetensors", args.data.with_name(args.data.name + "_masks")
    reason = "--quick asks for the toy" if args.quick else f"there are no photographs at {args.data}"
    vit, data, classes, n = None, str(args.data), ("cats=281-285", "dogs=151-268"), FULL
    masks = args.masks or (beside if beside.is_dir() else "attention")
    if not args.quick and args.data.is_dir():
        try:
            checkpoint = args.checkpoint or (found if found.is_file() else None)
            vit = vc.load_vit(args.model, checkpoint=checkpoint, device=args.device)
        except ModelError as error:
            reason = f"{args.model} cannot be loaded ({error})"
    if vit is None:
        print(f"Running toy/digits-2l, 3 against 8, instead: {reason}.", file=sys.stderr)
        vit, data, classes, n, masks = vc.load_vit("toy/digits-2l"), "digits", ("3", "8"), QUICK, "foreground"
    some = {"n_discovery": n["images"], "n_evaluation": n["images"], "n_partners": 1, "masks": masks}
    task = vc.class_contrast(vit, data, target=classes[0], foil=classes[1], **some)
    args.out.mkdir(parents=True, exist_ok=True)
    return Study(task, vc.compile_graph(vit), args.out, n)


def finished(study: Study, step, facts: dict) -> dict:
    """What a step found, now or in an earlier run with the same settings."""
    vit, info, file = study.task.vit, study.task.info, study.out / f"{step.__name__}-step.json"
    settings = {**study.n, "model": vit.digest(), "data": info["data_digest"], "masks": info["mask_digest"]}
    if file.is_file() and (found := json.loads(file.read_text(encoding="utf-8")))["settings"] == settings:
        return found
    print(f"{step.__name__} ...", file=sys.stderr)
    work, clock = time.process_time(), time.time()
    text = step(study, facts)
    minutes = {"work": (time.process_time() - work) / 60, "clock": (time.time() - clock) / 60}
    found = {"settings": settings, "text": text, "facts": facts, **minutes}
    replace_text(file, json.dumps(found))
    return found


def replace_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def page_of(study: Study, args: argparse.Namespace) -> str:
    """The measured part of the page."""
    info, vit, facts, sections = study.task.info, study.task.vit, {}, []
    minutes = {"work": 0.0, "clock": 0.0}
    for number, (step, title) in enumerate(STEPS.items(), 1):
        found = finished(study, step, facts)
        facts |= found["facts"]
        sections.append(f"### {number}. {title}\n\n{found['text']}")
        minutes = {name: so_far + found[name] for name, so_far in minutes.items()}
    images = [
        f"{split}: {n['target']} {info['target_name']} and {n['foil']} {info['foil_name']} that the model gets right, "
        f"{n['target_wrong']} and {n['foil_wrong']} that it does not"
        for split, n in info["images"].items()
    ]
    options = f" --model {args.model}" * (args.model != MODEL) + " --quick" * args.quick
    return (
        f"Model: {vit.cfg.name}, {vit.cfg.n_layers} blocks of {vit.cfg.n_heads} heads. Question: {info['target_name']} "
        f"against {info['foil_name']}. Images of {'; of '.join(images)}. Intervals: 95%. Written by\n\n"
        f"```bash\npython examples/cat_dog_decider.py{options} --write docs/cat-dog.md\n```\n\n"
        f"in {minutes['work']:.1f} minutes of processor time ({minutes['clock']:.1f} by the clock, beside other work) "
        f"on {os.cpu_count()} cores ({platform.machine()}), {torch.get_num_threads()} thread(s).\n\n"
        + "\n".join(sections)
    )


def write(page: Path, text: str, out: Path) -> None:
    """The page with its pictures beside it; what stands outside the marks is left."""
    for name in re.findall(r"\]\(([\w-]+\.png)\)", text):
        part = page.with_name(f"{page.stem}-{name}.part")
        shutil.copyfile(out / name, part)
        part.replace(page.with_name(f"{page.stem}-{name}"))
    text = re.sub(r"\]\(([\w-]+\.png)\)", rf"]({page.stem}-\1)", text)
    before = page.read_text(encoding="utf-8") if page.is_file() else f"# Cats against dogs\n\n{BEGIN}\n{END}\n"
    head, _, tail = before.partition(BEGIN)
    replace_text(page, f"{head}{BEGIN}\n{text}\n{END}{tail.partition(END)[2]}")


def main(arguments: list[str] | None = None) -> None:
    """Runs every step and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL, help="any timm ViT with ImageNet's classes")
    parser.add_argument("--checkpoint", type=Path, help="its weights as .safetensors (shared/data, then timm's own)")
    parser.add_argument("--data", type=Path, default=SHARED / "cats_dogs", help="a folder with cats/ and dogs/")
    parser.add_argument("--masks", type=Path, help="pictures of masks of the same names (DATA_masks, else attention)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps")
    parser.add_argument("--out", type=Path, default=Path("cat-dog-decider"), help="tables, pictures, finished steps")
    parser.add_argument("--write", type=Path, help="a Markdown page, its pictures beside it")
    parser.add_argument("--quick", action="store_true", help="the toy model, in a minute")
    args = parser.parse_args(arguments)
    text = page_of(open_study(args), args)
    print(text)
    if args.write:
        write(args.write, text, args.out)
    print(f"pictures and tables are in {args.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
