"""The steps of `cat_dog_decider.py`: each measures one thing, draws it, and returns its section of the page."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import vitcircuits as vc
from vitcircuits.algorithms import activation_patch, learned_masks, logit_attribution, path_patch, probe, token_flow
from vitcircuits.circuits import Ablation, Circuit, Graph, Pairs, Task

TEN, MEANS = 10, Ablation("mean")
KINDS = {"tabby cat": (281, 281), "tiger cat": (282, 282), "Persian": (283, 283), "Siamese": (284, 284),
         "Egyptian cat": (285, 285), "toy dogs": (151, 158), "hounds": (159, 178), "terriers": (179, 204),
         "gun dogs": (205, 221), "herding and working dogs": (222, 250), "other dogs": (251, 268)}  # fmt: skip


@dataclass(frozen=True)
class Study:
    """What every step works on, and how much of it."""

    task: Task
    graph: Graph
    out: Path
    n: dict

    @property
    def cls(self) -> bool:
        """Whether CLS is what is read; else all patches are."""
        return self.task.vit.cfg.tokens.has_cls

    @property
    def held_out(self) -> Pairs:
        """Pairs of both classes that had no part in any choice, of images that the model gets right."""
        return self.task.evaluation.right.opposed

    def alone(self, n: int | None = None) -> Pairs:
        """Held-out clean images, each once and without a partner; the first of each class."""
        pairs = self.task.evaluation.right.under(MEANS)
        rows = [torch.nonzero(pairs.sign == side).flatten()[: n and n // 2] for side in (1, -1)]
        return pairs.select(torch.cat(rows))


def table(columns, rows) -> str:
    """A table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines) + "\n"


def told(row, key="effect", low="low", high="high", factor=1.0, digits=2) -> str:
    """A figure with its 95% interval; a single image has none."""
    value, *ends = (f"{factor * row[name]:.{digits}f}" for name in (key, low, high))
    return value if "nan" in ends else f"{value} [{', '.join(ends)}]"


def moved(row) -> str:
    """An effect, and its share of what the whole input moves."""
    return f"{told(row)} ({row['normalised']:.0%})"


def flips(row) -> str:
    """The share of pairs that flip, in per cent."""
    return told(row, "flips", "flips_low", "flips_high", 100, 0)


def mean_told(values) -> str:
    """A mean over images with its 95% bootstrap interval."""
    draws = np.random.default_rng(0).integers(len(values), size=(1000, len(values)))
    low, high = np.quantile(values[draws].mean(1), [0.025, 0.975])
    return told({"effect": values.mean(), "low": low, "high": high})


def source(task: Task) -> str:
    """Where masks are from."""
    name = Path(task.info["mask"]).name
    known = ", made by a saliency model: no ground truth" * (name == "cats_dogs_masks")
    return f"masks `{name}`{known}; a patch is the object's if any of its pixels is"


def heads(study: Study, facts: dict) -> str:
    """Every head's write at CLS exchanged: chosen on discovery images, judged on others, and by breed."""
    at = "cls" if study.cls else "all"
    tables = {
        (name, way): activation_patch(study.graph, study.task, "head_out", tokens=at, direction=way, pairs=pairs)
        for name, pairs in (("chosen", study.task.discovery), ("held-out", study.held_out))
        for way in ("noising", "denoising")
    }
    for (name, way), found in tables.items():
        found.save(study.out / f"heads-{way}-{name}.csv")
    tables["held-out", "noising"].draw(study.out / "heads.png")
    frames = {key: found.frame().set_index(["layer", "head"]) for key, found in tables.items()}
    both = frames["chosen", "noising"] + frames["chosen", "denoising"].drop(columns="token")
    ranked = both.sort_values(["flips", "effect"], ascending=False).index
    facts["heads"] = ["a{}.h{}".format(*place) for place in ranked]
    ways = [frames["held-out", way] for way in ("noising", "denoising")]
    rows = [
        [name, *(told_as(way.loc[place]) for way in ways for told_as in (flips, moved))]
        for name, place in zip(facts["heads"], ranked[:TEN], strict=False)
    ]
    columns = ["head", "flips, noising (%)", "moved", "flips, denoising (%)", "moved"]
    first = frames["chosen", "noising"].loc[ranked[0]]
    return (
        f"Each head's write at {'CLS' if study.cls else 'all tokens'} is exchanged for the one on an image of the "
        f"other class (noising), and put back into the run on that image (denoising). A pair *flips* if the answer "
        f"changes sides; *moved* is the effect in logits, and its share of what exchanging the whole image moves. "
        f"Ordered by flips, then by logits, on {len(study.task.discovery.opposed)} discovery pairs, told on "
        f"{len(study.held_out)} pairs of other images. (On the pairs that it was chosen on, {facts['heads'][0]} flips "
        f"{flips(first)}% under noising.)\n\n"
        f"{table(columns, rows)}\n![What each head's write at CLS moves, in logits](heads.png)\n\n"
        f"{breeds(study, tables['held-out', 'noising'], ranked[:3])}"
    )


def breeds(study: Study, found, places) -> str:
    """The same, apart by the kind of animal that the full model names in the clean image."""
    vit, metric = study.task.vit, study.task.metric
    classes = torch.tensor([*metric.target, *metric.foil])
    with torch.no_grad():
        logits = torch.cat([vit(part) for part in study.held_out.clean.split(32)]).cpu()
    answers = classes[logits[:, classes].argmax(-1)]
    kinds = KINDS if vit.cfg.n_classes == 1000 else {str(one): (one, one) for one in classes.tolist()}
    rows = []
    for name, (first, last) in kinds.items():
        own = torch.nonzero((answers >= first) & (answers <= last)).flatten().tolist()
        if own:
            frame = found.of_pairs(own).frame().set_index(["layer", "head"])
            cells = [cell for place in places for cell in (flips(frame.loc[place]), told(frame.loc[place]))]
            rows.append([name, len(own), *cells])
    names = [word for place in places for word in ("a{}.h{} (%)".format(*place), "logits")]
    return (
        "By the kind that the full model names in the clean image (its own answer, which no label confirms), under "
        f"noising: images whose pair flips, in per cent, and logits moved.\n\n{table(['kind', 'images', *names], rows)}"
    )


def circuit(study: Study, facts: dict) -> str:
    """Learned masks of a few sizes under means, each judged on held-out images by everything that `evaluate` says."""
    task, best = study.task.with_ablation(MEANS), facts["heads"][0]
    journal = study.out / f"masks-{task.vit.digest()[:8]}.journal"
    found = learned_masks(study.graph, task, size=study.n["sizes"], steps=study.n["steps"], journal=journal)
    reports = [vc.evaluate(one, task, curve=False, n_random=study.n["random"]) for one in found]
    names = {"T": "transmission", "T within": "transmission_within", "R²": "reproduced_variation",
             "right, lowest cell": "right", "KL (nats)": "kl", "T, all images": "transmission_all_images",
             "T of random circuits": "random_transmission"}  # fmt: skip
    rows = [
        [f"{len(one):,} ({len(one) / len(study.graph):.0%})", *(report[name] for name in names.values())]
        for one, report in zip(found, reports, strict=True)
    ]
    reads_it = [at for at, report in enumerate(reports) if report.method["verdict"] == "reads the image"]
    at = min(reads_it or range(len(found)), key=lambda place: len(found[place]))
    kept, report, controls = found[at], reports[at], reports[at].tables["controls"]
    kept.save(study.out / "circuit.json")
    own, every = (
        sum(best in (edge.source.node, edge.destination.node) for edge in some)
        for some in (kept, Circuit.full(study.graph))
    )
    smallest = f"the smallest that reads the image has **{len(kept):,} edges**" if reads_it else "none reads the image"
    figures = [[name.replace("_", " "), one] for name, one in report.figures.items() if one.value is not None]
    return (
        f"Learned masks, removed edges carrying means, {study.n['steps']} steps a size on {task.searched.n_images} "
        f"discovery images; judged on {task.evaluation.n_images} held-out ones. Of the {len(found)} sizes that were "
        f"tried {smallest} of {len(study.graph):,}.\n\n"
        f"{table(['edges', *names], rows)}\nIt keeps {own} of the {every} edges into and out of {best}.\n\n"
        f"<details><summary>Everything that was measured of it</summary>\n\n"
        f"{table(['figure', 'value'], figures)}\n"
        f"Leakage is not defined under means, which have no partner; curves over all sizes (CPR, CMD) were not "
        f"measured. What answers without reading, or by chance, {controls.method}:\n\n"
        f"{table(controls.columns, controls.rows)}\n</details>\n"
    )


def reads(study: Study, facts: dict) -> str:
    """What the strongest head looks at, what feeds its queries, keys and values, and what it writes to the logits."""
    vit, best, alone, info = study.task.vit, facts["heads"][0], study.alone(), study.task.info
    patches = vit.cfg.tokens.patches
    own, looks = alone.objects[:, 0, patches].numpy(), []
    for kind in ("pattern", "value_weighted"):
        seen = vc.attention_maps(vit, alone.clean, heads=best, kind=kind, queries="readout").readout(best)
        on, whole = (seen[:, patches] * own).sum(1), seen[:, patches].sum(1)
        looks.append([kind.replace("_", "-"), mean_told(whole / seen.sum(1)), mean_told(on / whole)])
    direct = logit_attribution(vit, alone.clean, study.task.metric)
    written = direct.values[:, direct.source_names.index(best)].sum(1)
    sides = {info["target_name"]: 1, info["foil_name"]: -1}
    said = "; ".join(f"{mean_told(written[alone.sign.numpy() == side])} on {name}" for name, side in sides.items())
    found = {}
    for name, pairs in (("chosen", study.task.discovery), ("held-out", study.held_out)):
        into = path_patch(study.graph, study.task, destinations=[f"{best}<{port}>" for port in "qkv"], pairs=pairs)
        onward = path_patch(study.graph, study.task, sources=best, pairs=pairs)
        into.save(study.out / f"into-{best}-{name}.csv")
        onward.save(study.out / f"out-of-{best}-{name}.csv")
        found[name] = pd.concat([into.frame(), onward.frame()]).set_index(["source", "destination"])
    order = found["chosen"]["effect"].abs().sort_values(ascending=False).index
    into = [place for place in order if place[0] != best][:TEN]
    onward = [place for place in order if place[0] == best][: TEN // 2]
    rows = [[f"`{one}`", f"`{end}`", told(found["held-out"].loc[one, end])] for one, end in onward + into]
    return (
        f"What {best} looks at from {'CLS' if study.cls else 'all tokens'} on {len(alone)} held-out images, whose "
        f"objects fill {mean_told(own.mean(1))} of the patches.\n\n"
        f"{table(['map', 'share on patches', 'of that on the object'], looks)}\nBy itself it writes to the metric, in "
        f"logits: {said} (direct logit attribution, the readout's norm held; positive speaks for "
        f"{info['target_name']}). The strongest paths out of it, and into its queries, keys and values, ordered on "
        f"discovery pairs, their exact effect on {len(study.held_out)} held-out pairs:\n\n"
        f"{table(['from', 'to', 'effect (logits)'], rows)}"
    )


def flow(study: Study, facts: dict) -> str:
    """What reaches CLS from the object, from the background, and from the ten patches of the largest exact effect."""
    task, some = study.task.with_ablation(MEANS), study.alone(study.n["patches"])
    into, to = ("cls", "CLS") if study.cls else ("object", "the object")
    tables = {"all": token_flow(task, tokens="mask", into=into, pairs=study.alone(study.n["flow"]))}
    tables["all"].draw(study.out / "flow.png")
    effects = vc.patch_effects(Circuit.full(study.graph), task, pairs=some).model
    effects.draw(study.out / "patches.png", images=0)
    effects.save(study.out / "patches.csv")
    values = effects.values.reshape(len(some), -1)
    drawn = np.random.default_rng(0).random(values.shape)
    ten = {name: np.argsort(-order, 1)[:, :TEN] for name, order in (("ten", values), ("random", drawn))}
    for name, places in ten.items():
        objects = np.zeros(some.objects.shape, dtype=bool)
        np.put_along_axis(objects, places[:, None] + task.vit.cfg.tokens.patches.start, True, 2)
        own = replace(some, objects=torch.from_numpy(objects))
        tables[name] = token_flow(task, tokens="mask", into=into, heads=False, pairs=own)
    frames = {name: one.frame().set_index(["layer", "head", "source"]) for name, one in tables.items()}
    for name, frame in frames.items():
        frame.to_csv(study.out / f"flow-{name}.csv")
    columns = {"object": ("all", "object"), "background": ("all", "background"), "CLS": ("all", "cls"),
               "the ten": ("ten", "object"), "ten at random": ("random", "object")}  # fmt: skip
    rows = []
    for layer in range(task.vit.cfg.n_layers):
        places = [(frames[name], (layer, -1, group)) for name, group in columns.values()]
        rows.append([f"block {layer}", *(told(one.loc[at]) if at in one.index else "" for one, at in places)])
    single = frames["all"][frames["all"].index.get_level_values("head") >= 0].sort_values("effect", ascending=False)
    through = [[f"a{layer}.h{head}", group, told(row)] for (layer, head, group), row in single.head(TEN).iterrows()]
    costs = mean_told(np.take_along_axis(values, ten["ten"], 1).sum(1))
    return (
        f"Exact effects in logits: what the metric loses if in one block {to} sees means in the place of a group's "
        f"keys and values ({study.n['flow']} held-out images; of ten patches {len(some)}). Flows can stand in for one "
        f"another and lie in a row: they do not add up. Objects: {source(task)}. *The ten*: those patches of each "
        f"image whose token, replaced by the mean, costs most ({costs} logits, each alone, added up), chosen on the "
        f"image on which their flow is told; so beside them ten at random.\n\n"
        f"{table(['in', *(f'from {name}' for name in columns)], rows)}\n![What passes to {to}, layer by "
        f"layer](flow.png)\n\n"
        f"Through single heads, the largest first:\n\n"
        f"{table(['head', 'from', 'effect (logits)'], through)}\n![Effect of each patch, mean over "
        f"images](patches.png)\n"
    )


def probes(study: Study, facts: dict) -> str:
    """How much of the one class against the other patches hold at each layer, object and background apart."""
    vit, info = study.task.vit, study.task.info
    both = [study.task.discovery.under(MEANS), study.task.evaluation.under(MEANS)]
    images, labels = torch.cat([one.clean for one in both]), torch.cat([(one.sign < 0).long() for one in both])
    masks = torch.cat([one.objects[:, 0, vit.cfg.tokens.patches] for one in both])
    some = masks.any(1) & ~masks.all(1)  # what has no background, or nothing else, tells nothing of the two
    images, labels, masks = images[some], labels[some], masks[some].unflatten(1, vit.cfg.tokens.grid)
    named, n = (info["target_name"], info["foil_name"]), study.n["shuffles"]
    found = probe(vit, images, labels, masks=masks, points=("pre", "post"), classes=named, n_shuffles=n)
    found.save(study.out / "probes.csv")
    found.draw(study.out / "probes.png")
    shown = [row for side in (0, 1) for row in torch.nonzero(labels == side).flatten()[:2].tolist()]
    found.draw_maps(study.out / "probe-maps.png", images=shown)
    frame, margins = found.frame().set_index(["place", "group"]), found.by_patch()
    ends = ("accuracy", "accuracy_low", "accuracy_high")
    rows = []
    for at, place in enumerate(found.places):
        right = [told(frame.loc[place, group], *ends) for group in found.groups]
        held = [
            told({"effect": part[at].value, "low": part[at].low, "high": part[at].high}) for part in margins.values()
        ]
        rows.append([place, *right, f"{frame.loc[place]['null'].max():.2f}", *held])
    columns = ["behind", *found.groups, "shuffled", *(f"{name}, each patch" for name in margins)]
    first, last = found.holds_from("background"), found.places[-1]
    when = f"from {first} on" if first else "at no block and all behind it"
    return (
        f"Ridge probes of the residual's mean over a group of tokens, each image answered by the fit that left its "
        f"fold out: {len(labels)} images ({int((~some).sum())} whose object fills every patch, or none, left out; of "
        f"discovery only those that the model gets right). Objects: {source(study.task)}. *Shuffled*: 95% of shuffled "
        f"labels stay below. The last columns: what a patch by itself says for its image's class, 1 being the label. "
        f"Background patches hold more of the class than they show themselves {when} (at the end "
        f"{found.gain(last, 'background')} more of the images than at the input).\n\n"
        f"{table(columns, rows)}\n![Probes by layer](probes.png)\n\n"
        f"![What each patch of four images holds, layer by layer](probe-maps.png)\n"
    )
