"""How well lenses, direct effects and attention find objects, and how far lenses agree; written into a Markdown file.

    .venv/bin/python tests/benchmarks/segmentation.py --write docs/lenses.md

Half an hour on two cores. The folder that VITCIRCUITS_TEST_DATA names has mnist/, cats_dogs/, cats_dogs_masks/ and
DeiT-Tiny's weights; without it, what needs it is left out. What was measured is kept in the folder --work, so that a
run that was interrupted goes on. Pictures (of sprites only) are written beside the Markdown file.
"""

import argparse
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from performance import write_measured
from timm.models.vision_transformer import VisionTransformer
from vitcircuits.algorithms import FittedLens, logit_lens, segmentation, tuned_lens
from vitcircuits.circuits.partners.masks import MaskFolder, Pictures
from vitcircuits.models import HookedViT, load_vit
from vitcircuits.models.data import Split, load_data
from vitcircuits.models.files import write_text_atomic
from vitcircuits.models.toys.sprites import factors_of, sprite_masks

DATA = Path(os.environ.get("VITCIRCUITS_TEST_DATA", "no folder is named"))
BEGIN, END = "<!-- segmentation: begin -->", "<!-- segmentation: end -->"
MAPS = (
    "lens", "lens labels", "tuned lens", "tuned lens labels", "direct effects", "attention",
    "untrained lens", "untrained lens labels", "untrained direct effects", "untrained attention",
    "centre box", "everything", "ceiling",
)  # fmt: skip
COPIES = 5
CATS, DOGS = range(281, 286), range(151, 269)


def measure(
    vit: HookedViT, fitted: torch.Tensor, test: Split, masks: torch.Tensor, targets: Any, **patches: Any
) -> dict[str, Any]:
    """Segmentation of a model with a lens that was tuned on other images, and how far both lenses agree at CLS."""
    lens = tuned_lens(vit, fitted, at="patches", **patches)
    table = segmentation(vit, test.images, masks, targets, through=lens, untrained=COPIES)
    found: dict[str, Any] = {"n": len(test.images), "maps": {}, "chosen": {}, "agreement": {}}
    for name, one in table.judged.items():
        figures = table.figures(name)
        found["maps"][name] = {key: [figures[key].value, figures[key].low, figures[key].high] for key in figures}
        found["chosen"][name] = one.chosen
    for name, through in (("logit lens", None), ("tuned lens", tuned_lens(vit, fitted))):
        found["agreement"][name] = agreement(vit, test.images, through)
    return found


def agreement(vit: HookedViT, images: torch.Tensor, through: FittedLens | None) -> dict[str, Any]:
    """Agreement, KL and calibration by layer, and the control's."""
    table = logit_lens(vit, images, through=through)
    figures = table.figures()
    kept = [name for name in ("agreement", "kl", "calibration", "control_agreement", "control_kl") if name in figures]
    rows = {name: [[one.value, one.low, one.high] for one in figures[name]] for name in kept}
    return {"layers": table.layers, **rows}


def sprites(vit: HookedViT) -> dict[str, Any]:
    """On sprites; their masks are known."""
    data = load_data("sprites", vit.preprocess, limit=100)
    masks = torch.from_numpy(sprite_masks(factors_of(data.test.names)))
    return measure(vit, data.train.images, data.test, masks, data.test.labels, n_patches=4)


def digits(vit: HookedViT) -> dict[str, Any]:
    """On MNIST; a digit is the pixels that are at least half bright."""
    assert vit.preprocess is not None
    data = load_data("mnist", vit.preprocess, data_dir=DATA / "mnist", limit=50)
    masks = vit.preprocess.denormalise(data.test.images)[:, 0] >= 0.5
    return measure(vit, data.train.images, data.test, masks, data.test.labels, n_patches=4)


def photographs(vit: HookedViT) -> dict[str, Any]:
    """On photographs of cats and dogs; masks by a saliency model."""
    data = load_data(DATA / "cats_dogs", vit.preprocess)
    masks = MaskFolder(DATA / "cats_dogs_masks")(Pictures(vit, data, data.test.images, data.test.names))
    some = masks.flatten(1).any(1)
    test = Split(data.test.images[some], data.test.labels[some])
    targets = [[*(CATS, DOGS)[label]] for label in test.labels.tolist()]
    return measure(vit, data.train.images, test, masks[some], targets)


def trained_here(mask: str | None, seed: int) -> HookedViT:
    """Two layers on sprites, read by the mean of the patches, trained for a minute under an attention mask."""
    torch.manual_seed(seed)
    sizes = {"img_size": 32, "patch_size": 8, "num_classes": 6, "embed_dim": 64, "depth": 2, "num_heads": 4}
    module = VisionTransformer(**sizes, mlp_ratio=2.0, class_token=False, global_pool="avg")
    name = f"{mask or 'bidirectional'}, seed {seed}"
    reference = load_vit("toy/sprites-2l")
    vit = HookedViT(module, name=name, preprocess=reference.preprocess, labels=reference.labels, attention_mask=mask)
    train = load_data("sprites", vit.preprocess).train
    adam, epochs = torch.optim.AdamW(module.parameters(), lr=2e-3, weight_decay=0.05), 12
    steps = epochs * -(-len(train.images) // 128)
    cosine = torch.optim.lr_scheduler.OneCycleLR(adam, 2e-3, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(train.images)).split(128):
            residual = vit.embed(train.images[rows])
            loss = torch.nn.functional.cross_entropy(vit.readout.logits(vit.run_blocks(residual)), train.labels[rows])
            adam.zero_grad()
            loss.backward()
            adam.step()
            cosine.step()
    module.eval().requires_grad_(False)
    return vit


def with_accuracy(vit: HookedViT) -> dict[str, Any]:
    """On sprites, with the share of test images that are classified right."""
    test = load_data("sprites", vit.preprocess).test
    with torch.no_grad():
        right = [
            (vit(x).argmax(-1) == y).float()
            for x, y in zip(test.images.split(500), test.labels.split(500), strict=True)
        ]
    return {**sprites(vit), "accuracy": float(torch.cat(right).mean())}


def deit() -> dict[str, Any]:
    """DeiT-Tiny on photographs."""
    weights = DATA / "deit_tiny_patch16_224" / "model.safetensors"
    return photographs(load_vit("deit_tiny_patch16_224", checkpoint=weights))


def studies() -> Iterator[tuple[str, str, Callable[[], dict[str, Any]], bool]]:
    """Section, name, what is measured, and whether it needs the data folder."""
    for toy in ("sprites-2l", "sprites-4l"):
        for seed in ("", "@1", "@2"):
            yield "sprites", f"toy/{toy}{seed}", lambda n=f"toy/{toy}{seed}": sprites(load_vit(n)), False
    for toy in ("mnist-2l", "mnist-2l-reg4"):
        yield "registers", f"toy/{toy}", lambda n=f"toy/{toy}": digits(load_vit(n)), True
    for mask in (None, "causal"):
        for seed in (0, 1):
            name = f"{mask or 'bidirectional'}, seed {seed}"
            yield "causal", name, lambda m=mask, s=seed: with_accuracy(trained_here(m, s)), False
    yield "photographs", "DeiT-Tiny", deit, True


SECTIONS = {
    "sprites": "Sprites, whose masks are known",
    "registers": "Digits, with and without registers (a digit: pixels at least half bright)",
    "causal": "Sprites, under bidirectional and causal attention (read by the patches' mean, trained by the script)",
    "photographs": "Photographs of cats and dogs (masks made by a saliency model, not ground truth; cat or dog classes "
    "against all others)",
}


def cell(figure: list[float | None]) -> str:
    """A figure with its interval."""
    value, low, high = figure
    if value is None:
        return ""
    short = [
        f"{one:.2f}".replace("0.", ".", 1) if abs(one) < 1 else f"{one:.2f}"
        for one in (value, low, high)
        if one is not None
    ]
    return short[0] if len(short) < 3 else f"{short[0]} ({short[1]} to {short[2]})"


def segmentation_table(found: dict[str, dict[str, Any]], figure: str) -> list[str]:
    """A row for each map, a column for each model."""
    models = list(found)
    head = [f"{name} ({found[name]['accuracy']:.1%} right)" if "accuracy" in found[name] else name for name in models]
    lines = [f"| map | {' | '.join(head)} |", "| --- |" + " ---: |" * len(models)]
    for name in MAPS:
        cells = [cell(one["maps"][name][figure]) if name in one["maps"] else "" for one in found.values()]
        if any(cells):
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def agreement_table(name: str, found: dict[str, Any]) -> list[str]:
    """How far both lenses agree with the output at what is read, a row for each layer."""
    plain, tuned = found["agreement"]["logit lens"], found["agreement"]["tuned lens"]
    lines = [
        f"{name}, at CLS, {found['n']:,} images that neither was fitted on:",
        "",
        "| layer | agreement, plain | tuned | layers shuffled | KL, plain (nats) | tuned | layers shuffled "
        "| calibration, plain | tuned |",
        "| --- |" + " ---: |" * 8,
    ]
    for row, layer in enumerate(plain["layers"]):
        columns = (plain["agreement"], tuned["agreement"], tuned["control_agreement"], plain["kl"], tuned["kl"])
        columns += (tuned["control_kl"], plain["calibration"], tuned["calibration"])
        lines.append(f"| {layer} | {' | '.join(cell(column[row]) for column in columns)} |")
    return lines


def page(found: dict[str, dict[str, dict[str, Any]]]) -> str:
    """The tables of all that was measured."""
    lines = []
    for section, models in found.items():
        n = next(iter(models.values()))["n"]
        lines += [f"### {SECTIONS[section]}", "", f"{n:,} images. IoU, with its 95% interval over images:", ""]
        lines += [*segmentation_table(models, "iou"), "", "AUC, .5 is chance:", ""]
        lines += [*segmentation_table(models, "auc"), ""]
        kept = [
            f"{name}: {one['chosen']['lens']} (lens), {one['chosen']['attention']} (attention)"
            for name, one in models.items()
        ]
        lines += [f"Best on all images together: {'; '.join(kept)}.", ""]
    lines += ["### How far the lenses agree", ""]
    for section, name in (("sprites", "toy/sprites-4l"), ("photographs", "DeiT-Tiny")):
        if name in found.get(section, {}):
            lines += [*agreement_table(name, found[section][name]), ""]
    return "\n".join(lines).rstrip()


def draw_pictures(folder: Path) -> None:
    """What the patches of a sprite say, and how far lenses agree."""
    vit = load_vit("toy/sprites-4l")
    data = load_data("sprites", vit.preprocess, limit=100)
    logit_lens(vit, data.test.images[:8], at="patches").draw_patches(folder / "lenses-sprites.png", image=1)
    tuned = logit_lens(vit, data.test.images, through=tuned_lens(vit, data.train.images))
    logit_lens(vit, data.test.images).draw(folder / "lenses-agreement.png", beside=[tuned])


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help=f"of {', '.join(SECTIONS)}; all by default")
    parser.add_argument("--work", type=Path, default=Path("segmentation-work"), help="where figures are kept")
    parser.add_argument("--write", type=Path, help="a Markdown file to write the tables into")
    options = parser.parse_args()
    chosen = [part for part in options.only.split(",") if part] or list(SECTIONS)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for section, name, run, needs_data in studies():
        path = options.work / f"{section}-{name.replace('/', '-').replace(' ', '-')}.json"
        if section not in chosen or (needs_data and not DATA.is_dir() and not path.exists()):
            continue
        if not path.exists():
            print(f"{section}: {name}", flush=True)
            write_text_atomic(path, json.dumps(run(), default=np.ndarray.tolist))
        found.setdefault(section, {})[name] = json.loads(path.read_text())
    print(page(found))
    if options.write:
        write_measured(options.write, page(found), BEGIN, END)
        draw_pictures(options.write.parent)


if __name__ == "__main__":
    main()
