"""Figures of the crossed design: equal to plain loops over the cells, won by no constant, with honest intervals."""

import numpy as np
import pytest
import torch
from intervals import MADE_UP, MEAN, SPREAD, MadeUp, circle, missed
from vitcircuits.circuits import compile_graph, evaluate, planted_task, truth_mask
from vitcircuits.circuits.circuit import Circuit
from vitcircuits.circuits.judging.bootstrap import FEWEST_IMAGES, Resamples
from vitcircuits.circuits.judging.crossed_runs import fewer
from vitcircuits.circuits.judging.transmission import Crossed, reads, right_figures
from vitcircuits.circuits.tasks.design import FOIL, NEITHER, TARGET, Design
from vitcircuits.circuits.tasks.task import Pairs
from vitcircuits.models import load_vit

PLANTED = ("planted/bright-column", "planted/neighbour-xor", "planted/majority")


def mean(values, *conditions):
    chosen = [value for value, *met in zip(values, *conditions, strict=True) if all(met)]
    return sum(chosen) / len(chosen)


def test_every_figure_equals_a_plain_loop_over_the_cells():
    one = MadeUp(0.6, 0.3, 0.7).simulate(9, seed=1)
    sides, partners = one.design.clean_side.tolist(), one.design.partner_side.tolist()
    is_clean = {side: [own == side for own in sides] for side in (TARGET, FOIL)}
    is_partner = {side: [own == side for own in partners] for side in (TARGET, FOIL)}
    over = {
        name: mean(one.circuit, has[TARGET]) - mean(one.circuit, has[FOIL])
        for name, has in (("x", is_clean), ("y", is_partner))
    }
    model = mean(one.clean, is_clean[TARGET]) - mean(one.clean, is_clean[FOIL])
    partner_model = mean(one.none, is_partner[TARGET]) - mean(one.none, is_partner[FOIL])
    assert one.transmission().value == pytest.approx(over["x"] / model)
    assert one.leakage().value == pytest.approx(over["y"] / partner_model)
    assert one.offset("logits").value == pytest.approx(one.circuit.mean() - one.clean.mean())
    missed = sum((a - b) ** 2 for a, b in zip(one.circuit, one.clean, strict=True))
    spread = sum((b - one.clean.mean()) ** 2 for b in one.clean)
    assert one.reproduced().value == pytest.approx(1 - missed / spread)
    inside = []
    for clean in (TARGET, FOIL):
        for partner in (TARGET, FOIL):
            cell = np.array(is_clean[clean]) & np.array(is_partner[partner])
            inside.append(np.stack([v[cell] - v[cell].mean() for v in (one.circuit, one.clean, one.none)]))
    y, x, p = np.concatenate(inside, 1)
    slopes = np.linalg.lstsq(np.stack([x, p], 1), y, rcond=None)[0]
    found = one.within()
    assert found["transmission_within"].value == pytest.approx(slopes[0])
    assert found["leakage_within"].value == pytest.approx(slopes[1])
    assert found["correlation_within"].value == pytest.approx(np.corrcoef(x, y)[0, 1])


def test_cells_count_alike_whatever_they_hold():
    one = MadeUp(0.6, 0.3, 0.7).simulate(8, seed=2)
    rows = np.flatnonzero((np.arange(len(one.design)) % 3 > 0) | (one.design.clean_side.numpy() == FOIL))
    design = one.design.select(torch.from_numpy(rows))
    images = torch.zeros(len(rows), 1, 1, 1)
    resamples = Resamples.of(Pairs(images, images, design=design), 10, seed=0)
    few = Crossed(design, one.circuit[rows], one.clean[rows], one.none[rows], resamples)
    cells = {name: one.circuit[rows][inside].mean() for name, inside in design.cells()}
    full = {name: one.clean[rows][inside].mean() for name, inside in design.cells()}
    wanted = [sum(v["target_with_" + s] - v["foil_with_" + s] for s in ("target", "foil")) / 2 for v in (cells, full)]
    assert few.transmission().value == pytest.approx(wanted[0] / wanted[1])


def test_a_constant_transmits_nothing_and_is_called_so():
    one = MadeUp(0.8, 0.0, 0.2).simulate(12, seed=3)
    constant = Crossed(one.design, np.full(len(one.design), 9.0), one.clean, one.none, one.resamples)
    found = constant.transmission()
    assert found.value == pytest.approx(0, abs=1e-12) and reads(found.low) == "does not read the image"
    assert constant.leakage().value == pytest.approx(0, abs=1e-12) and constant.reproduced().value < 0
    assert constant.offset("logits").value == pytest.approx(9 - one.clean.mean())


def test_a_mixture_of_clean_image_and_partner_is_caught_by_its_leakage():
    one = MadeUp(0.0, 0.0, 0.0).simulate(12, seed=4)
    mixed = Crossed(one.design, 0.8 * one.clean + 0.5 * one.none, one.clean, one.none, one.resamples)
    assert mixed.transmission().value == pytest.approx(0.8) and mixed.leakage().value == pytest.approx(0.5)
    within = mixed.within()
    assert within["transmission_within"].value == pytest.approx(0.8)
    assert within["leakage_within"].value == pytest.approx(0.5)
    assert mixed.leakage().low > 0.45


def test_the_model_itself_and_no_edge():
    one = MadeUp(0.5, 0.1, 0.2).simulate(12, seed=5)
    model = Crossed(one.design, one.clean, one.clean, one.none, one.resamples)
    empty = Crossed(one.design, one.none, one.clean, one.none, one.resamples)
    assert [f.value for f in (model.transmission(), model.leakage(), model.reproduced())] == pytest.approx([1, 0, 1])
    assert [f.value for f in (empty.transmission(), empty.leakage())] == pytest.approx([0, 1], abs=1e-12)
    assert (model.transmission().low, model.transmission().high) == pytest.approx((1, 1))


def test_a_ratio_whose_denominator_may_be_zero_is_undefined():
    one = MadeUp(0.5, 0.1, 0.2).simulate(12, seed=6)
    weak = np.random.default_rng(0).normal(size=one.design.clean_image.max() + 1)
    answers = weak[one.design.clean_image.numpy()]  # m(x) that does not tell the classes apart
    found = Crossed(one.design, one.circuit, answers, one.none, one.resamples).transmission()
    assert found.value is None and "two standard errors" in found.reason


def test_partners_that_show_the_class_themselves_are_taken_off_or_refused():
    n = 10
    side = torch.tensor([TARGET] * n + [FOIL] * n)
    image = torch.arange(2 * n)
    design = Design(
        side, torch.full_like(side, NEITHER), image, image, torch.ones(2 * n, dtype=torch.bool), follows=True
    )
    images = torch.zeros(2 * n, 1, 1, 1)
    resamples = Resamples.of(Pairs(images, images, design=design), 100, seed=0)
    rng = np.random.default_rng(1)
    m = np.where(side.numpy() == TARGET, 4.0, -4.0) + rng.normal(size=2 * n)
    for shown, defined in ((0.2, True), (0.5, False)):
        one = Crossed(design, 0.6 * m, m, shown * m, resamples)
        assert one.transmission().value == pytest.approx(0.6)
        assert one.empty_transmission().value == pytest.approx(shown)
        headline = one.headline()
        if defined:
            assert headline.value == pytest.approx((0.6 - shown) / (1 - shown))
        else:
            assert headline.value is None and "T0" in headline.reason
        assert one.leakage().value is None
    far_off = Crossed(design, np.zeros(2 * n), m, 1.5 * m[::-1], resamples)  # no edge is worse than a constant
    assert far_off.empty_reproduced().value < -1 and far_off.reproduced_headline().value <= 0
    near = Crossed(design, 0.6 * m, m, 0.5 * m, resamples)  # R0 = .75, R^2 = .84 but for the mean
    r2, r0 = near.reproduced().value, near.empty_reproduced().value
    assert near.reproduced_headline().value == pytest.approx((r2 - r0) / (1 - r0))


def test_with_too_few_images_there_is_no_interval_and_no_claim_that_the_image_is_read():
    for n, known in ((FEWEST_IMAGES - 1, False), (FEWEST_IMAGES, True)):
        figure = MadeUp(0.9, 0.0, 0.1).simulate(n, seed=1).transmission()
        assert (figure.low is not None) == known and figure.value == pytest.approx(0.9, abs=0.2)
        assert known or ("6 images of each class" in figure.reason and reads(figure.low).startswith("not known"))


def test_right_is_told_for_every_cell_and_the_lowest_first():
    design = circle(6, 2)
    hits = ~((design.clean_side == FOIL) & (design.partner_side == FOIL)).numpy()
    found = right_figures(design, hits)
    assert found["right"].value == found["right_foil_with_foil"].value == 0
    assert found["right_target_with_foil"].value == 1 and found["right_target_with_foil"].low < 1
    assert next(iter(found)) == "right" and "foil with foil" in found["right"].method


@pytest.mark.parametrize("name", PLANTED)
def test_the_planted_truth_transmits_everything_and_less_than_it_less(name):
    vit = load_vit(name)
    task, graph = planted_task(vit, n=12, sides="both"), compile_graph(vit)
    truth = truth_mask(graph, vit.minimal_circuits("all")[0])
    found = judged(task, graph, truth)
    assert [found[key].value for key in ("transmission", "leakage", "offset", "reproduced_variation", "right")] == (
        pytest.approx([1, 0, 0, 1, 1], abs=1e-6)
    )
    empty = judged(task, graph, np.zeros_like(truth))
    assert empty["transmission"].value == pytest.approx(0, abs=1e-9)
    assert empty["leakage"].value == pytest.approx(1)
    for edge in np.flatnonzero(truth):
        less = truth.copy()
        less[edge] = False
        assert judged(task, graph, less)["transmission"].value < 0.95


def judged(task, graph, mask):
    circuit = Circuit(graph, mask, None, task.ablation, dict(task.info), {})
    return evaluate(circuit, task, curve=False, n_random=0, n_bootstrap=20).figures


# where clean image and partner are both read, where only one is, where they meet, and where single pairs are noisy
VARIED = ("reads", "half, interplay", "leaks", "half, noise of pairs")


@pytest.mark.parametrize(
    ("name", "n", "simulations"),
    [
        *((name, 12, 200) for name in VARIED),
        *(pytest.param(name, n, 1000, marks=pytest.mark.slow) for name in MADE_UP for n in (12, 24, 48)),
    ],
)
def test_intervals_cover_what_they_say(name, n, simulations):
    """Each image meets four partners a side: then what it makes of them is most of the noise of T and L."""
    made = MADE_UP[name]
    held = 1 - missed(made.simulate, made.figures(), n, 4, simulations).sum(1)
    least, most = (
        share + sign * 3 * np.sqrt(share * (1 - share) / simulations) for share, sign in ((0.92, -1), (0.98, 1))
    )
    assert (held >= least).all(), held
    # noise of single pairs counts once in either role, so where there is no other, intervals are too wide
    assert (held[:2] <= most).all() or made.noise < made.pair_noise, held


def test_where_few_images_make_the_most_of_what_is_missed_r2_is_held_all_the_same():
    """Errors of log-normal size: percentiles alone hold R^2 in 82% of 300 samples."""
    n, size, spread, held = 24, 0.5, 0.8, 0
    design = circle(n, 4)
    clean, partner = design.clean_image.numpy(), design.partner_image.numpy()
    truth = 1 - size**2 * np.exp(2 * spread**2) / (MEAN**2 + SPREAD**2)
    for seed in range(300):
        rng = np.random.default_rng(seed)
        m = rng.normal(np.repeat([MEAN, -MEAN], n), SPREAD)
        off = size * rng.choice([-1, 1], 2 * n) * rng.lognormal(sigma=spread, size=2 * n)
        draws = Resamples.of_design(design, len(design), 300, seed=seed)
        found = Crossed(design, (m + off)[clean], m[clean], m[partner], draws).reproduced()
        held += found.low <= truth <= found.high
    assert 0.9 <= held / 300 <= 0.98


def test_words_for_the_lower_bound():
    said = [reads(low) for low in (None, -0.2, 0.09, 0.1, 0.49, 0.5, 0.99)]
    assert said[1:3] == ["does not read the image"] * 2 and said[3:5] == ["reads it in part"] * 2
    assert said[5:] == ["reads the image"] * 2 and "not known" in said[0]


@pytest.mark.parametrize(("n", "most"), [(12, 8), (9, 5), (4, 2)])
def test_with_one_partner_each_a_leak_still_cancels(n, most):
    """Every cell is there, and T of .7 m(x) + .4 m(x') is .7 exactly, from half of the pairs."""
    design, images = circle(n, 2), torch.zeros(4 * n * 2, 1, 1, 1)
    part = fewer(Pairs(images[: len(design)], images[: len(design)], design=design), most, one_partner=True).design
    assert len(part) == part.n_images == 2 * most and part.crossed
    m = np.random.default_rng(0).normal(size=2 * n) + np.repeat([4, -4], n)
    clean, partner = m[part.clean_image.numpy()], m[part.partner_image.numpy()]
    contrast = part.contrast(part.balanced(np.ones(len(part))))
    found = (0.7 * clean + 0.4 * partner) @ contrast / (clean @ contrast)
    assert found == pytest.approx(0.7, abs=1e-12 if most % 2 == 0 else 0.1)
