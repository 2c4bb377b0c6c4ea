"""The bootstrap interval of faithfulness covers the truth at about its level, under fresh draws of the pairs."""

from math import sqrt

import numpy as np
from scipy.stats import binomtest
from vitcircuits.circuits import compile_graph, planted_task, truth_mask
from vitcircuits.circuits.baseline import make_baseline
from vitcircuits.circuits.judging.bootstrap import Resamples, wilson
from vitcircuits.circuits.judging.faithfulness import Judged, faithfulness
from vitcircuits.circuits.run import run_masks
from vitcircuits.models import load_vit


def test_95_of_100_intervals_hold_the_faithfulness_of_the_whole_population():
    vit = load_vit("planted/neighbour-xor")
    task, graph = planted_task(vit, n=200), compile_graph(vit)
    mask = truth_mask(graph, vit.truth())
    mask[graph.index("a0.h0->m0")] = False  # f of about a half: right on some pairs, wrong on others
    runs = run_masks(
        vit, graph, [mask, np.zeros_like(mask)], task.metric, task.evaluation, make_baseline(vit, task.ablation)
    )
    everyone = Judged(runs.outputs, runs.clean_outputs, Resamples.draw(200, 0, seed=0))
    truth, rng, covered, n_draws = everyone.values[0], np.random.default_rng(0), 0, 400
    for draw in range(n_draws):
        rows = rng.integers(200, size=60)  # 60 pairs from a population that these 200 stand for
        judged = Judged(runs.outputs[:, rows], runs.clean_outputs[rows], Resamples.draw(60, 400, seed=draw))
        figure = faithfulness(judged)
        assert figure.low is not None and figure.high is not None
        covered += figure.low <= truth <= figure.high
    # Three standard errors of a binomial share, and .015 below: percentile intervals of 60 pairs are a little short.
    error = 3 * sqrt(0.95 * 0.05 / n_draws)
    assert 0.2 < truth < 0.8 and 0.95 - 0.015 - error <= covered / n_draws <= 0.95 + error, covered / n_draws


def test_wilson_s_interval_is_scipy_s_and_takes_shares_between_two_counts():
    for hits, n in ((0, 5), (5, 5), (44, 58), (1, 1000)):
        wanted = binomtest(hits, n).proportion_ci(method="wilson")
        np.testing.assert_allclose(wilson(hits / n, n), wanted, rtol=0, atol=1e-12)
    below, between, above = (wilson(hits / 58, 58) for hits in (44, 44.5, 45))
    assert below[0] < between[0] < above[0] and below[1] < between[1] < above[1]
