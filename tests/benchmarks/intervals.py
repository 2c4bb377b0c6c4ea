"""How often a nominal 95% interval of T, L, T and L within and R^2 holds the truth, where the truth is known.

    .venv/bin/python tests/benchmarks/intervals.py --write docs/faithfulness.md   # about half an hour of one core

Each simulation draws n images of each class, crosses them as tasks do, and asks whether the intervals hold what the
whole population has. Made-up circuits answer, with m normal about 4 and -4,

    m_C(x, x') = a m(x) + b m(x') + u(x) + v(x') + r(x) m(x') + s(x') m(x) + e(x, x')

where u and v are the noise of an image in either role, r and s its *interplay* (how much it lets the other through),
and e the noise of a pair. Circuits of toy/mnist-2l are run on all pairs of some 150 digits a side, which are drawn with
replacement.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from exact_engine import DATA
from numpy.typing import NDArray
from performance import write_measured
from torch import Tensor
from vitcircuits.algorithms import eap_ig
from vitcircuits.circuits import class_contrast, compile_graph
from vitcircuits.circuits.baseline import make_baseline
from vitcircuits.circuits.judging.bootstrap import Resamples
from vitcircuits.circuits.judging.transmission import Crossed
from vitcircuits.circuits.report import Figure
from vitcircuits.circuits.run import run_masks
from vitcircuits.circuits.tasks.crossing import in_circles
from vitcircuits.circuits.tasks.design import FOIL, TARGET, Design, one_partner_each
from vitcircuits.circuits.tasks.task import Pairs
from vitcircuits.models import load_vit

Floats = NDArray[np.float64]
Simulation = Callable[[int, int, int], Crossed]  # images a side, partners a side, seed

BEGIN, END = "<!-- intervals: begin -->", "<!-- intervals: end -->"
FIGURES = ("T", "L", "T within", "L within", "R^2")
SIZES, PARTNERS = (12, 24, 48), (1, 2, 4)
MEAN, SPREAD = 4.0, 1.5  # of m inside a class
DRAWS, SIMULATIONS = 300, 1000
POPULATION, SHARES = 150, (0.2, 0.4)  # images of each class at most; of the edges


@dataclass(frozen=True)
class MadeUp:
    """A made-up circuit: a, b, and the standard deviations of u and v, of r and s, and of e."""

    transmits: float
    leaks: float
    noise: float
    interplay: float = 0.0
    pair_noise: float = 0.5

    def figures(self) -> tuple[float, ...]:
        """T, L, T within, L within and R^2 on all images that there could be."""
        spread = MEAN**2 + SPREAD**2
        missed = ((self.transmits - 1) ** 2 + self.leaks**2 + 2 * self.interplay**2) * spread
        missed += 2 * self.noise**2 + self.pair_noise**2
        return self.transmits, self.leaks, self.transmits, self.leaks, 1 - missed / spread

    def simulate(self, n: int, n_partners: int = 2, seed: int = 0, draws: int = DRAWS) -> Crossed:
        """Its outputs on n images a side that are drawn anew."""
        design, rng = circle(n, n_partners), np.random.default_rng(seed)
        m = np.concatenate([rng.normal(MEAN, SPREAD, n), rng.normal(-MEAN, SPREAD, n)])
        clean, partner = design.clean_image.numpy(), design.partner_image.numpy()
        u, v = self.noise * rng.normal(size=(2, 2 * n))
        r, s = self.interplay * rng.normal(size=(2, 2 * n))
        found = (self.transmits + s[partner]) * m[clean] + (self.leaks + r[clean]) * m[partner] + u[clean] + v[partner]
        found = found + self.pair_noise * rng.normal(size=len(clean))
        resamples = Resamples.of_design(design, len(design), draws, seed=seed)
        return Crossed(design, found, m[clean], m[partner], resamples)


MADE_UP = {
    "reads": MadeUp(0.8, 0.1, 0.8),
    "half": MadeUp(0.4, 0.5, 1.0),
    "leaks": MadeUp(0.0, 1.0, 0.0),
    "reads, interplay": MadeUp(0.8, 0.1, 0.8, 0.15),
    "half, interplay": MadeUp(0.4, 0.5, 1.0, 0.15),
    "leaks, interplay": MadeUp(0.0, 1.0, 0.0, 0.15),
    "half, noise of pairs": MadeUp(0.4, 0.5, 0.2, pair_noise=3.0),
}


def circle(n: int, n_partners: int) -> Design:
    """A crossed design of n images a side, as tasks make it."""
    pools = {TARGET: torch.arange(n), FOIL: torch.arange(n, 2 * n)}
    columns = zip(*in_circles(list(pools.items()), pools, n_partners), strict=True)
    clean, side, partner, partner_side = (torch.tensor(column) for column in columns)
    right = torch.ones(len(clean), dtype=torch.bool)
    return Design(side, partner_side, clean, partner, right, clean % n, partner % n)


def figures(one: Crossed) -> tuple[Figure, ...]:
    """T, L, T within, L within and R^2."""
    within = one.within()
    inside = within["transmission_within"], within["leakage_within"]
    return one.transmission(), one.leakage(), *inside, one.reproduced()


def missed(simulate: Simulation, truth: tuple[float, ...], n: int, n_partners: int, simulations: int) -> Floats:
    """Shares of intervals that lie above the truth and below it, (figure, 2)."""
    found = np.zeros((len(truth), 2))
    for seed in range(simulations):
        for place, (figure, value) in enumerate(zip(figures(simulate(n, n_partners, seed)), truth, strict=True)):
            assert figure.low is not None and figure.high is not None
            found[place] += figure.low > value, figure.high < value
    return found / simulations


def populations() -> Iterator[tuple[str, Simulation, tuple[float, ...]]]:
    """Draws from all pairs of a population of digits, under the best edges by EAP-IG, and the figures of all pairs."""
    vit = load_vit("toy/mnist-2l")
    task = class_contrast(vit, "mnist", target=3, foil=8, n_evaluation=POPULATION, data_dir=DATA / "mnist")
    graph, images = compile_graph(vit), one_each(task.evaluation)
    n = len(images) // 2
    first, second = (places.reshape(-1) for places in torch.meshgrid(*[torch.arange(2 * n)] * 2, indexing="ij"))
    side = torch.tensor([TARGET] * n + [FOIL] * n)
    design = Design(side[first], side[second], first, second, torch.ones(len(first), dtype=torch.bool))
    scores = eap_ig(graph, task)
    masks = [scores.top(share).mask for share in SHARES]
    baseline = make_baseline(vit, task.ablation, task.reference)
    runs = run_masks(vit, graph, masks, task.metric, Pairs(images[first], images[second], design=design), baseline)
    m = runs.clean_outputs.reshape(2 * n, 2 * n)[:, 0]
    for share, outputs in zip(SHARES, runs.outputs, strict=True):
        whole = Crossed(design, outputs, m[first], m[second], Resamples.of_design(design, len(design), 0, seed=0))
        truth = tuple(float(figure.value) for figure in figures(whole) if figure.value is not None)
        yield f"toy/mnist-2l, 3 against 8, {share:.0%} of the edges", drawn_from(outputs.reshape(2 * n, -1), m), truth


def one_each(pairs: Pairs) -> Tensor:
    """Images that the model gets right, equally many of the target and, after them, of the foil."""
    assert pairs.design is not None
    rows = one_partner_each(pairs.design)
    design, clean = pairs.design.select(rows), pairs.clean[rows]
    sides = [clean[(design.clean_side == side) & design.right] for side in (TARGET, FOIL)]
    return torch.cat([some[: min(map(len, sides))] for some in sides])


def drawn_from(outputs: Floats, m: Floats) -> Simulation:
    """Crossed draws of a population, from a circuit's outputs (clean image, partner) and the model's (image)."""

    def simulate(n: int, n_partners: int, seed: int) -> Crossed:
        design, half = circle(n, n_partners), len(m) // 2
        drawn = np.random.default_rng(seed).integers([[0], [half]], [[half], [2 * half]], size=(2, n)).reshape(-1)
        clean, partner = (drawn[places.numpy()] for places in (design.clean_image, design.partner_image))
        resamples = Resamples.of_design(design, len(design), DRAWS, seed=seed)
        return Crossed(design, outputs[clean, partner], m[clean], m[partner], resamples)

    return simulate


def table(simulations: int) -> str:
    """The shares of intervals that hold the truth, as a Markdown table."""
    rows = [*populations(), *((name, one.simulate, one.figures()) for name, one in MADE_UP.items())]
    lines = [f"| circuit | truth: {', '.join(FIGURES)} | partners | images a side | {' | '.join(FIGURES)} |"]
    lines.append("| --- " * (4 + len(FIGURES)) + "|")
    for name, simulate, truth in rows:
        for n_partners in PARTNERS:
            for n in SIZES:
                held = 1 - missed(simulate, truth, n, n_partners, simulations).sum(1)
                shares = " | ".join(f"{100 * share:.1f}%" for share in held)
                known = ", ".join(f"{value:.2f}" for value in truth)
                lines.append(f"| {name} | {known} | {n_partners} | {n} | {shares} |")
                print(lines[-1], flush=True)
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=SIMULATIONS)
    parser.add_argument("--write", type=Path, help="a Markdown file to write the table into")
    options = parser.parse_args()
    found = table(options.simulations)
    if options.write:
        write_measured(options.write, found, BEGIN, END)


if __name__ == "__main__":
    main()
